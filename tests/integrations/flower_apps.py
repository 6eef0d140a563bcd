"""Small Flower apps: a mean that clients pull towards their own numbers, in both of Flower's APIs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp

TARGETS = (1.0, 2.0, 3.0, 6.0)  # their mean, where all have as many examples, is 3


def target(context: Context) -> float:
    return TARGETS[int(context.node_config["partition-id"])]


def examples(context: Context) -> int:
    return 10 * (int(context.node_config["partition-id"]) + 1)


def model(value: float = 0.0, size: int = 3) -> ArrayRecord:
    return ArrayRecord({"mean": Array(np.full(size, value))})


def reply(message: Message, metrics: Mapping[str, Any], arrays: ArrayRecord | None = None) -> Message:
    content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content, reply_to=message)


def message_app(
    fail: Callable[[Message, Context], None] = lambda message, context: None, report: str = "loss"
) -> ClientApp:
    """Clients step towards their target by the learning rate that they are sent, and tell it."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        fail(message, context)
        config = message.content["config"]
        mean = message.content["arrays"]["mean"].numpy()
        moved = mean + config["lr"] * (target(context) - mean)
        with np.errstate(over="ignore"):  # rates that are far too large are tried on purpose
            error = float(np.mean((moved - target(context)) ** 2))
        metrics = {
            report: error,
            "num-examples": examples(context),
            "seconds": 0.5 * (int(context.node_config["partition-id"]) + 1),
            "told-lr": config["lr"],
        }
        return reply(message, metrics, ArrayRecord({"mean": Array(moved)}))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        fail(message, context)
        mean = message.content["arrays"]["mean"].numpy()
        return reply(message, {"error": float(np.mean((mean - target(context)) ** 2)), "num-examples": 1})

    return app


class Puller(NumPyClient):
    def __init__(self, context: Context) -> None:
        self._context = context

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> Any:
        moved = parameters[0] + config["lr"] * (target(self._context) - parameters[0])
        told = {"told_lr": config["lr"], "seconds": 0.25}
        return [moved], examples(self._context), told

    def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> Any:
        return float(np.mean((parameters[0] - target(self._context)) ** 2)), 1, {}


def classic_client(context: Context) -> Client:
    return Puller(context).to_client()

"""What went to clients and came back, round by round: their states, the bytes, and what was reported. Knows no Flower API."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from autotune.integrations.flower.rules import ClientState, NodeId
from autotune.measurement import as_number

Phase: TypeAlias = Literal["train", "evaluate"]
Reporter: TypeAlias = Literal["train", "evaluate", "server"]

REPORTERS: tuple[Reporter, ...] = ("server", "evaluate", "train")
NO_REPLY = "no reply in time"


@dataclass(frozen=True)
class Round:
    """One round as it ended, of training and of what evaluated the model after it.

    Attributes:
        number: as the server counts; 0 is the evaluation before the first.
        metrics: aggregated ones as ``train.loss``, ``evaluate.accuracy``, ``server.loss``: who reported them, and their name.
        download_bytes, upload_bytes: to and from clients, for training.
        evaluate_bytes: both ways, for evaluation by clients.
        wall_s: from when the round was configured until it ended.
        slowest_s: seconds of training of the slowest client; None where no client tells.
        trained, evaluated: clients that came back.
        train_failures, evaluate_failures: messages to clients that failed or were not answered.
        failure: what the last of these said.
    """

    number: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    download_bytes: int = 0
    upload_bytes: int = 0
    evaluate_bytes: int = 0
    wall_s: float = 0.0
    slowest_s: float | None = None
    trained: int = 0
    evaluated: int = 0
    train_failures: int = 0
    evaluate_failures: int = 0
    failure: str | None = None

    @property
    def failures(self) -> int:
        """Of both phases."""
        return self.train_failures + self.evaluate_failures


@dataclass(frozen=True)
class Reply:
    """What a client sent back.

    Attributes:
        metrics: numbers by name.
        seconds: that it says it took; None where it does not.
    """

    metrics: Mapping[str, float]
    examples: float | None
    seconds: float | None
    sent_bytes: int


class Ledger:
    """The clients of one run of a strategy, and the round that is under way."""

    def __init__(self) -> None:
        self._clients: dict[NodeId, ClientState] = {}
        self._last: dict[NodeId, int] = {}
        self._traffic: dict[NodeId, tuple[int, int]] = {}
        self._open: Round | None = None
        self._began = 0.0
        self._waiting: dict[Phase, dict[NodeId, Mapping[str, Any]]] = {}

    @property
    def number(self) -> int | None:
        """Of the round that is under way; None between rounds."""
        return None if self._open is None else self._open.number

    def begin(self, number: int) -> None:
        """Begin a round."""
        self._open, self._began, self._waiting = Round(number), time.perf_counter(), {}

    def close(self) -> Round | None:
        """End the round that is under way; None where there is none."""
        done, self._open = self._open, None
        return None if done is None else replace(done, wall_s=time.perf_counter() - self._began)

    def states(self, node_ids: Sequence[NodeId], number: int) -> list[ClientState]:
        """What is known of these clients when round `number` is configured, each with all of them as its peers."""
        found = []
        for node_id in node_ids:
            last = self._last.get(node_id)
            state = self._clients.get(node_id, ClientState(node_id))
            found.append(replace(state, away=None if last is None else max(1, number - last)))
        peers = tuple(found)
        return [replace(state, peers=peers) for state in peers]

    def sent(self, phase: Phase, node_id: NodeId, settings: Mapping[str, Any], sent_bytes: int) -> None:
        """A client is sent settings and a model."""
        self._waiting.setdefault(phase, {})[node_id] = dict(settings)
        if phase == "train":
            self._add(node_id, sent_bytes, 0)
            self._change(download_bytes=self._now.download_bytes + sent_bytes)
        else:
            self._change(evaluate_bytes=self._now.evaluate_bytes + sent_bytes)

    def settings_of(self, phase: Phase, node_id: NodeId) -> Mapping[str, Any]:
        """What a client was sent in this round that has not come back yet; empty where nothing was."""
        return self._waiting.get(phase, {}).get(node_id, {})

    def returned(self, phase: Phase, node_id: NodeId, reply: Reply) -> None:
        """A client came back."""
        settings = self._waiting.get(phase, {}).pop(node_id, {})
        now = self._now
        if phase == "evaluate":
            self._change(evaluate_bytes=now.evaluate_bytes + reply.sent_bytes, evaluated=now.evaluated + 1)
            return
        self._add(node_id, 0, reply.sent_bytes)
        state = self._clients.get(node_id, ClientState(node_id))
        self._last[node_id] = now.number
        self._clients[node_id] = replace(
            state,
            returned=state.returned + 1,
            examples=reply.examples,
            seconds=reply.seconds,
            metrics=dict(reply.metrics),
            settings=settings,
        )
        known = [s for s in (now.slowest_s, reply.seconds) if s is not None]
        self._change(
            upload_bytes=now.upload_bytes + reply.sent_bytes,
            trained=now.trained + 1,
            slowest_s=max(known) if known else None,
        )

    def failed(self, phase: Phase, node_id: NodeId, said: str) -> None:
        """A client came back with an error, or not at all."""
        self._waiting.get(phase, {}).pop(node_id, None)
        if phase == "train":
            state = self._clients.get(node_id, ClientState(node_id))
            self._clients[node_id] = replace(state, failures=state.failures + 1)
            self._change(train_failures=self._now.train_failures + 1, failure=said)
        else:
            self._change(evaluate_failures=self._now.evaluate_failures + 1, failure=said)

    def unanswered(self, phase: Phase, said: str) -> None:
        """Everyone who did not come back in this phase has failed."""
        for node_id in list(self._waiting.get(phase, {})):
            self.failed(phase, node_id, said)

    def reported(self, reporter: Reporter, metrics: Mapping[str, object]) -> None:
        """Metrics of the whole round; what is no number is left out."""
        numbers = {f"{reporter}.{name}": value for name, value in numeric(metrics).items()}
        self._change(metrics={**self._now.metrics, **numbers})

    def clients(self) -> dict[str, dict[str, Any]]:
        """Every client's state for people, by node id as text, with the bytes of training to and from it in all."""
        return {
            str(node_id): {
                "returned": state.returned,
                "failures": state.failures,
                "examples": state.examples,
                "seconds": state.seconds,
                "metrics": dict(state.metrics),
                "settings": dict(state.settings),
                "download_bytes": self._traffic.get(node_id, (0, 0))[0],
                "upload_bytes": self._traffic.get(node_id, (0, 0))[1],
            }
            for node_id, state in self._clients.items()
        }

    @property
    def _now(self) -> Round:
        if self._open is None:  # aggregation without configuration: a strategy that is driven by hand
            self.begin(1)
        assert self._open is not None
        return self._open

    def _change(self, **fields: Any) -> None:
        self._open = replace(self._now, **fields)

    def _add(self, node_id: NodeId, down: int, up: int) -> None:
        before = self._traffic.get(node_id, (0, 0))
        self._traffic[node_id] = (before[0] + down, before[1] + up)


def numeric(metrics: Mapping[str, object]) -> dict[str, float]:
    """The numbers among metrics."""
    read = {str(name): as_number(value) for name, value in metrics.items()}
    return {name: value for name, value in read.items() if value is not None}

"""Flower without its simulation engine: a grid that hands messages to a client app at once, and weighs what it carries."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """Nodes 100, 101, ... with partitions 0, 1, ...

    Args:
        lost: whether the reply to a message never comes.

    Attributes:
        down, up: bytes of content by node, of messages of training.
        evaluate: of messages of evaluation, both ways.
        seen: configs that nodes were sent for training, in order, by node.
    """

    def __init__(self, app: ClientApp, nodes: int = 4, lost: Callable[[Message], bool] = lambda message: False) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # as Flower's launchers say who sends
        self._app, self._lost = app, lost
        self._contexts = {
            100 + i: Context(1, 100 + i, {"partition-id": i, "num-partitions": nodes}, RecordDict(), {})
            for i in range(nodes)
        }
        self._replies: dict[str, Message] = {}
        self._counting = threading.Lock()  # the older API sends from several threads
        self.down: Counter[int] = Counter()
        self.up: Counter[int] = Counter()
        self.evaluate = 0
        self.seen: dict[int, list[dict[str, Any]]] = {node: [] for node in self._contexts}

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=1)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            ids.append(message.metadata.message_id)
            node, train = message.metadata.dst_node_id, message.metadata.message_type == "train"
            if train:
                self.seen[node] += [dict(config) for config in message.content.config_records.values()]
            self._count(node, train, self.down, message)
            if not self._lost(message):
                reply = self._reply(message)
                self._count(node, train, self.up, reply)
                self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message)

    def _count(self, node: int, train: bool, which: Counter[int], message: Message) -> None:
        if not message.has_content():
            return
        size = pushed_bytes(message.content)
        with self._counting:
            if train:
                which[node] += size
            else:
                self.evaluate += size


def pushed_bytes(content: RecordDict) -> int:
    """What Flower's own transport hands to the connection for this content."""
    pushed: list[bytes] = []
    push_objects(get_all_nested_objects(content), lambda _, data: pushed.append(data))
    return sum(map(len, pushed))

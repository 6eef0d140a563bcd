"""Strategies of Flower's Message API (`flwr.serverapp.strategy`) under tuning."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from autotune.errors import UsageError
from autotune.integrations.flower.ledger import NO_REPLY, Phase, numeric
from autotune.integrations.flower.session import Session
from autotune.integrations.flower.wire import Scale

_CONFIG = "config"  # the record's name in Flower's own strategies, where a message has none


class TunedMessages:
    """Mixed into the class of a user's strategy, in front of it; `tuned` makes the class."""

    _autotune: Session
    _autotune_sent: dict[Phase, list[Any]]

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """The strategy's own `start`, whose server-side evaluation is reported too."""
        base: Any = super()
        session = self._autotune
        bound = inspect.signature(base.start).bind(*args, **kwargs)
        given = bound.arguments.get("evaluate_fn")
        if given is not None:

            def evaluate_fn(server_round: int, arrays: ArrayRecord) -> Any:
                measured = given(server_round, arrays)
                session.reported("server", server_round, measured)
                return measured

            bound.arguments["evaluate_fn"] = evaluate_fn
        result = base.start(*bound.args, **bound.kwargs)
        session.close()
        restored = session.source.restored()
        if restored is not None:
            result.arrays = restored
        return result

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> list[Message]:
        """What the strategy sends, each client with settings of its own."""
        base: Any = super()
        model = self._autotune.begin(server_round, arrays)
        return self._outgoing("train", base.configure_train(server_round, model, config, grid))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> list[Message]:
        """What the strategy sends, each client with settings of its own."""
        base: Any = super()
        model = arrays
        if self._autotune.ledger.number != server_round:
            model = self._autotune.begin(server_round, arrays)
        return self._outgoing("evaluate", base.configure_evaluate(server_round, model, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's own aggregation; what came back is noted before."""
        base: Any = super()
        found = self._incoming("train", replies)
        arrays, metrics = base.aggregate_train(server_round, found)
        self._autotune.reported("train", server_round, metrics)
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The strategy's own aggregation; what came back is noted before."""
        base: Any = super()
        metrics: MetricRecord | None = base.aggregate_evaluate(server_round, self._incoming("evaluate", replies))
        self._autotune.reported("evaluate", server_round, metrics)
        return metrics

    def _outgoing(self, phase: Phase, messages: Iterable[Message]) -> list[Message]:
        session, scale = self._autotune, Scale()
        out = list(messages)
        settings = session.settings([message.metadata.dst_node_id for message in out])
        for message, chosen in zip(out, settings, strict=True):
            with session.heard():
                message.content = self._content(message.content, chosen)
            session.ledger.sent(phase, message.metadata.dst_node_id, chosen, scale.content_bytes(message.content))
        # The grid gives messages their ids when it sends them. Contents are not kept: they hold the model.
        self._autotune_sent[phase] = [message.metadata for message in out]
        return out

    def _content(self, content: RecordDict, settings: Mapping[str, Any]) -> RecordDict:
        """The strategy makes one content for all clients; this is one client's."""
        names = list(content.config_records)
        wanted = getattr(self, "configrecord_key", _CONFIG)
        name = names[0] if len(names) == 1 else wanted
        if len(names) > 1 and name not in names:
            raise UsageError(
                f"the strategy's messages have the config records {', '.join(names)}; give it an attribute configrecord_key "
                "that names the one for settings"
            )
        made = RecordDict(dict(content.items()))
        made[name] = ConfigRecord({**dict(content.config_records.get(name, {})), **settings})
        pack = self._autotune.options.pack
        if pack is not None:
            for key, arrays in content.array_records.items():
                made[key] = _record("pack", pack(arrays, settings))
        return made

    def _incoming(self, phase: Phase, replies: Iterable[Message]) -> list[Message]:
        session, scale = self._autotune, Scale()
        found = list(replies)
        sent = {meta.message_id: meta for meta in self._autotune_sent.pop(phase, [])}
        unpack = session.options.unpack if phase == "train" else None
        for message in found:
            request = sent.get(message.metadata.reply_to_message_id)
            node_id = message.metadata.src_node_id if request is None else request.dst_node_id
            if message.has_error():
                session.ledger.failed(phase, node_id, message.error.reason or f"error {message.error.code}")
                continue
            settings = session.ledger.settings_of(phase, node_id)
            metrics: dict[str, float] = {}
            for record in message.content.metric_records.values():
                metrics |= numeric(record)
            size = scale.content_bytes(message.content)
            session.returned(phase, node_id, metrics, self._examples(metrics), size)
            if unpack is not None:
                with session.heard():
                    for key, arrays in list(message.content.array_records.items()):
                        message.content[key] = _record("unpack", unpack(arrays, settings, session.model))
        session.ledger.unanswered(phase, NO_REPLY)
        return found

    def _examples(self, metrics: Mapping[str, float]) -> float | None:
        own = getattr(self, "weighted_by_key", None)
        return metrics.get(own or self._autotune.options.examples)


def _record(name: str, made: object) -> ArrayRecord:
    if not isinstance(made, ArrayRecord):
        raise UsageError(f"{name} returned a {type(made).__name__}; return an ArrayRecord")
    return made

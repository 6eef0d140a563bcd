"""Strategies of Flower's older API (`flwr.server.strategy`) under tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.common import EvaluateIns, FitIns, Parameters
from flwr.compat.common import recorddict_compat as compat

from autotune.errors import UsageError
from autotune.integrations.flower.ledger import NO_REPLY, Phase, numeric
from autotune.integrations.flower.rules import NodeId
from autotune.integrations.flower.session import Session
from autotune.integrations.flower.wire import Scale

_CARRIERS: dict[str, Any] = {
    "fitins": compat.fitins_to_recorddict,
    "fitres": compat.fitres_to_recorddict,
    "evaluateins": compat.evaluateins_to_recorddict,
}


class TunedClassic:
    """Mixed into the class of a user's strategy, in front of it; `tuned` makes the class."""

    _autotune: Session

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> list[Any]:
        """What the strategy sends, each client with settings of its own."""
        base: Any = super()
        model = self._autotune.begin(server_round, parameters)
        return self._outgoing("train", FitIns, base.configure_fit(server_round, model, client_manager))

    def configure_evaluate(self, server_round: int, parameters: Parameters, client_manager: Any) -> list[Any]:
        """What the strategy sends, each client with settings of its own."""
        base: Any = super()
        model = parameters
        if self._autotune.ledger.number != server_round:
            model = self._autotune.begin(server_round, parameters)
        return self._outgoing("evaluate", EvaluateIns, base.configure_evaluate(server_round, model, client_manager))

    def aggregate_fit(self, server_round: int, results: Sequence[Any], failures: Sequence[Any]) -> Any:
        """The strategy's own aggregation; what came back is noted before."""
        base: Any = super()
        session, scale = self._autotune, Scale()
        unpack = session.options.unpack
        for client, result in results:
            node_id = _node(client)
            settings = session.ledger.settings_of("train", node_id)
            metrics = numeric(result.metrics)
            size = scale.content_bytes(compat.fitres_to_recorddict(result, keep_input=True))
            session.returned("train", node_id, metrics, float(result.num_examples), size)
            if unpack is not None:
                with session.heard():
                    result.parameters = _parameters("unpack", unpack(result.parameters, settings, session.model))
        session.ledger.unanswered("train", _said(failures))
        aggregated, metrics = base.aggregate_fit(server_round, results, failures)
        session.reported("train", server_round, metrics)
        return aggregated, metrics

    def aggregate_evaluate(self, server_round: int, results: Sequence[Any], failures: Sequence[Any]) -> Any:
        """The strategy's own aggregation; what came back is noted before."""
        base: Any = super()
        session, scale = self._autotune, Scale()
        for client, result in results:
            metrics = {"loss": result.loss, **numeric(result.metrics)}
            size = scale.content_bytes(compat.evaluateres_to_recorddict(result))
            session.returned("evaluate", _node(client), metrics, float(result.num_examples), size)
        session.ledger.unanswered("evaluate", _said(failures))
        loss, metrics = base.aggregate_evaluate(server_round, results, failures)
        if loss is not None:
            session.reported("evaluate", server_round, {"loss": loss, **metrics})
        return loss, metrics

    def evaluate(self, server_round: int, parameters: Parameters) -> Any:
        """The strategy's own evaluation on the server, reported too."""
        base: Any = super()
        measured = base.evaluate(server_round, parameters)
        if measured is not None:
            loss, metrics = measured
            self._autotune.reported("server", server_round, {"loss": loss, **metrics})
        return measured

    def _outgoing(self, phase: Phase, kind: type[Any], instructions: Sequence[Any]) -> list[Any]:
        session, scale = self._autotune, Scale()
        pack = session.options.pack
        pairs = list(instructions or [])
        settings = session.settings([_node(client) for client, _ in pairs], lists=False)
        out = []
        for (client, given), chosen in zip(pairs, settings, strict=True):
            with session.heard():
                model = given.parameters
                if pack is not None:
                    model = _parameters("pack", pack(model, chosen))
            made = kind(model, {**given.config, **chosen})
            carry = _CARRIERS["fitins" if phase == "train" else "evaluateins"]
            size = scale.content_bytes(carry(made, keep_input=True))
            session.ledger.sent(phase, _node(client), chosen, size)
            out.append((client, made))
        return out


def _node(client: Any) -> NodeId:
    """A proxy's node id where it has one, else its name."""
    node_id: NodeId = getattr(client, "node_id", None) or client.cid
    return node_id


def _said(failures: Sequence[Any]) -> str:
    """What the last of a round's failures says: an exception, or an answer whose status is not OK."""
    if not failures:
        return NO_REPLY
    last = failures[-1]
    return str(last) if isinstance(last, BaseException) else last[1].status.message


def _parameters(name: str, made: object) -> Parameters:
    if not isinstance(made, Parameters):
        raise UsageError(f"{name} returned a {type(made).__name__}; return Parameters")
    return made

"""`tuned`: a user's strategy, of either Flower API, whose clients get the settings of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

try:
    from flwr.serverapp.strategy import Strategy as MessageStrategy
except ImportError as error:
    raise ImportError(
        "autotune.integrations.flower needs the package flwr; install it with: pip install 'autotune[flower]'"
    ) from error

from autotune.errors import UsageError
from autotune.integrations.flower.messages import TunedMessages
from autotune.integrations.flower.rules import Rule
from autotune.integrations.flower.session import Fixed, Options, Pack, Session, Source, Unpack

S = TypeVar("S")


def tuned(
    strategy: S,
    source: Source | Mapping[str, Any],
    *,
    per_client: Rule | None = None,
    pack: Pack | None = None,
    unpack: Unpack | None = None,
    seconds: str = "seconds",
    examples: str = "num-examples",
) -> S:
    """A copy of a strategy that sends each client its settings in the config of every round, and notes what comes back.

    Everything else of the strategy is as before: sampling, aggregation, `start`, attributes of its own. Settings take the
    place of what the strategy sends by the same name.

    Args:
        strategy: of `flwr.serverapp.strategy`, or of the older `flwr.server.strategy`; made as usual.
        source: the `TunedRun` of a trial, an `OnlineTuner`, or a configuration that was found, such as ``result.best.config``.
        per_client: ``rule(config, round_, client)`` gives the settings of one client in one round, from its `ClientState`. All
            get the configuration itself when None.
        pack: ``pack(model, settings)`` gives the model as one client is sent it: an `ArrayRecord`, or `Parameters` in the older
            API.
        unpack: ``unpack(update, settings, model)`` gives what is aggregated in place of the update that a client with these
            settings sent, beside the model that the round began with.
        seconds: the metric by which clients report how long training took, which nobody else knows: a server sees when a reply
            is there, and so the time in queues too.
        examples: the metric by which clients report their examples, where the strategy has no ``weighted_by_key``.

    Raises:
        UsageError: for what is no strategy of Flower, or a function of other arguments.
    """
    options = Options(per_client, pack, unpack, examples, seconds)
    mixin = _mixin(strategy)
    if isinstance(strategy, mixin):
        raise UsageError(
            f"strategy is {type(strategy).__name__}, which is tuned already; pass the strategy that it was made of"
        )
    base = type(strategy)
    kind = type(f"Tuned{base.__name__}", (mixin, base), {"__doc__": base.__doc__, "__module__": base.__module__})
    made: Any = object.__new__(kind)
    made.__dict__.update(vars(strategy))
    made._autotune = Session(Fixed(source) if isinstance(source, Mapping) else source, options)
    made._autotune_sent = {}
    found: S = made
    return found


def _mixin(strategy: object) -> type[Any]:
    if isinstance(strategy, MessageStrategy):
        return TunedMessages
    try:
        from flwr.server.strategy import Strategy  # noqa: PLC0415 - releases of Flower to come may lack it

        from autotune.integrations.flower.classic import TunedClassic  # noqa: PLC0415
    except ImportError:
        classic: tuple[type[Any], type[Any]] | None = None
    else:
        classic = (Strategy, TunedClassic)
    if classic is not None and isinstance(strategy, classic[0]):
        return classic[1]
    raise UsageError(
        f"strategy is {strategy!r}; give a strategy of flwr.serverapp.strategy, or of flwr.server.strategy"
    )

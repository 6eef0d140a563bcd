"""One strategy under tuning: what a wrapper of either Flower API asks and tells, without knowing who chooses settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from autotune.errors import AutotuneError, UsageError
from autotune.integrations.flower.ledger import Ledger, Phase, Reply, Reporter, Round
from autotune.integrations.flower.rules import ClientState, NodeId, Rule
from autotune.integrations.flower.wire import sendable
from autotune.measurement import Failure
from autotune.space import Config

Pack: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]
Unpack: TypeAlias = Callable[[Any, Mapping[str, Any], Any], Any]
"""Of models and updates: an `ArrayRecord` each, or `Parameters` in the older API; see `tuned`."""


class RunEnded(Exception):
    """Ends Flower's run of a trial that is pruned; the block of `tuned_run` takes it."""


class Source(Protocol):
    """Who chooses configurations, and hears what became of them."""

    def join(self, session: Session) -> None:
        """A strategy is going to ask."""

    def configure(self, number: int, model: Any) -> tuple[Config, Any]:
        """The configuration of round `number`, and the model to send, given the one that the server has.

        What is raised here ends Flower's run.
        """

    def closed(self, round_: Round) -> None:
        """A round ended. What is raised here ends Flower's run."""

    def broke(self, error: Exception) -> None:
        """Something is raised that ends Flower's run, and may be wrapped or lost on its way."""

    def restored(self) -> Any:
        """The model that takes the place of the run's last one; None for that one."""


class Fixed:
    """One configuration, and nobody to tell."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)

    def join(self, session: Session) -> None:
        """See `Source`."""

    def configure(self, number: int, model: Any) -> tuple[Config, Any]:
        """See `Source`."""
        return dict(self._config), model

    def closed(self, round_: Round) -> None:
        """See `Source`."""

    def broke(self, error: Exception) -> None:
        """See `Source`."""

    def restored(self) -> Any:
        """See `Source`."""
        return None


_TAKES: Mapping[str, tuple[str, ...]] = {
    "per_client": ("config", "round_", "client"),
    "pack": ("model", "settings"),
    "unpack": ("update", "settings", "model"),
}


@dataclass(frozen=True)
class Options:
    """How clients are spoken to, see `tuned`."""

    per_client: Rule | None = None
    pack: Pack | None = None
    unpack: Unpack | None = None
    examples: str = "num-examples"
    seconds: str = "seconds"

    def __post_init__(self) -> None:
        for name, takes in _TAKES.items():
            given = getattr(self, name)
            if given is not None:
                _check_callable(name, given, takes)


class Session:
    """Between one strategy and its source.

    Attributes:
        model: that the round under way began with.
    """

    def __init__(self, source: Source, options: Options) -> None:
        self.source = source
        self.options = options
        self.ledger = Ledger()
        self.model: Any = None
        self._config: Config = {}
        source.join(self)

    def begin(self, number: int, model: Any) -> Any:
        """Round `number` is configured, and the one before it has ended; returns the model to send."""
        with self.heard():
            self.close()
            self.ledger.begin(number)
            self._config, self.model = self.source.configure(number, model)
            return self.model

    def settings(self, node_ids: Sequence[NodeId], *, lists: bool = True) -> list[dict[str, Any]]:
        """What each of these clients is sent in this round."""
        with self.heard():
            number = self.ledger.number or 1
            states = self.ledger.states(node_ids, number)
            return [sendable(self._of(number, state), lists=lists) for state in states]

    def returned(
        self, phase: Phase, node_id: NodeId, metrics: Mapping[str, float], examples: float | None, sent_bytes: int
    ) -> None:
        """A client came back."""
        self.ledger.returned(phase, node_id, Reply(metrics, examples, metrics.get(self.options.seconds), sent_bytes))

    def reported(self, reporter: Reporter, number: int, metrics: Mapping[str, object] | None) -> None:
        """Metrics of the whole round, of whoever reports them; the server's evaluation may come before the first round."""
        if metrics is None:
            return
        with self.heard():
            if self.ledger.number != number:
                self.close()
                self.ledger.begin(number)
            self.ledger.reported(reporter, metrics)

    def close(self) -> None:
        """The round that is under way has ended."""
        with self.heard():
            done = self.ledger.close()
            if done is not None:
                self.source.closed(done)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Let the source know what is raised on purpose: Flower runs a server in a thread, and may wrap it."""
        try:
            yield
        except (AutotuneError, Failure) as error:
            self.source.broke(error)
            raise

    def _of(self, number: int, state: ClientState) -> Mapping[str, Any]:
        if self.options.per_client is None:
            return self._config
        made = self.options.per_client(dict(self._config), number, state)
        if not isinstance(made, Mapping):
            raise UsageError(f"per_client returned {made!r}; return a mapping of settings by name")
        return made


def _check_callable(name: str, given: object, takes: tuple[str, ...]) -> None:
    wanted = f"give a function of ({', '.join(takes)})"
    if not callable(given):
        raise UsageError(f"{name} is {given!r}; {wanted}")
    try:
        inspect.signature(given).bind(*takes)
    except TypeError:
        raise UsageError(f"{name} is {given!r}, which does not take {len(takes)} arguments; {wanted}") from None
    except ValueError:  # a signature that cannot be told
        return

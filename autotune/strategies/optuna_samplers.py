"""Any Optuna sampler as a strategy. Optuna itself is imported when one is made, as it takes long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from autotune.errors import UsageError
from autotune.strategies.base import Capabilities, History, Strategy, Suggestion, Task

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.strategies.optuna_mirror import Mirror


class OptunaStrategy(Strategy):
    """One Optuna sampler. Subclasses name it; `wrap` makes a strategy of a sampler that the caller built."""

    name: ClassVar[str] = "optuna"
    summary: ClassVar[str] = "an Optuna sampler"
    make: ClassVar[Callable[[int], BaseSampler]]
    # Samplers that keep notes in trials or studies have to see their own asks again when a study is rebuilt.
    remembers: ClassVar[bool] = False
    # How often to draw again what was proposed before; a model's optimum stays where it is, whatever the seed.
    redraws: ClassVar[int] = 8

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._mirror = self._mirrored(task)

    def _mirrored(self, task: Task) -> Mirror:
        from autotune.strategies.optuna_mirror import Mirror  # noqa: PLC0415 - see above

        cls = type(self)
        return Mirror(task, cls.name, cls.make, remembers=cls.remembers, redraws=cls.redraws)

    @classmethod
    def named(cls, name: str) -> type[OptunaStrategy]:
        """The strategy of one of Optuna's own samplers."""
        return _BY_NAME[name]

    @classmethod
    def wrap(cls, sampler: BaseSampler) -> type[OptunaStrategy]:
        """A strategy around a sampler object. Its proposals depend on that object's state, not on the history alone."""
        name = type(sampler).__name__
        members: dict[str, Any] = {
            "name": name,
            "summary": f"Optuna's {name}, as given",
            "make": staticmethod(lambda _seed: sampler),
            "remembers": True,
            "capabilities": Capabilities(several_objectives=True),
        }
        return type(name, (OptunaStrategy,), members)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        return [self.suggestion(config) for config in self._mirror.propose(history, n)]


class _Qmc(OptunaStrategy):
    """The sequence of one seed, a point for each trial."""

    def _mirrored(self, task: Task) -> Mirror:
        from autotune.strategies.optuna_mirror import SobolMirror  # noqa: PLC0415 - see above

        cls = type(self)
        return SobolMirror(task, cls.name, cls.make, remembers=cls.remembers, redraws=cls.redraws)


def _sampler(of: str, **options: Any) -> Callable[[int], BaseSampler]:
    """Makes Optuna's sampler of that class, from a seed."""

    def make(seed: int) -> BaseSampler:
        import optuna  # noqa: PLC0415 - see above

        return getattr(optuna.samplers, of)(seed=seed, **options)

    return make


def _cmaes(seed: int) -> BaseSampler:
    try:
        import cmaes  # noqa: F401, PLC0415
    except ImportError:
        raise UsageError(
            "strategy 'cmaes' needs the package cmaes; install it with: pip install 'autotune[samplers]'"
        ) from None
    return _sampler("CmaEsSampler", warn_independent_sampling=False)(seed)


def _define(
    name: str,
    make: Callable[[int], BaseSampler],
    summary: str,
    *,
    several: bool,
    base: type[OptunaStrategy] = OptunaStrategy,
    **traits: Any,
) -> type[OptunaStrategy]:
    members: dict[str, Any] = {
        "name": name,
        "summary": summary,
        "make": staticmethod(make),
        "capabilities": Capabilities(several_objectives=several),
        **traits,
    }
    return type(f"Optuna_{name}", (base,), members)


_BY_NAME: dict[str, type[OptunaStrategy]] = {
    strategy.name: strategy
    for strategy in (
        _define("random", _sampler("RandomSampler"), "random search (Optuna)", several=True),
        _define(
            "qmc",
            _sampler("QMCSampler", warn_independent_sampling=False),
            "scrambled Sobol sequence (Optuna)",
            several=True,
            base=_Qmc,
        ),
        _define("tpe", _sampler("TPESampler"), "tree-structured Parzen estimator (Optuna)", several=True),
        _define("gp", _sampler("GPSampler"), "Gaussian process with log-EI (Optuna)", several=True, redraws=0),
        _define("cmaes", _cmaes, "CMA-ES (Optuna)", several=False, remembers=True),
        _define("nsga2", _sampler("NSGAIISampler"), "NSGA-II (Optuna)", several=True, remembers=True),
        _define("nsga3", _sampler("NSGAIIISampler"), "NSGA-III (Optuna)", several=True, remembers=True),
    )
}

OPTUNA_STRATEGIES = tuple(_BY_NAME.values())

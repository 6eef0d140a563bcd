"""The Bayesian engine as a strategy. The engine itself is imported when one is made, as it takes long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from autotune.strategies.base import Capabilities, History, Settings, Strategy, Suggestion, Task
from autotune.strategies.bo.features import VIEWS
from autotune.strategies.bo.settings import BayesianSettings, check
from autotune.strategies.seeds import Seeds


class BayesianOptimisation(Strategy):
    """Gaussian process and trees, log expected improvement, learned failures; see docs/strategies.md."""

    name: ClassVar[str] = "bo"
    summary: ClassVar[str] = "Bayesian optimisation: Gaussian process and trees, scored over the feasible set"
    capabilities: ClassVar[Capabilities] = Capabilities(
        several_objectives=True, predictor=True, transfer=True, fidelities=True
    )
    settings_type: ClassVar[type[Settings]] = BayesianSettings
    models: ClassVar[tuple[str, ...]] = ("gp", "trees")  # that a metric is believed by, see `surrogate.Surrogate`
    views: ClassVar[tuple[str, ...]] = VIEWS  # of an ordered parameter, see `FeatureMap`
    trust_region: ClassVar[bool] = True  # whether stagnation binds every other proposal to one

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        assert isinstance(self.settings, BayesianSettings)
        acquisition = self.settings.acquisition
        self._seeds = Seeds(task, self.settings.seeds)
        check(acquisition, self.name, len(task.objectives), self.models)
        from autotune.strategies.bo.engine import Engine, Parts  # noqa: PLC0415 - scipy and numba take long to import

        self._engine = Engine(task, self.name, acquisition, Parts(self.models, self.views, self.trust_region))

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        # What a domain's own solver finds is where models should learn first; the rest of a batch waits for it.
        return self._seeds.propose(history, n) or self._engine.propose(history, n)

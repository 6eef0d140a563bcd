"""A strategy with options that looks at everything that a task may bring, so that tests see what reaches it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from autotune import History, Int, SearchSpace, Settings, Strategy, Suggestion
from autotune.space import Config
from autotune.strategies import Capabilities


class InformedSettings(Settings):
    order: Literal["up", "down"] = "up"
    weight: Annotated[float, Field(gt=0, description="of the predictor")] = 1.0
    deep: bool = False


class Informed(Strategy):
    """Proposes by predicted metric, less what earlier studies measured of the same configuration."""

    name: ClassVar[str] = "informed"
    summary: ClassVar[str] = "for tests"
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=True, predictor=True, transfer=True)
    settings_type: ClassVar[type[Settings]] = InformedSettings

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        table = self.task.space.enumerate()
        assert table is not None
        assert isinstance(self.settings, InformedSettings)
        configs = list(table)
        scores = self._scores(configs)
        sign = 1 if self.settings.order == "up" else -1
        ranked = sorted(range(len(configs)), key=lambda i: (self.settings.weight * scores[i], sign * i))
        unseen = [configs[i] for i in ranked if self.task.space.config_hash(configs[i]) not in history.hashes]
        seen = {source.name: len(source.trials) for source in self.task.sources}
        return [self.suggestion(c, sources=seen) for c in unseen[:n]]

    def _scores(self, configs: Sequence[Config]) -> list[float]:
        metric = self.task.objectives[0].metric
        known: dict[str, Any] = {}
        if self.task.predictor is not None:
            known = dict(self.task.predictor.predict(configs))
        scores = [0.0 if math.isnan(v) else float(v) for v in known.get(metric, [0.0] * len(configs))]
        for source in self.task.sources:
            for trial in source.trials:
                if metric in trial.values and trial.config in configs:
                    scores[configs.index(dict(trial.config))] -= 100.0 / (1.0 + trial.values[metric])
        return scores


def line() -> SearchSpace:
    return SearchSpace([Int("x", 0, 30)])


def away(config: Config) -> float:
    """Smallest at 20; the default is 15."""
    return float(abs(config["x"] - 20))

"""What is known beforehand, as columns that a surrogate may lean on: a domain's predictor and earlier studies.

A guide says how it orders configurations, and how far apart it sees them; scale and offset are learned, and so is whether it is
worth anything (`surrogate.Surrogate`). An earlier study speaks through models of its own, fitted to its trials in the encoding
of this space, so that it may have been made on another GPU or over somewhat other values. Where it measured the very
configuration, the measurement speaks. Feurer, Letham and Bakshy, Scalable Meta-Learning for Bayesian Optimization, 2018, weigh
models of earlier tasks by rank agreement; here rank agreement decides who may speak, and the likelihood how loud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autotune.predictors import Predictor
from autotune.space import Config, SearchSpace
from autotune.store.records import TrialState
from autotune.strategies.base import Source, Task
from autotune.strategies.bo.features import FeatureMap
from autotune.strategies.bo.surrogate import Points, Shape, Surrogate
from autotune.strategies.bo.warp import LARGEST

Floats = npt.NDArray[np.float64]

_FEW = 3  # measurements of a source; fewer order nothing


@dataclass(frozen=True)
class _Guide:
    """One column: what it predicts, and the prediction for encoded configurations, ``(n, d)`` to ``(n,)``."""

    metric: str
    at: Callable[[Floats], Floats]


class Guides:
    """The guides of a task; none for most.

    Args:
        task: brings a predictor and earlier studies.
        features, shape: of the task's space.
    """

    def __init__(self, task: Task, features: FeatureMap, shape: Shape) -> None:
        signs = {c.metric: 1.0 if c.operator == "<=" else -1.0 for c in task.constraints}
        signs |= {o.metric: o.sign for o in task.objectives}
        self._guides: list[_Guide] = []
        for metric, sign in signs.items():
            if task.predictor is not None:
                self._guides.append(_Guide(metric, _Predicted(task.space, task.predictor, metric, sign).at))
            for source in task.sources:
                study = _Study(source, metric, sign, task, features, shape)
                if study.says_something:
                    self._guides.append(_Guide(metric, study.at))

    def __len__(self) -> int:
        return len(self._guides)

    def of(self, metric: str) -> tuple[int, ...]:
        """The columns that predict a metric."""
        return tuple(i for i, guide in enumerate(self._guides) if guide.metric == metric)

    def at(self, units: Floats) -> Floats:
        """Guides at encoded configurations, shape ``(n, k)``, small where the metric is good; NaN where one is silent."""
        if not self._guides or not len(units):
            return np.zeros((len(units), len(self._guides)))
        return np.stack([guide.at(units) for guide in self._guides], axis=1)


class _Predicted:
    """A predictor's metric; by its logarithm where what it first says is positive, as ratios are what such models get right."""

    def __init__(self, space: SearchSpace, predictor: Predictor, metric: str, sign: float) -> None:
        self._space, self._predictor, self._metric, self._sign = space, predictor, metric, sign
        self._log: bool | None = None

    def at(self, units: Floats) -> Floats:
        configs: list[Config] = [self._space.decode(row) for row in units]
        found: Mapping[str, Floats] = self._predictor.predict(configs)
        if self._metric not in found:
            return np.full(len(units), np.nan)
        values = np.asarray(found[self._metric], dtype=float)
        if self._log is None:
            self._log = bool((values[np.isfinite(values)] > 0.0).all())
        if self._log:
            values = np.log(np.where(values > 0.0, values, np.nan))
        bounded: Floats = self._sign * np.clip(values, -LARGEST, LARGEST)
        return bounded


class _Study:
    """An earlier study's metric, by models of its trials."""

    def __init__(
        self, source: Source, metric: str, sign: float, task: Task, features: FeatureMap, shape: Shape
    ) -> None:
        self._task, self._features, self._shape = task, features, shape
        trials = [
            t for t in source.trials if t.state is TrialState.COMPLETED and np.isfinite(t.values.get(metric, np.nan))
        ]
        self._units = translate(task.space, [t.config for t in trials])
        self._losses = np.clip([sign * t.values[metric] for t in trials], -LARGEST, LARGEST)

    @property
    def says_something(self) -> bool:
        return len(self._losses) >= _FEW and float(np.ptp(self._losses)) > 0.0

    @cached_property
    def _surrogate(self) -> Surrogate:
        points = self._points(self._units)
        return Surrogate(points, self._losses, self._shape, self._task.seed)

    @cached_property
    def _known(self) -> dict[bytes, float]:
        warped = self._surrogate.warp.forward(self._losses)
        return {row.tobytes(): float(value) for row, value in zip(self._units, warped, strict=True)}

    def _points(self, units: Floats) -> Points:
        return Points(self._features(units), self._features.interactions(units), np.zeros((len(units), 0)))

    def at(self, units: Floats) -> Floats:
        mean = self._surrogate.predict(self._points(units)).mean
        return np.array([self._known.get(row.tobytes(), m) for row, m in zip(units, mean.tolist(), strict=True)])


def translate(space: SearchSpace, configs: Sequence[Mapping[str, object]]) -> Floats:
    """Configurations of another space in the encoding of this one, shape ``(n, d)``.

    Parameters correspond by name; values go to the nearest that this space has; what the other space lacks takes the default
    of this one.
    """
    named = {p.name for p in space.parameters}
    rows = []
    for config in configs:
        known = {name: value for name, value in config.items() if name in named}
        rows.append(space.loosely_encoded(known))
    return np.array(rows).reshape(len(rows), len(space.dims))

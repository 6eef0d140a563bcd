"""Everything believed at one moment: of each objective, of each limited metric, of failures; and how candidates score by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.strategies.bo.acquisition import log_probability_below
from autotune.strategies.bo.candidates import Candidates
from autotune.strategies.bo.evidence import MODELLED
from autotune.strategies.bo.failures import FailureModel
from autotune.strategies.bo.promise import Promise
from autotune.strategies.bo.surrogate import Points, Surrogate

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ROUGH = 1_250_000  # candidates times measured points that a Gaussian process is asked for in one go
_ROUGH_LEAST = 40  # points: so many are always looked at
_SHORTLIST = 1_500  # candidates that are scored exactly where all would take too long


@dataclass(frozen=True)
class Outlook:
    """What is believed and wanted.

    Attributes:
        surrogates: by objective.
        limits: models of the metrics that are limited, and what each may reach.
        failures: None while nothing has failed.
        setbacks: the same of configurations that complete far beyond the others; None while none do.
        promise: None while nothing feasible was measured, and being feasible is all that counts.
        guided: adds what cheaper evaluators say to points.
        region: which encoded rows may be proposed, None for all.
    """

    surrogates: Sequence[Surrogate]
    limits: Sequence[tuple[Surrogate, float]]
    failures: FailureModel | None
    setbacks: FailureModel | None
    promise: Promise | None
    guided: Callable[[Points], Points]
    region: Callable[[Floats], Mask] | None = None

    def log_chance(self, points: Points, rough: int = 0) -> Floats:
        """Logarithm of the probability to complete within the limits, far lower where the risk is too high; ``(m,)``."""
        total = np.zeros(len(points))
        for model, limit in self.limits:
            total += log_probability_below(model.predict(points, rough=rough), float(model.warp.forward(limit)))
        if self.failures is not None:
            total += self.failures.score(points, rough=rough > 0)
        if self.setbacks is not None:  # which cost an evaluation, as everything does, and no more
            total += self.setbacks.log_success(points, rough=rough > 0)
        return total

    def score(self, candidates: Candidates) -> Floats:
        """Of candidates, ``(m,)``; where there are many and much was measured, all but a shortlist get minus infinity."""
        points = self.guided(candidates.points)
        rough = max(_ROUGH // max(len(candidates), 1), _ROUGH_LEAST)
        if self.surrogates[0].size <= rough or len(candidates) <= _SHORTLIST:
            return self._bounded(candidates, self._exact(points))
        sketch = self._bounded(candidates, self._exact(points, rough))
        short = np.argpartition(-sketch, _SHORTLIST)[:_SHORTLIST]
        short = short[np.isfinite(sketch[short])]
        total = np.full(len(candidates), -np.inf)
        total[short] = self._exact(points.take(short))
        return total

    def _exact(self, points: Points, rough: int = 0) -> Floats:
        log_chance = self.log_chance(points, rough)
        return log_chance if self.promise is None else self.promise(points, log_chance, rough=rough)

    def _bounded(self, candidates: Candidates, scores: Floats) -> Floats:
        return scores if self.region is None else np.where(self.region(candidates.units), scores, -np.inf)

    def told(self, metrics: Sequence[str]) -> dict[str, Any]:
        """For people: what the models of each objective are; by metric where there are several."""
        weights = [{name: round(weight, 3) for name, weight in s.weights.items()} for s in self.surrogates]
        warps = [f"{s.warp.kind} {s.warp.power:g}" for s in self.surrogates]
        several = len(metrics) > 1
        notes: dict[str, Any] = {
            MODELLED: dict(zip(metrics, weights, strict=True)) if several else weights[0],
            "warp": dict(zip(metrics, warps, strict=True)) if several else warps[0],
        }
        ladder = [step for s in self.surrogates for step in s.ladder]
        return notes | ({"fallback": ladder} if ladder else {})

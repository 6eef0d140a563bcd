"""Several objectives: what a candidate adds to the hypervolume of the front, in units in which objectives compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from autotune.objective import pareto_mask
from autotune.strategies.bo.hypervolume import Boxes, log_expected_hypervolume_improvement
from autotune.strategies.bo.surrogate import Belief, Component, Points, Surrogate

Floats = npt.NDArray[np.float64]

_SURE = 3.0  # deviations
_MARGIN = 0.1  # of the reference point, so that what is as bad as the worst in one objective still gains by the others


class HypervolumeGain:
    """Logarithm of the expected hypervolume improvement over what was measured and what is under way.

    Each objective is looked at in the units of its warp, in which its surrogate is about equally wrong everywhere, and scaled
    to what was measured so far: 0 is the best value of the front, 1 the worst of all. The reference point lies a tenth beyond
    that worst. Right beyond the nadir of the front, where it often is, it would hold a search in the corner that the first
    measurements happen to lead to: what is better in one objective and beyond the nadir in the other would gain nothing.

    Args:
        surrogates: one for each objective.
        known: objectives of feasible configurations, in warped units; shape ``(n, m)`` with n of at least 1.
        pending: what is under way, which counts as if it had given what is expected of it.
    """

    def __init__(self, surrogates: Sequence[Surrogate], known: Floats, pending: Points) -> None:
        self._surrogates = surrogates
        self._best = known.min(axis=0)
        span = known.max(axis=0) - self._best
        self._span = np.where(span > 0.0, span, 1.0)
        if len(pending):
            known = np.concatenate([known, np.stack([s.predict(pending).mean for s in surrogates], axis=1)])
        reference = span / self._span + _MARGIN
        self._boxes = Boxes.of((known - self._best) / self._span, reference)
        self.goal = tuple((self._best + reference * self._span).tolist())

    def __call__(self, points: Points, log_chance: Floats, *, rough: int = 0) -> Floats:
        """See `Promise`."""
        return self._log_gain(points, rough) + log_chance

    def gain(self, points: Points) -> float:
        """See `Promise`; relative to the hypervolume that the front dominates."""
        return float(np.exp(self._log_gain(points, 0)[0])) / self._boxes.dominated()

    def _log_gain(self, points: Points, rough: int) -> Floats:
        beliefs = [self._scaled(j, s.predict(points, rough=rough)) for j, s in enumerate(self._surrogates)]
        return log_expected_hypervolume_improvement(beliefs, self._boxes)

    def _scaled(self, objective: int, belief: Belief) -> tuple[Component, ...]:
        best, span = self._best[objective], self._span[objective]
        return tuple(replace(c, mean=(c.mean - best) / span, variance=c.variance / span**2) for c in belief.components)


def leading(losses: Floats, feasible: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of some measured configurations are on the front of the feasible ones; losses of shape ``(n, m)``."""
    front = np.zeros(len(losses), dtype=bool)
    front[feasible] = pareto_mask(losses[feasible])
    return front


def contenders(mean: Floats, variance: Floats) -> npt.NDArray[np.intp]:
    """Places of the measured configurations that may be on the front, and of the best and worst in each objective.

    Left out is what another one surely dominates: by three deviations of either, in every objective. What draws of all of them
    say of the front, draws of these say in a fraction of the time; the extremes tell in which units objectives compare.

    Args:
        mean, variance: what is believed of losses, shape ``(n, m)`` with n of at least 1.
    """
    deviation = _SURE * np.sqrt(variance)
    hoped, feared = mean - deviation, mean + deviation
    sure = feared[pareto_mask(feared)]
    kept = np.array([not (sure < one).all(axis=1).any() for one in hoped])
    kept[mean.argmin(axis=0)] = kept[mean.argmax(axis=0)] = True
    return np.flatnonzero(kept)

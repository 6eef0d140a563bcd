"""What a candidate promises, counting only if it completes within the limits: a score, and a gain that people understand."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from autotune.strategies.bo import selectable
from autotune.strategies.bo.acquisition import log_expected_improvement
from autotune.strategies.bo.settings import Acquisition
from autotune.strategies.bo.surrogate import Points, Surrogate

Floats = npt.NDArray[np.float64]

_MOST_GAIN = 700.0  # logarithm: e to it is still a number


class Promise(Protocol):
    """An acquisition over a whole feasible set.

    Attributes:
        goal: by objective, what is to be beaten, in warped units: the incumbent, or the reference point of several objectives.
    """

    goal: tuple[float, ...]

    def __call__(self, points: Points, log_chance: Floats, *, rough: int = 0) -> Floats:
        """Scores of m points, shape ``(m,)``.

        Args:
            points: the candidates.
            log_chance: logarithm of the probability that each completes within the limits, shape ``(m,)``.
            rough: as for `Surrogate.predict`.
        """
        ...

    def gain(self, points: Points) -> float:
        """What is expected of the one point that is proposed, relative to what there is."""
        ...


class Improvement:
    """Improvement on the best feasible loss, by one objective and a selected acquisition.

    Args:
        surrogate: of the objective.
        best: the loss to improve on.
        acquisition: by name.
    """

    def __init__(self, surrogate: Surrogate, best: float, acquisition: Acquisition) -> None:
        self._surrogate, self._best, self._acquisition = surrogate, best, acquisition
        self.goal: tuple[float, ...] = (float(surrogate.warp.forward(best)),)

    @property
    def incumbent(self) -> float:
        """The loss to improve on, in warped units."""
        return self.goal[0]

    def __call__(self, points: Points, log_chance: Floats, *, rough: int = 0) -> Floats:
        belief = self._surrogate.predict(points, rough=rough)
        return selectable.promise(self._acquisition, belief, self.incumbent, log_chance)

    def gain(self, points: Points) -> float:
        log_gain = float(log_expected_improvement(self._surrogate.predict(points), self.incumbent)[0])
        log_gain -= float(self._surrogate.warp.log_slope(self._best))
        log_gain -= math.log(abs(self._best)) if self._best else 0.0
        return math.exp(min(log_gain, _MOST_GAIN))

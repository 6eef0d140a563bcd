"""What a candidate promises if it completes within the limits: a score to maximise, and as a gain that people understand."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from autotune.strategies.bo.acquisition import log_expected_improvement
from autotune.strategies.bo.surrogate import Points, Surrogate

Floats = npt.NDArray[np.float64]


class Promise(Protocol):
    """An acquisition on a logarithmic scale, to which logarithms of probabilities may be added."""

    def __call__(self, points: Points, *, rough: int = 0) -> Floats:
        """Of some points, shape ``(m,)``; `rough` as for `Surrogate.predict`."""
        ...

    def gain(self, points: Points) -> float:
        """What is expected of the one point that is proposed, relative to what there is."""
        ...


class Improvement:
    """Log expected improvement on the best feasible loss, `best`, by one objective."""

    def __init__(self, surrogate: Surrogate, best: float) -> None:
        self._surrogate, self._best = surrogate, best
        self._warped = float(surrogate.warp.forward(best))

    def __call__(self, points: Points, *, rough: int = 0) -> Floats:
        return log_expected_improvement(self._surrogate.predict(points, rough=rough), self._warped)

    def gain(self, points: Points) -> float:
        gain = math.exp(float(self(points)[0])) / math.exp(float(self._surrogate.warp.log_slope(self._best)))
        return gain / abs(self._best) if self._best else gain

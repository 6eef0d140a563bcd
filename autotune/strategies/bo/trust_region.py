"""Where to look when looking everywhere has brought nothing: a box around the incumbent, smaller the longer nothing improves.

After Eriksson, Pearce, Gardner, Turner and Poloczek, Scalable Global Optimization via Local Bayesian Optimization, NeurIPS 2019
(TuRBO; written from the paper, section 2 and supplement D): three improvements in a row double the length of the box, as many
failures as there are dimensions halve it, and below the least length it starts anew; its sides are in proportion to the length
scales of the model. Three things differ. The number of failures is bounded, as a search of 100 parameters has not 100 trials to
spare; models are global, and so nothing is forgotten at a restart; and where the whole set can be scored, every other proposal
only is bound to the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.space.dimensions import Dimension

Floats = npt.NDArray[np.float64]

FIRST, LEAST, MOST = 0.8, 0.5**7, 1.6  # lengths, in units of the encoded range
_SUCCESSES = 3
_FAILURES = (4, 12)  # at least and at most so many in a row halve the length
_IMPROVES = 1e-3  # of the incumbent's loss: less is no success


@dataclass(frozen=True)
class TrustRegion:
    """What the trials so far have made of the region.

    Attributes:
        length: of the side of a dimension of average length scale.
        stagnant: whether it has shrunk or started anew since the last improvement.
    """

    length: float
    stagnant: bool

    @classmethod
    def after(cls, losses: Sequence[float], dims: int) -> TrustRegion:
        """The region after measurements in this order; the same losses give the same region."""
        tolerance = min(max(_FAILURES[0], dims), _FAILURES[1])
        length, best, successes, failures, stagnant = FIRST, math.inf, 0, 0, False
        for loss in losses:
            if loss < best - _IMPROVES * abs(best) or not math.isfinite(best):
                successes, failures, stagnant = successes + 1, 0, False
            else:
                successes, failures = 0, failures + 1
            best = min(best, loss)
            if successes == _SUCCESSES:
                length, successes = min(2.0 * length, MOST), 0
            elif failures == tolerance:
                length, failures, stagnant = length / 2.0, 0, True
                if length < LEAST:
                    length = FIRST
        return cls(length, stagnant)

    def holds(self, units: Floats, centre: Floats, scales: Floats, dims: Sequence[Dimension]) -> npt.NDArray[np.bool_]:
        """Which encoded rows lie in the box around a centre.

        Unordered and inactive dimensions are free; a list reaches its next value at least.

        Args:
            units: shape ``(m, d)``.
            centre: shape ``(d,)``.
            scales: length scales by dimension, shape ``(d,)``.
            dims: of the space.
        """
        sides = self.length * scales / float(np.exp(np.log(scales).mean()))
        inside = np.ones(len(units), dtype=bool)
        for dim in dims:
            if not dim.ordered or np.isnan(centre[dim.position]):
                continue
            step = 0.0 if dim.n_values is None else 1.0 / max(dim.n_values - 1, 1)
            reach = max(float(sides[dim.position]) / 2.0, step) + 1e-9
            inside &= ~(np.abs(units[:, dim.position] - centre[dim.position]) > reach)
        return inside

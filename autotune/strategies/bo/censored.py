"""What pruned trials say: of a metric that only grows, no more than that it is at least what it was when they were ended.

Such observations are censored. Each is given a value, the larger the more its bound says (Schmee and Hahn, A Simple Method for
Regression Analysis with Censored Data, Technometrics 21, 1979; Hutter, Hoos and Leyton-Brown, Bayesian Optimization With
Censored Response Data, 2011, arXiv:1310.1947, fit a model to such values in turns): here in one turn, by the models of what
was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from autotune.strategies.bo.surrogate import Belief

Floats = npt.NDArray[np.float64]

_LOG_ROOT_TWO_PI = 0.9189385332046727
_FAR = 1e3  # deviations


@dataclass(frozen=True)
class Censored:
    """Configurations whose trials were pruned, c of them, with lower bounds of what they would have measured.

    Attributes:
        units: encoded, shape ``(c, d)``.
        objectives: one for each objective, of the loss; minus infinity where nothing is known; shape ``(c,)``.
        constraints: the same for each outcome constraint, signed so that small is good.
    """

    units: Floats
    objectives: tuple[Floats, ...]
    constraints: tuple[Floats, ...]

    def __len__(self) -> int:
        return len(self.units)


def imputed(belief: Belief, least: Floats, measured: Floats) -> Floats:
    """Losses that stand for those of pruned trials.

    Where the bound is at least the best that was measured, it is the mean of what is believed above the bound, that of a
    truncated normal. Else the bound says nothing, and the trial was ended as it fell behind: what is believed, and at least the
    median of what was measured. None is beyond the worst that was measured, but by its bound.

    Args:
        belief: of the pruned ones, by models of what was measured.
        least: bounds, minus infinity without one, shape ``(c,)``.
        measured: losses, of at least one configuration, shape ``(n,)``.

    Returns:
        Shape ``(c,)``, finite.
    """
    telling = least >= measured.min()
    bound = np.where(telling, least, measured.min())
    mean, deviation = np.broadcast_to(belief.mean, least.shape), np.sqrt(np.broadcast_to(belief.variance, least.shape))
    # Further out the mean is the bound itself, and the two parts of the hazard would cancel to nothing but rounding.
    above = np.clip((belief.warp.forward(bound) - mean) / deviation, -_FAR, _FAR)
    hazard = np.exp(-0.5 * above**2 - _LOG_ROOT_TWO_PI - log_ndtr(-above))
    behind = np.maximum(mean, np.median(belief.warp.forward(measured)))
    values = np.nan_to_num(
        belief.warp.backward(np.where(telling, mean + deviation * hazard, behind)), nan=measured.max()
    )
    return np.asarray(np.clip(values, bound, np.maximum(measured.max(), bound)))

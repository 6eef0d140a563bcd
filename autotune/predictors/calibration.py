"""How far predictions agree with measurements: in order, and up to a scale and an offset."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError

Floats = npt.NDArray[np.float64]

_ALONE = 1e-12  # a leverage this close to 1 belongs to the only prediction that differs from the others


@dataclass(frozen=True)
class Calibration:
    """The line through measurements over predictions.

    Attributes:
        scale, offset: ``measured = scale * predicted + offset``, of the natural logarithms of both where `log`.
        log: whether all values were positive, so that ratios are what counts.
        n: pairs that it rests on.
        r2: leave-one-out R^2 on that scale: 1 for predictions that tell every measurement from the others, 0 where the
            mean of the others does as well, below where it does better; NaN where it is undefined.
    """

    scale: float
    offset: float
    log: bool
    n: int
    r2: float

    def apply(self, predicted: npt.ArrayLike) -> Floats:
        """What would be measured, of the same shape as `predicted`; NaN where a logarithm does not exist."""
        values = np.asarray(predicted, dtype=np.float64)
        if not self.log:
            return np.asarray(self.scale * values + self.offset)
        positive = np.where(values > 0.0, values, np.nan)
        return np.asarray(np.exp(self.scale * np.log(positive) + self.offset))


def rank_agreement(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> float:
    """Kendall's tau-b (Kendall 1945, Biometrika 33): from -1, the opposite order, to 1, the same order.

    Args:
        predicted, measured: shape ``(n,)`` both; pairs in which one is not finite are left out.

    Returns:
        NaN with fewer than two pairs, or where all predictions or all measurements are equal.

    Raises:
        UsageError: when the shapes differ.
    """
    x, y = _pairs(predicted, measured)
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return math.nan
    from scipy import stats  # noqa: PLC0415 - takes longer to import than most verbs of the command line to run

    return float(stats.kendalltau(x, y, variant="b").statistic)


def calibrate(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Calibration:
    """Least-squares scale and offset of predictions, on the logarithmic scale where all values are positive.

    The leave-one-out residual of a line is its residual divided by one less the leverage (Allen 1974, Technometrics 16:
    the PRESS statistic), so that nothing is fitted again.

    Args:
        predicted, measured: shape ``(n,)`` both; pairs in which one is not finite are left out.

    Returns:
        A scale of 0 where all predictions are equal.

    Raises:
        UsageError: when the shapes differ, or no pair is left.
    """
    x, y = _pairs(predicted, measured)
    n = len(x)
    if n == 0:
        raise UsageError("no prediction has a measurement beside it; calibration needs at least one pair")
    log = bool((x > 0.0).all() and (y > 0.0).all())
    if log:
        x, y = np.log(x), np.log(y)
    middle, level = float(x.mean()), float(y.mean())
    spread = float(((x - middle) ** 2).sum())
    scale = float(((x - middle) * (y - level)).sum()) / spread if spread > 0.0 else 0.0
    offset = level - scale * middle
    return Calibration(scale, offset, log, n, _leave_one_out_r2(x, y, scale, offset))


def _leave_one_out_r2(x: Floats, y: Floats, scale: float, offset: float) -> float:
    n = len(x)
    if n < 3 or np.ptp(y) == 0.0:
        return math.nan
    off_mean = (y - y.mean()) * n / (n - 1)  # from the mean of the others
    spread = ((x - x.mean()) ** 2).sum()
    if spread == 0.0:
        return 0.0
    rest = 1.0 - 1.0 / n - (x - x.mean()) ** 2 / spread
    # Without the only prediction that differs the others are all equal, so that their mean is the best guess.
    missed = np.where(rest > _ALONE, (y - scale * x - offset) / np.maximum(rest, _ALONE), off_mean)
    return float(1.0 - (missed**2).sum() / (off_mean**2).sum())


def _pairs(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise UsageError(f"predicted has shape {x.shape} and measured {y.shape}; give two vectors of the same length")
    both = np.isfinite(x) & np.isfinite(y)
    return x[both], y[both]

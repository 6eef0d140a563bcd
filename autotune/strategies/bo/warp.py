"""Output warping: monotone transforms that make losses look more like draws of a Gaussian process, chosen by likelihood.

Box and Cox, An Analysis of Transformations, Journal of the Royal Statistical Society B 26, 1964, for losses of one sign; Yeo
and Johnson, A New Family of Power Transformations, Biometrika 87, 2000, else. A run time that spreads over two decades is
nearly always better modelled by its logarithm; that the data say so is checked, not assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LARGEST = 1e100  # of a loss: its square is still a number
_SIGNED_POWERS = (1.0, 0.5, 0.0, -0.5, -1.0)
_PLAIN_POWERS = (1.0, 0.5, 0.0, -0.5)
_FAR = 1e3  # times as far from the best loss as is usual: no model need tell apart what is further
_CODE = 10.0  # the same of a worst loss that was told again and again: that is no measurement but a code for failure
_FIRST = 16  # losses that say what is usual
_WIDEST = 1e9  # warped values beyond it leave no digits for the others
_LEAST_SPREAD = 1e-6  # of the range: a narrower middle half is no unit to measure the rest in


@dataclass(frozen=True)
class Warp:
    """``forward`` is strictly increasing between `low` and `high`.

    Attributes:
        kind: `box-cox` (losses of one sign, in units of `scale`) or `yeo-johnson` (about `centre`, in units of `scale`).
        power: 1 leaves distances as they are, 0 is the logarithm.
        low, high: losses beyond count as these.
    """

    kind: str
    power: float
    sign: float = 1.0
    centre: float = 0.0
    scale: float = 1.0
    low: float = -LARGEST
    high: float = LARGEST

    def forward(self, losses: npt.ArrayLike) -> Floats:
        """Warped losses, shape as given. A loss on the wrong side of zero, where the family ends, gets the end."""
        y = np.clip(np.asarray(losses, dtype=float), self.low, self.high)
        if self.kind == "box-cox":
            # For losses below zero (maximised metrics) the amount is -y, and a larger amount is better.
            amount = np.maximum(self.sign * y / self.scale, 1e-300)
            return self.sign * _power(amount, self.power)
        z = (y - self.centre) / self.scale
        result: Floats = np.where(
            z >= 0, _power(np.maximum(z, 0.0) + 1.0, self.power), -_power(1.0 - np.minimum(z, 0.0), 2.0 - self.power)
        )
        return result

    def log_slope(self, losses: npt.ArrayLike) -> Floats:
        """Logarithm of the derivative, shape as given: what a density of warped losses is multiplied by."""
        y = np.clip(np.asarray(losses, dtype=float), self.low, self.high)
        if self.kind == "box-cox":
            amount = np.maximum(self.sign * y / self.scale, 1e-300)
            return np.asarray((self.power - 1.0) * np.log(amount) - np.log(self.scale))
        z = (y - self.centre) / self.scale
        return np.asarray(np.sign(z) * (self.power - 1.0) * np.log1p(np.abs(z)) - np.log(self.scale))

    def backward(self, warped: npt.ArrayLike) -> Floats:
        """The losses that `forward` would take there, between `low` and `high`, shape as given."""
        w = np.asarray(warped, dtype=float)
        with np.errstate(over="ignore"):  # infinity becomes an end
            if self.kind == "box-cox":
                losses = self.sign * self.scale * _root(self.sign * w, self.power)
            else:
                above = _root(np.maximum(w, 0.0), self.power) - 1.0
                below = 1.0 - _root(-np.minimum(w, 0.0), 2.0 - self.power)
                losses = self.centre + self.scale * np.where(w >= 0, above, below)
        result: Floats = np.clip(losses, self.low, self.high)
        return result

    def fits(self, losses: Floats) -> bool:
        """Whether the warped losses are numbers that a model can be fitted to."""
        return bool(np.abs(self.forward(losses)).max() <= _WIDEST)


def _power(amount: Floats, power: float) -> Floats:
    return np.log(amount) if power == 0.0 else (amount**power - 1.0) / power


def _root(value: Floats, power: float) -> Floats:
    if power == 0.0:
        return np.exp(value)
    return np.maximum(1.0 + power * value, 1e-300) ** (1.0 / power)


def candidates(losses: Floats) -> list[Warp]:
    """The family to choose from, for losses of shape ``(n,)``; its first member changes nothing but the unit.

    Losses many times as far from the best one as is usual count as that far: users return absurd numbers for what did not work,
    and these must not decide how finely the others are seen.
    """
    y = np.clip(losses, -LARGEST, LARGEST)
    best, codes = float(y.min()), y == y.max()
    coded = 1 < codes.sum() < len(y)
    # Later losses crowd about the best; the first ones say what is usual.
    first = y[:_FIRST][~codes[:_FIRST]] if coded and not codes[:_FIRST].all() else y[:_FIRST]
    usual = float(np.median(first)) - best
    far = (_CODE if coded else _FAR) * (usual or (float(y.max()) - best) or max(abs(best), 1.0))
    low, high = max(best - far, -LARGEST), min(best + far, LARGEST)
    y = np.minimum(y, high)
    worst = float(y.max())
    amounts = (best > 0 or worst < 0) and worst - best > _LEAST_SPREAD * max(abs(best), abs(worst))
    if amounts:  # else every power is a straight line
        # Any unit gives the same family up to scale and offset; in that of the largest amount nothing overflows.
        sign, scale = (1.0, worst) if best > 0 else (-1.0, -best)
        return [Warp("box-cox", power, sign, scale=scale, low=low, high=high) for power in _SIGNED_POWERS]
    q1, q3 = (float(q) for q in np.quantile(y, [0.25, 0.75]))
    spread = q3 - q1 if q3 - q1 > _LEAST_SPREAD * (worst - best) else float(y.std()) or 1.0
    centre = float(np.median(y))
    return [Warp("yeo-johnson", power, 1.0, centre, spread, low, high) for power in _PLAIN_POWERS]

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

_SIGNED_POWERS = (1.0, 0.5, 0.0, -0.5, -1.0)
_PLAIN_POWERS = (1.0, 0.5, 0.0, -0.5)


@dataclass(frozen=True)
class Warp:
    """``forward`` is strictly increasing.

    Attributes:
        kind: `box-cox` (losses of one sign, in units of `scale`) or `yeo-johnson` (about `centre`, in units of `scale`).
        power: 1 leaves distances as they are, 0 is the logarithm.
    """

    kind: str
    power: float
    sign: float = 1.0
    centre: float = 0.0
    scale: float = 1.0

    def forward(self, losses: npt.ArrayLike) -> Floats:
        """Warped losses, shape as given. A loss on the wrong side of zero, where the family ends, gets the end."""
        y = np.asarray(losses, dtype=float)
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
        y = np.asarray(losses, dtype=float)
        if self.kind == "box-cox":
            amount = np.maximum(self.sign * y / self.scale, 1e-300)
            return np.asarray((self.power - 1.0) * np.log(amount) - np.log(self.scale))
        z = (y - self.centre) / self.scale
        return np.asarray(np.sign(z) * (self.power - 1.0) * np.log1p(np.abs(z)) - np.log(self.scale))

    def backward(self, warped: npt.ArrayLike) -> Floats:
        """The losses that `forward` would take there, shape as given."""
        w = np.asarray(warped, dtype=float)
        if self.kind == "box-cox":
            return self.sign * self.scale * _root(self.sign * w, self.power)
        z = np.where(
            w >= 0, _root(np.maximum(w, 0.0), self.power) - 1.0, 1.0 - _root(-np.minimum(w, 0.0), 2.0 - self.power)
        )
        result: Floats = self.centre + self.scale * z
        return result


def _power(amount: Floats, power: float) -> Floats:
    return np.log(amount) if power == 0.0 else (amount**power - 1.0) / power


def _root(value: Floats, power: float) -> Floats:
    if power == 0.0:
        return np.exp(value)
    return np.maximum(1.0 + power * value, 1e-300) ** (1.0 / power)


def candidates(losses: Floats) -> list[Warp]:
    """The family to choose from, for losses of shape ``(n,)``; its first member changes nothing but the unit."""
    middle = float(np.median(losses))
    low, high = float(losses.min()), float(losses.max())
    if low > 0 or high < 0:
        sign = 1.0 if low > 0 else -1.0
        return [Warp("box-cox", power, sign, scale=abs(middle)) for power in _SIGNED_POWERS]
    q1, q3 = np.quantile(losses, [0.25, 0.75])
    spread = float(q3 - q1) or float(losses.std()) or 1.0
    return [Warp("yeo-johnson", power, 1.0, middle, spread) for power in _PLAIN_POWERS]

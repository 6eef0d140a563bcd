"""Hypervolume of two objectives on a fixed scale (Zitzler and Thiele, PPSN 1998)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError

Floats = npt.NDArray[np.float64]

_SPAN = 10.0  # positive losses that span more than a decade are compared by ratio


def area(points: npt.ArrayLike) -> float:
    """The area that some points of the plane dominate inside the unit square; both coordinates are minimised.

    Args:
        points: shape ``(n, 2)``; what lies beyond 1 in a coordinate dominates nothing.
    """
    inside = np.asarray(points, dtype=float).reshape(-1, 2)
    inside = np.clip(inside[(inside < 1.0).all(axis=1)], 0.0, None)
    inside = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    total, ceiling = 0.0, 1.0
    for x, y in inside.tolist():
        if y < ceiling:
            total += (1.0 - x) * (ceiling - y)
            ceiling = y
    return total


@dataclass(frozen=True)
class FrontScale:
    """Losses of two objectives scaled to the unit square: 0 the best value of each known, 1 the worst.

    Attributes:
        low, high: by objective, after the logarithm.
        log: by objective, whether the logarithm is taken.
        whole: the area that the Pareto front of everything known dominates.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    log: tuple[int, ...]
    whole: float

    @classmethod
    def of(cls, losses: Floats) -> FrontScale:
        """The scale of a population.

        Args:
            losses: shape ``(n, 2)``, to be minimised, none missing. Negative ones belong to maximised metrics.

        Raises:
            UsageError: for other than two objectives.
        """
        if losses.shape[1] != 2:
            raise UsageError(f"hypervolume is computed for 2 objectives; this problem has {losses.shape[1]}")
        sign = tuple(_sign(losses[:, j]) for j in range(2))
        scaled = np.stack([_logged(losses[:, j], sign[j]) for j in range(2)], axis=1)
        low, high = scaled.min(axis=0), scaled.max(axis=0)
        high = np.where(high > low, high, low + 1.0)
        whole = area((scaled - low) / (high - low))
        return cls(tuple(low.tolist()), tuple(high.tolist()), sign, whole)

    def unit(self, losses: npt.ArrayLike) -> Floats:
        """Losses on the unit scale, shape ``(n, 2)`` as given."""
        given = np.asarray(losses, dtype=float).reshape(-1, 2)
        scaled = np.stack([_logged(given[:, j], self.log[j]) for j in range(2)], axis=1)
        units: Floats = (scaled - np.array(self.low)) / (np.array(self.high) - np.array(self.low))
        return units

    def missing(self, losses: npt.ArrayLike) -> Floats:
        """The share of the whole hypervolume that is missing after each of a sequence of evaluations.

        Args:
            losses: shape ``(t, 2)``; NaN rows failed.

        Returns:
            Shape ``(t,)``, from at most 1 down to 0 where everything known is dominated or matched.
        """
        units = self.unit(losses)
        result = np.empty(len(units))
        front: list[list[float]] = []
        current = 0.0
        for t, point in enumerate(units.tolist()):
            if not np.isnan(point).any() and not any(x <= point[0] and y <= point[1] for x, y in front):
                front = [kept for kept in front if not (point[0] <= kept[0] and point[1] <= kept[1])] + [point]
                current = area(front)
            result[t] = 1.0 - current / self.whole
        return result


def _sign(column: Floats) -> int:
    """1 to take the logarithm of a positive loss, -1 of a maximised positive metric, 0 to leave it linear."""
    for sign in (1, -1):
        values = sign * column
        if values.min() > 0 and values.max() > _SPAN * values.min():
            return sign
    return 0


def _logged(column: Floats, sign: int) -> Floats:
    return column if sign == 0 else sign * np.log(sign * column)

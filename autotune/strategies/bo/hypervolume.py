"""Expected hypervolume improvement, exact for any number of objectives, on a logarithmic scale.

What a Pareto front and a reference point leave undominated is cut into boxes. In a box with the bounds l and u, a point y
newly dominates the volume ``prod_j (u_j - max(y_j, l_j))+``; for independent objectives its expectation is

    EHVI = sum over boxes of  prod_j [E(u_j - Y_j)+ - E(l_j - Y_j)+],   with E(l_j - Y_j)+ = 0 where l_j is minus infinity

(Yang, Emmerich, Deutz and Bäck, Efficient Computation of Expected Hypervolume Improvement Using Box Decomposition Algorithms,
Journal of Global Optimization 75, 2019, section 3, for losses to be minimised). An expectation under a mixture is the mixture
of expectations, so an objective may be any mixture of Gaussians. Boxes are found by a sweep along one objective after another:
n points of two objectives leave n + 1 of them, of three at most 2 n + 1 (section 4 there). Terms are multiplied as they are
where double precision holds the products, and added as logarithms where not (Ament et al., NeurIPS 2023, of one objective).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import logsumexp

from autotune.objective import pareto_mask
from autotune.strategies.bo.acquisition import log_h
from autotune.strategies.bo.surrogate import Component

Floats = npt.NDArray[np.float64]
Point = tuple[float, ...]
Box = tuple[Point, Point]  # lower and upper corner
Places = npt.NDArray[np.intp]

# Points of a front by the number of objectives: they leave less than about 700 boxes, found within about 0.1 s.
_POINTS = {2: 500, 3: 300, 4: 100, 5: 40, 6: 18}
_FEW_POINTS = 10  # of more objectives
_VANISHED = 1e-250  # below it, products are no longer trusted to be held in double precision
_ROWS = 2048  # candidates that are scored at a time as logarithms
_LEAST = 1e-18  # of a variance


@dataclass(frozen=True)
class Boxes:
    """What a front leaves undominated, as disjoint boxes; all objectives are minimised.

    Attributes:
        levels: by objective, the coordinates that boxes end at, ascending, the first minus infinity; shapes ``(k_j,)``.
        lower, upper: places in `levels`, shape ``(boxes, m)``.
    """

    levels: tuple[Floats, ...]
    lower: Places
    upper: Places

    @classmethod
    def of(cls, points: Floats, reference: Floats) -> Boxes:
        """The boxes below a reference point that some points leave undominated.

        Args:
            points: shape ``(n, m)``; what does not lie below the reference point in every objective dominates nothing.
            reference: shape ``(m,)``.
        """
        inside = points[(points < reference).all(axis=1)]
        front = _thinned(np.unique(inside[pareto_mask(inside)], axis=0))
        boxes = _swept([tuple(point) for point in front.tolist()], tuple(reference.tolist()))
        corners = np.array(boxes).reshape(len(boxes), 2, len(reference))
        levels, places = list[Floats](), list[Places]()
        for ends in np.moveaxis(corners, 2, 0):
            levels.append(np.unique(np.append(ends, -np.inf)))
            places.append(np.searchsorted(levels[-1], ends))
        lower, upper = np.moveaxis(np.array(places), 0, 2).transpose(1, 0, 2)
        return cls(tuple(levels), np.ascontiguousarray(lower), np.ascontiguousarray(upper))

    def dominated(self) -> float:
        """The volume between the reference point and the ideal point of the front that the front dominates; 0 without one."""
        ideal = np.array([levels[1] for levels in self.levels])
        low, high = (
            np.stack([levels[places[:, j]] for j, levels in enumerate(self.levels)], axis=1)
            for places in (self.lower, self.upper)
        )
        left = np.prod(np.maximum(high - np.maximum(low, ideal), 0.0), axis=1).sum()
        return float(np.prod(np.array([levels[-1] for levels in self.levels]) - ideal) - left)


def _swept(front: list[Point], reference: Point) -> list[Box]:
    """Boxes by a sweep along the last objective: between two of its levels, those that the points passed so far leave."""
    if len(reference) == 1:
        return [((-math.inf,), (min([point[0] for point in front], default=reference[0]),))]
    found: list[Box] = []
    passed: list[Point] = []
    begun = dict.fromkeys(_swept([], reference[:-1]), -math.inf)
    for level, points in itertools.groupby(sorted(front, key=lambda point: point[-1]), key=lambda point: point[-1]):
        for point in points:
            passed = [*(other for other in passed if not _covers(point[:-1], other)), point[:-1]]
        boxes = _swept(passed, reference[:-1])
        left = set(boxes)
        found += [_stretched(box, begin, level) for box, begin in begun.items() if box not in left]
        # A box that the new points leave as it was goes on, so that there are few of them.
        begun = {box: begun.get(box, level) for box in boxes}
    return found + [_stretched(box, begin, reference[-1]) for box, begin in begun.items()]


def _covers(one: Point, other: Point) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def _stretched(box: Box, begin: float, end: float) -> Box:
    return (*box[0], begin), (*box[1], end)


def _thinned(front: Floats) -> Floats:
    """At most as many points as can be cut quickly, far from each other; fewer points leave more to be gained, never less."""
    most = _POINTS.get(front.shape[1], _FEW_POINTS)
    if len(front) <= most:
        return front
    kept = list(dict.fromkeys(np.argmin(front, axis=0).tolist()))[:most]
    nearest = ((front[:, None] - front[kept][None]) ** 2).sum(axis=2).min(axis=1)
    while len(kept) < most:
        kept.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((front - front[kept[-1]]) ** 2).sum(axis=1))
    return front[kept]


def log_expected_hypervolume_improvement(beliefs: Sequence[Sequence[Component]], boxes: Boxes) -> Floats:
    """Logarithm of the expected volume that each candidate adds, shape ``(n,)``.

    Args:
        beliefs: by objective, a mixture of Gaussians over the candidates, each of shape ``(n,)``.
        boxes: in the same units.
    """
    reach = [_improvements(mixture, levels) for mixture, levels in zip(beliefs, boxes.levels, strict=True)]
    total = _volume(np.concatenate(reach, axis=1), _starts(boxes), boxes.lower, boxes.upper)
    result: Floats = np.log(np.maximum(total, _VANISHED))
    vanished = np.flatnonzero(total <= _VANISHED)
    for begin in range(0, len(vanished), _ROWS):
        some = vanished[begin : begin + _ROWS]
        result[some] = _in_logarithms(beliefs, boxes, some)
    return result


def _starts(boxes: Boxes) -> Places:
    """Where the levels of each objective begin when they stand side by side."""
    return np.concatenate([[0], np.cumsum([len(levels) for levels in boxes.levels])[:-1]]).astype(np.intp)


def _improvements(mixture: Sequence[Component], levels: Floats) -> Floats:
    """E(level - Y)+ of each candidate at each level, shape ``(n, k)``."""
    return np.asarray(
        _expected(
            np.array([c.mean for c in mixture]),
            np.sqrt(np.maximum(np.array([c.variance for c in mixture]), _LEAST)),
            np.array([c.weight for c in mixture]),
            levels,
        )
    )


def _in_logarithms(beliefs: Sequence[Sequence[Component]], boxes: Boxes, rows: Places) -> Floats:
    """The same sum for some candidates, by logarithms of its terms, shape ``(rows,)``."""
    total = np.zeros((len(rows), len(boxes.lower)))
    for j, mixture in enumerate(beliefs):
        parts = []
        for component in mixture:
            deviation = np.sqrt(np.maximum(component.variance[rows], _LEAST))[:, None]
            z = (boxes.levels[j][None, 1:] - component.mean[rows][:, None]) / deviation
            parts.append(math.log(max(component.weight, 1e-300)) + np.log(deviation) + log_h(z))
        at = np.concatenate([np.full((len(rows), 1), -np.inf), logsumexp(np.array(parts), axis=0)], axis=1)
        high, low = at[:, boxes.upper[:, j]], at[:, boxes.lower[:, j]]
        with np.errstate(divide="ignore"):  # levels so near to each other that nothing lies between them
            total += high + np.log(-np.expm1(np.minimum(low - high, 0.0)))
    result: Floats = logsumexp(total, axis=1)
    return result


@njit(cache=True)  # type: ignore[untyped-decorator]
def _expected(mean: Any, deviation: Any, weight: Any, levels: Any) -> Any:
    n, k = mean.shape[1], len(levels)
    out = np.zeros((n, k))
    for i in range(n):
        for c in range(len(weight)):
            for level in range(1, k):
                z = (levels[level] - mean[c, i]) / deviation[c, i]
                if z > 8.0:  # the tail beyond is below double precision
                    out[i, level] += weight[c] * deviation[c, i] * z
                elif z > -37.0:  # below it, the density underflows
                    density = 0.3989422804014327 * math.exp(-0.5 * z * z)
                    out[i, level] += (
                        weight[c] * deviation[c, i] * max(density + 0.5 * z * math.erfc(-z / math.sqrt(2.0)), 0.0)
                    )
    return out


@njit(cache=True)  # type: ignore[untyped-decorator]
def _volume(reach: Any, starts: Any, lower: Any, upper: Any) -> Any:
    n, boxes, m = len(reach), lower.shape[0], lower.shape[1]
    out = np.zeros(n)
    for i in range(n):
        for b in range(boxes):
            volume = 1.0
            for j in range(m):
                volume *= max(reach[i, starts[j] + upper[b, j]] - reach[i, starts[j] + lower[b, j]], 0.0)
            out[i] += volume
    return out

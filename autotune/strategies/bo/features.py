"""Numbers that a surrogate sees of a configuration: where a value stands, how large it is, and how it is aligned.

Knobs of machine-learning systems act on several scales at once. A tile of 48 lies between 32 and 64 in place and in size,
and yet costs more than both, since it is no multiple of the warp. So an ordered parameter gets up to three columns, each with
a length scale of its own: its place on the declared scale, its logarithm, and its 2-adic valuation (how often 2 divides it).
Unordered ones get a column per value at equal distances (the overlap kernel), and conditions a column that says whether they
hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.space import SearchSpace
from autotune.space.dimensions import Dimension

Floats = npt.NDArray[np.float64]

VIEWS = ("logarithm", "alignment")
_MANY = 24  # dimensions; beyond it each gets one column, as there are more length scales than trials could tell apart
_SAME = 1e-6  # columns nearer than that (or mirrored) say the same
_RANGE = 2.0  # a column of logarithms is worth having where the largest value is more than so many times the least
_NO_PLACE = 0.5  # of an inactive parameter: as far from either end as can be


@dataclass(frozen=True)
class _Column:
    """One feature: its dimension, and how codes of that dimension become numbers in [0, 1]."""

    dim: Dimension
    group: int
    scale: Callable[[Floats], Floats]

    def of(self, units: Floats) -> Floats:
        column = units[:, self.dim.position]
        active = ~np.isnan(column)
        result = np.full(len(column), _NO_PLACE)
        result[active] = self.scale(column[active])
        return result


class FeatureMap:
    """Turns encoded configurations (`SearchSpace.encode`) into features.

    Args:
        space: whose configurations they are.
        views: what an ordered parameter is seen by beside its place, of `VIEWS`.

    Attributes:
        groups: the length scale that each column uses, shape ``(f,)``, counted from 0.
        dims: dimensions that are not constant.
    """

    def __init__(self, space: SearchSpace, views: Collection[str] = VIEWS) -> None:
        self._columns: list[_Column] = []
        self._conditions: list[tuple[int, int]] = []  # position of a dimension that it switches, group
        free = [d for d in space.dims if d.n_values != 1]
        self.dims = len(free)
        self._d = len(space.dims)
        self._amounts = [d for d in free if _is_amount(d)] if len(free) <= _MANY else []
        group = 0
        for dim in free:
            for scales in _scales(dim, views if len(free) <= _MANY else ()):
                self._columns += [_Column(dim, group, scale) for scale in scales]
                group += 1
        seen: set[str] = set()
        for dim in space.dims:
            condition = dim.parameter.when
            if condition is not None and condition not in seen:
                seen.add(condition)
                self._conditions.append((dim.position, group))
                group += 1
        self.groups = np.array([c.group for c in self._columns] + [g for _, g in self._conditions], dtype=np.intp)

    def __call__(self, units: Floats) -> Floats:
        """Features of encoded configurations: shape ``(n, d)``, NaN where inactive, to ``(n, f)``."""
        columns = [column.of(units) for column in self._columns]
        columns += [np.where(np.isnan(units[:, position]), 0.0, 1.0) for position, _ in self._conditions]
        # Row by row in memory, since trees walk along rows; a space of one configuration has no column.
        return np.ascontiguousarray(np.stack(columns, axis=1)) if columns else np.zeros((len(units), 0))

    def scales(self, log_scale: Floats) -> Floats:
        """Length scale of each dimension of the space, the least of its columns', of log length scales by group.

        Shape ``(groups,)`` to ``(d,)``; 1 for constant dimensions, and everywhere where the groups are not these.
        """
        scales = np.full(self._d, np.inf)
        if len(log_scale) == int(self.groups.max(initial=-1)) + 1:
            for column in self._columns:
                position = column.dim.position
                scales[position] = min(scales[position], float(np.exp(log_scale[column.group])))
        return np.where(np.isfinite(scales), scales, 1.0)

    def interactions(self, units: Floats) -> Floats:
        """Logarithms of the product and the quotient of every two positive amounts.

        What a system runs out of (threads, registers, memory) is a product of knobs more often than a knob, and a tree cuts
        along one column at a time. Shape ``(n, d)`` to ``(n, p (p - 1))``; no column where amounts may be inactive.
        """
        logs = [np.log(d.from_unit(units[:, d.position])) for d in self._amounts]
        columns: list[Floats] = []
        for i, a in enumerate(logs):
            for b in logs[:i]:
                columns += [a + b, a - b]
        return np.ascontiguousarray(np.stack(columns, axis=1)) if columns else np.zeros((len(units), 0))


Scale = Callable[[Floats], Floats]


def _is_amount(dim: Dimension) -> bool:
    return (
        dim.numeric and dim.n_values is not None and dim.n_values > 2 and float(dim.low) > 0
        and dim.parameter.when is None
    )  # fmt: skip


def _scales(dim: Dimension, views: Collection[str]) -> list[list[Scale]]:
    """Columns of a dimension by length scale."""
    if dim.kind == "bool":
        return [[_as_is]]
    if not dim.ordered:
        return [[_is_value(i, dim.n_values or 0) for i in range(dim.n_values or 0)]]
    scales: list[Scale] = [_as_is]
    if dim.numeric and (dim.integral or dim.codes is not None) and (dim.n_values or 0) > 2:
        further = {"logarithm": _logarithm, "alignment": _alignment}
        scales += [s for view in VIEWS if view in views and (s := further[view](dim)) is not None]
    probe = np.linspace(0.0, 1.0, min(dim.n_values or 33, 4096))
    kept: list[Scale] = []
    for scale in scales:
        values = scale(probe)
        if all(_differ(values, other(probe)) for other in kept):
            kept.append(scale)
    return [[scale] for scale in kept]


def _differ(a: Floats, b: Floats) -> bool:
    return float(np.abs(a - b).max()) > _SAME and float(np.abs(1.0 - a - b).max()) > _SAME


def _as_is(units: Floats) -> Floats:
    return units


def _is_value(index: int, n_values: int) -> Scale:
    # Two values differ in two columns, so this height puts them at distance 1, as the two values of a Boolean are.
    return lambda units: np.where(np.rint(units * (n_values - 1)) == index, math.sqrt(0.5), 0.0)


def _logarithm(dim: Dimension) -> Scale | None:
    low, high = float(dim.low), float(dim.high)
    if dim.log or high <= _RANGE * max(low, 0.0):
        return None
    # Where zero or less is among the values, the distance from the least stands in for the value.
    shift = 0.0 if low > 0 else 1.0 - low
    bottom, top = math.log(low + shift), math.log(high + shift)
    return lambda units: (np.log(np.maximum(dim.from_unit(units) + shift, 1e-300)) - bottom) / (top - bottom)


def _alignment(dim: Dimension) -> Scale | None:
    if not dim.integral or dim.n_values is None or max(abs(dim.low), abs(dim.high)) >= 2**53:
        return None
    values = _valuation(dim.grid()) if dim.n_values <= 4096 else np.arange(math.log2(dim.n_values))
    low, high = float(values.min()), float(values.max())
    if low == high:
        return None
    return lambda units: np.clip((_valuation(dim.from_unit(units)) - low) / (high - low), 0.0, 1.0)


def _valuation(values: npt.ArrayLike) -> Floats:
    """How often 2 divides each whole number; 0 for 0, which is as far from aligned use of anything as can be."""
    whole = np.abs(np.asarray(values)).astype(np.int64)
    lowest = whole & -whole
    return np.where(whole == 0, 0.0, np.log2(np.maximum(lowest, 1)))

"""Split a budget among parts exactly, given what every part costs at every share of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from autotune.errors import UsageError

Vector = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def split_budget(curves: Sequence[npt.ArrayLike], budget: int) -> tuple[Ints, float]:
    """The cheapest split of `budget` quanta: minimise ``sum_i curves[i][q_i]`` subject to ``sum_i q_i <= budget``.

    Divide and conquer: the curves of two halves are merged by (min,+) convolution, recursively, and the choices are traced
    back. Exact for any curves, convex or not; O(parts * budget^2) at worst.

    Args:
        curves: for each part its cost with 0, 1, … quanta, shape ``(m_i,)``, ``m_i >= 1``. More quanta than ``m_i - 1``
            are never given to part i.
        budget: quanta to give away, at least 0; they need not all be used.

    Returns:
        Quanta per part, shape ``(parts,)``, and the total cost. Of equally cheap splits one with few quanta is taken.

    Raises:
        UsageError: for no curves, an empty or a non-finite one, or a negative budget.
    """
    if budget < 0:
        raise UsageError(f"budget is {budget} quanta; it must be at least 0")
    leaves = [np.asarray(curve, dtype=float) for curve in curves]
    if not leaves:
        raise UsageError("there are no curves to split a budget among")
    for part, leaf in enumerate(leaves):
        if leaf.ndim != 1 or not leaf.size or not np.isfinite(leaf).all():
            raise UsageError(f"the cost curve of part {part} must be a non-empty list of finite numbers")
    shares = np.zeros(len(leaves), dtype=np.int64)
    total = _solve(leaves, budget, shares)
    return shares, total


def _solve(leaves: list[Vector], budget: int, shares: Ints) -> float:
    merged, choices = _merge_range(leaves, 0, len(leaves), budget)
    best = int(np.argmin(merged))  # the first of equals: fewest quanta
    _trace(choices, best, shares)
    return float(merged[best])


_Choices = tuple[int, Ints | None, "_Choices | None", "_Choices | None"]


def _merge_range(leaves: list[Vector], low: int, high: int, budget: int) -> tuple[Vector, _Choices]:
    """The merged curve of the parts ``low`` to ``high``, and for each of its entries how much the left half got."""
    if high - low == 1:
        return leaves[low][: budget + 1], (low, None, None, None)
    middle = (low + high) // 2
    left, left_choices = _merge_range(leaves, low, middle, budget)
    right, right_choices = _merge_range(leaves, middle, high, budget)
    size = min(len(left) + len(right) - 1, budget + 1)
    merged = np.full(size, np.inf)
    given = np.zeros(size, dtype=np.int64)
    _min_plus(left, right, merged, given)
    return merged, (low, given, left_choices, right_choices)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _min_plus(left: Vector, right: Vector, merged: Vector, given: Ints) -> None:
    """Fill the (min,+) convolution of two curves, as long as `merged`; of equal costs the one that gives the left less."""
    for quanta in range(min(len(left), len(merged))):
        for rest in range(min(len(right), len(merged) - quanta)):
            cost = left[quanta] + right[rest]
            if cost < merged[quanta + rest]:
                merged[quanta + rest] = cost
                given[quanta + rest] = quanta


def _trace(choices: _Choices, quanta: int, shares: Ints) -> None:
    part, given, left, right = choices
    if given is None or left is None or right is None:
        shares[part] = quanta
        return
    to_left = int(given[quanta])
    _trace(left, to_left, shares)
    _trace(right, quanta - to_left, shares)

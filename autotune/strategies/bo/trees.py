"""Extremely randomised regression trees on bootstrap samples: the surrogate for step functions.

Geurts, Ernst and Wehenkel, Extremely Randomized Trees, Machine Learning 63, 2006 (splits); Breiman, Bagging Predictors, Machine
Learning 24, 1996 (out-of-bag errors). The spread between trees is the uncertainty, as in Hutter, Hoos and Leyton-Brown,
Sequential Model-Based Optimization for General Algorithm Configuration, LION 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]

TREES = 60


@dataclass(frozen=True)
class _Forest:
    """Trees as flat arrays, ``(trees, nodes)``; a leaf has the feature -1."""

    feature: npt.NDArray[np.int32]
    threshold: Floats
    left: npt.NDArray[np.int32]  # the right child follows the left one
    value: Floats


class TreeEnsemble:
    """Trees fitted to features and targets.

    Args:
        x: features, shape ``(n, f)`` with n of at least 2.
        y: targets, shape ``(n,)``.
        seed: of bootstrap samples and splits.
        trees: how many.

    Attributes:
        leave_one_out: mean and variance of each target by the trees that have not seen it, shapes ``(n,)``; the variance
            includes what these means were wrong by beyond the spread of trees.
    """

    def __init__(self, x: Floats, y: Floats, seed: int, trees: int = TREES) -> None:
        n = len(y)
        feature = np.full((trees, 2 * n), -1, dtype=np.int32)
        threshold, value = np.zeros((trees, 2 * n)), np.zeros((trees, 2 * n))
        left = np.zeros((trees, 2 * n), dtype=np.int32)
        unseen = np.zeros((3, n))  # number of trees, sum and sum of squares of their predictions
        _grow(np.ascontiguousarray(x), y, np.random.default_rng(seed), feature, threshold, left, value, unseen)
        self._forest = _Forest(feature, threshold, left, value)
        count = np.maximum(unseen[0], 1.0)
        mean = np.where(unseen[0] > 0, unseen[1] / count, y.mean())
        spread = np.where(unseen[0] > 0, np.maximum(unseen[2] / count - mean**2, 0.0), y.var())
        excess = max(float(((y - mean) ** 2 - spread).mean()), 1e-4 * float(y.var()), 1e-18)
        self.leave_one_out = (mean, spread + excess)

    def predict(self, x: Floats, trees: int | None = None) -> tuple[Floats, Floats]:
        """Mean over trees and variance between them at features ``(m, f)``, shapes ``(m,)``; of the first `trees` only."""
        forest, some = self._forest, slice(trees)
        mean, square = _walk(
            np.ascontiguousarray(x), forest.feature[some], forest.threshold[some], forest.left[some], forest.value[some]
        )
        return mean, np.maximum(square - mean**2, 0.0)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _split(x: Any, y: Any, order: Any, begin: Any, end: Any, total: Any, rng: Any) -> tuple[Any, Any]:
    """The best of one random cut of each feature, by what it leaves of the variance; feature -1 where nothing varies."""
    best, column, cut = np.inf, -1, 0.0
    for j in range(x.shape[1]):
        smallest = largest = x[order[begin], j]
        for i in range(begin + 1, end):
            smallest, largest = min(smallest, x[order[i], j]), max(largest, x[order[i], j])
        if largest <= smallest:
            continue
        at = smallest + (largest - smallest) * rng.random()
        if at >= largest:  # rounding
            at = smallest
        count, part = 0, 0.0
        for i in range(begin, end):
            if x[order[i], j] <= at:
                count += 1
                part += y[order[i]]
        rest = total - part
        # The sum of squares is the same for every cut, so what tells cuts apart is this.
        loss = -(part * part / count) - rest * rest / (end - begin - count)
        if loss < best:
            best, column, cut = loss, j, at
    return column, cut


@njit(cache=True)  # type: ignore[untyped-decorator]
def _partition(x: Any, order: Any, begin: Any, end: Any, column: Any, cut: Any) -> tuple[Any, Any, Any]:
    """Brings what is at most `cut` to the front; where the rest begins, and the values on either side of the cut."""
    middle, last = begin, end - 1
    below, above = -np.inf, np.inf
    while middle <= last:
        one = x[order[middle], column]
        if one <= cut:
            below = max(below, one)
            middle += 1
        else:
            above = min(above, one)
            order[middle], order[last] = order[last], order[middle]
            last -= 1
    return middle, below, above


@njit(cache=True)  # type: ignore[untyped-decorator]
def _leaf(row: Any, feature: Any, threshold: Any, left: Any) -> Any:
    node = 0
    while feature[node] >= 0:
        node = left[node] + (1 if row[feature[node]] > threshold[node] else 0)
    return node


@njit(cache=True)  # type: ignore[untyped-decorator]
def _grow(x: Any, y: Any, rng: Any, feature: Any, threshold: Any, left: Any, value: Any, unseen: Any) -> None:
    n = len(y)
    stack = np.empty((2 * n + 2, 3), np.int64)  # node, and the stretch of `order` that it holds
    for t in range(len(feature)):
        order = rng.integers(0, n, n)
        stack[0] = np.array([0, 0, n])
        nodes, top = 1, 1
        while top > 0:
            top -= 1
            node, begin, end = stack[top]
            total = 0.0
            low = high = y[order[begin]]
            for i in range(begin, end):
                total += y[order[i]]
                low, high = min(low, y[order[i]]), max(high, y[order[i]])
            value[t, node] = total / (end - begin)
            if high <= low:
                continue
            column, cut = _split(x, y, order, begin, end, total, rng)
            if column < 0:
                continue
            middle, below, above = _partition(x, order, begin, end, column, cut)
            feature[t, node] = column
            # Where between the two neighbours the step lies nobody knows, and trees should not agree on it.
            threshold[t, node] = below + (above - below) * rng.random()
            left[t, node] = nodes
            stack[top] = np.array([nodes, begin, middle])
            stack[top + 1] = np.array([nodes + 1, middle, end])
            top += 2
            nodes += 2
        drawn = np.zeros(n, np.bool_)
        drawn[order] = True  # partitions only change the order
        for i in range(n):
            if not drawn[i]:
                found = value[t, _leaf(x[i], feature[t], threshold[t], left[t])]
                unseen[0, i] += 1.0
                unseen[1, i] += found
                unseen[2, i] += found**2


@njit(cache=True)  # type: ignore[untyped-decorator]
def _walk(x: Any, feature: Any, threshold: Any, left: Any, value: Any) -> tuple[Any, Any]:
    m, trees = len(x), len(feature)
    mean, square = np.zeros(m), np.zeros(m)
    for t in range(trees):
        for i in range(m):
            found = value[t, _leaf(x[i], feature[t], threshold[t], left[t])]
            mean[i] += found
            square[i] += found**2
    return mean / trees, square / trees

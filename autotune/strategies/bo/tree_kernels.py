"""Growing and walking trees, compiled. Trees are flat arrays: a leaf has the feature -1, a right child follows its left one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


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
def grow(x: Any, y: Any, rng: Any, feature: Any, threshold: Any, left: Any, value: Any, unseen: Any) -> None:
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
def walk(x: Any, feature: Any, threshold: Any, left: Any, value: Any) -> tuple[Any, Any]:
    m, trees = len(x), len(feature)
    mean, square = np.zeros(m), np.zeros(m)
    for t in range(trees):
        for i in range(m):
            found = value[t, _leaf(x[i], feature[t], threshold[t], left[t])]
            mean[i] += found
            square[i] += found**2
    return mean / trees, square / trees

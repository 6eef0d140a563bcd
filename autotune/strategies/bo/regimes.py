"""Outcomes that fall into two groups far apart: what works, and what works after a fashion that no one wants.

A run that diverges, times out or falls back to a slow path still returns a number. Where such numbers lie together and far from
all others, one model of both groups spends itself on the jump between them and sees nothing of what sets good configurations
apart. So the upper group is treated as failures are: which configurations fall into it is learned as a probability, and
losses are learned from the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autotune.strategies.bo.warp import LARGEST

Floats = npt.NDArray[np.float64]

_FROM = 16  # measurements; fewer show no groups
_LEAST = 4  # members of the upper group
_SHARE = 0.25  # of measurements that are in the lower group at least
_APART = 3.0  # times the middle half of either group that the gap between them is wide
_FIRST = 16  # of the lower group; later ones crowd about the best


def setbacks(losses: Floats) -> npt.NDArray[np.bool_]:
    """Which losses are in the upper of two groups far apart; none where there are no such groups.

    Args:
        losses: in the order in which they were measured, finite, shape ``(n,)``.

    Returns:
        Shape ``(n,)``.
    """
    losses, n = np.clip(losses, -LARGEST, LARGEST), len(losses)
    if n < _FROM:
        return np.zeros(n, dtype=bool)
    ordered = np.sort(losses)
    smallest = max(int(_SHARE * n), 1)
    gaps = np.diff(ordered)[smallest - 1 :]
    gap = float(gaps.max())
    above = losses > ordered[smallest - 1 + int(np.argmax(gaps))]
    if not _LEAST <= above.sum() < n:
        return np.zeros(n, dtype=bool)
    lower, upper = losses[~above], losses[above]
    apart = gap > _APART * max(_middle(lower), _middle(lower[:_FIRST]), _middle(upper))
    return above if apart else np.zeros(n, dtype=bool)


def _middle(losses: Floats) -> float:
    """Width of the middle half."""
    low, high = np.quantile(losses, [0.25, 0.75])
    return float(high - low)

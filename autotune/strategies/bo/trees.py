"""Extremely randomised regression trees on bootstrap samples: the surrogate for step functions.

Geurts, Ernst and Wehenkel, Extremely Randomized Trees, Machine Learning 63, 2006 (splits); Breiman, Bagging Predictors, Machine
Learning 24, 1996 (out-of-bag errors). The spread between trees is the uncertainty, as in Hutter, Hoos and Leyton-Brown,
Sequential Model-Based Optimization for General Algorithm Configuration, LION 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
        from autotune.strategies.bo import tree_kernels  # noqa: PLC0415 - numba takes long to import

        tree_kernels.grow(
            np.ascontiguousarray(x), y, np.random.default_rng(seed), feature, threshold, left, value, unseen
        )
        self._forest = _Forest(feature, threshold, left, value)
        count = np.maximum(unseen[0], 1.0)
        mean = np.where(unseen[0] > 0, unseen[1] / count, y.mean())
        spread = np.where(unseen[0] > 0, np.maximum(unseen[2] / count - mean**2, 0.0), y.var())
        excess = max(float(((y - mean) ** 2 - spread).mean()), 1e-4 * float(y.var()), 1e-18)
        self.leave_one_out = (mean, spread + excess)

    def predict(self, x: Floats, trees: int | None = None) -> tuple[Floats, Floats]:
        """Mean over trees and variance between them at features ``(m, f)``, shapes ``(m,)``; of the first `trees` only."""
        forest, some = self._forest, slice(trees)
        from autotune.strategies.bo import tree_kernels  # noqa: PLC0415 - see above

        mean, square = tree_kernels.walk(
            np.ascontiguousarray(x), forest.feature[some], forest.threshold[some], forest.left[some], forest.value[some]
        )
        return mean, np.maximum(square - mean**2, 0.0)

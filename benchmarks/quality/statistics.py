"""Intervals and tests over paired runs: stratified bootstrap, Wilcoxon's signed ranks, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

_RESAMPLES = 2000
_FEWEST_PAIRS = 6  # below, no two-sided p under 0.03 exists (2 / 2^n)


def mean_interval(by_problem: Mapping[str, npt.ArrayLike], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean over problems of the mean over seeds, with the percentile interval of a bootstrap over seeds within problems
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13). The problems are taken as given.

    Args:
        by_problem: values by seed, shape ``(seeds,)`` each.
        confidence: of the interval.

    Returns:
        ``(mean, low, high)``.
    """
    rng = np.random.default_rng(0)
    total, means = np.zeros(_RESAMPLES), []
    for values in by_problem.values():
        column = np.asarray(values, dtype=float)
        means.append(float(column.mean()))
        total += column[rng.integers(0, len(column), (_RESAMPLES, len(column)))].mean(axis=1)
    low, high = np.quantile(total / len(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.mean(means)), float(low), float(high)


def signed_rank(differences: npt.ArrayLike) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test with zeros split (Pratt's alternative keeps them); None below six pairs.

    Args:
        differences: of pairs, shape ``(n,)``.
    """
    given = np.asarray(differences, dtype=float)
    if len(given) < _FEWEST_PAIRS:
        return None
    if not given.any():
        return 1.0
    return float(stats.wilcoxon(given, zero_method="zsplit").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979); None stays None and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, i) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[i] = least
    return corrected

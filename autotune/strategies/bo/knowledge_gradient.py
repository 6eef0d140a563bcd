"""The knowledge gradient over a finite set, exactly: what one more measurement is expected to add to the best posterior mean.

Frazier, Powell and Dayanik, The Knowledge-Gradient Policy for Correlated Normal Beliefs, INFORMS Journal on Computing 21, 2009
(algorithms 1 and 2, eq. 14). Where the alternatives are many but countable it needs neither fantasies nor an inner optimiser,
and its logarithm is known where the gradient itself would be zero in double precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import logsumexp

from autotune.strategies.bo.acquisition import log_h

Floats = npt.NDArray[np.float64]


def log_knowledge_gradient(mean: Floats, slopes: Floats) -> Floats:
    """Logarithm of E[max_i (mean_i + slopes_ji Z)] - max_i mean_i with Z standard normal, for each j, shape ``(m,)``.

    Args:
        mean: posterior means of the alternatives, to be maximised, shape ``(a,)``.
        slopes: how much the mean of alternative i moves, in units of Z, when candidate j is measured, shape ``(m, a)``:
            their posterior covariance divided by the deviation of what would be observed.
    """
    order = np.lexsort((np.broadcast_to(mean, slopes.shape), slopes), axis=1)
    steps, corners = _envelopes(mean[order], np.take_along_axis(slopes, order, axis=1))
    with np.errstate(divide="ignore"):  # a step of 0 adds nothing
        terms = np.log(steps) + log_h(-np.abs(corners))
        total: Floats = logsumexp(terms, axis=1)
    return total


@njit(cache=True)  # type: ignore[untyped-decorator]
def _envelopes(mean: Any, slopes: Any) -> tuple[Any, Any]:
    """Upper envelopes of the lines ``mean_ji + slopes_ji z``, sorted by slope and then by mean.

    Returns:
        Steps of the slope from one line of the envelope to the next, and where on z the next takes over; shapes as given,
        with a step of 0 past the end.
    """
    m, a = mean.shape
    steps, corners = np.zeros((m, a)), np.zeros((m, a))
    kept = np.empty(a, np.int64)
    begins = np.empty(a)
    for j in range(m):
        n = 0
        for i in range(a):
            begin = -np.inf
            while n > 0:
                last = kept[n - 1]
                rise = slopes[j, i] - slopes[j, last]
                # Of parallel lines the later one is the higher.
                begin = (mean[j, last] - mean[j, i]) / rise if rise > 0.0 else -np.inf
                if begin > begins[n - 1]:
                    break
                n -= 1
            kept[n] = i
            begins[n] = begin if n > 0 else -np.inf
            n += 1
        for k in range(1, n):
            steps[j, k] = slopes[j, kept[k]] - slopes[j, kept[k - 1]]
            corners[j, k] = begins[k]
    return steps, corners

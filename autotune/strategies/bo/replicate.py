"""Whether to measure one of the best again: what that is expected to teach, in the unit of expected improvement.

With noise, the best value observed is partly luck. Measuring configuration x once more moves its posterior mean by a normal of
deviation ``s^2 / sqrt(s^2 + v)``, s^2 being its posterior variance and v the noise of one measurement; it is worth something
where that may change which configuration is chosen (the knowledge gradient of independent beliefs: Frazier, Powell and Dayanik,
A Knowledge-Gradient Policy for Sequential Information Collection, SIAM Journal on Control and Optimization 47, 2008, eq. 12 to
14).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autotune.strategies.bo.acquisition import log_h

Floats = npt.NDArray[np.float64]


def log_value_of_repeating(mean: Floats, variance: Floats, noise: Floats) -> Floats:
    """Logarithm of the expected improvement of the chosen mean by one more measurement of each configuration.

    Args:
        mean, variance: posterior of n measured configurations, losses, shape ``(n,)`` with n of at least 2.
        noise: variance of one measurement of each, shape ``(n,)``.

    Returns:
        Shape ``(n,)``; minus infinity where nothing can be learned.
    """
    step = variance / np.sqrt(np.maximum(variance + noise, 1e-300))
    order = np.argsort(mean, kind="stable")
    rival = np.full(len(mean), mean[order[0]])
    rival[order[0]] = mean[order[1]]
    with np.errstate(divide="ignore"):
        gap = -np.abs(mean - rival) / np.maximum(step, 1e-300)
        value: Floats = np.where(step > 0.0, np.log(step) + log_h(np.maximum(gap, -1e6)), -np.inf)
    return value

"""What a candidate promises, on a logarithmic scale, where nothing vanishes below double precision.

Ament, Daulton, Eriksson, Balandat and Bakshy, Unexpected Improvements to Expected Improvement for Bayesian Optimization,
NeurIPS 2023 (eq. 9 and 10); Gardner et al., Bayesian Optimization with Inequality Constraints, ICML 2014 (the product with
probabilities of feasibility).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, log_ndtr, logsumexp, ndtr

from autotune.strategies.bo.surrogate import Belief

Floats = npt.NDArray[np.float64]

_LOG_2PI = math.log(2.0 * math.pi)
_FAR = -1e5  # beyond it, ln h(z) is -z^2/2 - 2 ln|z| to double precision


def log_h(z: Floats) -> Floats:
    """ln(phi(z) + z Phi(z)), shape as given (eq. 9)."""
    result = np.empty_like(z)
    near = z > -1.0
    above, below = z[near], z[~near]
    result[near] = np.log(np.exp(-0.5 * above**2 - 0.5 * _LOG_2PI) + above * ndtr(above))
    tail = np.maximum(below, _FAR)
    rest = np.log(np.maximum(1.0 + math.sqrt(math.pi / 2.0) * tail * erfcx(-tail / math.sqrt(2.0)), 1e-300))
    result[~near] = -0.5 * below**2 - 0.5 * _LOG_2PI + np.where(below > _FAR / 10, rest, -2.0 * np.log(-below))
    return result


def log_expected_improvement(belief: Belief, incumbent: float) -> Floats:
    """Logarithm of E[max(incumbent - loss, 0)] under the mixture, shape ``(m,)``.

    Args:
        belief: about the candidates.
        incumbent: in warped units.
    """
    terms = []
    for component in belief.components:
        deviation = np.sqrt(np.maximum(component.variance, 1e-18))
        terms.append(
            math.log(max(component.weight, 1e-300))
            + np.log(deviation)
            + log_h((incumbent - component.mean) / deviation)
        )
    total: Floats = logsumexp(np.array(terms), axis=0)
    return total


def log_probability_below(belief: Belief, limit: float) -> Floats:
    """Logarithm of P(loss <= limit) under the mixture, shape ``(m,)``; `limit` in warped units."""
    terms = [
        math.log(max(c.weight, 1e-300)) + log_ndtr((limit - c.mean) / np.sqrt(np.maximum(c.variance, 1e-18)))
        for c in belief.components
    ]
    total: Floats = logsumexp(np.array(terms), axis=0)
    return total

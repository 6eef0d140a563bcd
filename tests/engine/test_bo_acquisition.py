"""Log expected improvement against quadrature and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from autotune.strategies.bo.acquisition import log_expected_improvement, log_h, log_probability_below
from autotune.strategies.bo.surrogate import Belief, Component
from autotune.strategies.bo.warp import Warp

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def reference(z: float) -> float:
    """ln h(z), with h(z) = E[max(z + Z, 0)] as an integral that stays of order 1 far below zero."""
    if z > -0.5:
        return math.log(norm.pdf(z) + z * norm.cdf(z))
    # h(z) = phi(z) / z^2 times the integral of s exp(-s - s^2 / (2 z^2)) over s > 0.
    value, _ = quad(lambda s: s * math.exp(-s - s * s / (2.0 * z * z)), 0.0, 60.0, epsabs=0.0, epsrel=1e-12, limit=200)
    return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi) - 2.0 * math.log(-z) + math.log(value)


@pytest.mark.parametrize(
    "z", [-1e6, -1e5, -10_001.0, -9_999.0, -1e3, -40.0, -5.0, -1.001, -1.0, -0.999, -0.1, 0.0, 0.3, 2.0, 8.0, 30.0]
)
def test_log_h(z: float) -> None:
    expected = reference(z)
    np.testing.assert_allclose(log_h(np.array([z]))[0], expected, rtol=1e-10, atol=1e-8)


def test_log_h_increases_over_its_pieces() -> None:
    z = np.concatenate([-np.logspace(6, -6, 4000), np.linspace(0, 30, 2000)])
    assert (np.diff(log_h(z)) > 0).all()


def belief() -> Belief:
    """Of three points, a mixture of two models."""
    return Belief(
        (
            Component(np.array([0.0, 1.0, 3.0]), np.array([1.0, 0.25, 0.01]), 0.7),
            Component(np.array([0.5, -1.0, 3.0]), np.array([0.04, 4.0, 0.01]), 0.3),
        ),
        Warp("box-cox", 1.0),
    )


def test_expected_improvement_of_a_mixture() -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    which = rng.random((n, 1)) < 0.3
    first, second = belief().components
    draws = np.where(
        which,
        second.mean + np.sqrt(second.variance) * rng.normal(size=(n, 3)),
        first.mean + np.sqrt(first.variance) * rng.normal(size=(n, 3)),
    )
    improvement = np.maximum(0.2 - draws, 0.0)
    found = np.exp(log_expected_improvement(belief(), 0.2))
    error = 4.0 * improvement.std(axis=0) / math.sqrt(n)
    assert (np.abs(found - improvement.mean(axis=0)) <= error + 1e-12).all()
    below = (draws <= 0.2).mean(axis=0)
    np.testing.assert_allclose(np.exp(log_probability_below(belief(), 0.2)), below, atol=4.0 * 0.5 / math.sqrt(n))
    np.testing.assert_allclose(belief().mean, draws.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(belief().variance, draws.var(axis=0), rtol=0.02)


def test_hopeless_candidates_are_still_in_order() -> None:
    """Where the improvement itself is zero in double precision."""
    far = Belief((Component(np.array([1e3, 2e3, 1e6]), np.ones(3), 1.0),), Warp("box-cox", 1.0))
    promise = log_expected_improvement(far, 0.0)
    assert np.isfinite(promise).all() and (np.diff(promise) < 0).all()
    assert np.exp(promise[0]) == 0.0


def test_certainty_promises_the_difference() -> None:
    sure = Belief((Component(np.array([1.0, 3.0]), np.zeros(2), 1.0),), Warp("box-cox", 1.0))
    np.testing.assert_allclose(np.exp(log_expected_improvement(sure, 2.0)), [1.0, 0.0], atol=1e-12)


def test_a_model_without_weight_has_no_say() -> None:
    one = Component(np.array([0.0]), np.array([1.0]), 1.0)
    none = Component(np.array([-50.0]), np.array([1.0]), 0.0)
    for score in (log_expected_improvement, log_probability_below):
        np.testing.assert_allclose(
            score(Belief((one, none), Warp("box-cox", 1.0)), 0.0), score(Belief((one,), Warp("box-cox", 1.0)), 0.0)
        )

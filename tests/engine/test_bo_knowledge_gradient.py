"""The exact knowledge gradient against integration."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from autotune.strategies.bo.acquisition import log_h
from autotune.strategies.bo.knowledge_gradient import log_knowledge_gradient


def integrated(mean: np.ndarray, slopes: np.ndarray) -> float:
    """By quadrature between the corners of the envelope, where the integrand is smooth."""
    corners = sorted(
        {
            (mean[i] - mean[k]) / (slopes[k] - slopes[i])
            for i in range(len(mean))
            for k in range(i)
            if slopes[i] != slopes[k]
        }
    )
    edges = [-12.0, *[c for c in corners if -12.0 < c < 12.0], 12.0]
    nodes, weights = np.polynomial.legendre.leggauss(100)
    gained = 0.0
    for a, b in itertools.pairwise(edges):
        z = a + (b - a) * (nodes + 1.0) / 2.0
        highest = (mean + np.outer(z, slopes)).max(axis=1)
        gained += float(((highest - mean.max()) * norm.pdf(z)) @ weights) * (b - a) / 2.0
    return gained


numbers = st.floats(-3, 3).map(lambda x: round(x, 2))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6))
def test_it_equals_the_integral(lines: list[tuple[float, float]]) -> None:
    mean, slopes = np.array(lines).T
    found = float(np.exp(log_knowledge_gradient(mean, slopes[None])[0]))
    np.testing.assert_allclose(found, integrated(mean, slopes), rtol=1e-6, atol=1e-10)


def test_of_one_uncertain_alternative_it_is_expected_improvement() -> None:
    """Beside a certain one, as in the paper's section on independent beliefs."""
    for behind in (0.0, 1.0, 40.0, 1e4):
        mean, slopes = np.array([0.0, -behind]), np.array([[0.0, 2.0]])
        np.testing.assert_allclose(
            log_knowledge_gradient(mean, slopes), np.log(2.0) + log_h(np.array([-behind / 2.0])), rtol=1e-12
        )


def test_a_measurement_that_moves_all_alike_is_worth_nothing() -> None:
    mean = np.array([1.0, 2.0, 3.0])
    assert log_knowledge_gradient(mean, np.array([[0.7, 0.7, 0.7], [0.0, 0.0, 0.0]])).tolist() == [-np.inf, -np.inf]


def test_each_candidate_has_a_value_of_its_own() -> None:
    rng = np.random.default_rng(0)
    mean, slopes = rng.normal(size=40), rng.normal(size=(7, 40))
    together = log_knowledge_gradient(mean, slopes)
    np.testing.assert_allclose(together, [log_knowledge_gradient(mean, row[None])[0] for row in slopes], rtol=1e-12)
    draws = rng.normal(size=200_000)
    sampled = (mean + np.outer(draws, slopes[0])).max(axis=1).mean() - mean.max()
    np.testing.assert_allclose(np.exp(together[0]), sampled, rtol=0.01)

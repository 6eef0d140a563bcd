"""The trust region is a function of the losses so far, and a box that never loses the next value of a list."""

from __future__ import annotations

import math

import numpy as np

from autotune import Categorical, Float, Ordinal, SearchSpace
from autotune.strategies.bo.replicate import log_value_of_repeating
from autotune.strategies.bo.trust_region import FIRST, LEAST, MOST, TrustRegion


def test_improvements_widen_and_failures_narrow() -> None:
    assert TrustRegion.after([], 3) == TrustRegion(FIRST, False)
    assert TrustRegion.after([5.0, 4.0, 3.0], 3).length == MOST
    assert TrustRegion.after([5.0, *[6.0] * 4], 3) == TrustRegion(FIRST / 2, True)
    assert TrustRegion.after([5.0, *[6.0] * 4, 4.0], 3) == TrustRegion(FIRST / 2, False)
    # A thousandth is no improvement.
    assert TrustRegion.after([5.0, *[4.999] * 4], 3).stagnant


def test_it_starts_anew_when_it_has_become_too_small() -> None:
    lengths = [TrustRegion.after([1.0, *[2.0] * (4 * k)], 3).length for k in range(9)]
    assert min(lengths) >= LEAST
    assert lengths[7] == FIRST > lengths[6]


def test_the_tolerance_grows_with_the_dimension_and_is_bounded() -> None:
    assert TrustRegion.after([1.0, *[2.0] * 4], 8).length == FIRST
    assert TrustRegion.after([1.0, *[2.0] * 8], 8).length == FIRST / 2
    assert TrustRegion.after([1.0, *[2.0] * 12], 100).length == FIRST / 2


def test_the_box() -> None:
    space = SearchSpace([Float("a", 0, 1), Float("b", 0, 1), Ordinal("c", [1, 2, 3]), Categorical("d", ["p", "q"])])
    units = np.array([[0.5, 0.5, 0.5, 1.0], [0.59, 0.5, 0.0, 0.0], [0.62, 0.5, 0.5, 0.0], [0.5, 0.53, 0.5, 0.0]])
    region = TrustRegion(0.2, True)
    same = region.holds(units, np.array([0.5, 0.5, 0.5, 0.0]), np.ones(4), space.dims)
    assert same.tolist() == [True, True, False, True]
    # Half the average length scale, half the side; the next value of the list stays within reach.
    narrow = region.holds(units, np.array([0.5, 0.5, 0.5, 0.0]), np.array([4.0, 0.25, 1.0, 1.0]), space.dims)
    assert narrow.tolist() == [True, True, True, False]


def test_repeating_is_worth_something_only_where_it_may_change_the_choice() -> None:
    mean = np.array([1.0, 1.01, 3.0])
    worth = log_value_of_repeating(mean, np.array([0.1, 0.1, 0.1]), np.full(3, 0.1))
    assert worth[0] > worth[2]
    assert worth[1] > worth[2]
    assert worth[0] == worth[1]  # the same gap, the same step
    exact = log_value_of_repeating(mean, np.zeros(3), np.full(3, 0.1))
    assert np.isneginf(exact).all()
    # Frazier et al.: E[max(gap + step Z, 0)] of a normal Z, by its closed form.
    step = 0.1 / math.sqrt(0.2)
    z = -0.01 / step
    density, mass = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), 0.5 * math.erfc(-z / math.sqrt(2))
    assert math.isclose(math.exp(worth[0]), step * (density + z * mass), rel_tol=1e-9)

"""Splitting a budget: exact against brute force, for curves of any shape."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from autotune.allocation import split_budget

CURVES = st.lists(st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=5), min_size=1, max_size=4)


def brute_force(curves: list[list[float]], budget: int) -> float:
    shares = itertools.product(*(range(len(curve)) for curve in curves))
    return min(
        sum(curve[q] for curve, q in zip(curves, split, strict=True)) for split in shares if sum(split) <= budget
    )


@given(CURVES, st.integers(0, 12))
def test_the_split_costs_what_brute_force_finds(curves: list[list[float]], budget: int) -> None:
    shares, total = split_budget(curves, budget)
    assert total == pytest.approx(brute_force(curves, budget))
    assert shares.sum() <= budget
    assert sum(curve[q] for curve, q in zip(curves, shares, strict=True)) == pytest.approx(total)


def test_a_curve_that_is_not_convex_is_split_exactly() -> None:
    # Greedy marginal gain would give its first quantum to the second part and end at 11.
    shares, total = split_budget([[10.0, 10.0, 0.0], [5.0, 3.0, 1.0]], 2)
    assert shares.tolist() == [2, 0]
    assert total == 5.0


def test_quanta_that_buy_nothing_stay_unused() -> None:
    shares, total = split_budget([[1.0, 1.0, 1.0], [2.0, 2.0]], 3)
    assert shares.tolist() == [0, 0]
    assert total == 3.0


@pytest.mark.parametrize(
    ("curves", "budget", "words"),
    [
        ([], 3, "no curves"),
        ([[1.0], []], 3, "part 1"),
        ([[1.0, np.nan]], 3, "part 0"),
        ([[1.0]], -1, "budget is -1"),
    ],
)
def test_bad_input_is_named(curves: list[list[float]], budget: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        split_budget(curves, budget)

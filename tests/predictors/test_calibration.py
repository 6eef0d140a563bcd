"""Rank agreement and calibration: exact on small cases, and the same as fitting again without each pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autotune import UsageError
from autotune.predictors import calibrate, rank_agreement

PAIRS = st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=3, max_size=12)


def test_a_line_is_found() -> None:
    found = calibrate([-1.0, 0.0, 2.0], [1.0, 3.0, 7.0])
    assert not found.log and found.n == 3
    assert (found.scale, found.offset, found.r2) == pytest.approx((2.0, 3.0, 1.0))
    np.testing.assert_allclose(found.apply([[5.0], [-5.0]]), [[13.0], [-7.0]])


def test_positive_values_are_compared_by_ratio() -> None:
    predicted = np.array([1.0, 2.0, 4.0, 8.0])
    found = calibrate(predicted, 3.0 * predicted**0.5)
    assert found.log
    assert (found.scale, found.offset, found.r2) == pytest.approx((0.5, math.log(3.0), 1.0))
    np.testing.assert_allclose(found.apply([16.0, 0.0, -1.0]), [12.0, math.nan, math.nan])


def test_pairs_without_a_prediction_or_a_measurement_are_left_out() -> None:
    found = calibrate([0.0, 1.0, math.nan, 2.0, math.inf], [0.0, 1.0, 5.0, math.nan, 7.0])
    assert (found.n, found.scale, found.offset) == (2, 1.0, 0.0)
    assert math.isnan(found.r2)  # two points always lie on a line
    assert rank_agreement([0.0, 1.0, math.nan], [0.0, 1.0, -5.0]) == 1.0


def test_equal_predictions_are_worth_the_mean() -> None:
    found = calibrate([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert (found.scale, found.offset, found.r2) == (0.0, 2.0, 0.0)
    assert math.isnan(calibrate([0.0, 1.0, 2.0], [4.0, 4.0, 4.0]).r2)


@given(PAIRS)
def test_the_leave_one_out_r2_is_what_fitting_again_gives(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    x[0], y[0] = -1.0, -1.0  # so that the scale is linear
    assume(np.ptp(y) > 0 and np.ptp(x) > 0)
    missed, spread = 0.0, 0.0
    for i in range(len(x)):
        rest_x, rest_y = np.delete(x, i), np.delete(y, i)
        guess = rest_y.mean() if np.ptp(rest_x) == 0 else np.polyval(np.polyfit(rest_x, rest_y, 1), x[i])
        missed += (y[i] - guess) ** 2
        spread += (y[i] - rest_y.mean()) ** 2
    assert calibrate(x, y).r2 == pytest.approx(1 - missed / spread, rel=1e-6, abs=1e-6)


def test_rank_agreement_counts_pairs_in_the_same_order() -> None:
    assert rank_agreement([1, 2, 3], [10, 20, 90]) == pytest.approx(1.0)
    assert rank_agreement([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert rank_agreement([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)  # five pairs agree, one does not
    # Of three pairs two are told apart by the predictions, all by the measurements: (2 - 0) / sqrt(2 * 3).
    assert rank_agreement([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


@given(PAIRS)
def test_rank_agreement_does_not_depend_on_scales(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    tau = rank_agreement(x, y)
    assert -1.0 <= tau <= 1.0
    assert rank_agreement(np.exp(x / 10), y**3) == pytest.approx(tau)
    assert rank_agreement(-x, y) == pytest.approx(-tau)
    assert rank_agreement(y, x) == pytest.approx(tau)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1, 1], [1, 2]), ([1, 2], [3, 3])])
def test_rank_agreement_is_undefined_where_nothing_can_be_ordered(x: list[float], y: list[float]) -> None:
    assert math.isnan(rank_agreement(x, y))


def test_what_does_not_fit_together() -> None:
    for function in (rank_agreement, calibrate):
        with pytest.raises(UsageError, match=r"predicted has shape \(2,\) and measured \(3,\); give two vectors"):
            function([1, 2], [1, 2, 3])
        with pytest.raises(UsageError, match="two vectors"):
            function([[1.0]], [[1.0]])
    with pytest.raises(UsageError, match="at least one pair"):
        calibrate([math.nan], [1.0])

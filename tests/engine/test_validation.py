"""Predictions beside measurements: the errors that `autotune validate` reports, and what it refuses."""

from __future__ import annotations

import math

import pytest

from autotune import UsageError
from autotune.validation import MetricError, validate


def test_errors_are_relative_to_what_was_measured() -> None:
    found = MetricError.of([1.1, 1.8, 4.0], [1.0, 2.0, 4.0])
    assert found.pairs == 3
    assert found.mape == pytest.approx((0.1 + 0.1 + 0.0) / 3)
    assert found.bias == pytest.approx(0.0)
    assert found.worst == pytest.approx(0.1)
    assert found.spearman == pytest.approx(1.0)
    assert MetricError.of([2.0, 4.0], [1.0, 2.0]).bias == pytest.approx(1.0)  # predictions too high
    assert MetricError.of([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]).spearman == pytest.approx(-1.0)


def test_nothing_measured_and_nothing_predicted_is_no_error() -> None:
    found = MetricError.of([0.0, 1.0, 0.5], [0.0, 1.0, 0.0])
    assert (found.pairs, found.mape) == (3, 0.0)  # half where nothing was has no relative error
    alone = MetricError.of([0.5], [0.0])
    assert math.isnan(alone.mape)
    assert math.isnan(alone.bias)


def test_what_is_not_finite_is_left_out_and_what_does_not_vary_has_no_rank() -> None:
    found = MetricError.of([1.0, math.nan, 1.0], [2.0, 1.0, 3.0])
    assert found.pairs == 2
    assert math.isnan(found.spearman)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"runs": 2}, "runs"),
        ({"calibration": -1}, "calibration"),
        ({"domain": "expert-placement"}, "domain 'expert-placement' has no model to compare with measurements"),
    ],
)
def test_what_cannot_be_validated_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(**{"domain": "moe-cache", **given})  # type: ignore[arg-type]

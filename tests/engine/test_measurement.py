"""What evaluators may return, intervals of medians, and repeating until precise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.measurement import (
    ONCE,
    Failure,
    FailureKind,
    Measurement,
    Metric,
    Protocol,
    drift,
    median_interval,
    repeat,
    summarise,
)


@pytest.mark.parametrize(
    "returned", [3, 3.0, np.float32(3), np.int64(3), {"x": 3}, {"x": Metric(3.0)}, Measurement({"x": Metric(3.0)})]
)
def test_what_an_evaluator_may_return(returned: object) -> None:
    assert Measurement.of(returned, ["x"]).values() == {"x": 3.0}


@pytest.mark.parametrize(
    ("returned", "objectives", "says"),
    [
        (None, ["x"], "returned NoneType; return a number"),
        ("3", ["x"], "returned str; return a number"),
        (True, ["x"], "returned bool"),
        ([1.0], ["x"], "returned list"),
        (1.0, ["x", "y"], "one number, but the study has 2 objectives"),
        ({"y": 1.0}, ["x"], "no metric 'x', an objective; it returned: y"),
        ({}, ["x"], "it returned: none"),
        ({"x": "fast"}, ["x"], "metric 'x' is a str; a metric must be a number"),
        ({"x": None}, ["x"], "metric 'x' is a NoneType"),
        ({"x": 1.0, "": 2.0}, ["x"], "metric name '' cannot be used"),
        ({"x": 1.0, "y" * 300: 2.0}, ["x"], "give 1 to 255 printable characters"),
    ],
)
def test_what_it_may_not_return(returned: object, objectives: list[str], says: str) -> None:
    with pytest.raises(UsageError) as told:
        Measurement.of(returned, objectives)
    assert says in str(told.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_no_number_is_a_typed_failure(value: float) -> None:
    with pytest.raises(Failure) as told:
        Measurement.of({"x": value}, ["x"])
    assert told.value.kind is FailureKind.NAN
    assert Measurement.of({"x": 1.0, "other": value}, ["x"]).metrics["x"].value == 1.0


def test_failures_know_their_kind() -> None:
    assert Failure("oom", "24 GiB").kind is FailureKind.OOM and str(Failure("oom", "24 GiB")) == "oom: 24 GiB"
    with pytest.raises(UsageError, match=r"'full' is unknown; use one of: invalid, oom, timeout, crash, nan, infra"):
        Failure("full")


# Intervals


def _coverage(n: int, k: int) -> Fraction:
    """Exact probability that the k-th smallest and k-th largest of n continuous samples enclose the median."""
    return Fraction(sum(math.comb(n, i) for i in range(k, n - k + 1)), 2**n)


@given(st.integers(1, 60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_the_narrowest_that_covers_and_says_how_well(n: int, confidence: float) -> None:
    low, high, coverage = median_interval(np.random.default_rng(n).permutation(np.arange(1.0, n + 1)), confidence)
    rank = int(low)
    assert high == n + 1 - rank
    assert coverage == pytest.approx(float(_coverage(n, rank)), abs=1e-12)
    reachable = _coverage(n, 1) >= confidence
    assert (coverage >= confidence) == reachable
    if reachable and rank + 1 <= n - rank:
        assert _coverage(n, rank + 1) < confidence
    if not reachable:
        assert rank == 1


@pytest.mark.parametrize(
    ("n", "rank", "coverage"), [(5, 1, 0.9375), (6, 1, 0.96875), (9, 2, 0.9609375), (30, 10, 0.9572)]
)
def test_known_ranks(n: int, rank: int, coverage: float) -> None:
    low, high, covered = median_interval(np.arange(1.0, n + 1))
    assert (low, high) == (rank, n + 1 - rank) and covered == pytest.approx(coverage, abs=5e-4)


def test_no_samples_have_no_median() -> None:
    with pytest.raises(UsageError, match="samples is empty"):
        median_interval([])
    with pytest.raises(UsageError, match="samples is empty"):
        summarise([])


def test_a_summary_keeps_every_sample() -> None:
    assert summarise([3.0]) == Metric(3.0, None, (3.0,))
    assert summarise([5, 1, 3]) == Metric(3.0, 2.0, (5.0, 1.0, 3.0))


def test_drift_is_flagged_and_noise_is_not() -> None:
    assert drift([1.0 + 0.1 * i for i in range(10)]) == pytest.approx(1.0)
    assert drift([-float(i) for i in range(10)]) == pytest.approx(-1.0)
    assert drift([1.0] * 20) is None
    assert drift([1.0, 2.0, 3.0]) is None  # too few to say
    assert drift([1.0, 2.0] * 8) is None


# Repeating


def scripted(values: Iterable[Any]) -> Callable[[], Any]:
    """An evaluator that gives one value after the other."""
    left = iter(values)
    return lambda: next(left)


def test_once_is_once() -> None:
    calls = count()
    assert repeat(lambda: next(calls), ["x"], ONCE) == Measurement({"x": Metric(0.0)})
    assert next(calls) == 1


def test_warm_up_runs_are_thrown_away() -> None:
    protocol = Protocol(warmup=2, min_repeats=3, max_repeats=3, target=None)
    measured = repeat(scripted([100.0, 50.0, 3.0, 1.0, 2.0]), ["x"], protocol)
    assert measured.metrics["x"] == Metric(2.0, 1.0, (3.0, 1.0, 2.0)) and measured.notes["repeats"] == 3
    assert "noisy" not in measured.notes


def test_a_steady_measurement_stops_at_the_least_number_of_repeats() -> None:
    measured = repeat(lambda: 5.0, ["x"], Protocol(warmup=0))
    assert measured.notes == {"repeats": 6, "noisy": False} and measured.metrics["x"].half_width == 0.0


def test_a_noisy_one_spends_the_budget_and_is_flagged() -> None:
    values = [1.0, 2.0] * 20
    measured = repeat(scripted(values), ["x"], Protocol(warmup=0, max_repeats=20))
    assert measured.notes["repeats"] == 20 and measured.notes["noisy"] is True
    assert measured.metrics["x"].samples == tuple(values[:20])


def test_it_stops_as_soon_as_the_target_is_met() -> None:
    # Six samples within 4 % miss a target of 1 %; each further one narrows the interval around 100.
    values = [98.0, 102.0, 100.0, 100.0, 100.0, 100.0] + [100.0] * 50
    measured = repeat(scripted(values), ["x"], Protocol(warmup=0, max_repeats=30, target=0.01))
    repeats = measured.notes["repeats"]
    assert 6 < repeats < 30 and measured.notes["noisy"] is False
    before = median_interval(values[: repeats - 1])
    assert (before[1] - before[0]) / 2 > 0.01 * 100


def test_one_sample_is_never_precise() -> None:
    measured = repeat(lambda: 5.0, ["x"], Protocol(warmup=0, min_repeats=1, max_repeats=4))
    assert measured.notes["repeats"] == 2


def test_every_objective_must_be_precise_and_drift_is_noted() -> None:
    steps = count()
    measured = repeat(
        lambda: {"steady": 1.0, "rising": 1.0 + next(steps)}, ["steady"], Protocol(warmup=0, min_repeats=10)
    )
    assert measured.notes["repeats"] == 10 and measured.notes["drift"] == {"rising": pytest.approx(1.0)}
    steps = count()
    both = repeat(lambda: {"steady": 1.0, "rising": 1.0 + next(steps)}, ["steady", "rising"], Protocol(warmup=0))
    assert both.notes["repeats"] == 30


def test_a_metric_that_comes_and_goes_is_left_out() -> None:
    steps = count()
    measured = repeat(
        lambda: {"x": 1.0} | ({"y": 1.0} if next(steps) % 2 else {}), ["x"], Protocol(warmup=0, target=None)
    )
    assert set(measured.metrics) == {"x"}


def test_a_failure_in_the_middle_is_a_failure() -> None:
    with pytest.raises(Failure, match="nan: objective x is nan"):
        repeat(scripted([1.0, 1.0, math.nan]), ["x"], Protocol(warmup=0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"warmup": -1}, "give a whole number of 0 or more"),
        ({"min_repeats": 0}, "1 <= min_repeats <= max_repeats"),
        ({"min_repeats": 9, "max_repeats": 8}, "1 <= min_repeats <= max_repeats"),
        ({"confidence": 1.0}, "confidence=1.0; it must lie between 0 and 1"),
        ({"target": 0.0}, "target=0.0; give a relative width above 0"),
        ({"target": math.nan}, "target=nan"),
    ],
)
def test_protocols_that_make_no_sense(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as told:
        Protocol(**settings)
    assert says in str(told.value)

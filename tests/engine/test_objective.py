"""Objectives, outcome constraints and Pareto order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune.errors import UsageError
from autotune.objective import (
    Objective,
    OutcomeConstraint,
    is_feasible,
    losses,
    pareto_mask,
    parse_objectives,
    unit_of,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("text", "metric", "direction"),
    [
        ("latency_ms", "latency_ms", "minimize"),
        ("minimize latency_ms", "latency_ms", "minimize"),
        (" minimise  latency_ms ", "latency_ms", "minimize"),
        ("min a.b/c-d", "a.b/c-d", "minimize"),
        ("max throughput", "throughput", "maximize"),
        ("maximise throughput", "throughput", "maximize"),
        ("maximum_s", "maximum_s", "minimize"),
    ],
)
def test_objectives_are_read_from_text(text: str, metric: str, direction: str) -> None:
    objective = Objective.parse(text)
    assert (objective.metric, objective.direction) == (metric, direction)
    assert Objective.parse(str(objective)) == objective == Objective.parse(objective)


@pytest.mark.parametrize("text", ["", "minimize", "faster x", "minimize a b", "1x", "x > 3", "minimize latency ms"])
def test_texts_that_are_no_objective(text: str) -> None:
    if text == "minimize":
        assert Objective.parse(text).metric == "minimize"  # a metric may be called that
        return
    with pytest.raises(UsageError, match="is not of the form 'minimize METRIC'"):
        Objective.parse(text)


def test_several_objectives_need_different_metrics() -> None:
    assert [str(o) for o in parse_objectives(["a", "maximize b"])] == ["minimize a", "maximize b"]
    assert [str(o) for o in parse_objectives(Objective("a", "maximize"))] == ["maximize a"]
    with pytest.raises(UsageError, match="name a metric twice: a, a"):
        parse_objectives(["a", "maximize a"])
    with pytest.raises(UsageError, match="objectives is empty"):
        parse_objectives([])


@pytest.mark.parametrize(
    ("metric", "unit"),
    [("latency_ms", "ms"), ("vram_gib", "GiB"), ("tokens_per_s", "1/s"), ("p99_us", "µs"), ("loss", ""), ("s", "")],
)  # fmt: skip
def test_units_are_the_end_of_the_name(metric: str, unit: str) -> None:
    assert unit_of(metric) == unit == Objective(metric).unit


@pytest.mark.parametrize(
    ("text", "bound", "kept", "broken"),
    [("vram_gib <= 24", 24.0, 24.0, 24.1), ("vram_gib<24", 24.0, 23.0, 25.0), ("vram_gib >= -1e-3", -0.001, 0.0, -1.0)],
)
def test_constraints_are_read_from_text(text: str, bound: float, kept: float, broken: float) -> None:
    limit = OutcomeConstraint.parse(text)
    assert limit.bound == bound
    assert limit.violation({"vram_gib": kept}) == 0.0
    assert limit.violation({"vram_gib": broken}) == pytest.approx(abs(broken - bound))


@pytest.mark.parametrize(
    "text", ["", "a", "a <= b", "a == 3", "a <= nan", "a <= 1e999", "a <= --3", "<= 3", "a <= 3 ms"]
)
def test_texts_that_are_no_constraint(text: str) -> None:
    with pytest.raises(UsageError, match="is not of the form 'METRIC <= NUMBER'"):
        OutcomeConstraint.parse(text)


@given(finite, st.sampled_from(["<=", ">="]))
def test_no_digit_of_a_bound_is_lost_as_text(bound: float, operator: str) -> None:
    limit = OutcomeConstraint.parse(f"x {operator} {bound!r}")
    assert OutcomeConstraint.parse(str(limit)) == limit and limit.bound == bound


def test_a_metric_that_is_absent_or_no_number_breaks_its_limit() -> None:
    limit = OutcomeConstraint("x", "<=", 1.0)
    assert limit.violation({}) == limit.violation({"x": math.nan}) == limit.violation({"x": math.inf}) == math.inf
    assert limit.violation({"x": -math.inf}) == 0.0
    assert is_feasible({"x": 1.0}, [limit]) and not is_feasible({"y": 1.0}, [limit]) and is_feasible({}, [])


def test_gain_is_positive_when_better() -> None:
    assert Objective("x").gain(8.0, 10.0) == pytest.approx(0.2)
    assert Objective("x", "maximize").gain(12.0, 10.0) == pytest.approx(0.2)
    assert Objective("x", "maximize").gain(-8.0, -10.0) == pytest.approx(0.2)
    for value, reference in ((1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)):
        assert Objective("x").gain(value, reference) is None


def test_losses_are_to_be_minimised() -> None:
    assert losses({"a": 2.0, "b": 3.0}, parse_objectives(["maximize b", "a"])) == (-3.0, 2.0)


@given(arrays(float, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=st.integers(0, 3).map(float)))
def test_the_pareto_mask_is_what_no_other_point_dominates(points: np.ndarray) -> None:
    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert pareto_mask(points).tolist() == expected

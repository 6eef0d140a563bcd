from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from benchmarks.quality.hypervolume import FrontScale, area
from benchmarks.quality.measures import baseline, expected_best, score, trajectory
from benchmarks.quality.problem import Problem, recorded
from benchmarks.quality.statistics import holm, mean_interval, signed_rank
from evaluators.recorded.table import record


def line(losses: list[float | None]) -> Problem:
    """One parameter, its n-th value with the n-th loss."""
    values = [float("nan") if x is None else x for x in losses]
    rows = [(i,) for i in range(len(losses))]
    return recorded(record("line", {"i": list(range(len(losses)))}, rows, {"t": values}, "minimize t"), "test")


def plane(points: list[tuple[float, float]]) -> Problem:
    """One parameter, two objectives."""
    rows = [(i,) for i in range(len(points))]
    a, b = zip(*points, strict=True)
    return recorded(record("plane", {"i": list(range(len(points)))}, rows, {"a": a, "b": b}, ["a", "b"]), "test")


def test_expected_best_of_three_by_hand() -> None:
    # Of 1, 2, 6: one draw 3; two draws (1,2), (1,6), (2,6) -> (1 + 1 + 2) / 3; three draws 1, and so for ever.
    assert expected_best([6, 1, 2], 4, worst=6, replacement=False) == pytest.approx([3.0, 4 / 3, 1.0, 1.0])
    # With replacement two draws miss 1 with probability 4/9 and both 1 and 2 with 1/9: 1 + 4/9 * 1 + 1/9 * 4.
    assert expected_best([6, 1, 2], 2, worst=6, replacement=True) == pytest.approx([3.0, 1 + 4 / 9 + 4 / 9])


@given(losses=st.lists(st.floats(-50, 50), min_size=1, max_size=6), k=st.integers(1, 6))
def test_expected_best_is_the_mean_over_all_subsets(losses: list[float], k: int) -> None:
    k = min(k, len(losses))
    mean = np.mean([min(subset) for subset in itertools.combinations(losses, k)])
    assert expected_best(losses, k, worst=max(losses), replacement=False)[-1] == pytest.approx(mean, abs=1e-9)


def test_failures_count_as_evaluations_and_the_worst_until_something_is_known() -> None:
    problem = line([4.0, None, 2.0, 1.0])
    assert problem.worst == 4.0
    assert trajectory(problem, [None, [2.0], [4.0], [1.0]], [None, [2.0], [4.0], [1.0]], 6).tolist() == [
        4,
        2,
        2,
        1,
        1,
        1,
    ]
    assert baseline(problem, 1)[0] == pytest.approx((4 + 4 + 2 + 1) / 4)


def test_the_incumbent_is_chosen_by_what_was_seen_and_valued_by_the_truth() -> None:
    problem = line([4.0, 3.0, 1.0])
    seen, true = [[3.5], [2.0], [2.5]], [[4.0], [3.0], [1.0]]
    assert trajectory(problem, seen, true, 3).tolist() == [4.0, 3.0, 3.0]


def test_score_is_zero_for_random_search_in_expectation_and_one_for_the_optimum() -> None:
    losses = [4.0, None, 2.0, 1.0, 7.0]
    problem = line(losses)
    expected = baseline(problem, 4)
    every = [
        trajectory(problem, run, run, 4)
        for order in itertools.permutations(losses)
        for run in [[None if x is None else [x] for x in order]]
    ]
    assert score(problem, np.stack(every), expected).mean() == pytest.approx(0.0, abs=1e-12)
    assert score(problem, np.full((1, 4), 1.0), expected) == pytest.approx([1.0])
    # Half of the way from random search to the optimum, everywhere; and the shared design does not count.
    assert score(problem, (expected[None] + 1.0) / 2, expected) == pytest.approx([0.5])
    assert score(problem, np.array([[7.0, 7.0, 1.0, 1.0]]), expected, start=2) == pytest.approx([1.0])


def test_a_score_without_any_evaluation_that_counts_is_refused() -> None:
    problem = line([2.0, 1.0])
    expected = baseline(problem, 3)
    with pytest.raises(UsageError, match="larger budget or a smaller initial design"):
        score(problem, np.ones((1, 3)), expected, start=1)


def test_area_of_staircases() -> None:
    assert area(np.zeros((0, 2))) == 0.0
    assert area([[0.5, 0.5]]) == pytest.approx(0.25)
    assert area([[0.25, 0.75], [0.5, 0.5], [0.6, 0.6], [0.75, 0.25]]) == pytest.approx(
        0.75 * 0.25 + 0.5 * 0.25 + 0.25 * 0.25
    )
    assert area([[1.0, 0.0], [2.0, -1.0]]) == 0.0


@given(points=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=8))
def test_area_counts_the_dominated_cells(points: list[tuple[int, int]]) -> None:
    cells = sum(any(a <= i and b <= j for a, b in points) for i in range(10) for j in range(10))
    assert area(np.array(points, dtype=float).reshape(-1, 2) / 10) == pytest.approx(cells / 100)


def test_missing_hypervolume_falls_to_zero_with_the_front() -> None:
    problem = plane([(0.0, 4.0), (2.0, 2.0), (4.0, 0.0), (4.0, 4.0)])
    # Only (2, 2) dominates an area of the unit square: the others lie on its border.
    assert problem.scale.whole == pytest.approx(0.25)
    nothing, some = [[4.0, 4.0]], [[4.0, 4.0], None, [2.0, 2.0]]
    assert trajectory(problem, nothing, nothing, 2).tolist() == [1.0, 1.0]
    assert trajectory(problem, some, some, 4).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0])
    assert problem.fraction([1.0, 0.0]).tolist() == [0.0, 1.0]
    expected = baseline(problem, 4)
    assert expected[0] == pytest.approx(0.75, abs=0.1) and expected[3] == pytest.approx(0.0)


def test_positive_losses_over_decades_are_scaled_by_their_logarithm() -> None:
    scale = FrontScale.of(np.array([[1.0, -1000.0], [10.0, -100.0], [100.0, -10.0]]))
    assert scale.unit([[10.0, -100.0]]).tolist() == [pytest.approx([0.5, 0.5])]
    with pytest.raises(UsageError, match="2 objectives; this problem has 3"):
        FrontScale.of(np.ones((4, 3)))


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_signed_rank_of_six_equal_signs_is_the_smallest_possible() -> None:
    assert signed_rank([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)
    assert signed_rank([0.0] * 8) == 1.0
    assert signed_rank([1, 2, 3, 4, 5]) is None


def test_the_interval_weighs_problems_equally_and_holds_the_mean() -> None:
    mean, low, high = mean_interval({"a": [0.0, 1.0] * 50, "b": [1.0] * 4})
    assert mean == pytest.approx(0.75) and low < mean < high
    # One coin of 100 throws, halved: the standard error is 0.05 / 2.
    assert high - low == pytest.approx(2 * 1.96 * 0.025, rel=0.15)

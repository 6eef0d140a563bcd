"""The rules that end trials early, on curves small enough to be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import Objective, UsageError
from autotune.goals import Goals
from autotune.pruning import (
    PRUNERS,
    Asha,
    AshaSettings,
    Bound,
    Curve,
    Declared,
    Incumbent,
    Median,
    MedianSettings,
    Pruning,
    Race,
    RaceSettings,
    Scene,
)

ACCURACY = Objective("accuracy", "maximize")
ENERGY = Goals.parse(["minimize energy_j"], ())


def curve(number: int, accuracy: Sequence[float], *, cost: float = 1.0, completed: bool = True) -> Curve:
    """Reports at steps 1, 2, …, each of which costs as much."""
    rows = [(s, m, v) for s, a in enumerate(accuracy, 1) for m, v in (("accuracy", a), ("energy_j", s * cost))]
    return Curve.of(number, rows, completed=completed)


def scene(
    others: Sequence[Curve] = (),
    best: tuple[int, float] | None = None,
    *,
    goals: Goals = ENERGY,
    accumulating: tuple[str, ...] = ("energy_j",),
    resource: str | None = None,
) -> Scene:
    return Scene(goals, accumulating, ACCURACY, resource, others, None if best is None else Incumbent(*best))


# What is known of a trial


def test_a_trace_has_the_best_and_the_mean_so_far_over_what_was_spent() -> None:
    trace = curve(0, [0.2, 0.6, 0.4], cost=2.0).trace(ACCURACY, "energy_j")
    assert (trace.resource, trace.losses) == ([2.0, 4.0, 6.0], [-0.2, -0.6, -0.4])
    assert trace.best == [-0.2, -0.6, -0.6]
    assert trace.mean == pytest.approx([-0.2, -0.4, -0.4])
    assert [trace.place(x) for x in (1.9, 2.0, 5.0, 9.0)] == [None, 0, 1, 2]
    assert [trace.reaching(x) for x in (0.0, 2.0, 5.0, 6.1)] == [0, 0, 2, None]


def test_what_is_lacking_or_not_finite_says_nothing_and_spend_is_carried_on() -> None:
    seen = Curve(0)
    seen.add(0, {"accuracy": 0.1})  # nothing is known of what it cost
    seen.add(1, {"energy_j": 5.0})
    seen.add(2, {"accuracy": 0.3})
    seen.add(3, {"accuracy": math.nan, "energy_j": math.inf})
    trace = seen.trace(ACCURACY, "energy_j")
    assert (trace.resource, trace.losses) == ([5.0], [-0.3])
    assert seen.last == {"accuracy": 0.3, "energy_j": 5.0}
    seen.add(4, {"accuracy": 0.4, "energy_j": 4.0})  # a counter that was reset does not go back
    assert seen.trace(ACCURACY, "energy_j").resource == [5.0, 5.0]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.integers(0, 20))
def test_a_curve_that_grows_is_the_curve_that_is_read_at_once(values: list[float], looked: int) -> None:
    grown = Curve(0)
    for step, value in enumerate(values):
        grown.add(step, {"accuracy": value})
        if step == looked:
            grown.trace(ACCURACY, None)
    read = Curve.of(0, [(step, "accuracy", value) for step, value in enumerate(values)])
    assert grown.trace(ACCURACY, None) == read.trace(ACCURACY, None)


# bound


def test_bound_ends_what_can_no_longer_be_better() -> None:
    running = curve(3, [0.1], cost=9.9, completed=False)
    assert Bound().reason(running, scene(best=(1, 10.0))) is None
    assert Bound().reason(running, scene(best=None)) is None
    running.add(2, {"energy_j": 10.0})
    told = Bound().reason(running, scene(best=(1, 10.0)))
    assert told == "energy_j is 10 by step 2, no better than 10 of trial 1"


def test_bound_ends_what_breaks_an_upper_limit_whatever_the_objective() -> None:
    for objectives in (["minimize latency_ms"], ["maximize accuracy"], ["minimize latency_ms", "maximize accuracy"]):
        goals = Goals.parse(objectives, ["energy_j <= 50", "accuracy >= 0.5"])
        running = curve(0, [0.1], cost=50.0, completed=False)
        assert Bound().reason(running, scene(goals=goals)) is None
        running.add(2, {"energy_j": 50.5})
        assert Bound().reason(running, scene(goals=goals)) == "energy_j is 50.5 by step 2, which breaks energy_j <= 50"


@pytest.mark.parametrize(
    ("objectives", "accumulating"),
    [
        (["maximize energy_j"], ("energy_j",)),  # more may come
        (["minimize energy_j"], ()),  # it may fall again
        (["minimize energy_j", "maximize accuracy"], ("energy_j",)),  # it may be on the front
    ],
)
def test_bound_says_nothing_where_a_lower_bound_is_none(objectives: list[str], accumulating: tuple[str, ...]) -> None:
    seen = scene(best=(0, 1.0), goals=Goals.parse(objectives, ()), accumulating=accumulating)
    assert Bound().reason(curve(1, [0.1], cost=1e9), seen) is None


def test_bound_overlooks_what_is_not_finite() -> None:
    running = Curve(1)
    for step, value in enumerate((math.nan, math.inf)):
        running.add(step, {"energy_j": value})
        assert Bound().reason(running, scene(best=(0, 1.0))) is None


# median


def test_median_compares_the_best_so_far_with_the_means_of_the_others() -> None:
    others = [curve(n, [a, a]) for n, a in enumerate((0.2, 0.4, 0.6))]
    rule = Median(MedianSettings(least_trials=3))
    assert rule.reason(curve(3, [0.4], completed=False), scene(others)) is None  # as good as the median
    assert rule.reason(curve(3, [0.45, 0.1], completed=False), scene(others)) is None  # its best counts
    told = rule.reason(curve(3, [0.3, 0.35], completed=False), scene(others))
    assert told == "accuracy 0.35 at step 2 is worse than the median 0.4 of 3 trials"


def test_median_counts_who_got_as_far_or_needed_no_more() -> None:
    rule = Median(MedianSettings(least_trials=2))
    running = curve(9, [0.1, 0.1, 0.1], completed=False)
    ended, done = curve(0, [0.5, 0.5], completed=False), curve(1, [0.7, 0.9])
    assert rule.reason(running, scene([ended, done])) is None  # one of them was pruned before
    told = rule.reason(running, scene([done, curve(2, [0.3] * 3, completed=False)]))
    assert told is not None and "the median 0.55 of 2 trials" in told


def test_median_waits_for_trials_and_for_its_warm_up() -> None:
    others = [curve(n, [0.5] * 4) for n in range(5)]
    running = curve(9, [0.1, 0.1], completed=False)
    assert Median(MedianSettings()).reason(running, scene(others[:4])) is None
    assert Median(MedianSettings()).reason(running, scene(others)) is not None
    assert Median(MedianSettings(warmup=2.5)).reason(running, scene(others)) is None


# asha


def test_asha_keeps_the_best_third_at_each_rung() -> None:
    rule = Asha(AshaSettings(first=1, eta=3))
    others = [curve(n, [a] * 3) for n, a in enumerate((0.1, 0.2, 0.3, 0.4, 0.5))]
    assert rule.reason(curve(9, [0.45], completed=False), scene(others)) is None  # second of six, two go on
    told = rule.reason(curve(9, [0.35], completed=False), scene(others))
    assert told == "accuracy 0.35 at the rung step 1 is behind 2 of 5 trials, of which the best 2 go on"
    assert rule.reason(curve(9, [0.35], completed=False), scene()) is None  # the first to come goes on


def test_asha_looks_at_rungs_alone_and_at_each_once() -> None:
    rule = Asha(AshaSettings(first=1, eta=3))
    others = [curve(n, [0.1, 0.9, 0.9]) for n in range(3)]
    ended = [
        rule.reason(curve(9, [0.2, *[0.3] * more], completed=False), scene(others)) is not None for more in range(4)
    ]
    assert ended == [False, False, True, False]  # at step 1, and at step 3 alone


def test_asha_by_a_resource_that_jumps_over_rungs() -> None:
    rule = Asha(AshaSettings(first=10, eta=2))
    others = [curve(0, [0.1, 0.2, 0.3, 0.4], cost=10.0)]  # 10, 20, 30 and 40 joules
    late = curve(1, [0.0, 0.25], cost=35.0, completed=False)  # 35 and 70 joules: rungs 20 and 40 (it ended before 80)
    assert rule.reason(late, scene(others, resource="energy_j")) == (
        "accuracy 0.25 at the rung energy_j 40 is behind 1 of 1 trials, of which the best 1 go on"
    )


# race


def test_race_compares_with_the_incumbents_own_curve_at_a_share_of_the_spend() -> None:
    best = curve(4, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    seen = scene([curve(1, [0.9] * 8), best], (4, 8.0))
    rule = Race(RaceSettings(slack=0.5, share=0.25))
    assert rule.reason(curve(9, [0.0], cost=1.9, completed=False), seen) is None  # too early
    assert rule.reason(curve(9, [0.1], cost=2.0, completed=False), seen) is None  # as good as what it had for 1
    told = rule.reason(curve(9, [0.15], cost=5.0, completed=False), seen)
    assert told == "accuracy 0.15 for energy_j 5 is behind trial 4, which had 0.2 for 2.5"
    assert Race(RaceSettings(slack=0.3, share=0.25)).reason(curve(9, [0.15], cost=5.0), seen) is None


def test_race_without_an_accumulating_objective_is_run_over_the_resource() -> None:
    best = curve(0, [0.2, 0.4, 0.6, 0.8])
    goals = Goals.parse(["minimize latency_ms"], ())
    rule, running = Race(RaceSettings()), curve(1, [0.1] * 4, completed=False)
    told = rule.reason(running, scene([best], (0, 3.0), goals=goals, accumulating=()))
    assert told == "accuracy 0.1 for step 4 is behind trial 0, which had 0.4 for 2"


@pytest.mark.parametrize("others", [[], [Curve(0, completed=True)]])
def test_race_needs_an_incumbent_that_reported(others: list[Curve]) -> None:
    running = curve(1, [0.0] * 9, completed=False)
    assert Race(RaceSettings()).reason(running, scene(others, (0, 1.0))) is None


# How a study prunes


def test_what_a_problem_declares_decides_where_nothing_is_said() -> None:
    declared = Declared(("energy_j",), "maximize accuracy", "samples", "race", {"slack": 0.25})
    chosen = Pruning.check(ENERGY, None, None, declared)
    assert isinstance(chosen.settings, RaceSettings)
    assert (chosen.pruner, chosen.settings.slack, chosen.settings.resource) == ("race", 0.25, "samples")
    assert [rule.name for rule in chosen.rules] == ["bound", "race"]
    assert Pruning.check(ENERGY, None, None, Declared(("energy_j",))).pruner == "bound"
    assert Pruning.check(ENERGY, None, None, Declared()).pruner == "none"
    assert Pruning.check(ENERGY, "none", None, declared).rules == ()
    # One metric cannot stand for a front.
    several = Goals.parse(["minimize energy_j", "maximize accuracy"], ())
    assert Pruning.check(several, None, None, declared).pruner == "bound"


def test_trials_are_compared_at_equal_spend_of_what_counts_unless_said_otherwise() -> None:
    given = {"accumulating": ["energy_j"], "progress": "maximize accuracy"}
    assert Pruning.check(ENERGY, "median", given).scene(ENERGY).resource == "energy_j"
    assert Pruning.check(ENERGY, "median", given | {"resource": "step"}).scene(ENERGY).resource is None
    assert Pruning.check(ENERGY, "median", given | {"resource": "samples"}).scene(ENERGY).resource == "samples"
    # What is compared cannot be what it is compared at.
    itself = {"accumulating": ["energy_j"]}
    assert Pruning.check(ENERGY, "median", itself).scene(ENERGY).resource is None
    # A trial that does not report the resource is compared by its steps.
    others = [Curve.of(n, [(0, "accuracy", 0.5), (9, "accuracy", 0.9)]) for n in range(5)]
    running = Curve.of(9, [(0, "accuracy", 0.1)])
    told = Median(MedianSettings()).reason(running, scene(others, resource="energy_j"))
    assert told == "accuracy 0.1 at step 0 is worse than the median 0.5 of 5 trials"


def test_options_given_as_text_are_read_and_stored_as_they_were_set() -> None:
    given = {"accumulating": "energy_j, traffic_gib", "progress": "maximize accuracy", "eta": "4"}
    chosen = Pruning.check(ENERGY, "asha", given)
    assert chosen.stored == {
        "pruning": {
            "pruner": "asha",
            "options": {"accumulating": ["energy_j", "traffic_gib"], "progress": "maximize accuracy", "eta": 4},
        }
    }
    assert Pruning.check(ENERGY, "none").stored == {}
    assert str(chosen) == "asha (accumulating energy_j and traffic_gib, progress maximize accuracy, eta 4)"


@pytest.mark.parametrize(
    ("pruner", "options", "said"),
    [
        ("medain", {}, r"pruner 'medain' is unknown \(did you mean 'median'\?\); known are: none, bound, median"),
        ("bound", {}, "pruner 'bound' needs metrics that only grow"),
        (None, {"progress": "accuracy"}, "without a pruner; give one too"),
        (
            "median",
            {"least_trial": 3},
            r"pruner 'median': option 'least_trial' is unknown \(did you mean 'least_trials'",
        ),
        ("asha", {"eta": 1}, "pruner 'asha': option eta = 1: "),
        ("race", {"progress": "highest accuracy"}, "option progress = 'highest accuracy': write"),
    ],
)
def test_pruners_that_cannot_be_used_are_refused(pruner: str | None, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Pruning.check(ENERGY, pruner, options)


@pytest.mark.parametrize("pruner", sorted(PRUNERS.keys() - {"none", "bound"}))
def test_pruners_by_one_metric_refuse_several_objectives(pruner: str) -> None:
    several = Goals.parse(["minimize energy_j", "maximize accuracy"], ())
    with pytest.raises(UsageError, match=f"pruner '{pruner}' compares trials by one metric, but the study has 2"):
        Pruning.check(several, pruner, {"accumulating": "energy_j"})

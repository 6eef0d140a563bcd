"""Credit, beliefs and costs of a portfolio: exact on small cases, and what must hold whatever the losses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import Failure, Int, SearchSpace
from autotune.measurement import FailureKind, Metric
from autotune.objective import Objective, OutcomeConstraint
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies.bandit import (
    DISCOUNT,
    HALF,
    UNNOTICED_S,
    Belief,
    Expectation,
    Rewards,
    beliefs,
    draw,
    improvement,
    relative_costs,
)
from autotune.strategies.base import History, Task

SPACE = SearchSpace([Int("x", 0, 10_000)])
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def task(*objectives: str, limits: Sequence[str] = (), **given: Any) -> Task:
    goals = tuple(Objective.parse(o) for o in objectives or ("minimize value",))
    return Task(SPACE, goals, tuple(map(OutcomeConstraint.parse, limits)), {"x": 0}, 0, **given)


def trial(number: int, outcome: Any, proposer: str = "a", **given: Any) -> TrialRecord:
    """A finished trial of a number, metrics or a failure; None leaves it running."""
    failed = isinstance(outcome, Failure)
    values = outcome if isinstance(outcome, dict) else {} if failed or outcome is None else {"value": float(outcome)}
    state = TrialState.RUNNING if outcome is None else TrialState.FAILED if failed else TrialState.COMPLETED
    given = {"revision": number, "attempt": 1, "failure_kind": outcome.kind if failed else None, **given}
    return TrialRecord(
        id=number,
        number=number,
        config={"x": number},
        config_hash=str(number),
        state=state,
        proposer=proposer,
        metrics={name: Metric(float(value)) for name, value in values.items()},
        **given,
    )


def earned(of: Task, outcomes: Sequence[Any]) -> list[float]:
    history = History(of, tuple(trial(i, outcome) for i, outcome in enumerate(outcomes)))
    return [reward for _, reward in Rewards().read(history)]


def test_an_improvement_is_a_share_of_the_way_from_the_median() -> None:
    assert improvement(5.0, 10.0, 20.0) == pytest.approx(0.5)  # by logarithm: half of 20 -> 10 -> 5
    assert improvement(-1.0, 0.0, 3.0) == pytest.approx(0.25)  # across zero: by difference
    assert improvement(-20.0, -10.0, -5.0) == pytest.approx(0.5)  # a maximised 5 -> 10 -> 20
    assert improvement(10.0, 10.0, 20.0) == improvement(11.0, 10.0, 20.0) == 0.0
    assert improvement(-1e308, 0.0, 1e308) == pytest.approx(0.5)


@given(FINITE, FINITE, FINITE)
def test_an_improvement_is_between_nothing_and_the_whole_way(a: float, b: float, c: float) -> None:
    new, best, middle = sorted([a, b, c])
    assert 0.0 <= improvement(new, best, middle) <= 1.0


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=3), st.sampled_from([0.5, 2.0, 1024.0]))
def test_an_improvement_has_no_unit(losses: list[int], unit: float) -> None:
    new, best, middle = sorted(map(float, losses))
    assert improvement(unit * new, unit * best, unit * middle) == pytest.approx(improvement(new, best, middle))


def test_rewards_of_one_objective() -> None:
    half = math.log(2) / math.log(4)  # from 8 to 4, the upper median being 16; from 4 to 2, the median being 8
    expected = [1.0, 0.0, half / (half + HALF), 0.0, half / (half + HALF), 0.0]
    assert earned(task(), [8.0, 16.0, 4.0, Failure("oom"), 2.0, 2.0]) == pytest.approx(expected)
    ups = [1 / 8, 1 / 16, 1 / 4, Failure("oom"), 1 / 2, 1 / 2]
    assert earned(task("maximize value"), ups) == pytest.approx(expected)


def test_nothing_is_earned_beyond_a_limit_and_by_what_the_machine_broke() -> None:
    outcomes = [{"value": 5, "gib": 30}, {"value": 9, "gib": 20}, {"value": 1, "gib": 25}, {"value": 3, "gib": 24}]
    assert earned(task(limits=["gib <= 24"]), outcomes) == pytest.approx([0.0, 1.0, 0.0, 1.0 / (1.0 + HALF)])
    history = History(task(), (trial(0, Failure(FailureKind.INFRA)), trial(1, 3.0), trial(2, None)))
    assert [t.number for t, _ in Rewards().read(history)] == [1]


def test_with_several_objectives_the_front_is_what_counts() -> None:
    outcomes = [
        {"a": 5, "b": 5}, {"a": 6, "b": 5}, {"a": 5, "b": 5}, {"a": 9, "b": 1}, {"a": 4, "b": 4}, {"a": 8, "b": 1},
    ]  # fmt: skip
    assert earned(task("minimize a", "minimize b"), outcomes) == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_cheaper_evaluators_and_repeats_say_nothing_of_who_proposed() -> None:
    cheap = {"fidelity": "profiled"}
    trials = (trial(0, 1.0, **cheap), trial(1, 5.0), trial(2, 4.0), trial(3, 1.0, **cheap))
    again = replace(trial(4, 0.5), config=trials[2].config, config_hash=trials[2].config_hash)
    history = History(task(fidelities=("profiled", "real")), (*trials, again))
    assert [t.number for t, _ in Rewards().read(history)] == [1, 2]


@given(st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=12), st.integers(0, 12), st.randoms())
def test_rewards_are_the_same_however_the_history_was_lived(outcomes: list[Any], cut: int, random: Any) -> None:
    revisions = list(range(len(outcomes)))
    random.shuffle(revisions)
    told = [
        trial(i, Failure("oom") if o is None else o, revision=r)
        for i, (o, r) in enumerate(zip(outcomes, revisions, strict=True))
    ]
    whole = History(task(), tuple(told))
    earlier = History(task(), tuple(trial(t.number, None) if t.revision >= cut else t for t in told))
    lived = Rewards()
    lived.read(earlier)
    assert lived.read(whole) == Rewards().read(whole)
    assert lived.read(earlier) == Rewards().read(earlier)  # another study, shorter


EXPECTED = Expectation("a", 0.2, {"b": 0.5, "c": 0.1}, 20.0)


def test_beliefs_begin_as_expected_and_follow_what_is_earned() -> None:
    start = beliefs([], EXPECTED)
    assert {name: b.mean for name, b in start.items()} == pytest.approx({"a": 0.2, "b": 0.1, "c": 0.02})
    found = beliefs([(trial(0, 1.0, "design"), 1.0), (trial(1, 1.0, "b"), 0.4), (trial(2, 1.0, "a"), 1.0)], EXPECTED)
    assert found["a"] == Belief(5.0, 16.0)
    assert found["b"].alpha == pytest.approx(0.5 * 20 * 5 / 21 + 0.4 * DISCOUNT)
    assert found["b"].beta == pytest.approx(20 - 0.5 * 20 * 5 / 21 + 0.6 * DISCOUNT)


def test_turns_go_to_the_member_that_improves() -> None:
    rng, costs = np.random.default_rng(0), dict.fromkeys("abc", 1.0)

    def turns(rewarded: list[tuple[TrialRecord, float]]) -> Counter[str]:
        known = beliefs(rewarded, EXPECTED)
        return Counter(draw(known, costs, rng)[0] for _ in range(500))

    idle = [(trial(i, 1.0, "a"), 0.0) for i in range(60)]
    at_first, stuck = turns([]), turns(idle)
    assert at_first["a"] > 400
    assert stuck["b"] > at_first["b"] and stuck["c"] > at_first["c"]  # explored more when the leader stagnates
    gains = [(trial(60 + i, 1.0, "c"), 0.5) for i in range(6)]
    earning = turns(idle + gains)
    assert earning.most_common(1)[0][0] == "c" and earning["c"] > 250
    faded = turns(idle + gains + [(trial(70 + i, 1.0, "c"), 0.0) for i in range(60)])
    assert faded.most_common(1)[0][0] == "a"  # what was earned long ago counts no more


def test_a_dear_proposer_must_earn_its_time() -> None:
    def costs(evaluate_s: float | None, budget: int | None, suggest_s: float = 0.05) -> dict[str, float]:
        trials = [
            trial(i, 1.0, "ab"[i % 2], evaluate_s=evaluate_s, suggest_s=suggest_s if i % 2 else 1e-4) for i in range(20)
        ]
        return relative_costs(History(task(budget=budget), tuple(trials)), "abc")

    assert costs(0.001, 100_000) == {"a": 1.0, "b": 64.0, "c": 1.0}  # 50 ms beside an evaluation of 1 ms
    assert costs(5.0, 100_000) == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert costs(None, 100_000) == {"a": 1.0, "b": 1.0, "c": 1.0}  # not timed
    # In a short search nobody would notice; in an open one, a hundred trials are expected.
    assert costs(0.001, 100)["b"] == costs(0.001, None)["b"] == 1.0
    assert costs(0.001, None, suggest_s=4 * UNNOTICED_S / 100)["b"] == 4.0
    known = {"a": Belief(1.0, 9.0), "b": Belief(4.0, 6.0)}
    rng = np.random.default_rng(0)
    cheap, dear = (Counter(draw(known, {"a": 1.0, "b": cost}, rng)[0] for _ in range(300)) for cost in (1.0, 64.0))
    assert cheap["b"] > 250 and dear["b"] < 50

"""What ends a search, the sentence that is kept, and going on when a limit is raised."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune import Store, Study, Suggestion, UsageError
from autotune.stopping import GAIN_NOTE, GAIN_PROPOSALS, Limits, MinGain, MinGainPerHour, Target
from autotune.strategies import History, Strategy
from tests.screening import Screen, full, short, space


class Expects(Strategy):
    """Proposes configurations in a row, and what it expects of each: as given, None for nothing."""

    name, summary = "expects", "for this test"
    gains: tuple[Any, ...] = ()

    def propose(self, history: History, n: int) -> list[Suggestion]:
        table = self.task.space.enumerate()
        assert table is not None
        fresh = [
            c for c in map(table.config, range(len(table))) if self.task.space.config_hash(c) not in history.hashes
        ]
        place = max(0, len(history.trials) - 1)
        gain = self.gains[place] if place < len(self.gains) else 1.0
        return [Suggestion(fresh[0], self.name, {} if gain is None else {GAIN_NOTE: gain})] if fresh else []


def expects(*gains: Any) -> type[Strategy]:
    return type("Expecting", (Expects,), {"gains": gains})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


def stopped(result: autotune.Result) -> tuple[int, str]:
    """Trials, and the reason as the store has it."""
    record = result.study.store.load_study(result.study.name)
    assert record.state == "done" and record.stop_reason == result.stop_reason == result.to_dict()["stop_reason"]
    assert record.stop_reason is not None and "\n" not in record.stop_reason
    return len(result.study.trials), record.stop_reason


# Target


def test_a_target_that_the_incumbent_meets_ends_the_search() -> None:
    result = autotune.search(space(), full, "latency_ms", target="latency_ms <= 3", trials=40, strategy="exhaustive")
    trials = result.study.trials
    assert trials[-1].values["latency_ms"] <= 3 < min(t.values["latency_ms"] for t in trials[:-1])
    count, reason = stopped(result)
    value = trials[-1].values["latency_ms"]
    assert count < 32
    assert reason == f"target latency_ms <= 3 reached: trial {count - 1} has latency_ms {value:g}"


def test_a_target_needs_a_feasible_incumbent() -> None:
    def evaluate(config: dict[str, Any]) -> dict[str, float]:
        return {"latency_ms": full(config), "vram_gib": float(config["threads"])}

    result = autotune.search(
        space(),
        evaluate,
        "latency_ms",
        constraints=["vram_gib <= 4"],
        target="latency_ms <= 3",
        trials=40,
        strategy="exhaustive",
    )
    assert stopped(result)[1].startswith("target latency_ms <= 3 reached")
    assert result.best is not None and result.best.metrics["vram_gib"] <= 4 and result.best.metrics["latency_ms"] <= 3
    never = autotune.search(
        space(), evaluate, "latency_ms", constraints=["vram_gib <= 3"], target="latency_ms <= 3", trials=40
    )
    assert stopped(never) == (32, "nothing left to propose after 32 trials of 32 feasible configurations")


def test_several_objectives_meet_their_targets_in_one_configuration() -> None:
    def evaluate(config: dict[str, Any]) -> dict[str, float]:
        return {"ms": 100.0 / config["threads"], "speed": float(config["tile"])}

    limits = ["ms <= 20", "speed >= 32"]
    result = autotune.search(space(), evaluate, ["ms", "maximize speed"], target=limits, trials=40, strategy="random")
    meets = [t.values["ms"] <= 20 and t.values["speed"] >= 32 for t in result.study.trials]
    assert meets[-1] and not any(meets[:-1])
    assert stopped(result)[1].startswith("target ms <= 20 and speed >= 32 reached: trial ")


def test_a_cheaper_trial_meets_no_target() -> None:
    result = autotune.search(space(), {"short": short, "full": full}, target="value <= 0.9", trials=4, strategy=Screen)
    assert stopped(result)[1] == "the budget of 4 trials is spent"
    assert any(t.values["value"] <= 0.9 for t in result.study.trials)


def test_a_study_that_met_its_target_goes_on_to_a_higher_one(url: str) -> None:
    settings: dict[str, Any] = {"trials": 40, "strategy": "exhaustive", "storage": url, "seed": 2}
    first = stopped(autotune.search(space(), full, target="value <= 10", **settings))
    assert stopped(autotune.search(space(), full, target="value <= 10", **settings)) == first
    count, reason = stopped(autotune.search(space(), full, target="value <= 1", **settings))
    assert first[0] < count < 32 and reason.startswith("target value <= 1 reached")
    assert stopped(autotune.search(space(), full, **settings))[0] == 32


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("latency", "target is 'latency'; write it as 'METRIC <= NUMBER' or 'METRIC >= NUMBER'"),
        (3, "target is 3; write it as"),
        ("ms <= nan", "target is 'ms <= nan'; write it as"),
        ("other <= 3", "target 'other <= 3' names no objective; this search has: ms, speed"),
        ("ms >= 3", "is met by bad values, as the objective is to minimize ms; write 'ms <= 3'"),
        ("speed <= 3", "is met by bad values, as the objective is to maximize speed; write 'speed >= 3'"),
    ],
)
def test_a_target_that_says_nothing_is_refused(url: str, target: Any, says: str) -> None:
    with pytest.raises(UsageError) as told:
        autotune.search(space(), full, ["ms", "maximize speed"], target=target, storage=url)
    assert says in str(told.value) and "\n" not in str(told.value)
    assert not Path(url.removeprefix("sqlite:///")).exists()


# Expected gain


def test_a_search_ends_when_little_is_expected_of_five_proposals_in_a_row() -> None:
    gains = [0.5, 0.0005, 0.0005, 0.5, *[0.0009, None, 0.0008, 0.0007, None, 0.0006, 0.0005], 0.5]
    result = autotune.search(space(), full, min_gain=0.001, strategy=expects(*gains), trials=30)
    assert stopped(result) == (
        1 + len(gains) - 1,
        "expected gain below 0.1 % for 5 proposals in a row, 0.05 % in the last",
    )


def test_what_is_no_number_promises_nothing_and_says_nothing() -> None:
    gains = [True, "0.1", math.nan, math.inf, [0.0]] * 2
    result = autotune.search(space(), full, min_gain=0.5, strategy=expects(*gains), trials=8)
    assert stopped(result) == (8, "the budget of 8 trials is spent")


def test_a_lower_gain_is_accepted_when_a_study_goes_on(url: str) -> None:
    gains = [0.01] * 5 + [0.001] * 5 + [0.0001] * 9
    settings: dict[str, Any] = {"strategy": expects(*gains), "trials": 30, "storage": url}
    counts = [
        stopped(autotune.search(space(), full, min_gain=least, **settings))[0] for least in (0.02, 0.02, 0.002, 0.0002)
    ]
    assert counts == [6, 6, 11, 16]


def test_a_gain_is_weighed_against_the_seconds_that_trials_took() -> None:
    study = Study.create(space(), strategy=expects(*[0.01] * 9))
    for number in range(GAIN_PROPOSALS + 1):
        assert MinGainPerHour(1.0).reason(study.history) is None, number
        study.tell(study.ask(), 1.0, evaluate_s=72.0)
    history = study.history
    assert MinGainPerHour(0.5).reason(history) is None  # 0.01 in 72 s are 0.5 in an hour
    assert MinGainPerHour(0.6).reason(history) == (
        "expected gain below 60 % per hour for 5 proposals in a row, 50 % in the last (1 % in 72 s)"
    )


def test_gains_of_cheaper_evaluations_are_weighed_by_their_own_seconds() -> None:
    class Cheap(Expects):
        """The same, at the cheaper fidelity."""

        def propose(self, history: History, n: int) -> list[Suggestion]:
            (one,) = super().propose(history.at("short"), n)
            return [Suggestion(one.config, self.name, {GAIN_NOTE: 0.01}, "short")]

    study = Study.create(space(), strategy=Cheap, fidelities=("short", "full"))
    for _ in range(GAIN_PROPOSALS + 1):
        trial = study.ask()
        study.tell(trial, 1.0, evaluate_s=36.0 if trial.fidelity else 3600.0)
    assert MinGainPerHour(0.9).reason(study.history) is None
    assert MinGainPerHour(1.1).reason(study.history) is not None


def test_nothing_is_decided_before_a_trial_was_timed() -> None:
    study = Study.create(space(), strategy=expects(*[0.0] * 9))
    for _ in range(8):
        study.tell(study.ask(), 1.0)
    assert MinGainPerHour(1.0).reason(study.history) is None and MinGain(1.0).reason(study.history) is not None


def test_the_budget_ends_a_search_by_expected_gain_per_hour_too() -> None:
    result = autotune.search(space(), full, min_gain_per_hour=1e9, strategy=expects(*[1e-9] * 9), trials=30)
    count, reason = stopped(result)
    assert count == 6 and reason.startswith("expected gain below 1e+11 % per hour for 5 proposals in a row, ")


def test_the_strategy_bo_tells_what_it_expects() -> None:
    result = autotune.search(space(), full, min_gain=0.5, strategy="bo", trials=32)
    count, reason = stopped(result)
    told = [t.notes[GAIN_NOTE] for t in result.study.trials if GAIN_NOTE in t.notes][-GAIN_PROPOSALS:]
    assert count < 32 and max(told) < 0.5
    assert reason == f"expected gain below 50 % for 5 proposals in a row, {100 * told[-1]:.3g} % in the last"


@pytest.mark.parametrize("name", ["min_gain", "min_gain_per_hour"])
@pytest.mark.parametrize("value", [0, -0.1, math.nan, "0.1%", True])
def test_a_gain_that_cannot_be_reached_or_read_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{name} is .*; give a number above 0"):
        autotune.search(space(), full, **{name: value})


# Several workers, and what a study keeps


def test_any_worker_decides_alike(url: str) -> None:
    settings: dict[str, Any] = {
        "strategy": expects(*[0.0] * 20),
        "storage": url,
        "target": "value <= 0",
        "min_gain": 0.1,
    }
    one = autotune.search_iter(space(), full, trials=30, **settings)
    two = autotune.search_iter(space(), full, trials=30, **settings)
    reasons: list[str | None] = []
    for steps in (one, two) * 10:
        try:
            next(steps)
        except StopIteration as end:
            reasons.append(end.value.stop_reason)
            if len(reasons) == 2:
                break
    assert reasons == ["expected gain below 10 % for 5 proposals in a row, 0 % in the last"] * 2
    assert len(Store(url).trials(1)) == 6


def test_a_study_keeps_what_ends_it(url: str) -> None:
    settings: dict[str, Any] = {"target": ["value <= 0.5"], "min_gain": 0.25, "min_gain_per_hour": 2.0}
    result = autotune.search(space(), full, trials=3, timeout_s=600.0, strategy="random", storage=url, **settings)
    assert json.loads(json.dumps(dict(result.study.record.budget))) == {"trials": 3, **settings}


def test_time_is_asked_for_before_trials_are_read() -> None:
    limits = Limits.check(trials=None, timeout_s=5.0, target="value <= 1", min_gain=None, min_gain_per_hour=None)

    def history() -> History:
        raise AssertionError("read")

    assert limits.reason(5.0, history) == "time limit of 5 s reached"
    alone = Limits.check(trials=4, timeout_s=5.0, target=None, min_gain=None, min_gain_per_hour=None)
    assert alone.reason(4.9, history) is None
    study = Study.create(space(), strategy="random")
    study.tell(study.ask(), 0.5)
    assert limits.reason(4.9, lambda: study.history) == "target value <= 1 reached: trial 0 has value 0.5"
    assert Target(limits.target).reason(History(study.history.task)) is None

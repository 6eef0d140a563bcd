"""Ask and tell: what comes first, what is best, and going on with a study that exists."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune import (
    EmptySpaceError,
    Failure,
    FailureKind,
    Float,
    Int,
    LeaseLostError,
    Measurement,
    Metric,
    Ordinal,
    SearchSpace,
    SpaceExhaustedError,
    Store,
    Study,
    Suggestion,
    UsageError,
)
from autotune.store import Profile, TrialState
from autotune.strategies import History, Strategy

ROOT = Path(__file__).resolve().parents[2]


def space() -> SearchSpace:
    return SearchSpace([Ordinal("tile", [8, 16, 32, 64], default=16), Int("threads", 1, 8)], ["tile * threads <= 256"])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


def test_the_default_is_trial_0_and_the_baselines_come_next() -> None:
    default = {"tile": 64, "threads": 2}
    baselines = {"wide": {"tile": 8, "threads": 8}, "same": default, "narrow": {"tile": 8, "threads": 1}}
    study = Study.create(space(), default=default, baselines=baselines, strategy="random")
    trials = study.ask(5)
    assert [t.config for t in trials[:3]] == [default, baselines["wide"], baselines["narrow"]]
    assert [t.record.label for t in trials] == ["default", "wide", "narrow", None, None]
    assert [t.record.proposer for t in trials] == ["default", "wide", "narrow", "random", "random"]
    for trial in trials:
        study.tell(trial, float(trial.number))
    assert study.default is not None and study.default.number == 0
    assert {name: t and t.number for name, t in study.baselines.items()} == {"wide": 1, "same": 0, "narrow": 2}


def test_the_spaces_own_default_is_used_where_none_is_given() -> None:
    assert Study.create(space()).ask().config == {"tile": 16, "threads": space().default()["threads"]}


def test_before_anything_was_measured_nothing_is_best() -> None:
    study = Study.create(space(), baselines={"wide": {"tile": 8, "threads": 8}})
    assert (study.best, study.default, study.baselines, study.pareto()) == (None, None, {"wide": None}, [])
    assert study.frame().empty
    study.ask()
    assert study.best is None and study.default is not None and study.default.state is TrialState.RUNNING


def test_the_best_is_the_best_feasible_one() -> None:
    study = Study.create(space(), "maximize speed", constraints=["vram_gib <= 24"], strategy="random")
    told = [(5.0, 20.0), (9.0, 30.0), (7.0, 24.0), (7.0, 10.0), (8.0, math.nan)]
    for speed, vram in told:
        study.tell(study.ask(), {"speed": speed, "vram_gib": vram})
    assert study.best is not None and study.best.number == 2
    assert study.history.gain(study.best) == pytest.approx(0.4)
    assert [t.number for t in study.history.ranked] == [2, 3, 0, 1, 4]


def test_nothing_is_best_where_every_trial_breaks_a_limit() -> None:
    study = Study.create(space(), "x", constraints=["y >= 1"], strategy="random")
    for value in range(3):
        study.tell(study.ask(), {"x": value, "y": 0.0})
    assert study.best is None and study.pareto() == []


def test_the_pareto_front_of_two_objectives() -> None:
    study = Study.create(space(), ["minimize a", "maximize b"], constraints=["a >= 0"], strategy="random")
    for a, b in [(3, 3), (1, 1), (2, 1), (-5, 9), (1, 1), (2, 2)]:
        study.tell(study.ask(), {"a": a, "b": b})
    assert [t.number for t in study.pareto()] == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (3, "completed"), (3.0, "completed"), ({"value": 3.0}, "completed"), (Measurement({"value": Metric(3.0)}), "completed"),
        (math.nan, "failed"), (math.inf, "failed"), (Failure("oom", "24 GiB"), "failed"),
    ],
)  # fmt: skip
def test_what_may_be_told(outcome: Any, state: str) -> None:
    study = Study.create(space())
    record = study.tell(study.ask(), outcome, evaluate_s=0.5)
    assert record.state == state and record.evaluate_s == 0.5
    assert study.trials == (record,)
    assert record.failure_kind == (
        None if state == "completed" else outcome.kind if isinstance(outcome, Failure) else "nan"
    )


def test_a_trial_told_wrongly_can_still_be_told() -> None:
    study = Study.create(space(), ["a", "b"], strategy="random")
    trial = study.ask()
    with pytest.raises(UsageError, match="no metric 'b', an objective; it returned: a"):
        study.tell(trial, {"a": 1.0})
    study.tell(trial, {"a": 1.0, "b": 2.0})
    with pytest.raises(LeaseLostError, match="trial 0 is not leased"):
        study.tell(trial, {"a": 1.0, "b": 3.0})
    assert study.trials[0].values == {"a": 1.0, "b": 2.0}


def test_a_released_trial_comes_first_again() -> None:
    study = Study.create(space(), strategy="random")
    first, second = study.ask(2)
    study.release(first)
    third = study.ask()
    assert (third.number, third.config, third.record.attempt) == (0, first.config, 2)
    with pytest.raises(LeaseLostError):
        study.tell(first, 1.0)
    assert [study.tell(t, 1.0).number for t in (second, third)] == [1, 0]
    assert study.ask().number == 2


def test_infra_failures_are_retried_and_then_given_up() -> None:
    study = Study.create(space(), strategy="random")
    numbers = []
    for _ in range(4):
        trial = study.ask()
        numbers.append(trial.number)
        study.tell(trial, Failure("infra", "the node died"))
    assert numbers == [0, 0, 0, 1]
    assert study.trials[0].failure_kind is FailureKind.INFRA
    assert study.history.failed == () and study.history.pending == (study.trials[1],)


def test_a_budget_holds_however_many_ask_at_once(url: str) -> None:
    first = Study.create(space(), storage=url, strategy="random")
    second = Study.load("study", url)
    begun = [*first.ask(3, up_to=5), *second.ask(3, up_to=5)]
    assert sorted(t.number for t in begun) == [0, 1, 2, 3, 4]
    with pytest.raises(SpaceExhaustedError, match="the budget of 5 trials is spent"):
        first.ask(up_to=5)
    first.release(begun[0])
    assert second.ask(up_to=5).number == 0  # what waits is no new trial


def test_two_studies_on_one_store_never_hand_out_the_same(url: str) -> None:
    first = Study.create(space(), storage=url, strategy="random", seed=3)
    second = Study.load("study", url)
    trials = [trial for _ in range(6) for trial in (first.ask(), second.ask())]
    assert [t.number for t in trials] == list(range(12))
    assert len({json.dumps(t.config, sort_keys=True) for t in trials}) == 12
    for place, trial in enumerate(trials):
        (first, second)[place % 2].tell(trial, 1.0)
    assert first.trials == second.trials


def test_a_budget_below_the_baselines_ends_an_ask_among_others(url: str) -> None:
    baselines = {f"tile {tile}": {"tile": tile, "threads": 1} for tile in (8, 32, 64)}
    first = Study.create(space(), storage=url, strategy="random", baselines=baselines)
    other = Study.load("study", url)
    assert len([*first.ask(1, up_to=2), *other.ask(5, up_to=2)]) == 2
    for study in (first, other):
        with pytest.raises(SpaceExhaustedError, match="the budget of 2 trials is spent"):
            study.ask(5, up_to=2)


def test_an_ask_goes_on_where_others_are_quicker_and_draws_from_more_and_more(url: str) -> None:
    wanted: list[int] = []

    class InOrder(Strategy):
        """Proposes what comes next."""

        name, summary = "in-order", "for this test"

        def propose(self, history: History, n: int) -> list[Suggestion]:
            fresh = ({"x": x} for x in range(3000) if self.task.space.config_hash({"x": x}) not in history.hashes)
            return [self.suggestion(config) for config in itertools.islice(fresh, n)]

    class Outrun(InOrder):
        """As long as there is a rival, that one begins all that this proposes."""

        def propose(self, history: History, n: int) -> list[Suggestion]:
            wanted.append(n)
            if len(wanted) < 40:
                rival.ask(n)
            return super().propose(history, n)

    rival = Study.create(SearchSpace([Int("x", 0, 2999)]), storage=url, strategy=InOrder)
    rival.ask()  # the default
    begun = {Study.load("study", url, strategy=Outrun).ask().config["x"]}
    assert wanted == [1, 2, 4, 8, 16, *[32] * 35]
    assert len(rival.trials) == 1 + sum(wanted[:-1]) + 1
    for _ in range(3):  # with nobody else at work the first proposal is taken
        begun.add(rival.ask().config["x"])
    assert len(begun) == 4


def test_seeds_of_trials_depend_on_the_study_and_the_number() -> None:
    def seeds(seed: int) -> list[int]:
        return [t.seed for t in Study.create(space(), strategy="random", seed=seed).ask(4)]

    assert seeds(0) == seeds(0) and len({*seeds(0), *seeds(1)}) == 8


def test_a_lease_can_be_kept() -> None:
    study = Study.create(space())
    trial = study.ask()
    study.keep(trial)
    study.tell(trial, 1.0)
    with pytest.raises(LeaseLostError):
        study.keep(trial)


def test_reports_and_environments_are_stored(url: str) -> None:
    study = Study.create(space(), storage=url, profile=Profile("host", {"cpu": "x"}, "tiers", {"a": 1}))
    study.set_environment("host", {"cpu": "x"})
    trial = study.ask()
    study.report(trial, 1, {"loss": 0.5})
    assert study.store.reports(trial.record.id) == [(1, "loss", 0.5)]
    assert study.record.profile_id is not None
    assert study.store.profile(study.record.profile_id).payload == {"a": 1}


def test_a_frame_has_a_row_per_trial() -> None:
    vector = SearchSpace([Float("b", 0, 1, size=2), Int("n", 0, 9)])
    study = Study.create(vector, "x_ms", strategy="random")
    study.tell(study.ask(), Measurement({"x_ms": Metric(2.0, 0.5), "y": Metric(1.0)}))
    study.tell(study.ask(), Failure("crash", "boom"))
    frame = study.frame()
    assert frame["number"].tolist() == [0, 1] and frame["state"].tolist() == ["completed", "failed"]
    assert frame["config.b"][0] == study.trials[0].config["b"] and frame["config.n"].notna().all()
    assert (frame["x_ms"][0], frame["x_ms.half_width"][0], frame["y"][0]) == (2.0, 0.5, 1.0)
    assert (
        math.isnan(frame["x_ms"][1]) and frame["failure_kind"][1] == "crash" and frame["failure_message"][1] == "boom"
    )


# Bad input; nothing is written


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"objectives": []}, "objectives is empty"),
        ({"objectives": "faster please now"}, "is not of the form"),
        ({"constraints": ["vram is small"]}, "outcome constraint 'vram is small'"),
        ({"strategy": "tpes"}, "strategy 'tpes' is unknown"),
        ({"strategy": "fixed-point"}, "needs a domain"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"budget": 0}, "budget is 0"),
        ({"default": {"tile": 64, "threads": 8}}, "default configuration is not feasible: "),
        ({"default": {"tile": 8}}, "default configuration is not feasible: "),
        ({"baselines": {"x": {"tile": 9, "threads": 1}}}, "baseline 'x' configuration is not feasible: "),
        (
            {"baselines": {"default": {"tile": 8, "threads": 1}}},
            "baseline name 'default' is the default configuration's",
        ),
        ({"baselines": {"": {"tile": 8, "threads": 1}}}, "baseline name '' cannot be used"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_writes_nothing(url: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as told:
        Study.create(space(), storage=url, **settings)
    assert says in str(told.value) and "\n" not in str(told.value)
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_an_empty_space_is_refused_before_anything_is_written(url: str) -> None:
    with pytest.raises(EmptySpaceError, match="a > 9"):
        Study.create(SearchSpace([Int("a", 0, 9)], ["a > 9"]), storage=url)
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_asking_for_no_trial_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="n is 0; give a whole number of 1 or more"):
        Study.create(space()).ask(0)


# Going on


def test_a_study_is_gone_on_with_where_it_stopped(url: str) -> None:
    study = Study.create(
        space(), "x", storage=url, strategy="random", seed=4, baselines={"w": {"tile": 8, "threads": 8}}
    )
    for _ in range(3):
        study.tell(study.ask(), 1.0)
    again = Study.load("study", url)
    assert again.trials == study.trials
    trial = again.ask()
    assert trial.number == 3
    assert trial.config not in [t.config for t in study.trials[:3]]


def test_another_space_is_refused(url: str) -> None:
    Study.create(space(), storage=url)
    with pytest.raises(UsageError, match="has another search space; choose another study name"):
        Study.load("study", url, space=SearchSpace([Int("a", 0, 9)]))
    with pytest.raises(UsageError, match="exists already"):
        Study.create(space(), storage=url)
    with pytest.raises(UsageError, match=r"'other' does not exist .* it holds: study"):
        Study.load("other", url)


def test_constraints_that_are_functions_have_to_be_given_again(url: str) -> None:
    def fits(tile: int, threads: int) -> bool:
        return tile * threads < 100

    def make(check: Callable[..., bool]) -> SearchSpace:
        return SearchSpace([Ordinal("tile", [8, 16, 32, 64]), Int("threads", 1, 8)], [check])

    Study.create(make(fits), storage=url, strategy="random")
    with pytest.raises(
        UsageError, match="has the constraint 'fits', a function, which a database cannot hold; pass space="
    ):
        Study.load("study", url)
    study = Study.load("study", url, space=make(fits))
    assert all(t.config["tile"] * t.config["threads"] < 100 for t in study.ask(8))
    viewed = Study.view(Store(url, read_only=True), study.record)
    assert len(viewed.trials) == 8
    with pytest.raises(UsageError, match=r"was opened to look at; use Study\.load"):
        viewed.ask()


def test_a_strategy_of_the_callers_own_has_to_be_given_again(url: str) -> None:
    class Countdown(Strategy):
        """Proposes the largest tile that is left."""

        name, summary = "countdown", "for this test"

        def propose(self, history: History, n: int) -> list[Suggestion]:
            left = [{"tile": t, "threads": 1} for t in (64, 32, 16, 8)]
            fresh = [c for c in left if self.task.space.config_hash(c) not in history.hashes]
            return [self.suggestion(c, left=len(fresh)) for c in fresh[:n]]

    study = Study.create(space(), storage=url, strategy=Countdown, default={"tile": 16, "threads": 1})
    assert [t.config["tile"] for t in study.ask(3)] == [16, 64, 32]
    with pytest.raises(UsageError, match="'countdown', a strategy that the caller supplied"):
        Study.load("study", url)
    last = Study.load("study", url, strategy=Countdown).ask()
    assert (last.config["tile"], last.record.notes, last.record.proposer) == (8, {"left": 1}, "countdown")


def test_a_strategy_that_repeats_itself_ends_the_search_and_measures_nothing_twice(url: str) -> None:
    class Stubborn(Strategy):
        """Proposes one and the same configuration, several times at once."""

        name, summary = "stubborn", "for this test"

        def propose(self, history: History, n: int) -> list[Suggestion]:
            return [self.suggestion({"tile": 8, "threads": 1})] * n

    study = Study.create(space(), storage=url, strategy=Stubborn)
    other = Study.load("study", url, strategy=Stubborn)
    assert [t.config["tile"] for t in study.ask(4)] == [16, 8]
    for asked in (study, other):
        with pytest.raises(SpaceExhaustedError, match="nothing left to propose after 2 trials"):
            asked.ask(2)
    assert len(other.trials) == 2


def test_a_killed_worker_loses_nothing_that_it_told(url: str) -> None:
    script = """
        import os, signal, sys
        from autotune import Study
        study = Study.load("study", sys.argv[1])
        for _ in range(4):
            study.tell(study.ask(), 1.0)
        study.ask()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    Study.create(space(), storage=url, strategy="random", seed=1)
    command = [sys.executable, "-c", textwrap.dedent(script), url]
    assert subprocess.run(command, cwd=ROOT, check=False, env=dict(os.environ)).returncode == -signal.SIGKILL
    study = Study.load("study", url)
    assert [t.state for t in study.trials] == ["completed"] * 4 + ["running"]
    trial = study.ask()
    assert (trial.number, trial.record.attempt, trial.config) == (4, 2, dict(study.trials[4].config))
    whole = Study.create(space(), strategy="random", seed=1)
    for _ in range(4):
        whole.tell(whole.ask(), 1.0)
    assert trial.config == whole.ask().config  # as if it had not been killed

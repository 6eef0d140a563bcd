"""Trials that end early, through the whole engine: search, ask and tell, the store, resumption and what is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autotune
from autotune import (
    Failure,
    Int,
    LeaseLostError,
    Problem,
    Pruned,
    Report,
    Result,
    SearchSpace,
    Study,
    UsageError,
)
from autotune.integrations.optuna_export import export_study
from autotune.opening import open_study
from autotune.store import Store, TrialRecord, TrialState

SPACE = SearchSpace([Int("x", 0, 11, default=5)])
GOAL = "minimize energy_j"
GROWS = {"accumulating": ["energy_j"], "progress": "maximize accuracy"}
Config = dict[str, Any]


def reports(result: Result) -> int:
    """Steps that all trials have reported together: what the search has spent."""
    stored = result.study.store.reports_of([t.id for t in result.study.trials])
    return sum(len({step for step, _, _ in rows}) for rows in stored.values())


def cost_to_target(curves: list[tuple[float, float]]) -> Callable[..., dict[str, float]]:
    """Steps until an accuracy of 0.9, by a rate of learning and a cost of a step for each configuration."""

    def evaluate(config: Config, report: Report) -> dict[str, float]:
        rate, cost = curves[config["x"]]
        energy, accuracy, step = 0.0, 0.0, 0
        while accuracy < 0.9:
            energy, accuracy = energy + cost, 1.0 - (1.0 - rate) ** (step + 1)
            report(step, energy_j=energy, accuracy=accuracy)
            step += 1
        return {"energy_j": energy}

    return evaluate


CURVES = [(0.05 + 0.04 * ((5 * x) % 12), 1.0 + (x % 5)) for x in range(12)]
curve_lists = st.lists(st.tuples(st.floats(0.05, 0.9), st.sampled_from([0.5, 1.0, 2.0, 3.5])), min_size=12, max_size=12)


def searched(evaluate: Callable[..., Any], pruner: str | None = "bound", **given: Any) -> Result:
    defaults: dict[str, Any] = {"strategy": "exhaustive", "trials": 12, "pruner_options": GROWS}
    return autotune.search(SPACE, evaluate, GOAL, pruner=pruner, **{**defaults, **given})


# What ends, and what never does


@settings(max_examples=8, deadline=None)
@given(curve_lists, st.integers(0, 5))
def test_bound_finds_the_best_of_an_exhaustive_search_and_never_spends_more(
    curves: list[tuple[float, float]], seed: int
) -> None:
    evaluate = cost_to_target(curves)
    whole, bounded = (searched(evaluate, pruner, seed=seed) for pruner in ("none", "bound"))
    assert whole.best is not None and bounded.best is not None
    assert (bounded.best.config, bounded.best.metrics) == (whole.best.config, whole.best.metrics)
    assert reports(bounded) <= reports(whole)
    assert bounded.trials["completed"] + bounded.trials["pruned"] == 12 == whole.trials["completed"]
    assert bounded.trials["failed"] == 0 and bounded.trials["failures"] == {}


@pytest.mark.parametrize("pruner", ["bound", "median", "asha", "race"])
def test_every_pruner_spends_less_and_leaves_the_default_and_baselines_alone(pruner: str) -> None:
    worst = max(range(12), key=lambda x: math.log(0.1) / math.log(1 - CURVES[x][0]) * CURVES[x][1])
    evaluate = cost_to_target(CURVES)
    whole = searched(evaluate, "none")
    pruned = searched(evaluate, pruner, baselines={"worst": {"x": worst}})
    assert pruned.default is not None and pruned.baselines["worst"].config == {"x": worst}
    assert pruned.trials["pruned"] > 0 and reports(pruned) < reports(whole)
    ended = [t for t in pruned.study.trials if t.state is TrialState.PRUNED]
    assert all(t.metrics == {} and t.failure_kind is None for t in ended)
    assert all((t.failure_message or "").startswith(("bound: ", f"{pruner}: ")) for t in ended)
    assert pruned.trials["total"] == 12  # pruned trials are of the budget


def test_a_broken_limit_ends_a_trial_at_once_though_nothing_is_feasible() -> None:
    def evaluate(config: Config, report: Report) -> dict[str, float]:
        for step in range(10):
            report(step, energy_j=float(step))
        return {"energy_j": 9.0, "seconds": float(config["x"])}

    result = autotune.search(
        SPACE, evaluate, "minimize seconds", constraints=["energy_j <= 3"], pruner="bound", trials=3,
        pruner_options={"accumulating": "energy_j"},
    )  # fmt: skip
    assert [t.state for t in result.study.trials] == ["completed", "pruned", "pruned"]
    assert [t.reported_step for t in result.study.trials] == [None, 4, 4]
    assert result.best is None


def test_a_signal_that_an_evaluator_swallows_ends_its_trial_all_the_same() -> None:
    def stubborn(config: Config, report: Report) -> dict[str, float]:
        for step in range(5):
            try:
                report(step, energy_j=100.0 + step)
            except BaseException:
                return {"energy_j": 0.0}  # of a part of its work
        return {"energy_j": 100.0}

    def lenient(config: Config, report: Report) -> dict[str, float]:
        try:
            report(0, energy_j=100.0)
        except Exception:
            pytest.fail("an ordinary handler saw the signal")
        return {"energy_j": 100.0}

    for evaluate in (stubborn, lenient):
        result = searched(evaluate, trials=3)
        assert [t.state for t in result.study.trials] == ["completed", "pruned", "pruned"]
        assert result.best is not None and result.best.metrics == {"energy_j": 100.0}


def test_an_evaluator_may_end_a_trial_by_a_rule_of_its_own() -> None:
    def evaluate(config: Config, report: Report) -> float:
        report(0, energy_j=7.0, loss=math.nan)
        if config["x"] % 2:
            raise Pruned("the loss is no number")
        return 1.0

    result = searched(evaluate, "none", trials=12)
    assert result.trials["pruned"] == 6  # the default among them, as nobody else decided it
    ended = result.study.trials[0]
    assert (ended.state, ended.failure_message, ended.reported) == (
        "pruned",
        "the loss is no number",
        {"energy_j": 7.0},
    )


def test_replicates_and_cheaper_evaluators_are_never_ended() -> None:
    def evaluate(config: Config, report: Report) -> float:
        for step in range(4):
            report(step, energy_j=10.0 * (step + 1))
        return 40.0

    result = autotune.search(
        SPACE, {"short": evaluate, "full": evaluate}, GOAL, trials=12, strategy="bo", costs={"short": 0.1},
        pruner="bound", pruner_options=GROWS,
    )  # fmt: skip
    cheaper = [t for t in result.study.trials if not t.counts]
    assert cheaper and {t.state for t in cheaper} == {TrialState.COMPLETED}
    again = Study.create(SPACE, GOAL, pruner="bound", pruner_options=GROWS, strategy=Repeating)
    first = again.ask()
    again.tell(first, 1.0)
    second = again.ask()
    assert second.config == first.config
    again.report(second, 0, {"energy_j": 5.0})
    assert again.should_stop(second) is None


class Repeating(autotune.Strategy):
    """Measures the default again and again."""

    name = "repeating"
    summary = "the default again"

    def propose(self, history: autotune.History, n: int) -> list[autotune.Suggestion]:
        return [autotune.Suggestion(dict(history.task.default), self.name, replicate=True)]


# Reports


def test_a_thousand_reports_are_all_kept_in_few_transactions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    writes: list[int] = []
    write = Store.report_all

    def counted(store: Store, trial: TrialRecord, rows: Any) -> None:
        writes.append(len(rows))
        write(store, trial, rows)

    monkeypatch.setattr(Store, "report_all", counted)

    def evaluate(config: Config, report: Report) -> float:
        for step in range(1000):
            report(step, loss=1.0 / (step + 1), other=math.nan if step % 2 else math.inf)
        return 1.0

    result = autotune.search(SPACE, evaluate, "value", trials=1, storage=f"sqlite:///{tmp_path / 'runs.db'}")
    rows = result.study.store.reports(result.study.trials[0].id)
    assert len(rows) == 2000 and sum(writes) == 1000
    assert {s: v for s, m, v in rows if m == "loss"} == {s: 1.0 / (s + 1) for s in range(1000)}
    assert math.isinf(rows[1][2]) and math.isnan(rows[3][2])
    assert len(writes) <= 1 + result.seconds["total"] / 0.25 + 1


def test_reports_survive_a_crash_and_a_trial_that_is_taken_over_begins_anew(tmp_path: Path) -> None:
    def crash(config: Config, report: Report) -> float:
        for step in range(3):
            report(step, loss=float(step))
        raise RuntimeError("gone")

    crashed = autotune.search(SPACE, crash, "value", trials=1, storage=f"sqlite:///{tmp_path / 'a.db'}").study
    assert crashed.trials[0].state is TrialState.FAILED
    assert crashed.store.reports(crashed.trials[0].id) == [(s, "loss", float(s)) for s in range(3)]

    study = Study.create(SPACE, storage=f"sqlite:///{tmp_path / 'b.db'}")
    trial = study.ask()
    study.report(trial, 0, {"loss": 0.0})
    study.report(trial, 1, {"loss": 0.0})
    study.release(trial)
    with pytest.raises(LeaseLostError, match="not leased to"):
        study.report(trial, 2, {"loss": 0.0})
    again = study.ask()
    assert again.number == trial.number
    study.report(again, 0, {"loss": 5.0})  # not a second report of a step
    assert study.store.reports(again.record.id) == [(0, "loss", 5.0)]


@pytest.mark.parametrize(
    ("reported", "said"),
    [
        ([(0, {"a": 1.0}), (0, {"a": 2.0})], "the step of a report is 0 after 0; count steps up"),
        ([(-1, {"a": 1.0})], "the step of a report is -1; give a whole number"),
        ([(1.5, {"a": 1.0})], "the step of a report is 1.5; give a whole number"),
        ([(0, {"a": "high"})], "the reported metric 'a' is a str; report a number"),
        ([(0, {"a\n": 1.0})], "the reported metric 'a\\\\n' cannot be used"),
    ],
)
@pytest.mark.parametrize("warmup", [0, 1])  # reports that nobody keeps are checked as well
def test_reports_that_cannot_be_used_end_the_search(
    reported: list[tuple[Any, dict[str, Any]]], said: str, warmup: int
) -> None:
    def evaluate(config: Config, report: Report) -> float:
        for step, values in reported:
            report(step, **values)
        return 1.0

    with pytest.raises(UsageError, match=said):
        autotune.search(SPACE, evaluate, "value", trials=1, protocol=autotune.Protocol(warmup, 1, 1, None))


def test_only_the_first_counted_run_of_several_reports() -> None:
    calls: list[int] = []

    def evaluate(config: Config, report: Report) -> float:
        calls.append(len(calls))
        report(0, loss=float(len(calls)))
        return 1.0

    protocol = autotune.Protocol(warmup=2, min_repeats=3, max_repeats=3, target=None)
    study = autotune.search(SPACE, evaluate, "value", trials=1, protocol=protocol).study
    assert len(calls) == 5 and study.store.reports(study.trials[0].id) == [(0, "loss", 3.0)]


# Ask and tell


def test_ask_and_tell() -> None:
    study = Study.create(SPACE, GOAL, strategy="random", pruner="bound", pruner_options=GROWS)
    study.tell(study.ask(), 10.0)
    trial = study.ask()
    assert study.should_stop(trial) is None
    study.report(trial, 0, {"energy_j": 4.0, "accuracy": 0.3})
    assert study.should_stop(trial) is None
    study.report(trial, 7, {"energy_j": 12.0, "accuracy": math.nan})
    reason = study.should_stop(trial)
    assert reason == "bound: energy_j is 12 by step 7, no better than 10 of trial 0"
    record = study.prune(trial, reason, evaluate_s=2.0)
    assert (record.state, record.failure_message, record.evaluate_s) == (TrialState.PRUNED, reason, 2.0)
    assert record == study.store.trials(study.record.id)[1]
    assert (record.reported, record.reported_step) == ({"energy_j": 12.0, "accuracy": 0.3}, 7)
    assert (record.reported_at_least, record.reported_progress) == ({"energy_j": 12.0}, -0.3)
    with pytest.raises(LeaseLostError):
        study.tell(trial, 1.0)
    other = study.ask()
    study.tell(other, Pruned())  # without a report, and without a reason
    assert study.trials[2].state is TrialState.PRUNED and study.trials[2].reported == {}
    assert study.best is not None and study.best.number == 0
    assert study.history.failed == () and len(study.history.pruned) == 2


def test_workers_see_what_others_have_measured_meanwhile(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    one = Study.create(SPACE, GOAL, storage=url, strategy="random", pruner="bound", pruner_options=GROWS)
    one.tell(one.ask(), 10.0)
    slow = one.ask()
    one.report(slow, 0, {"energy_j": 6.0})
    assert one.should_stop(slow) is None
    other = Study.load("study", url)
    quick = other.ask()
    other.tell(quick, 5.0)
    assert one.should_stop(slow) == f"bound: energy_j is 6 by step 0, no better than 5 of trial {quick.number}"


# Going on, and doing it again


def test_the_same_seed_prunes_the_same_and_a_resumed_search_goes_on_alike(tmp_path: Path) -> None:
    evaluate = cost_to_target(CURVES)

    def told(result: Result) -> list[tuple[Any, ...]]:
        return [(t.config, t.state, t.failure_message, t.notes) for t in result.study.trials]

    def run(name: str, trials: int, **given: Any) -> Result:
        return autotune.search(
            SPACE, evaluate, GOAL, strategy="bo", trials=trials, storage=f"sqlite:///{tmp_path / name}.db", **given
        )

    options = {"pruner": "race", "pruner_options": GROWS | {"slack": 0.8}}
    whole = run("whole", 10, **options)
    assert whole.trials["pruned"] > 2
    assert told(run("again", 10, **options)) == told(whole)
    run("parts", 4, **options)
    assert told(run("parts", 10)) == told(whole)  # the pruner is the study's
    assert told(run("parts", 10, pruner="race")) == told(whole)
    for other in ({"pruner": "none"}, {"pruner": "race", "pruner_options": GROWS}, {"pruner": "median"}):
        with pytest.raises(UsageError, match=r"has the pruner .*race \(accumulating energy_j, .*slack 0.8\)"):
            run("parts", 11, **other)


def test_a_domains_declarations_are_used_and_kept() -> None:
    problem = Problem(
        SPACE, (GOAL,), {"x": 5}, {"full": cost_to_target(CURVES)}, accumulating=("energy_j",), pruner="median",
        progress="maximize accuracy", pruner_options={"least_trials": 2},
    )  # fmt: skip
    study = open_study(problem, fidelities=["full"])
    assert study.record.options["pruning"] == {
        "pruner": "median",
        "options": {"accumulating": ["energy_j"], "progress": "maximize accuracy", "least_trials": 2},
    }
    without = open_study(problem, fidelities=["full"], pruner="none", storage=Store())
    assert "pruning" not in without.record.options


# What is learned, and what is told


def test_bo_learns_that_what_was_pruned_is_no_better_than_its_bound() -> None:
    """All is pruned on one side; a search that learned nothing of it would look there as often as on the other."""
    space = SearchSpace([Int("x", 0, 400, default=400)])

    def evaluate(config: Config, report: Report) -> float:
        cost = 50.0 + abs(config["x"] - 300) / 10.0 if config["x"] > 200 else 1e4
        for step in range(12):
            report(step, energy_j=cost * (step + 1) / 12)
        return cost

    result = autotune.search(space, evaluate, GOAL, strategy="bo", trials=30, pruner="bound", pruner_options=GROWS)
    left = [t.config["x"] <= 200 for t in result.study.trials[10:]]
    assert result.trials["pruned"] > 10
    assert sum(left) <= len(left) / 4
    assert result.best is not None and abs(result.best.config["x"] - 300) <= 5


def test_optuna_sees_pruned_trials_with_what_they_reported(tmp_path: Path) -> None:
    study = searched(cost_to_target(CURVES), "race", strategy="random").study
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    assert export_study(study, url) == 12
    copy = optuna.load_study(study_name="study", storage=url)
    assert [t.state.name for t in copy.trials] == [
        "PRUNED" if t.state is TrialState.PRUNED else "COMPLETE" for t in study.trials
    ]
    for ours, theirs in zip(study.trials, copy.trials, strict=True):
        stored = {s: v for s, m, v in study.store.reports(ours.id) if m == "accuracy"}
        assert theirs.intermediate_values == stored and stored
        if ours.state is TrialState.PRUNED:
            assert theirs.user_attrs["pruned"] == ours.failure_message
            assert theirs.user_attrs["reported.energy_j"] == ours.reported["energy_j"]
    assert study.best is not None and copy.best_value == study.best.values["energy_j"]


def test_a_table_of_trials_has_what_pruned_ones_reported() -> None:
    result = searched(cost_to_target(CURVES))
    frame = result.frame()
    ended = frame[frame.state == "pruned"]
    assert len(ended) == result.trials["pruned"] > 0
    assert ended.energy_j.isna().all() and (ended["reported.energy_j"] > 0).all()
    assert ended.failure_message.str.startswith("bound: ").all() and ended.failure_kind.isna().all()


def test_a_pruned_trial_is_no_source_of_a_later_study() -> None:
    store = Store()
    first = Study.create(SPACE, GOAL, storage=store, name="first", strategy="random")
    for value in (3.0, Failure("oom"), Pruned("enough"), 2.0):
        first.tell(first.ask(), value)
    second = Study.create(SPACE, GOAL, storage=store, name="second", strategy="bo", transfer_from="first")
    (source,) = second._task.sources
    assert [t.state for t in source.trials] == ["completed", "failed", "completed"]

"""Intermediate reports by each way of running an evaluator: all of them arrive, in order, and each is answered."""

from __future__ import annotations

import os
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import isolated_evaluators as evaluators
import pytest

import autotune
from autotune import Failure, InProcess, Int, Isolated, Protocol, Pruned, Report, SearchSpace, UsageError
from autotune.command import CommandEvaluator, CommandSpec
from autotune.execution import Runner
from autotune.store import TrialState


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    with Isolated(["y"]) as runner:
        yield runner


@pytest.fixture(params=["in process", "isolated"])
def runner(request: pytest.FixtureRequest) -> Runner:
    return InProcess(["y"]) if request.param == "in process" else request.getfixturevalue("isolated")


class Heard:
    """Keeps reports, and asks for the end at one of them."""

    def __init__(self, end: int | None = None) -> None:
        self.steps: list[int] = []
        self.pids: set[float] = set()
        self.end = end

    def __call__(self, step: int, **metrics: float) -> None:
        self.steps.append(step)
        self.pids.add(metrics.get("pid", 0.0))
        if step == self.end:
            raise Pruned("enough")


@pytest.mark.parametrize("config", [{"steps": 300}, {"steps": 50, "thread": True}, {"steps": 0}])
def test_every_report_arrives_in_order(runner: Runner, config: dict[str, Any]) -> None:
    heard = Heard()
    assert runner.run(evaluators.climb, config, 0, heard).values() == {"y": float(config["steps"])}
    assert heard.steps == list(range(config["steps"]))
    assert (os.getpid() in heard.pids) == (isinstance(runner, InProcess) and config["steps"] > 0)


def test_an_answer_ends_the_evaluation_at_that_report_and_the_process_is_used_again(isolated: Isolated) -> None:
    def pid() -> float:
        return isolated.run(evaluators.behave, {"do": "pid"}, 0).values()["y"]

    for runner in (InProcess(["y"]), isolated):
        heard = Heard(end=7)
        with pytest.raises(Pruned, match="enough"):
            runner.run(evaluators.climb, {"steps": 100}, 0, heard)
        assert heard.steps == list(range(8))
    heard = Heard(end=3)
    before = Heard()
    isolated.run(evaluators.climb, {"steps": 1}, 0, before)
    with pytest.raises(Pruned):
        isolated.run(evaluators.climb, {"steps": 100}, 0, heard)
    after = Heard()
    isolated.run(evaluators.climb, {"steps": 1}, 0, after)
    assert before.pids == heard.pids == after.pids != {float(os.getpid())}
    assert pid() == pid()


def test_a_trial_that_is_ended_early_keeps_what_it_printed(isolated: Isolated) -> None:
    result = autotune.search(
        SearchSpace([Int("steps", 1, 9, default=1)]), evaluators.climb_aloud, "y", trials=2, runner=isolated, pruner="bound",
        pruner_options={"accumulating": "y"}, strategy="random",
    )  # fmt: skip
    default, other = result.study.trials
    assert (default.state, other.state) == (TrialState.COMPLETED, TrialState.PRUNED)
    assert result.study.store.log(default.id) == "0.0\n"
    assert result.study.store.log(other.id) == "0.0\n1.0\n"


def test_reports_are_of_the_first_counted_run_and_without_a_listener_they_are_ignored(runner: Runner) -> None:
    heard = Heard()
    several = InProcess(["y"], Protocol(1, 3, 3, None))
    several.run(evaluators.climb, {"steps": 4}, 0, heard)
    assert heard.steps == [0, 1, 2, 3]
    assert runner.run(evaluators.climb, {"steps": 4}, 0).values() == {"y": 4.0}


@pytest.mark.parametrize(("then", "kind"), [("abort", "crash"), ("raise", "crash"), ("invalid", "invalid")])
def test_what_was_reported_before_an_isolated_evaluator_died_is_kept(tmp_path: Path, then: str, kind: str) -> None:
    space = SearchSpace([Int("steps", 3, 3), autotune.Categorical("then", [then])])
    with Isolated(["y"]) as runner:
        study = autotune.search(
            space, evaluators.climb, "y", trials=1, runner=runner, storage=f"sqlite:///{tmp_path / 'runs.db'}"
        ).study
    (trial,) = study.trials
    assert (trial.state, trial.failure_kind) == (TrialState.FAILED, kind)
    assert [s for s, metric, _ in study.store.reports(trial.id) if metric == "y"] == [0, 1, 2]


def test_reporting_without_end_does_not_hide_a_time_limit() -> None:
    with Isolated(["y"], time_limit_s=1.0) as runner, pytest.raises(Failure, match=r"timeout: no result within 1 s"):
        runner.run(evaluators.stubborn, {}, 0, Heard(end=2))


def test_a_thread_that_is_left_behind_and_reports_later_harms_nothing(runner: Runner) -> None:
    heard = Heard()
    for _ in range(2):
        assert runner.run(evaluators.leaves_a_thread, {}, 0, heard).values() == {"y": 1.0}
    time.sleep(0.3)
    assert runner.run(evaluators.climb, {"steps": 2}, 0, heard).values() == {"y": 2.0}
    if isinstance(runner, Isolated):
        assert heard.steps == [0, 0, 0, 1]


def test_a_search_hears_nothing_of_a_trial_that_has_ended() -> None:
    late: list[BaseException] = []

    def evaluate(config: dict[str, Any], report: Report) -> float:
        def later() -> None:
            time.sleep(0.1)
            try:
                report(1, y=2.0)
            except Pruned as told:
                late.append(told)

        report(0, y=1.0)
        threads.append(threading.Thread(target=later))
        threads[-1].start()
        return 1.0

    threads: list[threading.Thread] = []
    study = autotune.search(SearchSpace([Int("x", 0, 1)]), evaluate, "y", trials=2).study
    for thread in threads:
        thread.join()
    assert [study.store.reports(t.id) for t in study.trials] == [[(0, "y", 1.0)]] * 2
    assert [str(told) for told in late] == ["the evaluation has ended already"] * 2


def test_a_report_that_cannot_be_used_is_told_where_it_was_made(isolated: Isolated) -> None:
    with pytest.raises(UsageError, match="the step of a report is 0 after 0; count steps up"):
        isolated.run(evaluators.repeats_a_step, {}, 0, Heard())


# A command


def command(source: str, **fields: Any) -> CommandEvaluator:
    source = "import json, sys, time\n" + textwrap.dedent(source)
    given = {
        "parameters": {"x": {"type": "int", "low": 0, "high": 100}},
        "objectives": ["y"],
        "command": ["{python}", "-u", "-c", source.replace("{", "{{").replace("}", "}}"), "{x}"],
        **fields,
    }
    return CommandEvaluator(CommandSpec.model_validate(given))


def test_lines_of_a_command_that_are_reports() -> None:
    source = """
    for step in range(5):
        print("step", step, "of 5")
        print(json.dumps({"step": step, "loss": 1.0 / (step + 1), "phase": "train", "ok": True}))
    print(json.dumps({"step": 2, "loss": 9.0}), '{"step": ', '[1]', sep="\\n")
    print('{"step": 9, "loss": null}')
    print(json.dumps({"step": "ten"}))
    print(json.dumps({"y": 3.0}))
    """
    heard: list[tuple[int, dict[str, float]]] = []
    measured = InProcess(["y"]).run(command(source), {"x": 1}, 0, lambda step, **values: heard.append((step, values)))
    assert measured.values()["y"] == 3.0
    assert heard[:5] == [(step, {"loss": 1.0 / (step + 1), "ok": 1.0}) for step in range(5)]
    assert [(step, str(values["loss"])) for step, values in heard[5:]] == [(9, "nan")]


def test_a_command_is_ended_when_its_trial_is(tmp_path: Path) -> None:
    source = """
    for step in range(600):
        print(json.dumps({"step": step, "y": step + int(sys.argv[1])}))
        time.sleep(0.0 if sys.argv[1] == "0" or step < 30 else 1.0)
        if sys.argv[1] == "0" and step == 20:
            break
    print(json.dumps({"y": step}))
    """
    result = autotune.search(
        SearchSpace([Int("x", 0, 100, default=0)]), command(source), "y", trials=2, pruner="bound",
        pruner_options={"accumulating": "y"}, strategy="random",
    )  # fmt: skip
    default, other = result.study.trials
    assert (default.state, other.state) == (TrialState.COMPLETED, TrialState.PRUNED)
    assert other.reported_at_least["y"] == max(20.0, other.config["x"])
    log = result.study.store.log(other.id)
    assert log is not None and log.startswith(f'{{"step": 0, "y": {other.config["x"]}}}\n')

"""`autotune.search`: budgets, evaluators that fail in every way, interruption, and the result."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autotune
import autotune.loop
from autotune import (
    Failure,
    FailureKind,
    Int,
    Measurement,
    Metric,
    Ordinal,
    Progress,
    Protocol,
    SearchSpace,
    Store,
    UsageError,
)
from autotune.hardware import current_environment
from autotune.heartbeat import Heartbeat
from autotune.result import Result
from autotune.store import TrialState
from autotune.study import Study


def space() -> SearchSpace:
    return SearchSpace([Ordinal("tile", [8, 16, 32, 64], default=16), Int("threads", 1, 8, default=4)])


def latency(config: dict[str, Any]) -> float:
    return abs(config["tile"] - 32) + abs(config["threads"] - 6) + 1.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune.loop, "_INFRA_PAUSE_S", 0.0)


def test_a_worker_that_makes_the_study_a_moment_too_late_joins_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    autotune.search(space(), latency, "latency_ms", trials=3, storage=url)
    found = Store.find_study
    looked = iter([None])  # the first look came before the other worker made it

    def look(store: Store, name: str) -> Any:
        return next(looked, found(store, name))

    monkeypatch.setattr(Store, "find_study", look)
    result = autotune.search(space(), latency, "latency_ms", trials=5, storage=url)
    assert result.trials["total"] == 5


def test_a_search_finds_the_best_of_a_small_space() -> None:
    result = autotune.search(space(), latency, "latency_ms", trials=40)
    assert result.best is not None and result.best.config == {"tile": 32, "threads": 6}
    assert result.best.metrics == {"latency_ms": 1.0}
    assert result.default is not None and result.default.number == 0 and result.default.metrics == {"latency_ms": 19.0}
    assert result.gain == pytest.approx(18 / 19)
    assert result.trials["completed"] == result.trials["total"] == 32 == space().size
    assert "nothing left to propose after 32 trials of 32" in (result.stop_reason or "")
    assert result.study.store.load_study("study").state == "done"


def test_the_budget_counts_everything_in_the_study(url: str) -> None:
    calls: list[dict[str, Any]] = []

    def evaluate(config: dict[str, Any]) -> float:
        calls.append(config)
        return latency(config)

    settings: dict[str, Any] = {"strategy": "random", "storage": url, "study": "a"}
    baselines = {"wide": {"tile": 8, "threads": 8}}
    first = autotune.search(space(), evaluate, trials=5, baselines=baselines, **settings)
    assert len(calls) == 5 and first.trials["completed"] == 5 and first.baselines["wide"].number == 1
    again = autotune.search(space(), evaluate, trials=8, baselines=baselines, **settings)
    assert len(calls) == 8 and again.trials["completed"] == 8 and again.baselines["wide"].number == 1
    assert autotune.search(space(), evaluate, trials=8, **settings).trials["completed"] == 8 and len(calls) == 8
    whole = autotune.search(space(), latency, trials=8, baselines=baselines, strategy="random")
    assert [t.config for t in whole.study.trials] == [t.config for t in again.study.trials]


def test_progress_is_told_after_every_trial() -> None:
    seen: list[Progress] = []
    result = autotune.search(space(), latency, "latency_ms", trials=6, strategy="random", callback=seen.append)
    assert [p.trial.number for p in seen] == list(range(6)) and [p.budget for p in seen] == [6] * 6
    assert seen[0].gain == 0.0 and seen[-1].gain == result.gain
    assert [p.counts["completed"] for p in seen] == [1, 2, 3, 4, 5, 6]
    incumbents = [p.best.values["latency_ms"] for p in seen if p.best is not None]
    assert incumbents == sorted(incumbents, reverse=True)
    assert seen[-1].remaining_s == 0.0 and all(p.remaining_s is not None and p.remaining_s >= 0 for p in seen)


def test_a_search_can_be_walked_through_and_left(url: str) -> None:
    steps = autotune.search_iter(space(), latency, trials=10, strategy="random", storage=url)
    assert [next(steps).trial.number for _ in range(3)] == [0, 1, 2]
    steps.close()
    record = Store(url).load_study("study")
    assert (record.state, record.stop_reason) == ("interrupted", "the caller stopped iterating")
    assert len(Store(url).trials(record.id)) == 3


def test_a_time_limit_ends_the_search() -> None:
    result = autotune.search(space(), latency, timeout_s=1e-9, strategy="random")
    assert result.trials["total"] == 0 and result.best is None and result.default is None and result.gain is None
    assert result.stop_reason == "time limit of 1e-09 s reached"


def test_evaluators_take_a_seed_where_they_want_one() -> None:
    seeds: list[int] = []

    def evaluate(config: dict[str, Any], seed: int) -> float:
        seeds.append(seed)
        return float(seed)

    autotune.search(space(), evaluate, trials=4, strategy="random", seed=5)
    assert seeds == [t.seed for t in Study.create(space(), strategy="random", seed=5).ask(4)]


def test_repeats_are_kept_as_samples() -> None:
    result = autotune.search(
        space(), lambda c: 2.0, trials=1, protocol=Protocol(warmup=1, min_repeats=6, max_repeats=9)
    )
    (trial,) = result.study.trials
    assert trial.notes["repeats"] == 6
    assert result.study.store.samples(trial.id) == {"value": (2.0,) * 6}


# Evaluators that fail


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("evaluate", "kind", "message"),
    [
        (lambda c: _raise(MemoryError("no more")), "oom", "MemoryError: no more"),
        (lambda c: _raise(TimeoutError("slow")), "timeout", "TimeoutError: slow"),
        (lambda c: _raise(ZeroDivisionError("by 0")), "crash", "ZeroDivisionError: by 0"),
        (lambda c: _raise(SystemExit(3)), "crash", "SystemExit: 3"),
        (lambda c: _raise(Failure("invalid", "not here")), "invalid", "not here"),
        (lambda c: math.nan, "nan", "objective value is nan"),
        (lambda c: {"value": math.inf}, "nan", "objective value is inf"),
        (lambda c: _raise(Failure("infra", "gone")), "infra", "gone"),
    ],
)
def test_every_kind_of_failure_is_recorded_and_the_search_goes_on(evaluate: Any, kind: str, message: str) -> None:
    result = autotune.search(space(), evaluate, trials=3, strategy="random")
    assert result.trials["failed"] == 3 and result.trials["failures"] == {kind: 3}
    assert {t.failure_message for t in result.study.trials} == {message}
    assert result.best is None and result.pareto == () and result.stop_reason is not None
    attempts = {t.attempt for t in result.study.trials}
    assert attempts == ({3} if kind == "infra" else {1})


def test_an_infra_failure_that_passes_leaves_no_trace() -> None:
    left = [Failure("infra"), Failure("infra")]

    def evaluate(config: dict[str, Any]) -> float:
        return _raise(left.pop()) if left else latency(config)

    seen: list[Progress] = []
    result = autotune.search(space(), evaluate, trials=2, strategy="random", callback=seen.append)
    assert [t.state for t in result.study.trials] == ["completed"] * 2 and result.trials["failures"] == {}
    assert [p.trial.number for p in seen] == [0, 1]


@pytest.mark.parametrize("returned", [None, "fast", [1.0], {"speed": 1.0}, {"value": "x"}])
def test_what_no_configuration_could_mend_ends_the_search(url: str, returned: Any) -> None:
    with pytest.raises(UsageError, match=r"the evaluator returned|metric 'value' is a str"):
        autotune.search(space(), lambda c: returned, trials=3, storage=url)
    store = Store(url)
    record = store.load_study("study")
    assert record.state == "failed"
    assert [t.state for t in store.trials(record.id)] == [TrialState.WAITING]
    result = autotune.search(space(), latency, trials=3, storage=url)  # mended
    assert result.trials["completed"] == 3


def test_an_evaluator_cannot_change_the_stored_configuration() -> None:
    def evaluate(config: dict[str, Any]) -> float:
        value = latency(config)
        config.clear()
        return value

    result = autotune.search(space(), evaluate, trials=2, strategy="random")
    assert all(set(t.config) == {"tile", "threads"} for t in result.study.trials)


def test_an_interrupt_keeps_what_is_finished_and_gives_the_rest_back(url: str) -> None:
    def evaluate(config: dict[str, Any]) -> float:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(config)
        return latency(config)

    calls: list[dict[str, Any]] = []
    settings: dict[str, Any] = {"trials": 6, "strategy": "random", "storage": url}
    with pytest.raises(KeyboardInterrupt):
        autotune.search(space(), evaluate, **settings)
    store = Store(url)
    record = store.load_study("study")
    assert (record.state, record.stop_reason) == ("interrupted", "interrupted by the user")
    assert [t.state for t in store.trials(record.id)] == ["completed"] * 3 + ["waiting"]
    result = autotune.search(space(), latency, **settings)
    assert result.trials["completed"] == 6
    assert [t.config for t in result.study.trials] == [
        t.config for t in autotune.search(space(), latency, trials=6, strategy="random").study.trials
    ]


def test_an_error_of_the_callback_is_the_callers(url: str) -> None:
    def callback(progress: Progress) -> None:
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        autotune.search(space(), latency, trials=3, storage=url, callback=callback)
    assert [t.state for t in Store(url).trials(1)] == ["completed"]


def test_a_trial_that_another_worker_took_is_left_to_it(url: str) -> None:
    """Our lease runs out in the middle of an evaluation, and the trial is given away and told by somebody else."""
    taken: list[int] = []

    def evaluate(config: dict[str, Any]) -> float:
        if not taken:
            store = Store(url)
            (running,) = store.trials(1)
            store.extend_lease(running, -1.0)
            other = store.take_over(1, worker_id="elsewhere:1:1.0", lease_s=60)
            assert other is not None
            taken.append(store.finish(1, other, Measurement({"value": Metric(-7.0)})).number)
        return latency(config)

    result = autotune.search(space(), evaluate, trials=3, strategy="random", storage=url)
    assert taken == [0] and result.trials["completed"] == 3
    assert result.default is not None and result.default.metrics == {"value": -7.0}


def test_the_heartbeat_keeps_the_lease_of_a_long_evaluation(url: str) -> None:
    study = Study.create(space(), storage=url)
    trial = study.ask()
    study.store.extend_lease(trial.record, -1.0)  # as if it had taken too long
    assert study.store._stale(study.record.id)
    heartbeat = Heartbeat(study, every_s=0.005)
    with heartbeat.beating(trial):
        for _ in range(2000):
            if not study.store._stale(study.record.id):
                break
            time.sleep(0.005)
    heartbeat.stop()
    assert not study.store._stale(study.record.id)
    assert not [t for t in threading.enumerate() if t.name == "autotune-heartbeat"]
    study.tell(trial, 1.0)


# Going on with a study, and bad input


@pytest.fixture
def existing(url: str) -> Iterator[str]:
    autotune.search(space(), latency, "value", constraints=["value <= 50"], trials=2, storage=url, seed=1)
    yield url


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"objectives": "maximize value"}, "has the objectives minimize value, not maximize value"),
        ({"constraints": ["value <= 51"]}, "has the outcome constraints value <= 50, not value <= 51"),
        ({"seed": 2}, "has the seed 1, not 2"),
        ({"default": {"tile": 8, "threads": 1}}, "has the default configuration"),
        ({"space": SearchSpace([Int("a", 0, 9)])}, "has another search space"),
    ],
)
def test_another_question_needs_another_study(existing: str, settings: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"space": space(), "objectives": "value", "constraints": ["value <= 50"], "trials": 4}
    with pytest.raises(UsageError) as told:
        autotune.search(evaluate=latency, storage=existing, **{**given, **settings})
    assert says in str(told.value) and "choose another study name" in str(told.value)
    store = Store(existing)
    assert len(store.trials(1)) == 2 and store.load_study("study").state == "done"


def test_another_evaluator_or_domain_option_needs_another_study(url: str) -> None:
    problem = autotune.Problem(
        space(), ("value",), space().default(), {"profiled": latency, "real": latency}, facts={"budget_gib": 4}
    )

    def opened(**changes: Any) -> Study:
        options = {"evaluator": "profiled", "domain_options": {"budget_gib": 4}} | changes
        return autotune.loop.open_study(problem, domain="toy", options=options, storage=url)

    assert opened().record == opened().record
    with pytest.raises(UsageError, match="has the setting 'evaluator' 'profiled', not 'real'"):
        opened(evaluator="real")
    with pytest.raises(UsageError, match="has the setting 'domain_options'"):
        opened(domain_options={"budget_gib": 8})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"trials": 0}, "trials is 0; give a whole number of 1 or more"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0; give a number above 0"),
        ({"evaluate": None}, "evaluate is None; give a callable"),
        ({"strategy": "magic"}, "strategy 'magic' is unknown"),
        ({"space": "moe-cash", "evaluate": None}, "domain 'moe-cash' is unknown"),
        ({"evaluator": "real"}, "evaluator 'real' is unknown here; this domain has: given"),
        ({"space": "moe-cache"}, "brings its own evaluator"),
    ],
)
def test_bad_settings_are_one_sentence_and_write_nothing(url: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as told:
        autotune.search(**{"space": space(), "evaluate": latency, "storage": url, **settings})
    assert says in str(told.value) and "\n" not in str(told.value)
    assert not Path(url.removeprefix("sqlite:///")).exists()


# Results


def test_a_result_is_complete_json(url: str) -> None:
    def evaluate(config: dict[str, Any]) -> dict[str, float]:
        if config["threads"] == 1:
            raise Failure("oom")
        return {"latency_ms": latency(config), "loss": math.nan, "limit": -math.inf}

    baselines = {"wide": {"tile": 8, "threads": 8}, "broken": {"tile": 8, "threads": 1}}
    result = autotune.search(
        space(),
        evaluate,
        "latency_ms",
        constraints=["limit <= 0"],
        trials=6,
        baselines=baselines,
        storage=url,
        study="é",
    )
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["study"] == "é" and told["storage"] == url
    assert told["objectives"] == ["minimize latency_ms"] and told["constraints"] == ["limit <= 0"]
    assert result.best is not None
    assert told["best"] == {
        "number": result.best.number,
        "config": dict(result.best.config),
        "metrics": {"latency_ms": result.best.metrics["latency_ms"], "loss": None, "limit": None},
    }
    assert told["default"]["metrics"]["latency_ms"] == 19.0 and told["gain"] == result.gain
    assert set(told["baselines"]) == {"wide"} and told["pareto"] is None
    best, wide = (o["metrics"]["latency_ms"] for o in (told["best"], told["baselines"]["wide"]))
    assert told["gains"] == pytest.approx({"default": (19.0 - best) / 19.0, "wide": (wide - best) / wide})
    assert told["trials"]["total"] == 6 and told["trials"]["failures"]["oom"] >= 1
    assert set(told["seconds"]) == {"total", "suggest", "evaluate", "store"}
    assert told["seconds"]["total"] >= told["seconds"]["store"] >= 0
    assert len(result.frame()) == 6
    reread = Result.of(Study.load("é", url))
    assert (reread.best, reread.default, reread.gain, reread.trials) == (
        result.best,
        result.default,
        result.gain,
        result.trials,
    )


def test_several_objectives_end_in_a_front() -> None:
    def evaluate(config: dict[str, Any]) -> dict[str, float]:
        return {"ms": config["tile"] + config["threads"], "speed": config["tile"] * config["threads"]}

    result = autotune.search(space(), evaluate, ["ms", "maximize speed"], trials=40, strategy="exhaustive")
    assert result.best is None and result.gain is None and len(result.pareto) > 3
    front = [(o.metrics["ms"], o.metrics["speed"]) for o in result.pareto]
    every = [(t.values["ms"], t.values["speed"]) for t in result.study.trials]
    assert sorted(front) == sorted(p for p in every if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in every))
    assert [o["number"] for o in result.to_dict()["pareto"]] == [o.number for o in result.pareto]


def test_failures_of_a_worker_that_vanished_are_not_learned_from() -> None:
    result = autotune.search(space(), lambda c: _raise(Failure("infra")), trials=1)
    assert result.study.history.failed == () and result.study.trials[0].failure_kind is FailureKind.INFRA


def test_a_request_to_stop_ends_a_search_between_two_trials_and_is_taken_back_by_the_next(url: str) -> None:
    store = Store(url)

    def measure(config: dict[str, Any]) -> float:
        study = store.load_study("study")
        if len(store.trials(study.id)) == 3:
            store.request_stop(study.id, "Kim & co")
        return latency(config)

    result = autotune.search(space(), measure, "latency_ms", trials=20, storage=store)
    study = store.load_study("study")
    assert result.stop_reason == study.stop_reason == "stopped by Kim & co"
    assert (study.state, study.stop_requested) == ("interrupted", True)
    assert [t.state for t in store.trials(study.id)] == [TrialState.COMPLETED] * 3  # the one under way included
    assert result.seconds["store"] == pytest.approx(study.store_s)
    result = autotune.search(space(), latency, "latency_ms", trials=6, storage=store)
    again = store.load_study("study")
    assert (again.state, again.stop_requested, result.trials["completed"]) == ("done", False, 6)
    assert again.store_s > study.store_s
    store.close()


def test_a_request_that_comes_while_a_search_is_opened_is_meant_for_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(url)

    def slow() -> Any:
        store.request_stop(store.load_study("study").id, "Kim")
        return current_environment()

    monkeypatch.setattr(autotune.loop, "current_environment", slow)
    result = autotune.search(space(), latency, "latency_ms", trials=6, storage=store)
    assert (result.stop_reason, result.trials["total"]) == ("stopped by Kim", 0)
    store.close()


def test_logs_and_artifacts_of_an_evaluator_are_kept_with_its_trials(url: str, tmp_path: Path) -> None:
    def measure(config: dict[str, Any]) -> Measurement:
        if config["threads"] % 2:
            raise ValueError(f"{config['threads']} threads are odd")
        file = tmp_path / f"{config['threads']}.txt"
        file.write_text(str(config["threads"]))
        return Measurement({"latency_ms": Metric(latency(config))}, log="went well", artifacts={"threads": file})

    store = Store(url)
    autotune.search(space(), measure, "latency_ms", trials=32, storage=store)
    trials = store.trials(store.load_study("study").id)
    assert {t.state for t in trials} == {TrialState.COMPLETED, TrialState.FAILED}
    for trial in trials:
        log = store.log(trial.id) or ""
        if trial.state is TrialState.COMPLETED:
            assert log == "went well"
            (file,) = store.artifacts(trial.id)
            assert (file.name, Path(file.path).read_text()) == ("threads", str(trial.config["threads"]))
        else:
            assert log.startswith("Traceback") and "raise ValueError" in log and store.artifacts(trial.id) == []
    store.close()


def test_an_artifact_that_is_no_file_is_the_evaluators_mistake(url: str) -> None:
    def measure(config: dict[str, Any]) -> Measurement:
        return Measurement({"latency_ms": Metric(1.0)}, artifacts={"trace": "none.json"})

    with pytest.raises(UsageError, match=r"artifact 'trace' is 'none\.json', which is no file; write it before"):
        autotune.search(space(), measure, "latency_ms", trials=3, storage=url)


def test_a_study_keeps_how_it_is_measured_as_it_was_last(url: str) -> None:
    store = Store(url)

    def options(protocol: Protocol) -> Any:
        autotune.search(space(), latency, "latency_ms", trials=2, storage=store, protocol=protocol)
        return store.load_study("study").options.get("repeats")

    once = Protocol(warmup=0, min_repeats=1, max_repeats=1, target=None)
    assert options(once) is None
    assert options(Protocol(0, 2, 2, None)) == {
        "warmup": 0, "min_repeats": 2, "max_repeats": 2, "target": None, "confidence": 0.95,
    }  # fmt: skip
    assert options(once) is None
    store.close()

"""What every database must do for the engine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import LeaseLostError, StoreError, UsageError
from autotune.measurement import Failure, FailureKind, Measurement, Metric, summarise
from autotune.reports import Pruned
from autotune.store import Profile, Store, TrialState
from autotune.store.models import metadata
from autotune.store.queries import standing
from tests.conformance.store_helpers import OTHER, WORKER, begin, measured, new_study, proposal

# Studies


def test_a_study_comes_back_as_it_was_written(store: Store) -> None:
    profile = Profile("machine-1", {"cpu": "x"}, "tiers", {"gib_per_s": [1.5, 2.0]})
    written = new_study(
        store, "köln ☕ 研究", domain="moe-cache", constraints=["vram_gib <= 24"], default_config={"tp": 4, "x": [0.5, None]},
        budget={"trials": 60}, options={"a": {"b": "c"}}, seed=2**32 - 1, profile=profile,
    )  # fmt: skip
    read = store.load_study("köln ☕ 研究")
    assert read == written
    assert read.default_config == {"tp": 4, "x": [0.5, None]}
    assert (read.seed, read.state, read.budget, read.options) == (
        2**32 - 1,
        "running",
        {"trials": 60},
        {"a": {"b": "c"}},
    )
    assert read.created_at is not None and read.created_at.utcoffset() is not None
    assert read.profile_id is not None and store.profile(read.profile_id) == profile


def test_a_name_is_taken_once_and_unknown_names_list_the_known(store: Store) -> None:
    new_study(store, "first")
    with pytest.raises(UsageError, match="'first' exists already"):
        new_study(store, "first")
    with pytest.raises(UsageError, match=r"'fist' does not exist .* holds: first"):
        store.load_study("fist")
    assert [s.study.name for s in store.studies()] == ["first"]


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\x00b", "x" * 256, "\ud800"])
def test_names_that_no_database_could_hold_are_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match=r"study name .* cannot be used"):
        new_study(store, name)
    assert store.studies() == []


def test_studies_are_listed_newest_first_with_their_trials_counted(store: Store) -> None:
    old, new = new_study(store, "old"), new_study(store, "new")
    store.finish(old.id, begin(store, old, {"a": 1}), measured(1.0))
    for number, kind in enumerate(["oom", "oom", "crash"]):
        store.finish(old.id, begin(store, old, {"b": number}), Failure(kind))
    begin(store, new, {"a": 1})
    summaries = store.studies()
    assert [s.study.name for s in summaries] == ["new", "old"]
    assert summaries[0].trials == {TrialState.RUNNING: 1}
    assert summaries[1].trials == {TrialState.COMPLETED: 1, TrialState.FAILED: 3}
    assert summaries[1].failures == {"oom": 2, "crash": 1}


def test_state_and_reason_are_kept(store: Store) -> None:
    study = new_study(store)
    store.set_study_state(study.id, "interrupted", "interrupted by the user")
    read = store.load_study(study.name)
    assert (read.state, read.stop_reason) == ("interrupted", "interrupted by the user")


# Trials


def test_a_trial_comes_back_as_it_was_written(store: Store) -> None:
    study = new_study(store)
    config = {"tp": 4, "lr": 0.1, "cache": "lru", "on": True, "b": [1, 2], "none": None, "text": "ünï"}
    running = begin(store, study, config, label="default", fidelity="profiled", suggest_s=0.25, notes={"why": "é"})
    assert (running.number, running.state, running.attempt) == (0, TrialState.RUNNING, 1)
    assert store.trials(study.id) == [running]
    samples = (3.0, 1.0, 2.0)
    outcome = Measurement({"latency_ms": summarise(samples), "vram_gib": Metric(20.0)}, notes={"repeats": 3})
    finished = store.finish(study.id, running, outcome, evaluate_s=1.5)
    (read,) = store.trials(study.id)
    assert read == finished
    assert read.config == config and read.label == "default" and read.fidelity == "profiled"
    assert (read.suggest_s, read.evaluate_s, read.notes) == (0.25, 1.5, {"why": "é", "repeats": 3})
    assert read.metrics == {"latency_ms": Metric(2.0, 1.0), "vram_gib": Metric(20.0)}
    assert store.samples(read.id) == {"latency_ms": samples}


def test_numbers_are_dense_and_a_known_configuration_is_not_begun_again(store: Store) -> None:
    study, other = new_study(store, "a"), new_study(store, "b")
    batch = [proposal({"x": 1}), proposal({"x": 2}), proposal({"x": 1})]
    first = store.begin_trials(study.id, batch, worker_id=WORKER, lease_s=60)
    assert [None if r is None else r.number for r in first] == [0, 1, None]
    again = store.begin_trials(study.id, [proposal({"x": 2}), proposal({"x": 3})], worker_id=OTHER, lease_s=60)
    assert [None if r is None else r.number for r in again] == [None, 2]
    assert begin(store, other, {"x": 1}).number == 0
    replicate = store.begin_trials(study.id, batch[:1], worker_id=WORKER, lease_s=60, allow_duplicates=True)
    assert [None if r is None else r.number for r in replicate] == [3]


def test_a_configuration_is_begun_once_at_each_fidelity_replicates_apart(store: Store) -> None:
    study = new_study(store)
    both = [proposal({"x": 1}), proposal({"x": 1}, fidelity="short"), proposal({"x": 1}, fidelity="middle")]
    first = store.begin_trials(study.id, both, worker_id=WORKER, lease_s=60)
    assert [None if r is None else (r.number, r.fidelity) for r in first] == [(0, None), (1, "short"), (2, "middle")]
    assert store.begin_trials(study.id, both, worker_id=OTHER, lease_s=60) == [None, None, None]
    again = [proposal({"x": 1}, replicate=True), proposal({"x": 1}, fidelity="short", replicate=True)]
    begun = store.begin_trials(study.id, again, worker_id=OTHER, lease_s=60)
    assert [None if r is None else (r.number, r.fidelity) for r in begun] == [(3, None), (4, "short")]
    for trial in (*first, *begun):
        store.finish(study.id, trial, measured(1.0))
    (summary,) = store.studies()
    assert (summary.trials, summary.failures, summary.cheaper) == ({TrialState.COMPLETED: 2}, {}, 3)


def test_trials_of_cheaper_fidelities_are_counted_apart(store: Store) -> None:
    study = new_study(store)
    batch = [proposal({"x": i}, fidelity="short" if i % 3 else None) for i in range(9)]
    begun = store.begin_trials(study.id, batch, worker_id=WORKER, lease_s=60, up_to=3, cheaper_up_to=3)
    # The third of those that count is the last trial of all: what is cheap serves it, and it is under way.
    assert [None if r is None else r.number for r in begun] == [0, 1, 2, 3, 4, None, 5, None, None]
    more = [proposal({"x": 20}), proposal({"x": 21}, fidelity="short")]
    limits = {"worker_id": WORKER, "lease_s": 60.0}
    assert store.begin_trials(study.id, more, up_to=3, cheaper_up_to=9, **limits) == [None, None]
    assert store.begin_trials(study.id, more, up_to=9, cheaper_up_to=3, **limits)[1] is None
    assert [t.number for t in store.trials(study.id)] == list(range(7))


def test_no_trial_is_begun_beyond_the_limit(store: Store) -> None:
    study = new_study(store)
    batch = [proposal({"x": i}) for i in range(4)]
    begun = store.begin_trials(study.id, batch, worker_id=WORKER, lease_s=60, up_to=3)
    assert [None if r is None else r.number for r in begun] == [0, 1, 2, None]
    assert store.begin_trials(study.id, batch[3:], worker_id=WORKER, lease_s=60, up_to=3) == [None]
    assert len(store.begin_trials(study.id, batch[3:], worker_id=WORKER, lease_s=60)) == 1
    assert [t.number for t in store.trials(study.id)] == [0, 1, 2, 3]


def test_nothing_is_begun_for_a_study_that_moved_on(store: Store) -> None:
    study = new_study(store)
    first = begin(store, study, {"x": 1})

    def attempt(x: int, expect: int) -> object:
        return store.begin_trials(study.id, [proposal({"x": x})], worker_id=WORKER, lease_s=60, expect=expect)

    assert attempt(2, first.revision - 1) is None
    assert store.trials(study.id) == [first]
    second = attempt(2, first.revision)
    assert second == store.trials(study.id)[1:] and len(store.trials(study.id)) == 2
    assert attempt(3, first.revision) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1 + 0.2])
def test_every_number_comes_back_exactly(store: Store, value: float) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1})
    store.finish(study.id, trial, Measurement({"latency_ms": Metric(value, value, (value, 1.0))}))
    (read,) = store.trials(study.id)
    metric = read.metrics["latency_ms"]
    back = [metric.value, store.samples(trial.id)["latency_ms"][0]]
    if math.isnan(value):
        assert all(map(math.isnan, back)) and metric.half_width is None
    else:
        assert back == [value, value] and metric.half_width == value


def test_failures_keep_kind_and_message(store: Store) -> None:
    study = new_study(store)
    for number, kind in enumerate(k for k in FailureKind if k is not FailureKind.INFRA):
        failed = store.finish(study.id, begin(store, study, {"x": number}), Failure(kind, f"because {number} ☹"))
        assert (failed.state, failed.failure_kind, failed.metrics) == (TrialState.FAILED, kind, {})
        assert store.trials(study.id)[number] == failed
        assert failed.failure_message == f"because {number} ☹"


def test_what_programs_print_can_always_be_stored(store: Store) -> None:
    study = new_study(store)
    text = b"caf\xe9 \x00 end".decode("utf-8", "surrogateescape")
    failed = store.finish(study.id, begin(store, study, {"x": 1}), Failure("crash", text))
    assert store.trials(study.id) == [failed]
    assert failed.failure_message is not None
    assert failed.failure_message.startswith("caf") and failed.failure_message.endswith(" end")
    notes = {"nan": math.nan, "array": np.arange(3), "count": np.int64(4), "set": {2, 1}, "text": text, 5: Path("a")}
    done = store.finish(study.id, begin(store, study, {"x": 2}), Measurement({"latency_ms": Metric(1.0)}, notes))
    assert store.trials(study.id)[1] == done
    assert {k: done.notes[k] for k in ("nan", "array", "count", "set", "5")} == {
        "nan": "nan", "array": [0, 1, 2], "count": 4, "set": [1, 2], "5": "a"
    }  # fmt: skip


def test_readers_ask_for_what_changed_since_they_last_looked(store: Store) -> None:
    study = new_study(store)
    first, second = begin(store, study, {"x": 1}), begin(store, study, {"x": 2})
    assert second.revision > first.revision
    assert [t.number for t in store.trials(study.id, since=first.revision)] == [1]
    done = store.finish(study.id, first, measured(1.0))
    assert store.trials(study.id, since=second.revision) == [done]
    assert store.trials(study.id, since=done.revision) == []


def test_reports_are_kept_in_order_and_told_once(store: Store) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1})
    store.report(trial, 2, {"loss": 0.5})
    store.report(trial, 1, {"loss": math.nan})
    store.report(trial, 3, {})
    read = store.reports(trial.id)
    assert [(step, name) for step, name, _ in read] == [(1, "loss"), (2, "loss")]
    assert math.isnan(read[0][2]) and read[1][2] == 0.5
    with pytest.raises(UsageError, match="step 2 already"):
        store.report(trial, 2, {"loss": 0.4})


def test_reports_are_written_together_or_not_at_all_and_by_who_holds_the_trial_alone(store: Store) -> None:
    study = new_study(store)
    first, second = begin(store, study, {"x": 1}), begin(store, study, {"x": 2})
    store.report_all(first, [(0, {"loss": 1.0, "s": 2.0}), (4, {"loss": 0.5})])
    with pytest.raises(UsageError, match="a report of loss at steps 3 to 4 already"):
        store.report_all(first, [(3, {"loss": 9.0}), (4, {"loss": 9.0})])
    found = store.reports_of([second.id, first.id])
    assert {key: sorted(rows) for key, rows in found.items()} == {
        first.id: [(0, "loss", 1.0), (0, "s", 2.0), (4, "loss", 0.5)]
    }
    store.finish(study.id, first, measured(1.0))
    with pytest.raises(LeaseLostError, match="told already"):
        store.report(first, 5, {"loss": 0.1})


def test_a_pruned_trial_is_neither_measured_nor_failed(store: Store) -> None:
    study = new_study(store)
    facts = {"step": 3, "values": {"loss": 0.5}, "at_least": {}, "progress": 0.5}
    told = store.finish(study.id, begin(store, study, {"x": 1}, notes={"why": "é"}), Pruned("too\x00slow", facts))
    (read,) = store.trials(study.id)
    assert read == told
    assert (read.state, read.failure_kind, read.metrics) == (TrialState.PRUNED, None, {})
    assert (read.failure_message, read.notes) == ("too\ufffdslow", {"why": "é", "pruned": facts})
    assert (read.reported, read.reported_step, read.reported_progress) == ({"loss": 0.5}, 3, 0.5)
    (summary,) = store.studies()
    assert (summary.trials, summary.failures) == ({TrialState.PRUNED: 1}, {})
    assert standing(store, study).best is None


def test_an_environment_is_stored_once(store: Store) -> None:
    first = store.save_environment("host", {"cpu": "a"})
    assert store.save_environment("host", {"cpu": "a"}) == first
    assert store.save_environment("host", {"cpu": "b"}) != first


def test_a_deleted_study_is_an_error_and_not_a_new_one(store: Store) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1})
    with store._write() as connection:
        connection.execute(metadata.tables["studies"].delete())
    with pytest.raises(StoreError, match="was deleted"):
        store.finish(study.id, trial, measured(1.0))
    with pytest.raises(StoreError, match="was deleted"):
        store.begin_trials(study.id, [proposal({"x": 2})], worker_id=WORKER, lease_s=60)
    assert store.trials(study.id) == []  # its trials went with it

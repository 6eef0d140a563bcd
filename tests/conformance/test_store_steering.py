"""What steers searches and belongs to trials: owners, archives, requests to stop, logs, artifacts; on every store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from autotune.errors import StoreError, UsageError
from autotune.measurement import LOG_BYTES, Failure, Measurement, Metric
from autotune.store import Artifact, Store, TrialState
from autotune.store.queries import study_watermark, watermark
from autotune.store.workers import user_name
from tests.conformance.store_helpers import begin, measured, new_study


def test_a_study_knows_its_owner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_OWNER", "Søren Ø")
    assert new_study(store, "a").owner == "Søren Ø"
    assert new_study(store, "b", owner="Kim").owner == "Kim"
    with pytest.raises(UsageError, match="owner 'a\\\\nb' cannot be used"):
        new_study(store, "c", owner="a\nb")
    monkeypatch.setenv("AUTOTUNE_OWNER", "two\nlines")
    assert user_name() is None
    monkeypatch.delenv("AUTOTUNE_OWNER")
    monkeypatch.setenv("LOGNAME", "lee")
    assert user_name() == "lee"


def test_an_archived_study_is_still_there_and_comes_back(store: Store) -> None:
    study = new_study(store)
    store.archive(study.id)
    kept = store.load_study(study.name)
    assert kept.archived_at is not None and kept.archived_at.utcoffset() is not None
    assert [s.study for s in store.studies()] == [kept]
    store.archive(study.id, archived=False)
    assert store.load_study(study.name).archived_at is None


def test_a_request_to_stop_stands_until_a_search_begins_that_knew_of_it(store: Store) -> None:
    study = new_study(store)
    assert store.stop_request(study.id) is None and not study.stop_requested
    store.request_stop(study.id, "Kim")
    request = store.stop_request(study.id)
    asked = store.load_study(study.name)
    assert request is not None and (request.by, request.at) == ("Kim", asked.stop_requested_at)
    store.begin_search(study)  # opened before the request was made, which is therefore meant for it too
    assert store.stop_request(study.id) == request
    store.begin_search(asked)
    assert store.stop_request(study.id) is None
    assert (store.load_study(study.name).state, store.load_study(study.name).stop_requested_by) == ("running", None)
    with pytest.raises(UsageError, match="the name of who stops a study '' cannot be used"):
        store.request_stop(study.id, "")


def test_the_seconds_of_several_searches_add_up(store: Store) -> None:
    study = new_study(store)
    assert study.store_s == 0.0
    store.set_study_state(study.id, "done", "a", store_s=1.5)
    store.set_study_state(study.id, "running")
    store.set_study_state(study.id, "done", "b", store_s=0.25)
    assert store.load_study(study.name).store_s == 1.75


def test_options_are_changed_one_by_one(store: Store) -> None:
    study = new_study(store, options={"a": 1, "b": {"c": 2}, "d": 3})
    store.set_options(study.id, {"a": [5], "d": None, "e": "f"})
    assert store.load_study(study.name).options == {"a": [5], "b": {"c": 2}, "e": "f"}


def test_a_log_is_kept_with_its_trial_and_cut_to_its_end(store: Store) -> None:
    study = new_study(store)
    quiet = store.finish(study.id, begin(store, study, {"x": 0}), measured(1.0))
    assert store.log(quiet.id) is None and store.log(10**6) is None
    said = store.finish(
        study.id, begin(store, study, {"x": 1}), Measurement({"latency_ms": Metric(1.0)}, log="fine ☕\n")
    )
    assert store.log(said.id) == "fine ☕\n"
    failed = store.finish(study.id, begin(store, study, {"x": 2}), Failure("crash", "it broke", "a\x00b \ud800 c"))
    assert store.log(failed.id) == "a\ufffdb ? c"
    long = "ü" * LOG_BYTES + "end"
    cut = store.finish(study.id, begin(store, study, {"x": 3}), Failure("oom", "", long))
    kept = store.log(cut.id)
    assert kept is not None and long.endswith(kept) and LOG_BYTES - 2 < len(kept.encode()) <= LOG_BYTES


def test_an_attempt_that_is_repeated_leaves_no_log_behind(store: Store, tmp_path: Path) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1})
    waiting = store.finish(study.id, trial, Failure("infra", "the machine broke", "first"))
    assert waiting.state is TrialState.WAITING and store.log(trial.id) == "first"
    again = store.take_over(study.id, worker_id=trial.worker_id or "", lease_s=60)
    assert again is not None
    store.finish(study.id, again, measured(1.0))
    assert store.log(trial.id) is None


def test_artifacts_are_whole_paths_with_what_they_held(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.json").write_bytes(b"abc")
    study = new_study(store)
    made = Measurement({"latency_ms": Metric(1.0)}, artifacts={"trace": "trace.json"})
    trial = store.finish(study.id, begin(store, study, {"x": 1}), made)
    digest = hashlib.sha256(b"abc").hexdigest()
    assert store.artifacts(trial.id) == [Artifact("trace", str(tmp_path / "trace.json"), digest)]
    lost = begin(store, study, {"x": 2})
    with pytest.raises(UsageError, match=r"artifact 'trace' is '.*none.json', which cannot be read \(No such file"):
        store.finish(study.id, lost, Measurement({"latency_ms": Metric(1.0)}, artifacts={"trace": "none.json"}))
    assert store.finish(study.id, lost, measured(2.0)).state is TrialState.COMPLETED
    assert store.artifacts(lost.id) == []


def test_a_watermark_moves_with_everything_that_happens_to_a_study(store: Store) -> None:
    study, other = new_study(store), new_study(store, "other")
    seen = [watermark(store)]
    of_study = [study_watermark(store, study.id)]
    of_other = study_watermark(store, other.id)
    trial = None

    def begun() -> None:
        nonlocal trial
        trial = begin(store, study, {"x": 1})

    def told() -> None:
        assert trial is not None
        store.finish(study.id, trial, measured(1.0))

    for act in (
        begun,
        told,
        lambda: store.request_stop(study.id, "Kim"),
        lambda: store.begin_search(store.load_study("study")),
        lambda: store.set_study_state(study.id, "done", "enough"),
        lambda: store.archive(study.id),
        lambda: store.set_options(study.id, {"a": 1}),
    ):
        assert watermark(store) == seen[-1]
        act()
        seen.append(watermark(store))
        of_study.append(study_watermark(store, study.id))
    new_study(store, "third")
    seen.append(watermark(store))
    assert len(set(seen)) == len(seen) and len(set(of_study)) == len(of_study)
    assert of_study[2][0] > of_study[1][0] > of_study[0][0]
    assert study_watermark(store, other.id) == of_other
    with pytest.raises(UsageError, match="there is no study number 999"):
        study_watermark(store, 999)


def test_a_store_opened_for_reading_cannot_write_even_behind_our_back(url: str) -> None:
    writer = Store(url)
    study = new_study(writer)
    reader = Store(url, read_only=True)
    for act in (
        lambda: reader.request_stop(study.id, "Kim"),
        lambda: reader.archive(study.id),
        lambda: reader.set_options(study.id, {"a": 1}),
        lambda: reader.begin_search(study),
    ):
        with pytest.raises(StoreError, match="opened for reading only"):
            act()
    with pytest.raises(StoreError, match=r"readonly database|read-only transaction"), reader._read() as connection:
        connection.execute(sa.text("UPDATE studies SET name = 'b'"))
    assert reader.load_study("study") == study
    reader.close()
    writer.close()

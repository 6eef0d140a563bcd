"""Several threads and processes on one store, and a process that is killed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.measurement import Measurement, Metric
from autotune.store import Store, TrialState
from autotune.store.workers import worker_name
from tests.conformance.store_helpers import WORKER, new_study, proposal

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Starts workers, which wait for a line before they begin."""
    running: list[subprocess.Popen[str]] = []

    def one(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.conformance.store_worker", url, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        running.append(process)
        return process

    yield one
    for process in running:
        process.kill()
        process.communicate()


def _says(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_open_a_new_database_at_once_all_succeed(url: str, start: Start) -> None:
    workers = [start("open") for _ in range(4)]
    assert [_says(w) for w in workers] == ["ready"] * 4
    for worker in workers:
        _go(worker)
    assert [_says(w) for w in workers] == ["opened"] * 4
    assert Store(url).studies() == []


def test_wal_mode_is_turned_on_when_another_writer_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    Store(f"sqlite:///{file}").close()
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode=DELETE")
    other.execute("BEGIN IMMEDIATE")  # SQLite refuses WAL mode meanwhile, and does not wait
    release = threading.Timer(0.3, other.rollback)
    release.start()
    store = Store(f"sqlite:///{file}")
    release.join()
    other.close()
    with store._read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    store.close()


def test_processes_never_share_a_number_nor_a_configuration(url: str, start: Start) -> None:
    store = Store(url)
    study = new_study(store)
    workers = [start("work", "40") for _ in range(3)]
    assert [_says(w) for w in workers] == ["ready"] * 3
    for worker in workers:
        _go(worker)
    told = [json.loads(line) for w in workers for line in w.communicate()[0].splitlines()]
    trials = store.trials(study.id)
    assert [t.number for t in trials] == list(range(40))
    assert sorted(t.config["x"] for t in trials) == list(range(40))
    assert sorted(told) == sorted([t.number, t.config["x"]] for t in trials)
    assert all(t.state is TrialState.COMPLETED and t.values == {"latency_ms": t.config["x"]} for t in trials)
    assert len({t.revision for t in trials}) == 40
    store.close()


def test_what_was_told_survives_a_kill_and_the_rest_is_handed_out_again(url: str, start: Start) -> None:
    store = Store(url)
    study = new_study(store)
    worker = start("die")
    assert _says(worker) == "ready"
    _go(worker)
    told = [_says(worker) for _ in range(20)]
    worker.kill()  # in the middle of whatever it was doing
    told += [json.loads(line) for line in worker.communicate()[0].splitlines() if line.endswith("]")]
    trials = {t.number: t for t in store.trials(study.id)}
    for number, x in told:
        assert trials[number].values == {"latency_ms": float(x)}
    assert sorted(trials) == list(range(len(trials)))
    left = [t.number for t in trials.values() if t.state is TrialState.RUNNING]
    taken = [store.take_over(study.id, worker_id=worker_name(), lease_s=60) for _ in left]
    assert [t.number for t in taken if t is not None] == left and 0 in left
    store.close()


def test_a_trial_of_a_running_process_is_left_to_it(url: str, start: Start) -> None:
    store = Store(url)
    study = new_study(store)
    worker = start("hold")
    assert _says(worker) == "ready"
    _go(worker)
    assert _says(worker) == "held"
    assert store.take_over(study.id, worker_id=worker_name(), lease_s=60) is None
    worker.kill()
    worker.wait()
    taken = store.take_over(study.id, worker_id=worker_name(), lease_s=60)
    assert taken is not None and taken.config == {"x": "held"}
    store.close()


def test_threads_share_a_store(store: Store) -> None:
    study = new_study(store)
    seen: list[int] = []
    wrong: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for i in range(15):
                (trial,) = store.begin_trials(study.id, [proposal({"x": i})], worker_id=f"{WORKER}{worker}", lease_s=60)
                store.trials(study.id, since=3)
                if trial is not None:
                    seen.append(store.finish(study.id, trial, Measurement({"latency_ms": Metric(1.0)})).number)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert Counter(seen) == Counter(range(15))
    assert [t.number for t in store.trials(study.id)] == list(range(15))

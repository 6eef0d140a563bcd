"""`autotune stop`, `resume` and `archive`, on real searches in processes of their own where these are needed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import autotune
from autotune import Int, SearchSpace
from autotune.store import Store, TrialState
from autotune.store.models import HEAD_REVISION
from tests.cli.conftest import Run
from tests.conformance.test_store_migrations import made_by

SPACE = """
name: bench
parameters:
  x: {type: int, low: 0, high: 999}
objectives: [minimize y]
command: ["{python}", bench.py, "{x}"]
trials: 900
strategy: random
seed: 3
exit_codes: {3: oom}
"""
BENCH = """
import json, sys, time
x = int(sys.argv[1])
print("measuring", x)
print("beware", file=sys.stderr)
time.sleep(0.02)
if x % 3 == 0:
    sys.exit(3)
print(json.dumps({"y": abs(x - 77)}))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    (tmp_path / "bench.py").write_text(BENCH)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def until(reached: Callable[[], bool]) -> None:
    for _ in range(600):
        if reached():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def test_a_stop_ends_every_worker_and_keeps_what_they_were_at(
    run: Run, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "autotune", "search", str(bench), "--json"]
    url = f"sqlite:///{bench.parent / 'autotune.db'}"
    workers: list[subprocess.Popen[str]] = []

    def working() -> int:
        store = Store.if_there(url)
        study = None if store is None else store.find_study("bench")
        return 0 if store is None or study is None else len({t.worker_id for t in store.trials(study.id)})

    try:
        for number in (1, 2):  # the second joins a study that is there
            workers.append(subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            until(lambda wanted=number: working() == wanted)  # type: ignore[misc]
        monkeypatch.setenv("AUTOTUNE_OWNER", "Kim")
        asked = run("stop", "bench", "--json")
        assert asked.code == 0, asked.err
        assert (asked.json["study"], asked.json["stop_requested_by"]) == ("bench", "Kim")
        ended = [worker.communicate(timeout=60) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], ended
        assert [json.loads(out)["stop_reason"] for out, _ in ended] == ["stopped by Kim"] * 2
    finally:
        for worker in workers:
            worker.kill()
    store = Store(url, read_only=True)
    study = store.load_study("bench")
    assert (study.state, study.stop_reason, study.stop_requested) == ("interrupted", "stopped by Kim", True)
    trials = store.trials(study.id)
    assert len(trials) < 900
    assert {t.state for t in trials} <= {TrialState.COMPLETED, TrialState.FAILED}
    assert study.store_s > 0.0
    again = run("stop", "bench")
    assert again.code == 2
    assert "no search to stop: it is interrupted (stopped by Kim)" in again.err

    resumed = run("resume", "bench", "--trials", str(len(trials) + 3), "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["trials"]["total"] == len(trials) + 3
    assert not store.load_study("bench").stop_requested
    store.close()


def test_a_command_is_resumed_from_the_database_alone(run: Run, bench: Path) -> None:
    first = run("search", str(bench), "--trials", "4", "--objective", "maximize y", "--json")
    assert first.code == 0, first.err
    bench.unlink()
    (bench.parent / "elsewhere").mkdir()
    resumed = run("resume", "--trials", "9", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["objectives"] == ["maximize y"]
    whole = autotune.Study.load("bench", "sqlite:///autotune.db").trials
    assert [t.number for t in whole] == list(range(9))
    # As it would have been without the pause: the same strategy, the same seed.
    bench.write_text(SPACE)
    run("search", str(bench), "--trials", "9", "--objective", "maximize y", "--storage", "sqlite:///b.db", "--json")
    assert [t.config for t in autotune.Study.load("bench", "sqlite:///b.db").trials] == [t.config for t in whole]
    plain = run("search", "--study", "bench", "--trials", "10", "--json")
    assert plain.json["trials"]["total"] == 10


def test_what_a_command_printed_is_kept_with_its_trials(run: Run, bench: Path) -> None:
    run("search", str(bench), "--trials", "12", "--json")
    store = Store("sqlite:///autotune.db", read_only=True)
    trials = store.trials(store.load_study("bench").id)
    assert {t.state for t in trials} == {TrialState.COMPLETED, TrialState.FAILED}
    for trial in trials:
        result = f'{{"y": {abs(trial.config["x"] - 77)}}}\n' if trial.state is TrialState.COMPLETED else ""
        assert store.log(trial.id) == f"measuring {trial.config['x']}\n{result}--- stderr ---\nbeware\n"
    store.close()


def test_a_domain_is_resumed_with_its_options_goals_pruner_and_limits(run: Run, hardware: str) -> None:
    made = run(
        "search", "moe-cache", "--set", hardware, "--trials", "3", "--strategy", "random", "--seed", "5", "--study", "a",
        "--objective", "minimize moved_mib", "--constraint", "token_latency_ms <= 1000000",
        "--pruner", "none", "--isolate", "--time-limit", "300", "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    before = Store("sqlite:///autotune.db", read_only=True).load_study("a")
    assert before.options["isolated"]["time_limit_s"] == 300.0
    resumed = run("resume", "a", "--trials", "4", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["objectives"] == ["minimize moved_mib"]
    assert resumed.json["constraints"] == made.json["constraints"] != []
    assert resumed.json["trials"]["total"] == 4
    assert resumed.json["default"] == made.json["default"]
    assert Store("sqlite:///autotune.db", read_only=True).load_study("a").options == before.options


def test_what_a_database_cannot_hold_is_not_resumed(run: Run) -> None:
    space = SearchSpace([Int("x", 0, 9)])
    autotune.search(space, lambda config: float(config["x"]), trials=2, storage="sqlite:///autotune.db", study="mine")
    refused = run("resume", "mine")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "study 'mine' was measured by a Python function, which a database cannot hold" in refused.err
    unknown = run("resume", "other")
    assert (unknown.code, "study 'other' does not exist" in unknown.err) == (2, True)
    assert run("resume", "mine", "--storage", "sqlite:///none.db").code == 2
    assert not Path("none.db").exists()


def test_an_archived_study_is_left_out_of_lists_until_it_is_taken_back(run: Run) -> None:
    space = SearchSpace([Int("x", 0, 9)])
    for name in ("old", "new"):
        autotune.search(space, lambda config: float(config["x"]), trials=2, storage="sqlite:///autotune.db", study=name)
    assert run("archive", "old", "--json").json["archived_at"] is not None
    assert [s["study"] for s in run("studies", "--json").json] == ["new"]
    listed = run("studies", "--archived", "--json").json
    assert [(s["study"], s["archived_at"] is None) for s in listed] == [("new", True), ("old", False)]
    assert "done, archived" in run("studies", "--archived").out
    assert run("show", "--json").json["study"] == "new"  # the only one that is not put aside
    assert run("show", "old").code == 0
    assert run("archive", "new").code == 0
    assert "holds archived studies alone (2); see: --archived" in run("studies").out
    assert run("archive", "old", "--undo", "--json").json["archived_at"] is None
    assert [s["study"] for s in run("studies", "--json").json] == ["old"]


def test_an_old_database_is_upgraded_without_a_search(run: Run) -> None:
    url = "sqlite:///old.db"
    made_by("0002", url)
    refused = run("studies", "--storage", url)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "has the older schema 0002; bring it up to date with 'autotune upgrade" in refused.err
    assert run("upgrade", "--storage", url, "--json").json == {"storage": url, "schema": HEAD_REVISION}
    (study,) = run("studies", "--storage", url, "--json").json
    assert (study["study"], study["best"], study["owner"]) == ("old", 2.5, None)
    assert run("upgrade", "--storage", url).code == 0
    assert run("upgrade", "--storage", "sqlite:///none.db").code == 2


@pytest.mark.parametrize("verb", ["stop", "resume", "archive"])
def test_the_verbs_show_examples(run: Run, verb: str) -> None:
    shown = run(verb, "--help")
    assert shown.code == 0
    assert f"autotune {verb}" in shown.out and "--json" in shown.out
    assert run(verb, "a", "--storage", "sqlite:///none.db").code == 2

"""`autotune search` and the verbs that read what it kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest

from tests.cli.conftest import Run

BENCH = """
import json, sys
x, mode = float(sys.argv[1]), sys.argv[2]
if mode == "slow" and x > 3:
    sys.exit(3)
print("noise before the result")
print(json.dumps({"time_ms": (x - 2) ** 2 + (1.5 if mode == "slow" else 1), "size_mib": x}))
"""

SPACE = """
name: quadratic
parameters:
  x: {type: ordinal, values: [0, 1, 2, 3, 4]}
  mode: {type: categorical, choices: [slow, fast]}
objectives: [minimize time_ms]
default: {x: 0, mode: slow}
command: ["{python}", bench.py, "{x}", "{mode}"]
trials: 20
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "bench.py").write_text(BENCH)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_a_domain_search_prints_one_json_object(run: Run, hardware: str) -> None:
    ran = run(
        "search", "moe-cache", "--trials", "12", "--seed", "0", "--storage", "sqlite:///a.db", "--study", "a",
        "--set", hardware, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    result = ran.json
    assert result["study"] == "a"
    assert set(result["best"]) == {"number", "config", "metrics"}
    assert result["default"]["metrics"]["token_latency_ms"] > result["best"]["metrics"]["token_latency_ms"]
    assert set(result["baselines"]) == {"uniform LFU", "cache-only (LCP)", "popularity placement", "prefetch-only"}
    assert result["trials"] == {
        "total": 12, "waiting": 0, "running": 0, "completed": 12, "failed": 0, "pruned": 0, "failures": {},
    }  # fmt: skip
    assert set(result["seconds"]) == {"total", "suggest", "evaluate", "store"}
    assert sum(result["seconds"][part] for part in ("suggest", "evaluate", "store")) <= result["seconds"]["total"]


def test_the_same_command_in_another_database_finds_the_same(run: Run, hardware: str) -> None:
    best = [
        run(
            "search", "moe-cache", "--trials", "9", "--seed", "4", "--storage", f"sqlite:///{name}.db", "--set", hardware,
            "--json",
        ).json["best"]
        for name in ("one", "two")
    ]  # fmt: skip
    assert best[0] == best[1]


def test_text_output_is_plain_lines_and_a_table(run: Run, hardware: str) -> None:
    ran = run("search", "moe-cache", "--trials", "6", "--set", hardware)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert sum(line.startswith("trial ") for line in lines) == 6
    assert "\x1b" not in ran.out
    for word in (
        "default",
        "best",
        "uniform LFU",
        "gain over default",
        "what to change",
        "autotune dashboard --storage",
    ):
        assert word in ran.out


def test_a_study_is_gone_on_with_by_name_alone(run: Run, hardware: str) -> None:
    first = run("search", "moe-cache", "--trials", "6", "--set", hardware, "--study", "a", "--json")
    again = run("search", "--study", "a", "--trials", "8", "--json")
    assert again.code == 0, again.err
    assert first.json["trials"]["total"] == 6
    assert again.json["trials"]["total"] == 8
    assert again.json["default"] == first.json["default"]


def test_a_command_is_tuned_without_python(run: Run, space: Path) -> None:
    ran = run("search", str(space), "--json")
    assert ran.code == 0, ran.err
    result = ran.json
    assert result["study"] == "quadratic"
    assert result["best"]["config"] == {"x": 2, "mode": "fast"}
    assert result["best"]["metrics"]["time_ms"] == 1.0
    assert result["default"]["config"] == {"x": 0, "mode": "slow"}
    # Ten configurations, fewer than the trials: every one is measured, and the one that exits with 3 is a typed failure.
    assert result["trials"]["total"] == 10
    assert result["trials"]["failures"] == {"crash": 1}


def test_the_command_may_follow_two_dashes(run: Run, space: Path) -> None:
    ran = run("search", str(space), "--trials", "3", "--json", "--", sys.executable, "bench.py", "{x}", "{mode}")
    assert ran.code == 0, ran.err
    assert ran.json["trials"]["completed"] == 3


def test_an_outcome_constraint_is_kept(run: Run, space: Path) -> None:
    ran = run("search", str(space), "--constraint", "size_mib <= 1", "--json")
    assert ran.json["best"]["config"] == {"x": 1, "mode": "fast"}


def test_a_search_without_a_feasible_measurement_fails_with_one(run: Run, space: Path) -> None:
    ran = run("search", str(space), "--constraint", "size_mib <= -1", "--json")
    assert ran.code == 1
    assert "no feasible measurement" in ran.err


def test_reading_verbs(run: Run, space: Path) -> None:
    run("search", str(space), "--storage", "sqlite:///a.db", "--json")
    shown = run("show", "--storage", "sqlite:///a.db", "--json").json
    assert shown["best"]["config"] == {"x": 2, "mode": "fast"}
    best = run("best", "quadratic", "--storage", "sqlite:///a.db", "--json").json
    assert best == shown["best"]
    trials = run("trials", "--storage", "sqlite:///a.db", "--json").json
    assert [t["number"] for t in trials] == list(range(10))
    failed = run("trials", "--storage", "sqlite:///a.db", "--state", "failed", "--json").json
    assert [t["failure"]["kind"] for t in failed] == ["crash"]
    studies = run("studies", "--storage", "sqlite:///a.db", "--json").json
    assert [(s["study"], s["trials"], s["failed"]) for s in studies] == [("quadratic", 10, 1)]
    for verb in ("show", "best", "trials", "studies"):
        assert "quadratic" in run(verb, "--storage", "sqlite:///a.db").out or verb in ("best", "trials")


def test_exports(run: Run, space: Path, tmp_path: Path) -> None:
    run("search", str(space), "--storage", "sqlite:///a.db", "--json")
    source = ("quadratic", "--storage", "sqlite:///a.db")

    document = run("export", *source).json
    assert len(document["trials"]) == 10
    assert document["objectives"] == ["minimize time_ms"]

    assert run("export", *source, "--format", "csv", "--out", "t.csv").code == 0
    assert run("export", *source, "--format", "parquet", "--out", "t.parquet").code == 0
    csv, parquet = pd.read_csv(tmp_path / "t.csv"), pd.read_parquet(tmp_path / "t.parquet")
    assert csv["number"].tolist() == parquet["number"].tolist() == list(range(10))
    assert parquet.loc[parquet["time_ms"].idxmin(), "config.x"] == 2

    assert run("export", *source, "--format", "optuna", "--out", "sqlite:///optuna.db").code == 0
    copied = optuna.load_study(study_name="quadratic", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert len(copied.trials) == 10
    assert copied.best_value == 1.0
    assert copied.best_params == {"x": 2, "mode": "fast"}
    again = run("export", *source, "--format", "optuna", "--out", "sqlite:///optuna.db")
    assert (again.code, "holds a study 'quadratic' already" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search"], "nothing to search"),
        (["search", "moe-cash"], "did you mean 'moe-cache'"),
        (["search", "absent.yaml"], "absent.yaml: cannot be read"),
        (["search", "moe-cache", "--strategy", "tpee"], "did you mean 'tpe'"),
        (["search", "moe-cache", "--objective", "token_latency"], "did you mean 'token_latency_ms'"),
        (["search", "moe-cache", "--constraint", "hit_rate ~ 3"], "outcome constraint 'hit_rate ~ 3'"),
        (["search", "moe-cache", "--set", "budget_gib"], "--set 'budget_gib' is not of the form NAME=VALUE"),
        (["search", "moe-cache", "--set", "budget_gib=0.0001"], "holds no expert"),
        (["search", "moe-cache", "--set", "trace=none.npz"], "trace 'none.npz'"),
        (["search", "moe-cache", "--evaluator", "guess"], "evaluator 'guess' is unknown here"),
        (["search", "moe-cache", "--trials", "0"], "trials is 0"),
        (["search", "moe-cache", "--timeout", "-1"], "timeout_s is -1"),
        (
            ["search", "moe-cache", "--strategy", "exhaustive"],
            "cannot handle a space with infinitely many configurations",
        ),
        (["search", "moe-cache", "--", "ls"], "SPACE.yaml before it"),
        (["show"], "does not exist"),
        (["domains", "nothing"], "domain 'nothing' is unknown"),
        (["hardware", "h9000"], "hardware profile 'h9000' is unknown"),
        (["trace", "stats", "absent.npz"], "absent.npz"),
        (["export", "--format", "xml"], "storage 'sqlite:///autotune.db' does not exist"),
    ],
)
def test_bad_usage_is_one_sentence_and_writes_nothing(
    run: Run, hardware: str, tmp_path: Path, arguments: list[str], words: str
) -> None:
    if arguments[:2] == ["search", "moe-cache"]:
        arguments = [*arguments[:2], "--set", hardware, *arguments[2:]]
    before = set(tmp_path.iterdir())
    ran = run(*arguments)
    assert ran.code == 2
    assert words in ran.err
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("runs.db", "is not a database URL"),
        ("oracle://somewhere", "use sqlite, postgresql or mysql"),
        ("sqlite:///absent/folder/a.db", "the folder 'absent/folder' does not exist"),
        ("sqlite:///text.db", "cannot be opened"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_opened(run: Run, hardware: str, tmp_path: Path, storage: str, words: str) -> None:
    (tmp_path / "text.db").write_text("this is no database\n" * 100)
    ran = run("search", "moe-cache", "--trials", "1", "--set", hardware, "--storage", storage)
    assert ran.code == 2
    assert words in ran.err
    assert (tmp_path / "text.db").read_text().startswith("this is no database")


def test_a_study_name_that_exists_with_another_space(run: Run, hardware: str) -> None:
    run("search", "moe-cache", "--trials", "2", "--set", hardware, "--study", "a")
    ran = run("search", "moe-cache", "--set", hardware, "--set", "budget_fraction=0.5", "--study", "a")
    assert ran.code == 2
    assert "study 'a'" in ran.err
    assert "another search space" in ran.err
    assert run("studies", "--json").json[0]["trials"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("values: [0, 1", "valeus: [0, 1"),
            "space.yaml:4: parameters.x.valeus: unknown field; did you mean 'values'?",
        ),
        (("type: ordinal", "type: ordinla"), "space.yaml:4"),
        (("objectives: [minimize time_ms]", 'objectives: [minimize time_ms]\nconstraints: ["x > 9"]'), "x > 9"),
        (
            ("objectives: [minimize time_ms]", 'objectives: [minimize time_ms]\nconstraints: ["__import__(1)"]'),
            "__import__",
        ),
        (("bench.py", "{y}"), "y"),
        (("trials: 20", "trials: [20"), "space.yaml"),
    ],
)
def test_a_specification_with_a_mistake(run: Run, space: Path, change: tuple[str, str], words: str) -> None:
    space.write_text(SPACE.replace(*change))
    ran = run("search", str(space))
    assert ran.code == 2
    assert words in ran.err
    assert not (space.parent / "autotune.db").exists()


def test_ctrl_c_keeps_every_finished_trial_and_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bench.py").write_text("import time; time.sleep(0.2); print('{\"time_ms\": 1.0}')")
    (tmp_path / "space.yaml").write_text(SPACE.replace("{x}", "{x}").replace("trials: 20", "trials: 200"))
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", "search", "space.yaml", "--study", "a"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline().startswith("trial ")
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Go on with: " in err and " autotune search space.yaml --study a\n" in err
    kept = run("trials", "a", "--json").json
    assert sum(t["state"] == "completed" for t in kept) >= 3
    assert sum(t["state"] == "running" for t in kept) == 0

    finished = run("search", "space.yaml", "--study", "a", "--json")
    assert finished.code == 0, finished.err
    # The trial that was interrupted is measured first, and no configuration twice.
    assert finished.json["trials"]["total"] == 10
    assert finished.json["trials"]["completed"] == 10
    configs = [json.dumps(t["config"], sort_keys=True) for t in run("trials", "a", "--json").json]
    assert len(set(configs)) == len(configs)


def test_errors_show_a_traceback_only_with_debug(tmp_path: Path) -> None:
    quiet, loud = (
        subprocess.run(
            [sys.executable, "-m", "autotune", *flags, "show", "--storage", "sqlite:///absent.db"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        for flags in ([], ["--debug"])
    )
    assert (quiet.returncode, "Traceback" in quiet.stderr) == (2, False)
    assert "Traceback" in loud.stderr


def test_domains_lists_options_with_their_meaning(run: Run) -> None:
    assert {"expert-placement", "moe-cache"} <= {row["domain"] for row in run("domains", "--json").json}
    options = run("domains", "moe-cache", "--json").json["options"]["properties"]
    assert options["budget_gib"]["description"].startswith("fast memory")
    assert "budget_fraction" in run("domains", "moe-cache").out

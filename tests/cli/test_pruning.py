"""`autotune search --pruner`, and how the verbs that read a study tell of trials that were pruned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run

TRAIN = """
import json, sys
cost = float(sys.argv[1])
for step in range(10):
    print(json.dumps({"step": step, "energy_j": cost * (step + 1), "accuracy": (step + 1) / 10}))
print(json.dumps({"energy_j": cost * 10}))
"""

SPACE = """
name: train
parameters:
  cost: {type: ordinal, values: [1, 2, 3, 4]}
objectives: [minimize energy_j]
default: {cost: 2}
command: ["{python}", train.py, "{cost}"]
strategy: exhaustive
trials: 4
"""

BOUND = ("--pruner", "bound", "--pruner-option", "accumulating=energy_j")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAIN)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_every_verb_tells_of_pruned_trials(run: Run, space: Path) -> None:
    storage = ("--storage", "sqlite:///a.db")
    ran = run("search", str(space), *BOUND, *storage, "--json")
    assert ran.code == 0, ran.err
    counts = ran.json["trials"]
    assert (counts["completed"], counts["pruned"], counts["failed"]) == (2, 2, 0)
    assert ran.json["best"]["config"] == {"cost": 1}

    pruned = run("trials", *storage, "--state", "pruned", "--json").json
    # 20 J is what the default takes and 10 J the best, whichever was known when they were measured.
    assert {trial["config"]["cost"] for trial in pruned} == {3, 4}
    for trial in pruned:
        assert trial["state"] == "pruned" and trial["failure"] is None and trial["metrics"] == {}
        told = trial["pruned"]
        assert told["reason"].startswith("bound: energy_j is ")
        assert told["reported"]["energy_j"] == trial["config"]["cost"] * (told["step"] + 1) >= 10
    assert all(trial["pruned"] is None for trial in run("trials", *storage, "--state", "completed", "--json").json)
    listed = run("trials", *storage).out
    assert listed.count("pruned") == 2 and "no better than" in listed and "failed" not in listed

    shown = run("show", *storage).out
    assert "2 trials measured, 2 pruned" in shown and "failed" not in shown
    assert "pruner: bound (accumulating energy_j)" in shown
    assert run("studies", *storage, "--json").json[0]["pruned"] == 2
    header, row = run("studies", *storage).out.splitlines()[:2]
    assert header.split().index("pruned") == header.split().index("failed") + 1
    assert row.split()[4:7] == ["4", "0", "2"]


def test_progress_lines_tell_why(run: Run, space: Path) -> None:
    out = run("search", str(space), *BOUND).out
    assert out.count("pruned (bound: energy_j is ") == 2
    assert "pruned" not in run("search", str(space), "--study", "other").out
    assert "pruned" not in run("show", "other", "--storage", "sqlite:///autotune.db").out


def test_a_study_keeps_its_pruner(run: Run, space: Path) -> None:
    assert run("search", str(space), *BOUND, "--trials", "2").code == 0
    assert run("search", str(space), "--trials", "3").code == 0
    refused = run("search", str(space), "--trials", "4", "--pruner", "median")
    assert refused.code == 2
    assert "has the pruner 'bound (accumulating energy_j)', not 'median'; choose another study name" in refused.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--pruner", "medain"), "pruner 'medain' is unknown (did you mean 'median'?)"),
        (("--pruner", "bound"), "pruner 'bound' needs metrics that only grow"),
        (("--pruner", "race", "--pruner-option", "slack=2"), "pruner 'race': option slack = '2': "),
        (("--pruner-option", "accumulating"), "--pruner-option 'accumulating' is not of the form NAME=VALUE"),
    ],
)
def test_a_pruner_that_cannot_be_used_leaves_no_database(
    run: Run, space: Path, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    ran = run("search", str(space), *given)
    assert ran.code == 2 and said in ran.err
    assert not list(tmp_path.glob("*.db"))

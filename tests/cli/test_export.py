"""`autotune export` of a configuration, and what `autotune show` explains: end to end on the shipped trace."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import autotune
from tests.cli.conftest import Run

FORMATS = ["plan", "ktransformers", "llama.cpp", "llama.cpp-cache", "vllm", "sglang", "moe-infinity"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, hardware: str) -> Path:
    """A study ``a`` of the default, the baselines and one more, and ``c`` of two objectives; their machine is gone."""
    folder = tmp_path_factory.mktemp("searched")
    machine = Path(shutil.copy(hardware.removeprefix("hardware="), folder / "machine.json"))
    how: dict[str, Any] = {
        "options": {"hardware": str(machine)},
        "storage": f"sqlite:///{folder}/made.db",
        "strategy": "random",
    }
    autotune.search("moe-cache", trials=6, study="a", **how)
    autotune.search("moe-cache", trials=5, study="c", objectives=["token_latency_ms", "wasted_mib"], **how)
    machine.unlink()
    whole = folder / "whole.db"  # one file, without what lies beside a database that was written
    with sqlite3.connect(folder / "made.db") as connection:
        connection.execute("VACUUM INTO ?", (str(whole),))
    return whole


@pytest.fixture
def searched(run: Run, database: Path, tmp_path: Path) -> None:
    """The database as the default storage."""
    del run  # which chooses the folder
    shutil.copy(database, tmp_path / "autotune.db")


@pytest.mark.usefixtures("searched")
def test_the_best_configuration_is_written_for_an_engine(run: Run, tmp_path: Path) -> None:
    best = run("best", "a", "--json").json
    ran = run("export", "a", "--format", "plan", "--out", "plan.json", "--json")
    assert ran.code == 0, ran.err
    assert ran.json == {
        "study": "a", "format": "plan", "trial": best["number"], "out": "plan.json", "files": ["plan.json"], "cannot": [],
    }  # fmt: skip
    layers = json.loads((tmp_path / "plan.json").read_text())["layers"]
    assert [layer["budget_bytes"] for layer in layers] == [round(mib * 2**20) for mib in best["config"]["budget_mib"]]


@pytest.mark.usefixtures("searched")
def test_a_trial_may_be_chosen_and_what_is_lost_is_told(run: Run) -> None:
    ran = run("export", "a", "--format", "llama.cpp", "--trial", "0")
    assert ran.code == 0
    assert "--override-tensor blk" in ran.out
    told = [line.removeprefix("autotune: not expressed: ") for line in ran.err.splitlines()]
    assert told and told[0].startswith("policy lru: ")
    assert all(f"# - {sentence}\n" in ran.out for sentence in told)
    assert run("export", "a", "--format", "llama.cpp", "--trial", "0", "--json").json["text"] == ran.out


@pytest.mark.usefixtures("searched")
def test_files_beside_the_file_take_its_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kt").mkdir()
    ran = run("export", "a", "--format", "ktransformers", "--out", "kt/mine.args")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "kt").iterdir()) == ["mine.args", "mine.experts.pt"]
    assert "--init-expert-location mine.experts.pt" in (tmp_path / "kt" / "mine.args").read_text()
    printed = run("export", "a", "--format", "ktransformers")
    assert (printed.code, "--out is missing; ktransformers writes autotune.experts.pt beside" in printed.err) == (
        2,
        True,
    )


@pytest.mark.usefixtures("searched")
def test_formats_are_listed_and_their_options_used(run: Run, tmp_path: Path) -> None:
    listed = run("export", "a", "--format", "list")
    assert all(f"\n  {name} " in listed.out for name in FORMATS)
    assert "--set gpu_gib=..." in listed.out
    assert [one["format"] for one in run("export", "a", "--format", "list", "--json").json["configuration"]] == FORMATS
    ran = run("export", "a", "--format", "moe-infinity", "--set", "gpu_gib=0.0625", "--out", "moe.json")
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "moe.json").read_text())["device_memory_ratio"] == 24 / 64


@pytest.mark.usefixtures("searched")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--format", "llama"),
            "--format 'llama' is unknown; of all trials: json, csv, parquet, optuna; of one configuration: plan,",
        ),
        (("--format", "plan", "--trial", "99"), "study 'a' has no trial 99; it has trials 0 to 5"),
        (("--format", "csv", "--trial", "1"), "--format csv writes all trials"),
        (("--format", "moe-infinity"), "option gpu_gib"),
        (("--format", "moe-infinity", "--set", "gpu_gbi=1"), "did you mean 'gpu_gib'?"),
        (("--format", "plan", "--set", "gpu_gib=1"), "format 'plan' has no options"),
        (("--format", "sglang", "--trial", "0"), "can express nothing of policy lru"),
        (("--format", "plan", "--out", "nowhere/plan.json"), "the folder 'nowhere' does not exist"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    ran = run("export", "a", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_a_study_without_a_domain_has_the_formats_of_trials_alone(run: Run) -> None:
    space = autotune.SearchSpace([autotune.Int("x", 0, 3)])
    study = autotune.search(space, lambda c: float(c["x"]), trials=3, storage="sqlite:///autotune.db", study="b").study
    assert "of one configuration: none" in run("export", "b", "--format", "list").out
    ran = run("export", "b", "--format", "vllm")
    assert (ran.code, "of one configuration: none" in ran.err) == (2, True)
    with pytest.raises(autotune.UsageError, match="a study without a domain has: none"):
        study.export("vllm")


@pytest.mark.usefixtures("searched")
def test_python_exports_what_the_command_does(run: Run) -> None:
    study = autotune.Study.load("a", "sqlite:///autotune.db")
    exported = study.export("llama.cpp", trial=1)
    assert exported.text == run("export", "a", "--format", "llama.cpp", "--trial", "1").out
    with pytest.raises(autotune.UsageError, match=r"format 'lama.cpp' is unknown \(did you mean 'llama.cpp'\?\)"):
        study.export("lama.cpp")


@pytest.mark.usefixtures("searched")
def test_several_objectives_ask_for_a_trial(run: Run) -> None:
    assert "has 2 objectives; name a trial" in run("export", "c", "--format", "plan").err
    assert run("export", "c", "--format", "plan", "--trial", "0").code == 0
    shown = run("show", "c", "--json").json["explanation"]["time"]
    assert list(shown) == ["best in token_latency_ms", "best in wasted_mib", "default"]


@pytest.mark.usefixtures("searched")
def test_show_explains_the_result(run: Run) -> None:
    text = run("show", "a").out
    assert "where the time of a token goes (ms)" in text
    assert "\n    7 " in text  # the last layer
    shown = run("show", "a", "--json").json
    best = shown["explanation"]["time"]["best"]
    assert best["trial"] == shown["best"]["number"]
    assert sum(best["parts"].values()) == pytest.approx(shown["best"]["metrics"]["token_latency_ms"])
    assert len(shown["explanation"]["layers"]["best"]) == 8


@pytest.mark.usefixtures("searched")
def test_show_goes_on_without_the_domain(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.domain.entry_points", lambda group: ())
    ran = run("show", "a", "--json")
    assert ran.code == 0
    assert ran.json["explanation"] is None
    assert "the result is not explained: domain 'moe-cache' is unknown" in ran.err

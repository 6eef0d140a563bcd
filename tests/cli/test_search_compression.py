"""The command line on the domain compression: a small search from its start to the files that others run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Run

QUICK = tuple(
    part
    for setting in ("task=digits", "rounds=8", "repeats=1", "devices=8", "target_accuracy=0.5")
    for part in ("--set", setting)
)


def test_a_search_is_shown_gone_on_with_and_exported(run: Run) -> None:
    ran = run("search", "compression", *QUICK, "--trials", "6", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    best, default = found["best"], found["default"]
    assert (default["config"]["compressor"], default["config"]["download"]) == ("none", "none")
    assert default["metrics"]["accuracy_drop_points"] == 0.0
    assert best["metrics"]["traffic_mib"] < default["metrics"]["traffic_mib"]
    assert best["metrics"]["accuracy_drop_points"] <= 0.7

    shown = run("show", "compression")
    assert "all rounds by class of device" in shown.out
    assert "digits: 4810 parameters, 1437 samples, target 50.0%" in shown.out
    told = run("show", "compression", "--json").json["explanation"]
    assert set(told) == {"devices", "accuracy"}
    assert sum(row["devices"] for row in told["devices"]["best"].values()) == 8

    again = run("search", "compression", *QUICK, "--trials", "8", "--json")
    assert again.code == 0, again.err
    trials = run("trials", "compression", "--json").json
    assert [trial["number"] for trial in trials] == list(range(8))
    assert trials[0]["config"] == default["config"]
    configs = [json.dumps(trial["config"], sort_keys=True) for trial in trials]
    assert len(set(configs)) == 8
    other = run("search", "compression", *QUICK, "--trials", "8", "--set", "alpha=5")
    assert other.code == 2

    listed = run("export", "compression", "--format", "list", "--json").json["configuration"]
    assert [one["format"] for one in listed] == ["plan-json", "flower", "torch-ddp", "deepspeed"]
    plan = json.loads(run("export", "compression", "--format", "plan-json", "--trial", "0").out)
    assert plan["job"]["devices"] == 8
    assert plan["settings"]["local_steps"]["value"] == default["config"]["local_steps"]
    assert plan["measured"]["traffic_mib"] == {"value": default["metrics"]["traffic_mib"], "unit": "MiB"}
    plain = run("export", "compression", "--format", "torch-ddp", "--trial", "0")
    compile(plain.out, "found.py", "exec")
    assert "not expressed: participation=0.25" in plain.err
    refused = run("export", "compression", "--format", "deepspeed", "--trial", "0")
    assert (refused.code, "compressor=none" in refused.err, len(refused.err.strip().splitlines())) == (2, True, 1)


def test_a_caesar_baseline_becomes_a_flower_app_s_config_and_rules(run: Run, tmp_path: Path) -> None:
    room = ("--set", "compressor=none,top-k", "--set", "feedback=none", "--set", "accuracy_drop=100")
    assert run("search", "compression", *QUICK, *room, "--trials", "2").code == 0
    missing = run("export", "compression", "--format", "flower", "--trial", "1")
    assert (missing.code, "autotune_rules.py" in missing.err) == (2, True)
    ran = run("export", "compression", "--format", "flower", "--trial", "1", "--out", "app.toml")
    assert ran.code == 0, ran.err
    config = tomllib.loads((tmp_path / "app.toml").read_text(encoding="utf-8"))
    assert config["fraction-train"] == 0.25
    assert config["settings"]["download"] == "low-deviation"
    assert config["rules"] == {"download_keep": "by_staleness", "upload_keep": "by_rank", "batch": "by_speed"}
    compile((tmp_path / "app_rules.py").read_text(encoding="utf-8"), "app_rules.py", "exec")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("task=nothing", "task 'nothing' is unknown"),
        ("upload_keep=1.5", "upload_keep '1.5' is unknown; use numbers above 0 and at most 1"),
        ("compressor=zip", "compressor 'zip' is unknown; use none, half, top-k"),
        ("method=gossip,fed", "method 'fed' is unknown; use fedavg"),
        ("task=table", "task table needs data, which is not given; say --set data=PATH"),
        ("target_accuracy=1.1", "target_accuracy = '1.1'"),
    ],
)
def test_bad_options_are_one_sentence_and_exit_code_2(run: Run, setting: str, words: str) -> None:
    ran = run("search", "compression", "--set", setting)
    assert ran.code == 2
    assert words in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_the_domain_lists_its_options(run: Run) -> None:
    ran = run("domains", "compression")
    assert ran.code == 0
    for option in ("task", "fleet", "upload_keep", "staleness"):
        assert option in ran.out

"""The command line over several evaluators, replicates and what ends a search."""

from __future__ import annotations

import csv
import io
from collections import Counter
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import autotune.domain
from autotune import STRATEGIES, Problem
from tests.cli.conftest import Run
from tests.screening import Screen, Sure, full, short, space


class Options(BaseModel):
    """Nothing to set."""


class Toy:
    """A domain with a cheap evaluator and one that counts."""

    name = "toy"
    summary = "for tests"
    options = Options

    def problem(self, options: Any) -> Problem:
        return Problem(space(), ("latency_ms",), space().default(), {"real": full, "profiled": short})


TOY = Toy()
BOTH = ("search", "toy", "--evaluator", "profiled, real", "--strategy", "screen", "--trials", "5")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("toy", f"{__name__}:TOY", autotune.domain.GROUP)
    monkeypatch.setattr(autotune.domain, "entry_points", lambda group: EntryPoints([point]))
    monkeypatch.setitem(STRATEGIES, "screen", Screen)
    monkeypatch.setitem(STRATEGIES, "sure", Sure)


def test_a_search_over_two_evaluators_tells_what_each_took(run: Run) -> None:
    ran = run(*BOTH, "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert list(told["fidelities"]) == ["profiled", "real"] and told["fidelities"]["real"]["completed"] == 5
    assert told["trials"]["total"] == 5 and told["best"]["metrics"]["latency_ms"] >= 1.0
    cheap = told["fidelities"]["profiled"]["trials"]
    assert cheap > 0
    assert run("show", "--json").json["fidelities"] == told["fidelities"]
    listed = run("trials", "--json").json
    assert Counter(t["fidelity"] for t in listed) == {"real": 5, "profiled": cheap}
    (study,) = run("studies", "--json").json
    assert (study["trials"], study["cheaper"], study["best"]) == (5, cheap, told["best"]["metrics"]["latency_ms"])


def test_cheaper_trials_are_marked_in_text(run: Run) -> None:
    searched = run(*BOTH)
    assert searched.code == 0, searched.err
    lines = [line for line in searched.out.splitlines() if line.startswith("trial ")]
    assert "trial 1 on real  (1/5 on real)  latency_ms 19" in lines[0]
    assert "trial 2 on profiled  (1/5 on real)  latency_ms " in lines[1] and "best latency_ms 19 (trial 0)" in lines[1]
    assert "5 trials measured" in searched.out
    assert f"evaluators: profiled {len(lines) - 5} trials, " in searched.out and "whose results count" in searched.out
    rows = run("trials").out.splitlines()
    assert rows[0].split()[:4] == ["trial", "state", "evaluator", "proposer"]
    assert sum("profiled (cheaper)" in row for row in rows) == len(lines) - 5
    assert f"5 + {len(lines) - 5} cheaper" in run("studies").out
    table = list(csv.DictReader(io.StringIO(run("export", "--format", "csv").out)))
    assert Counter(row["fidelity"] for row in table) == {"real": 5, "profiled": len(lines) - 5}
    exported = run("export", "--format", "json").json
    assert [t["fidelity"] for t in exported["trials"]] == [row["fidelity"] for row in table]


def test_a_study_of_two_evaluators_is_gone_on_with_by_its_name(run: Run) -> None:
    run(*BOTH)
    again = run("search", "--study", "toy", "--trials", "7", "--json")
    assert again.code == 0, again.err
    assert again.json["trials"]["total"] == 7 and list(again.json["fidelities"]) == ["profiled", "real"]
    other = run("search", "--study", "toy", "--evaluator", "real")
    assert other.code == 2 and "has the fidelities profiled, real, not none" in other.err


def test_one_evaluator_needs_no_column(run: Run) -> None:
    assert run("search", "toy", "--evaluator", "profiled", "--trials", "2", "--json").json["fidelities"] is None
    assert run("trials").out.split()[:3] == ["trial", "state", "proposer"]
    assert [t["fidelity"] for t in run("trials", "--json").json] == [None, None]
    assert "cheaper" not in run("studies").out and "evaluators:" not in run("show").out


def test_replicates_are_one_row_of_the_result_and_marked_in_the_list(run: Run) -> None:
    ran = run("search", "toy", "--strategy", "sure", "--trials", "3")
    assert ran.code == 0, ran.err
    assert "0 (×3)" in ran.out and "0 (×3)" in run("show").out
    rows = run("trials").out.splitlines()
    assert [("repeats trial 0" in row) for row in rows[1:]] == [False, True, True]


def test_what_ended_a_search_is_shown_everywhere(run: Run) -> None:
    arguments = ("search", "toy", "--target", "latency_ms <= 1", "--trials", "40", "--strategy", "exhaustive")
    ran = run(*arguments, "--json")
    reason = ran.json["stop_reason"]
    assert reason == f"target latency_ms <= 1 reached: trial {ran.json['best']['number']} has latency_ms 1"
    assert run("show", "--json").json["stop_reason"] == reason and reason in run("show").out
    assert reason in run(*arguments).out
    assert run("search", "--study", "toy", "--json").json["stop_reason"] == reason  # the study keeps its target


@pytest.mark.parametrize("least", ["2%", "0.02", " 2 % "])
def test_a_search_ends_when_too_little_is_expected(run: Run, least: str) -> None:
    ran = run("search", "toy", "--strategy", "sure", "--min-gain", least, "--json")
    # The proposals expect 5 %, 2.5 %, 1.25 % and so on, of which five are below.
    assert ran.json["trials"]["total"] == 1 + 2 + 5
    assert ran.json["stop_reason"] == "expected gain below 2 % for 5 proposals in a row, 0.0781 % in the last"
    per_hour = run("search", "toy", "--study", "b", "--strategy", "sure", "--min-gain-per-hour", "1e12%", "--json")
    assert per_hour.json["trials"]["total"] == 6
    assert "% per hour for 5 proposals in a row" in per_hour.json["stop_reason"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--min-gain", "little"], "--min-gain 'little' is no share above 0; write it as 0.1% or 0.001"),
        (["--min-gain", "0%"], "--min-gain '0%' is no share above 0"),
        (["--min-gain-per-hour", "nan"], "--min-gain-per-hour 'nan' is no share above 0"),
        (["--target", "latency_ms"], "target is ['latency_ms']; write it as 'METRIC <= NUMBER'"),
        (["--target", "latency_ms >= 3"], "is met by bad values"),
        (["--evaluator", "profiled,real,real"], "name each once"),
        (["--evaluator", "profiled,"], "evaluator '' is unknown here; this domain has: real, profiled"),
    ],
)
def test_slips_are_one_sentence(run: Run, tmp_path: Path, arguments: list[str], says: str) -> None:
    ran = run("search", "toy", *arguments)
    assert ran.code == 2 and says in ran.err and "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []

"""`autotune trace cut`, `drift` and `replan`, end to end on the shipped trace."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import autotune
from evaluators.moe_cache.exporters.plan_json import SCHEMA
from evaluators.moe_cache.formats import load_trace, save_trace
from search_spaces.moe_cache import SHIPPED_TRACES
from tests.cli.conftest import Run

SHIPPED = str(SHIPPED_TRACES / "tiny-moe.moetrace.npz")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, hardware: str) -> Path:
    """A folder with traces ``docs`` and ``tables`` of 48 generated tokens, and a study ``a`` of the first.

    Its machine is gone, as after the search on another one.
    """
    folder = tmp_path_factory.mktemp("searched")
    machine = Path(shutil.copy(hardware.removeprefix("hardware="), folder / "machine.json"))
    for turn, name in ((1, "docs"), (2, "tables")):
        part = load_trace(SHIPPED).select([turn], decode=slice(0, 48))
        save_trace(part, folder / f"{name}.moetrace.npz")
    how: dict[str, Any] = {
        "options": {"hardware": str(machine), "trace": str(folder / "docs.moetrace.npz")},
        "storage": f"sqlite:///{folder}/made.db",
        "strategy": "random",
    }
    autotune.search("moe-cache", trials=6, study="a", **how)
    autotune.search("moe-cache", trials=5, study="c", objectives=["token_latency_ms", "wasted_mib"], **how)
    machine.unlink()
    with sqlite3.connect(folder / "made.db") as connection:
        connection.execute("VACUUM INTO ?", (str(folder / "whole.db"),))
    return folder


@pytest.fixture
def searched(run: Run, made: Path, tmp_path: Path) -> None:
    """Both traces, and the database as the default storage."""
    del run  # which chooses the folder
    shutil.copy(made / "whole.db", tmp_path / "autotune.db")
    for name in ("docs", "tables"):
        shutil.copy(made / f"{name}.moetrace.npz", tmp_path)


def test_a_trace_is_cut_by_turn(run: Run, tmp_path: Path) -> None:
    ran = run("trace", "cut", SHIPPED, "--turns", "0,docs: integers", "--output", "part.moetrace.npz", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["turn_names"] == ["source: idlelib/replace.py", "docs: integers"]
    part = load_trace(tmp_path / "part.moetrace.npz")
    whole = load_trace(SHIPPED)
    assert (part.experts == whole.experts[whole.turn <= 1]).all()
    assert part.provenance["cut"]["turns"] == "0,docs: integers"


def test_a_trace_is_cut_in_halves(run: Run, tmp_path: Path) -> None:
    whole = load_trace(SHIPPED)
    for span, tokens in (("0:96", 6 * (64 + 96)), ("96:", 6 * 96)):
        assert run("trace", "cut", SHIPPED, "--decode", span, "-o", "half.moetrace.npz").code == 0
        assert load_trace(tmp_path / "half.moetrace.npz").n_tokens == tokens
    assert (load_trace(tmp_path / "half.moetrace.npz").experts[-96:] == whole.experts[-96:]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--turns", "9"), "turn 9 is not in the trace; it has: 0 (source"),
        (("--turns", "prose"), "turn 'prose' is not in the trace"),
        (("--turns", "0,,1"), "--turns '0,,1' has an empty part"),
        (("--phases", "dekode"), "phase 'dekode' is not in the trace; it has: 0 (prefill), 1 (decode)"),
        (("--decode", "64"), "--decode '64' is not of the form START:STOP"),
        (("--decode", "500:"), "is empty"),
    ],
)
def test_what_cannot_be_cut_is_told(run: Run, arguments: tuple[str, ...], words: str) -> None:
    ran = run("trace", "cut", SHIPPED, *arguments, "-o", "part.moetrace.npz")
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.usefixtures("searched")
def test_drift_of_two_traces_is_told(run: Run) -> None:
    found = run("trace", "drift", "docs.moetrace.npz", "tables.moetrace.npz", "--json").json
    assert found["drifted"] is True
    assert len(found["layer_excess_bits"]) == 8
    text = run("trace", "drift", "docs.moetrace.npz", "tables.moetrace.npz").out
    assert "routing: drifted (p = " in text
    assert "no drift to be seen" in run("trace", "drift", "docs.moetrace.npz", "docs.moetrace.npz").out
    whole = run("trace", "drift", "docs.moetrace.npz", "tables.moetrace.npz", "--block-tokens", "999")
    assert "too short to tell drift" in whole.out


@pytest.mark.usefixtures("searched")
def test_a_study_is_planned_anew(run: Run, tmp_path: Path) -> None:
    ran = run("trace", "replan", "a", "--trace", "tables.moetrace.npz", "--starts", "1", "-o", "plan.json", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    best = run("best", "a", "--json").json
    assert (found["trial"], found["present"]) == (best["number"], best["config"])
    assert found["tuned_ms"] == pytest.approx(best["metrics"]["token_latency_ms"])
    assert found["drift"]["drifted"] is True
    assert found["saved_ms"] == pytest.approx(found["gain"] * found["present_ms"])
    assert found["recommendation"] == ("replan" if found["held_out_gain"] >= found["threshold"] else "keep")
    plan = json.loads((tmp_path / "plan.json").read_text())
    jsonschema.validate(plan, json.loads(SCHEMA.read_text()))
    assert [layer["slots"] for layer in plan["layers"]] == [layer["slots_after"] for layer in found["layers"]]
    assert plan["policy"]["name"] == found["found"]["policy"]


@pytest.mark.usefixtures("searched")
def test_the_text_tells_what_changes_and_the_threshold_decides(run: Run) -> None:
    ask = ("trace", "replan", "a", "--trace", "tables.moetrace.npz", "--starts", "1", "--trial", "0")
    text = run(*ask).out
    assert "recommendation: change the configuration" in text
    assert "what changes" in text
    assert "present configuration (trial 0 of a)" in text
    text = run(*ask, "--threshold", "90%").out
    assert "recommendation: keep the present configuration" in text
    assert "routing: drifted" in text
    assert "what would change" in text


@pytest.mark.usefixtures("searched")
def test_other_objectives_are_named(run: Run) -> None:
    ask = ("trace", "replan", "c", "--trace", "docs.moetrace.npz", "--starts", "1")
    assert "has 2 objectives; name a trial" in run(*ask).err
    ran = run(*ask, "--trial", "0")
    assert ran.code == 0
    assert "asks for more than is compared here: minimize wasted_mib" in ran.err


@pytest.mark.usefixtures("searched")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a",), "--trace is missing"),
        (("a", "--trace", "gone.moetrace.npz"), "trace gone.moetrace.npz cannot be read"),
        (("b", "--trace", "docs.moetrace.npz"), "study 'b' does not exist"),
        (("a", "--trace", "docs.moetrace.npz", "--threshold", "much"), "--threshold 'much' is no share above 0"),
        (("a", "--trace", "docs.moetrace.npz", "--output", "no/plan.json"), "the folder 'no' does not exist"),
        (("a", "--trace", "docs.moetrace.npz", "--trial", "77"), "study 'a' has no trial 77"),
        (("a", "--trace", "other.moetrace.npz"), "1 layers of 4 experts, top 1, but that of"),
        (("a", "--trace", "prompts.moetrace.npz"), "has no decode token"),
        (("a", "--trace", "docs.moetrace.npz", "--tuned-on", "gone.npz"), "study 'a': trace 'gone.npz' is neither"),
    ],
)
def test_what_cannot_be_planned_for_is_told_in_a_sentence(run: Run, arguments: tuple[str, ...], words: str) -> None:
    from tests.moe_cache.traces import one_layer

    save_trace(one_layer([0, 1, 2, 3] * 5, 4), "other.moetrace.npz")
    save_trace(load_trace("docs.moetrace.npz").select(phases=["prefill"]), "prompts.moetrace.npz")
    ran = run("trace", "replan", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_studies_without_routing_or_without_a_trial_are_told(run: Run, hardware: str) -> None:
    save_trace(load_trace(SHIPPED).select([1], decode=slice(0, 8)), "docs.moetrace.npz")
    space = autotune.SearchSpace([autotune.Int("x", 0, 3)])
    autotune.search(space, lambda c: float(c["x"]), trials=2, storage="sqlite:///autotune.db", study="plain")
    ran = run("trace", "replan", "plain", "--trace", "docs.moetrace.npz")
    assert (ran.code, ran.err) == (
        2,
        "autotune: study 'plain' has no domain, which has no routing; give a study of moe-cache\n",
    )
    problem = autotune.domain.load_domain("moe-cache")
    made = problem.problem(problem.options(hardware=hardware.removeprefix("hardware=")))
    autotune.Study.create(
        made.space, made.objectives, storage="sqlite:///autotune.db", name="begun", default=made.default,
        domain="moe-cache", profile=made.profile, strategy="random",
    )  # fmt: skip
    ran = run("trace", "replan", "begun", "--trace", "docs.moetrace.npz")
    assert (ran.code, ran.err) == (1, "autotune: study 'begun' has no feasible measurement yet\n")


@pytest.mark.usefixtures("searched")
def test_a_trace_that_moved_may_be_named(run: Run, made: Path) -> None:
    kept = (made / "docs.moetrace.npz").rename(made / "moved.moetrace.npz")
    try:
        ask = ("trace", "replan", "a", "--trace", "docs.moetrace.npz", "--starts", "1")
        ran = run(*ask)
        assert ran.code == 2
        assert "name it with --tuned-on FILE" in ran.err
        found = run(*ask, "--tuned-on", str(kept), "--json").json
        assert found["drift"]["divergence_bits"] == pytest.approx(0.0, abs=1e-12)
    finally:
        kept.rename(made / "docs.moetrace.npz")

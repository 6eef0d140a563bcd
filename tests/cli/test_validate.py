"""`autotune validate`: real runs of a short trace beside their predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autotune.hardware import current_environment
from autotune.hardware.cache import cache_path, save_cached
from evaluators.moe_cache.formats import load_trace, save_trace
from search_spaces.moe_cache import DOMAIN, SHIPPED_TRACES, Options
from tests.cli.conftest import Run
from tests.machine import made_profile


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first tokens of the shipped trace."""
    turn = load_trace(SHIPPED_TRACES / "tiny-moe.moetrace.npz").select(turns=[0], phases=["decode"])
    first = slice(None, 24)
    path = tmp_path_factory.mktemp("trace") / "tiny-moe.moetrace.npz"
    picks = {"experts": turn.experts[first], "turn": turn.turn[first], "phase": turn.phase[first]}
    predicted = None if turn.predicted is None else turn.predicted[:, first]
    save_trace(replace(turn, **picks, weights=None, predicted=predicted), path)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that holds a profile of this machine, so that nothing is measured."""
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "hardware"
    folder.mkdir(parents=True)
    environment = current_environment(folder)
    profile = made_profile().model_copy(update={"environment": environment})
    assert save_cached(profile) == cache_path(environment.fingerprint, profile.tiers)
    return folder


def test_runs_are_compared_kept_and_correct_later_searches(run: Run, machine: Path, trace: Path) -> None:
    arguments = ("validate", "moe-cache", "--runs", 4, "--calibration", 2, "--set", f"trace={trace}", "--json")
    before = DOMAIN.problem(Options(trace=str(trace)))
    first = run(*arguments, "--plot", "agreement.html")
    assert first.code == 0, first.err
    report = first.json
    assert (report["runs"], report["calibration_runs"], report["failed_runs"]) == (4, 2, 0)
    assert set(report["metrics"]["token_latency_ms"]) == {"pairs", "mape", "bias", "worst", "spearman"}
    # What is counted is predicted exactly; only times are not.
    assert report["metrics"]["hit_rate"]["mape"] == pytest.approx(0.0, abs=1e-12)
    assert report["metrics"]["fast_memory_gib"]["worst"] < 0.02
    assert report["repeated"] == {}  # of one round
    assert "plotly" in Path("agreement.html").read_text(encoding="utf-8")

    # The runs are there: the same command measures none again, another one is refused.
    trials = run("trials", "validation-moe-cache", "--json").json
    assert len(trials) == 7  # the default, and six
    assert run(*arguments).json["metrics"] == report["metrics"]
    assert run("trials", "validation-moe-cache", "--json").json == trials
    other = run("validate", "moe-cache", "--runs", 5, "--calibration", 2, "--set", f"trace={trace}")
    assert other.code == 2
    assert "choose another study name" in other.err
    assert "{'runs': 4}, not {'runs': 5}" in other.err  # what differs, and nothing else

    # A search on this machine uses the correction, and says so; it can be left out.
    assert Path(report["correction_file"]).parent == machine
    after = DOMAIN.problem(Options(trace=str(trace)))
    plain = DOMAIN.problem(Options(trace=str(trace), corrected=False))
    assert "2 real runs" in after.facts["correction"]
    assert "correction" not in plain.facts
    latency = [p.evaluators["profiled"](p.default).values()["token_latency_ms"] for p in (before, plain, after)]
    assert latency[0] == latency[1] != latency[2]
    Path(report["correction_file"]).write_text("{}")
    broken = run("search", "moe-cache", "--set", f"trace={trace}")
    assert broken.code == 2
    assert "is no readable correction" in broken.err


def test_a_table_for_people_and_nothing_kept_for_a_named_machine(run: Run, hardware: str, trace: Path) -> None:
    ran = run(
        "validate", "moe-cache", "--runs", 3, "--calibration", 1, "--rounds", 2, "--set", f"trace={trace}", "--set", hardware
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "3 configurations beside their predictions, medians of 2 real runs each" in ran.out
    trials = run("trials", "validation-moe-cache", "--json").json
    configs = [trial["config"] for trial in trials]
    assert configs[:5] == configs[5:]  # in turns
    assert "token_latency_ms" in ran.out
    assert "mape before correction" in ran.out
    assert "spearman of runs" in ran.out
    assert "from now on" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plot", "a.png"), "must end in .html"),
        (("--plot", "nowhere/a.html"), "the folder 'nowhere' does not exist"),
        (("--runs", 1), "runs"),
        (("--rounds", 0), "rounds"),
    ],
)
def test_bad_input_is_one_sentence(run: Run, arguments: tuple[object, ...], message: str) -> None:
    ran = run("validate", "moe-cache", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1

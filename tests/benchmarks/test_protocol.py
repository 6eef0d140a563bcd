from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune import Failure, UsageError
from benchmarks.quality import peers
from benchmarks.quality.bench import run_all
from benchmarks.quality.ledger import Key, Ledger
from benchmarks.quality.peers.client import PeerClient, PeerError
from benchmarks.quality.problem import Problem, recorded
from benchmarks.quality.report import report
from benchmarks.quality.searchers import StrategySearcher, is_ours, resolve_searcher
from benchmarks.quality.session import FREE_IN_A_ROW, BudgetSpentError, Session, Settings
from benchmarks.quality.suites import load
from benchmarks.search_quality import main
from evaluators.recorded import read_kernel
from tests.benchmarks.recorded_spaces import write

Fake = Callable[..., str]
HERE = [sys.executable]
FAILING = {"block": 32, "unroll": 2, "layout": "column"}
FORBIDDEN = {"block": 64, "unroll": 2, "layout": "row"}
BEST = {"block": 32, "unroll": 2, "layout": "row"}


@pytest.fixture
def toy(tmp_path: Path) -> Problem:
    return recorded(read_kernel(write(tmp_path / "data")), "kernels")


def test_only_new_feasible_configurations_are_charged(toy: Problem) -> None:
    session = Session(toy, 0, Settings(budget=3, initial=0))
    assert session.submit(FORBIDDEN, 1.0).status == "infeasible"
    failed = session.submit(FAILING, 2.0)
    assert failed.status == "failed" and isinstance(failed.failure, Failure)
    assert session.submit(FAILING, 0.5).duplicate
    assert session.submit({"block": 10, "colour": "red"}, 0.5).status == "infeasible"
    assert session.submit(BEST, 0.25).losses == (1.0,)
    assert (session.true, session.infeasible, session.duplicates) == ([None, [1.0]], 2, 1)
    # Free proposals cost the searcher's time: it is charged to the next evaluation.
    assert session.seconds == [3.0, 1.25]
    session.submit({**BEST, "block": 16}, 0.0)
    with pytest.raises(BudgetSpentError):
        session.submit({**BEST, "layout": "column"}, 0.0)


def test_a_searcher_that_only_repeats_itself_is_stopped(toy: Problem) -> None:
    session = Session(toy, 0, Settings(budget=100, initial=0))
    session.submit(BEST, 0.0)
    with pytest.raises(BudgetSpentError):
        for _ in range(FREE_IN_A_ROW + 1):
            session.submit(BEST, 0.0)
    assert session.stalled and len(session.seen) == 1


def test_an_exhausted_space_ends_the_run(toy: Problem) -> None:
    session = Session(toy, 0, Settings(budget=100, initial=0))
    StrategySearcher("random").search(session)
    assert len(session.seen) == 10 and not session.stalled


def test_the_initial_design_is_shared_by_seed(toy: Problem) -> None:
    a, b = (Session(toy, 5, Settings(budget=6, initial=4)) for _ in range(2))
    assert a.initial == b.initial and a.initial != Session(toy, 6, Settings(6, 4)).initial
    for name, session in (("tpe", a), ("local", b)):
        StrategySearcher(name).search(session)
    assert a.true[:4] == b.true[:4] and len(a.true) == len(b.true) == 6


@pytest.mark.parametrize(("budget", "initial"), [(0, 0), (5, 6), (5, -1)])
def test_settings_that_make_no_run_are_refused(budget: int, initial: int) -> None:
    with pytest.raises(UsageError, match="0 <= initial <= budget"):
        Settings(budget, initial)


def test_finished_runs_are_not_run_again_and_a_line_cut_off_is(toy: Problem, tmp_path: Path) -> None:
    path, said = tmp_path / "runs.jsonl", list[str]()
    settings = Settings(budget=5, initial=2)
    run_all([toy], ["uniform", "tpe"], range(2), settings, Ledger(path), HERE, said.append)
    complete = path.read_text()
    assert len(complete.splitlines()) == 4
    run_all([toy], ["uniform", "tpe"], range(2), settings, Ledger(path), HERE, said.append)
    assert path.read_text() == complete and said[-1] == "tpe: nothing to do"
    path.write_text(complete[:-40])
    run_all([toy], ["uniform", "tpe"], range(2), settings, Ledger(path), HERE, said.append)
    again = Ledger(path)
    assert {(k.searcher, k.seed) for k in again.runs} == {(s, i) for s in ("uniform", "tpe") for i in (0, 1)}
    before = [json.loads(line)["losses"] for line in complete.splitlines()]
    assert again.runs[Key.of(toy, "tpe", 1, settings)].true == before[3]
    # Other settings are other runs.
    assert Key.of(toy, "tpe", 1, Settings(6, 2)) not in again.runs


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"hello": 1}\n')
    with pytest.raises(UsageError, match="line 1, is no run of this benchmark"):
        Ledger(path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Registers the fake peer, told to do something."""

    def register(option: str = "", module: str = "fake_peer") -> str:
        monkeypatch.setitem(peers.PEERS, "fake", (f"tests.benchmarks.{module}", option))
        return "fake"

    return register


def test_a_peer_in_its_own_process_follows_the_protocol(toy: Problem, fake: Fake) -> None:
    client = PeerClient.start(fake(), ["/no/such/python", *HERE])
    assert isinstance(client, PeerClient) and client.version == "fake 1.0"
    try:
        assert client.refuses(toy) is None
        for seed in range(2):
            session = Session(toy, seed, Settings(budget=20, initial=2))
            client.search(session)
            assert session.infeasible == 1 and 6 <= len(session.seen) <= 8
            assert len(session.seen) + session.duplicates == 8
        stopped = Session(toy, 0, Settings(budget=3, initial=2))
        client.search(stopped)
        assert len(stopped.seen) == 3
    finally:
        client.close()


def test_a_peer_that_needs_the_table_gets_every_row(toy: Problem, fake: Fake) -> None:
    client = PeerClient.start(fake("table", "fake_table_peer"), HERE)
    assert isinstance(client, PeerClient)
    try:
        client.search(Session(toy, 0, Settings(budget=5, initial=1)))
        continuous = load(Path("/nowhere"), ["smooth"], ["branin*"])[0]
        assert client.refuses(continuous) == "recorded spaces only"
    finally:
        client.close()


@pytest.mark.parametrize(("option", "said"), [("break", "out of ideas"), ("die", "ended in the middle of a run")])
def test_a_peer_that_breaks_is_reported_and_the_others_go_on(
    option: str,
    said: str,
    toy: Problem,
    tmp_path: Path,
    fake: Fake,
) -> None:
    name = fake(option)
    ledger, settings = Ledger(tmp_path / "runs.jsonl"), Settings(5, 2)
    run_all([toy], [name, "uniform"], range(2), settings, ledger, HERE, lambda _: None)
    assert len(ledger.broke) == 2 and all(said in reason for reason in ledger.broke.values())
    text = report([toy], ledger, settings)
    assert said in text and "| uniform |" in text
    with pytest.raises(PeerError, match=said):
        client = PeerClient.start(name, HERE)
        assert isinstance(client, PeerClient)
        try:
            client.search(Session(toy, 0, settings))
        finally:
            client.close()


def test_a_peer_that_is_not_installed_is_reported(
    toy: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.PEERS, "gone", ("no.such.peer", ""))
    ledger, settings = Ledger(tmp_path / "runs.jsonl"), Settings(5, 2)
    run_all([toy], ["gone", "uniform"], range(1), settings, ledger, HERE, lambda _: None)
    assert "- gone: not installed (ModuleNotFoundError" in report([toy], ledger, settings)
    assert resolve_searcher("gone", []) == "not installed (none of the interpreters exists)"


def test_plain_optuna_runs_as_a_peer_with_the_shared_design(toy: Problem) -> None:
    client = PeerClient.start("optuna:tpe", HERE)
    assert isinstance(client, PeerClient) and client.version.startswith("optuna ")
    try:
        session, other = Session(toy, 1, Settings(8, 3)), Session(toy, 1, Settings(8, 3))
        client.search(session)
        StrategySearcher("tpe").search(other)
        assert session.true[:3] == other.true[:3] and len(session.true) == 8
    finally:
        client.close()


def test_the_report_reads_by_hand(toy: Problem, tmp_path: Path) -> None:
    ledger, settings = Ledger(tmp_path / "runs.jsonl"), Settings(budget=4, initial=1)
    for name, losses in (("local", [[8.0], None, [1.0], [2.0]]), ("uniform", [[8.0], [4.0], [4.0], [2.0]])):
        record = {"losses": losses, "observed": None, "seconds": [0.0, 0.1, 0.2, 0.3], "infeasible": 2, "duplicates": 1}
        ledger.add_run(Key.of(toy, name, 0, settings), "made up", {**record, "stalled": False}, {})
    lines = report([toy], Ledger(ledger.path), settings).splitlines()
    head = next(line for line in lines if line.startswith("| searcher |"))
    local = next(line for line in lines if line.startswith("| local |"))
    assert head.count("|") == local.count("|") and head.endswith("| ms per evaluation |")
    assert "| 1.000 [1.000, 1.000] |" in local and local.endswith("| 0.50 | 0.25 | 200.0 |")
    assert next(line for line in lines if line.startswith("| uniform |")).startswith("| uniform | 1 | 0.500 [")
    with pytest.raises(UsageError, match="holds no run"):
        report([toy], ledger, Settings(9, 1))


def test_adapters_of_other_peoples_algorithms_are_peers() -> None:
    assert is_ours("local") and is_ours("auto")
    assert not is_ours("tpe") and not is_ours("uniform") and not is_ours("smac")


def test_the_command_on_a_folder_of_other_spaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "deep" / "down", "other_gpu")
    runs, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    common = ["--data", str(tmp_path), "--budget", "6", "--initial", "2", "--runs", str(runs)]
    assert main([*common, "--seeds", "1", "--searchers", "uniform,local"]) == 0
    assert "other_gpu local seed 0: 6 evaluations" in capsys.readouterr().out
    assert main([*common, "--report", str(page)]) == 0
    assert "| other_gpu |" in page.read_text()
    for wrong, said in [
        (["--suite", "kernel"], "suite 'kernel' is unknown"),
        (["--problems", "no*"], "no problem in the suites kernels"),
        (["--searchers", "magic"], "searcher 'magic' is unknown"),
        (["--seeds", "0"], "--seeds 0"),
    ]:
        assert main([*common, *wrong]) == 2
        assert said in capsys.readouterr().err


def test_the_small_slice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--slice", "small", "--peers", ""]) == 0
    text = capsys.readouterr().out
    assert "| memory_limited_60 |" in text and "| branin+shift1 |" in text and "- optuna:tpe: not installed" in text

"""optuna-dashboard on our studies: as an export, and live. The real application, called as a server calls it."""

from __future__ import annotations

import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import optuna
import pytest
import typer
from optuna.study import StudyDirection
from optuna.trial import TrialState
from typer.testing import CliRunner

from autotune import Failure, Ordinal, Pruned, SearchSpace, Store, Study, UsageError
from autotune.cli import optuna_dashboard as verb
from autotune.integrations.optuna_dashboard import LiveStorage, application, make_dashboard_server
from autotune.integrations.optuna_export import export_study
from tests.shown_studies import make, tell_unchecked

OUTCOMES = [
    {"latency_ms": 8.0, "vram_gib": 20.0, "hit_rate": 0.5},
    Failure("oom", "<b>30 GiB"),
    {"latency_ms": 1.0, "vram_gib": 30.5},
    Pruned("slow", {"step": 3, "values": {"latency_ms": 90.0}}),
    {"latency_ms": 4.0, "vram_gib": 23.0, "hit_rate": math.nan},
]


def browsed(app: Any) -> Callable[..., tuple[int, Any]]:
    """Ask an application as a server would, which `wsgiref.validate` watches."""
    checked = validator(app)

    def ask(path: str, method: str = "GET") -> tuple[int, Any]:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        path, _, query = path.partition("?")
        environ |= {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": method}
        status: list[str] = []
        answer = checked(environ, lambda given, headers, error=None: status.append(given))
        body = b"".join(answer)
        answer.close()
        return int(status[0].split()[0]), json.loads(body) if body[:1] in (b"{", b"[") else body

    return ask


def shown(storage: str) -> Study:
    study = make(storage, OUTCOMES, constraints=["vram_gib <= 24"], name="<i>demo")
    trial = study.ask()
    for step, value in enumerate((9.0, math.nan, 6.0)):
        study.report(trial, step, {"latency_ms": value, "loss": 1.0})
    return study


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ours.db'}"


def by_key(attributes: list[dict[str, str]]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in attributes}


def test_the_live_view_lists_studies_with_trials_values_states_and_violations(url: str) -> None:
    study = shown(url)
    make(url, [], name="empty")
    ask = browsed(application(url))
    status, listed = ask("/api/studies")
    assert status == 200
    assert [(s["study_id"], s["study_name"], s["directions"]) for s in listed["study_summaries"]] == [
        (1, "<i>demo", ["minimize"]),
        (2, "empty", ["minimize"]),
    ]
    assert by_key(listed["study_summaries"][0]["user_attrs"])["constraints"] == "vram_gib <= 24"

    status, detail = ask("/api/studies/1")
    trials = detail["trials"]
    assert status == 200 and detail["objective_names"] == ["latency_ms"]
    assert [t["state"] for t in trials] == ["Complete", "Fail", "Complete", "Pruned", "Complete", "Running"]
    assert [t.get("values") for t in trials] == [[8.0], None, [1.0], None, [4.0], None]
    assert [t["constraints"] for t in trials] == [[0.0], [], [6.5], [], [0.0], []]
    assert [t["trial_id"] for t in trials] == [t.id for t in study.trials]
    assert by_key(trials[1]["user_attrs"])["failure_message"] == "<b>30 GiB"
    assert by_key(trials[3]["user_attrs"])["pruned"] == "slow"
    assert by_key(trials[0]["user_attrs"])["hit_rate"] == "0.5"
    assert [(v["step"], v["value"]) for v in trials[5]["intermediate_values"]] == [(0, 9.0), (1, "nan"), (2, 6.0)]
    values = {p["name"]: p["param_external_value"] for p in trials[0]["params"]}
    assert values["policy"] == "lru" and values["budget[7]"] == "0.5" and "depth" not in values
    # The trial that is best by number breaks the constraint; the best feasible one is shown.
    assert [t["number"] for t in detail["best_trials"]] == [4]
    assert ask("/api/studies/2")[1]["trials"] == []
    assert ask("/api/studies/3")[0] == 404
    assert ask("/dashboard")[0] == 200


def test_new_trials_and_reports_show_as_they_come(url: str) -> None:
    study = shown(url)
    live = LiveStorage(url)
    before = live.get_all_trials(1)
    running = study.trials[5]
    study.store.report(running, 3, {"latency_ms": 5.0})
    during = live.get_all_trials(1)
    assert during[5].intermediate_values[3] == 5.0 and 3 not in before[5].intermediate_values
    study.store.finish(1, running, Failure("timeout", "too long"))
    study.tell(study.ask(), {"latency_ms": 2.0, "vram_gib": 1.0})
    after = live.get_all_trials(1)
    assert [t.state for t in after[5:]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert [t.state for t in before[5:]] == [TrialState.RUNNING]  # what was handed out does not change
    assert after[0] is before[0]  # and what has not changed is not read again
    assert live.get_best_trial(1).number == 6
    assert live.get_trial(after[6]._trial_id).values == [2.0]
    assert live.get_trial_id_from_study_id_trial_number(1, 6) == after[6]._trial_id


def test_optuna_reads_a_study_through_the_live_storage(url: str) -> None:
    study = shown(url)
    ours = optuna.load_study(study_name="<i>demo", storage=LiveStorage(url))
    assert ours.directions == [StudyDirection.MINIMIZE] and ours.metric_names == ["latency_ms"]
    assert ours.best_trial.number == 4 and ours.best_value == 4.0
    assert ours.trials[2].constraints["vram_gib <= 24"] == 6.5
    assert len(ours.trials_dataframe()) == len(study.trials) == 6
    with pytest.raises(KeyError):
        optuna.load_study(study_name="other", storage=LiveStorage(url))


def test_nothing_is_written_and_each_refusal_says_so(url: str) -> None:
    shown(url)
    ask = browsed(application(url))
    for method, path in (("DELETE", "/api/studies/1"), ("POST", "/api/studies"), ("PUT", "/api/studies/1/note")):
        status, answer = ask(path, method)
        assert status == 403 and "for reading only" in answer["reason"]
    live = LiveStorage(url)
    study = optuna.load_study(study_name="<i>demo", storage=live)
    with pytest.raises(UsageError, match="for reading only"):
        study.ask()
    with pytest.raises(UsageError, match="for reading only"):
        live.delete_study(1)
    assert len(Store(url).studies()) == 1 and len(Store(url).trials(1)) == 6


def test_a_best_trial_where_nothing_is_feasible_is_the_nearest(url: str) -> None:
    make(
        url,
        [{"latency_ms": 1.0, "vram_gib": 40.0}, {"latency_ms": 9.0, "vram_gib": 25.0}],
        constraints=["vram_gib <= 24"],
    )
    status, detail = browsed(application(url))("/api/studies/1")
    assert status == 200 and [t["number"] for t in detail["best_trials"]] == [1]


def test_several_objectives_and_numbers_that_are_none(url: str) -> None:
    study = make(
        url,
        [{"latency_ms": 5.0, "rate": 0.5}, {"latency_ms": 4.0, "rate": 0.4}],
        objectives=["latency_ms", "maximize rate"],
    )
    tell_unchecked(study, {"latency_ms": math.nan, "rate": 1.0})
    status, detail = browsed(application(url))("/api/studies/1")
    assert status == 200 and detail["directions"] == ["minimize", "maximize"]
    assert [t["number"] for t in detail["best_trials"]] == [0, 1]
    assert detail["trials"][2]["state"] == "Fail"
    assert by_key(detail["trials"][2]["user_attrs"])["failure_message"] == "no finite number for latency_ms"


def test_a_study_that_only_failed_opens(url: str) -> None:
    make(url, [Failure("oom"), Failure("crash")])
    status, detail = browsed(application(url))("/api/studies/1")
    assert status == 200 and detail["best_trials"] == [] and len(detail["trials"]) == 2


def test_a_database_that_is_lost_is_a_sentence(url: str, tmp_path: Path) -> None:
    shown(url).store.close()
    ask = browsed(application(url))
    assert ask("/api/studies")[0] == 200
    (tmp_path / "ours.db").write_bytes(b"no database" * 5000)
    for beside in tmp_path.glob("ours.db-*"):
        beside.unlink()
    status, answer = ask("/api/studies/1")
    assert status == 503 and "could not be read" in answer["reason"]
    with pytest.raises(UsageError, match="does not exist"):
        application(f"sqlite:///{tmp_path / 'none.db'}")


def test_a_server_answers_on_this_machine_alone(url: str) -> None:
    shown(url)
    with make_dashboard_server(url, port=0) as server:
        assert server.server_address[0] == "127.0.0.1"
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/api/studies/1", timeout=30) as answer:
                assert json.load(answer)["name"] == "<i>demo"
            with pytest.raises(UsageError, match=rf"port {server.server_port} .* choose another port"):
                make_dashboard_server(url, port=server.server_port)
        finally:
            server.shutdown()
            serving.join()


def test_the_verb_refuses_what_is_not_there(tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    verb.register(app)
    result = CliRunner().invoke(app, ["optuna-dashboard", "--storage", f"sqlite:///{tmp_path / 'none.db'}"])
    assert isinstance(result.exception, UsageError) and "does not exist" in str(result.exception)


# ----------------------------------------------------------------------- export


def test_an_export_holds_what_the_live_view_shows_and_optuna_dashboard_opens_it(url: str, tmp_path: Path) -> None:
    study = shown(url)
    study.tell(study.ask(), {"latency_ms": 3.0, "vram_gib": 2.0, "other": math.inf})
    out = f"sqlite:///{tmp_path / 'theirs.db'}"
    assert export_study(study, out) == 6  # the running one is not finished
    copied = optuna.load_study(study_name="<i>demo", storage=out).trials
    live = [t for t in LiveStorage(url).get_all_trials(1) if t.state.is_finished()]
    assert [t.number for t in copied] == list(range(6))
    for theirs, ours in zip(copied, live, strict=True):
        assert (theirs.state, theirs.values, theirs.params) == (ours.state, ours.values, ours.params)
        assert (theirs.distributions, theirs.system_attrs) == (ours.distributions, ours.system_attrs)
        assert str(sorted(theirs.user_attrs.items())) == str(sorted(ours.user_attrs.items()))
        assert (theirs.datetime_start, theirs.datetime_complete) == (ours.datetime_start, ours.datetime_complete)
        assert theirs.user_attrs["number"] == ours.number

    from optuna_dashboard import wsgi

    ask = browsed(wsgi(out))
    (summary,) = ask("/api/studies")[1]["study_summaries"]
    detail = ask(f"/api/studies/{summary['study_id']}")[1]
    assert [t["state"] for t in detail["trials"]] == ["Complete", "Fail", "Complete", "Pruned", "Complete", "Complete"]
    assert [t["constraints"] for t in detail["trials"]] == [[0.0], [], [6.5], [], [0.0], [0.0]]
    assert detail["objective_names"] == ["latency_ms"]


def test_ordinals_and_large_exports_in_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autotune.integrations import optuna_export

    monkeypatch.setattr(optuna_export, "_TRIALS_AT_ONCE", 7)
    monkeypatch.setattr(optuna_export, "_ROWS_AT_ONCE", 5)
    space = SearchSpace([Ordinal("tile", list(range(10, 510, 10)), default=10)])
    study = Study.create(space, strategy="random")
    for trial in study.ask(20):
        study.report(trial, 0, {"value": 1.5})
        study.tell(trial, float(trial.config["tile"]))
    out = f"sqlite:///{tmp_path / 'theirs.db'}"
    assert export_study(study, out) == 20
    copied = optuna.load_study(study_name="study", storage=out)
    assert [t.values for t in copied.trials] == [[float(t.config["tile"])] for t in study.trials]
    assert [t.params["tile"] for t in copied.trials] == [t.config["tile"] // 10 - 1 for t in study.trials]
    assert all(t.intermediate_values == {0: 1.5} for t in copied.trials)
    copied.add_trial(copied.trials[0])  # Optuna goes on with what was written
    assert len(copied.trials) == 21


def test_an_export_that_breaks_leaves_no_half_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make("sqlite://", [1.0, 2.0])
    out = f"sqlite:///{tmp_path / 'theirs.db'}"

    def breaks(_: Any) -> Any:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="disk"):
        broken.setattr(study.store, "reports_of", breaks)
        export_study(study, out)
    assert optuna.get_all_study_names(out) == []
    assert export_study(study, out) == 2

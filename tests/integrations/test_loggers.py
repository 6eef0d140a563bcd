"""Loggers against the real trackers, offline: what was logged is read back by the tracker's own means."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# Before they are imported: no tracker may use a network here.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true", WANDB_MODE="offline"
)

import autotune
from autotune import Categorical, Failure, Float, Int, Pruned, Report, Result, SearchSpace, Study, UsageError
from autotune.integrations.loggers import LoggerWarning, MLflowLogger, StudyLogger, TensorBoardLogger, WandbLogger
from autotune.integrations.loggers.base import Logged
from autotune.integrations.loggers.values import flat

ROOT = Path(__file__).parents[2]
SPACE = SearchSpace(
    [
        Float("budget", 0.0, 1.0, size=4, default=0.5),
        Categorical("policy", ["lru", "<b>lfu"]),
        Int("threads", 1, 64, default=8),
    ]
)
OUTCOMES: list[Any] = [
    {"latency_ms": 8.0, "vram_gib": 20.0, "odd %": 1.0},
    Failure("oom", "30 <GiB>"),
    {"latency_ms": 1.0, "vram_gib": 30.0},
    Pruned("too slow"),
    {"latency_ms": 4.0, "vram_gib": 10.0, "odd %": math.nan},
    {"latency_ms": 6.0, "vram_gib": 10.0},
    {"latency_ms": 2.0, "vram_gib": 10.0},
]


def searched(url: str, trials: int, callback: Any) -> Result:
    """A search whose trials end as `OUTCOMES` say; called again with more trials it is gone on with."""
    begun = iter(OUTCOMES)
    if Path(url.removeprefix("sqlite:///")).exists():
        begun = iter(OUTCOMES[len(Study.load("a/<b>", url).trials) :])

    def evaluate(config: dict[str, Any], report: Report) -> Any:
        found = next(begun)
        report(0, latency_ms=90.0)
        report(1, latency_ms=80.0)
        if isinstance(found, (Failure, Pruned)):
            raise found
        return found

    return autotune.search(
        SPACE,
        evaluate,
        "minimize latency_ms",
        constraints=["vram_gib <= 24"],
        trials=trials,
        strategy="random",
        storage=url,
        study="a/<b>",
        callback=callback,
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ours.db'}"


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take it seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


# ----------------------------------------------------------------------- MLflow


def test_mlflow_has_a_run_for_the_study_and_one_nested_in_it_for_each_trial(
    url: str, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # artifacts lie beside the working directory
    shutil.copy(empty_mlflow, "mlflow.db")
    client = MlflowClient(tracking_uri="sqlite:///mlflow.db")
    searched(url, 5, MLflowLogger("found", tracking_uri="sqlite:///mlflow.db", tags={"team": "serving"}))

    def runs() -> tuple[Any, dict[int, Any]]:
        experiment = client.get_experiment_by_name("found")
        everything = client.search_runs([experiment.experiment_id])
        (parent,) = (r for r in everything if "mlflow.parentRunId" not in r.data.tags)
        children = {int(r.data.tags["autotune.trial"]): r for r in everything if r is not parent}
        assert len(children) == len(everything) - 1
        assert {r.data.tags["mlflow.parentRunId"] for r in children.values()} == {parent.info.run_id}
        return parent, children

    parent, children = runs()
    assert parent.info.run_name == "a/<b>" and parent.info.status == "FINISHED"
    assert parent.data.params == {
        "study": "a/<b>",
        "objectives": "minimize latency_ms",
        "constraints": "vram_gib <= 24",
        "strategy": "random",
        "seed": "0",
    }
    told = parent.data.metrics
    assert (told["default/latency_ms"], told["best/latency_ms"], told["gain"], told["best/trial"]) == (
        8.0,
        4.0,
        0.5,
        4.0,
    )
    assert (told["trials/failed"], told["trials/pruned"], told["failures/oom"]) == (1.0, 1.0, 1.0)
    assert parent.data.tags["team"] == "serving" and "5 trials" in parent.data.tags["autotune.stop_reason"]
    history = client.get_metric_history(parent.info.run_id, "best/latency_ms")
    # The infeasible trial 2 is not the best, though its number is the least.
    assert {m.step: m.value for m in history} == {0: 8.0, 1: 8.0, 2: 8.0, 3: 8.0, 4: 4.0}

    states = [children[n].info.status for n in range(5)]
    assert states == ["FINISHED", "FAILED", "FINISHED", "KILLED", "FINISHED"]
    outcomes = [children[n].data.tags["autotune.outcome"] for n in range(5)]
    assert outcomes == ["completed", "failed (oom): 30 <GiB>", "completed, infeasible", "pruned: too slow", "completed"]
    assert children[0].data.params == {
        "budget.mean": "0.5", "budget.min": "0.5", "budget.max": "0.5", "policy": "lru", "threads": "8"
    }  # fmt: skip
    assert json.loads(children[0].data.tags["autotune.config"]) == SPACE.default()
    assert children[0].data.metrics["vram_gib"] == 20.0 and children[0].data.metrics["odd _"] == 1.0
    assert math.isnan(children[4].data.metrics["odd _"])
    assert "latency_ms" in children[3].data.metrics and "vram_gib" not in children[3].data.metrics
    reported = client.get_metric_history(children[0].info.run_id, "latency_ms")
    assert [(m.step, m.value) for m in sorted(reported, key=lambda m: m.step)] == [(0, 90.0), (1, 80.0), (2, 8.0)]
    kept = Path(client.download_artifacts(parent.info.run_id, "result.json", str(tmp_path)))
    assert json.loads(kept.read_text())["best"]["metrics"]["latency_ms"] == 4.0

    # One child's process was killed before it was done with it.
    client.update_run(children[1].info.run_id, status="RUNNING")
    searched(url, 7, MLflowLogger("found", tracking_uri="sqlite:///mlflow.db"))
    again, more = runs()
    assert again.info.run_id == parent.info.run_id and sorted(more) == list(range(7))
    assert all(more[n].info.run_id == children[n].info.run_id for n in children)
    assert more[1].info.status == "FAILED" and again.info.status == "FINISHED"
    assert (again.data.metrics["best/latency_ms"], again.data.metrics["trials/completed"]) == (2.0, 5.0)


def test_names_for_mlflow_are_valid_and_stay_apart() -> None:
    from mlflow.utils.validation import _validate_metric_name

    from autotune.integrations.loggers.mlflow_runs import _names

    given = ["a%", "a&", "a_", "..", ".", "/x", "x//y", "é[3]", "long" * 100, "long" * 100 + "er", "fine/name"]
    found = _names(given)
    assert list(found) == given and len(set(found.values())) == len(given) and found["fine/name"] == "fine/name"
    for name in found.values():
        _validate_metric_name(name)


# ------------------------------------------------------------- Weights & Biases


def finished(folder: Path) -> list[Any]:
    """The records of a run; wandb's own process may still be writing when its `finish` has returned."""
    (path,) = folder.glob("*.wandb")
    for _ in range(600):
        found = list(records(path))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} was never finished")


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: a LevelDB log of 32 KiB blocks behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2 as pb

    data, at, part = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):
            return
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield pb.Record.FromString(part)
            part = b""


def steps(folder: Path) -> list[dict[str, Any]]:
    """What was logged, step by step."""
    found = [r.history for r in finished(folder) if r.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in h.item} for h in found]


def test_wandb_has_a_step_for_each_trial_and_a_table_offline(url: str, tmp_path: Path) -> None:
    result = searched(url, 5, WandbLogger("found", mode="offline", dir=tmp_path))
    (first,) = (tmp_path / "wandb").glob("offline-run-*")
    logged = steps(first)
    trials = [step for step in logged if "state" in step]
    assert [s["trial"] for s in trials] == [0, 1, 2, 3, 4]
    assert [s["state"] for s in trials] == ["completed", "failed", "completed", "pruned", "completed"]
    assert trials[1]["outcome"] == "failed (oom): 30 <GiB>" and "latency_ms" not in trials[1]
    assert (
        trials[0]["latency_ms"] == 8.0
        and trials[0]["config/budget.mean"] == 0.5
        and trials[0]["config/policy"] == "lru"
    )
    assert [s["best/latency_ms"] for s in trials] == [8.0, 8.0, 8.0, 8.0, 4.0]
    assert math.isnan(float(trials[4]["odd %"]))
    (table,) = (first / "files" / "media" / "table").glob("trials*.json")
    held = json.loads(table.read_text())
    column = held["columns"].index
    assert [row[column("latency_ms")] for row in held["data"]] == [8.0, None, 1.0, None, 4.0]
    assert held["data"][1][column("failure")] == "oom"
    (path,) = first.glob("*.wandb")
    texts = path.read_bytes()
    for wanted in (b"minimize latency_ms", b"default/latency_ms", b"best_config", result.stop_reason.encode()):
        assert wanted in texts

    searched(url, 7, WandbLogger("found", mode="offline", dir=tmp_path))
    (second,) = set((tmp_path / "wandb").glob("offline-run-*")) - {first}
    assert second.name.rpartition("-")[2] == first.name.rpartition("-")[2]  # the same run, which a sync joins
    assert [s["trial"] for s in steps(second) if "state" in s] == [5, 6]


# ------------------------------------------------------------------ TensorBoard


def test_tensorboard_has_curves_and_a_session_for_each_trial(url: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    def read(folder: Path) -> Any:
        return EventAccumulator(str(folder)).Reload()

    def session(folder: Path, tag: str) -> Any:
        found = read(folder).summary_metadata[f"_hparams_/{tag}"].plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(found)

    searched(url, 5, TensorBoardLogger(tmp_path / "events"))
    (folder,) = (tmp_path / "events").iterdir()
    assert folder.name.startswith("a_b_-")
    curves = read(folder)
    assert [(e.step, e.value) for e in curves.Scalars("latency_ms")] == [(0, 8.0), (2, 1.0), (4, 4.0)]
    assert [e.value for e in curves.Scalars("best/latency_ms")] == [8.0, 8.0, 8.0, 8.0, 4.0]
    assert curves.Scalars("result/gain")[0].value == 0.5 and curves.Scalars("result/default/latency_ms")[0].value == 8.0
    assert math.isnan(curves.Scalars("odd %")[1].value)

    paths = sorted(folder.glob("trial-*"))
    assert [p.name for p in paths] == [f"trial-0000{n}" for n in range(5)]
    good, bad, unknown = api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_UNKNOWN
    ends = [session(path, "session_end_info").session_end_info.status for path in paths]
    assert ends == [good, bad, good, unknown, good]
    started = session(paths[0], "session_start_info").session_start_info.hparams
    assert started["threads"].number_value == 8.0 and started["policy"].string_value == "lru"
    assert started["budget.max"].number_value == 0.5
    assert [(e.step, e.value) for e in read(paths[3]).Scalars("reported/latency_ms")] == [(0, 90.0), (1, 80.0)]
    outcome = read(paths[1]).Tensors("outcome/text_summary")[0].tensor_proto.string_val[0]
    assert outcome == b"failed (oom): 30 <GiB>"

    times = {path: [f.stat().st_mtime_ns for f in path.iterdir()] for path in paths}
    searched(url, 7, TensorBoardLogger(tmp_path / "events"))
    assert list((tmp_path / "events").iterdir()) == [folder] and len(list(folder.glob("trial-*"))) == 7
    assert times == {path: [f.stat().st_mtime_ns for f in path.iterdir()] for path in paths}
    assert [(e.step, e.value) for e in read(folder).Scalars("best/latency_ms")][-2:] == [(5, 4.0), (6, 2.0)]


# ---------------------------------------------------------------- what they share


class Recorder(StudyLogger):
    """A tracker in memory, which may fail."""

    tracker = "Recorder"

    def __init__(self, held: Collection[int] = (), fails: Collection[int] = ()) -> None:
        super().__init__()
        self.held, self.fails = set(held), set(fails)
        self.got: list[Logged] = []
        self.closed: list[bool] = []

    def _open(self, study: Study) -> Collection[int]:
        return self.held

    def _log(self, study: Study, logged: Logged) -> None:
        if logged.trial.number in self.fails:
            self.fails.remove(logged.trial.number)
            raise ConnectionError("no route\nto the server")
        self.got.append(logged)

    def _close(self, result: Result, *, broken_off: bool) -> None:
        self.closed.append(broken_off)

    @property
    def numbers(self) -> list[int]:
        return [logged.trial.number for logged in self.got]


def test_a_tracker_that_fails_costs_no_trial_and_is_told_once(url: str) -> None:
    logger = Recorder(fails=[1])
    with pytest.warns(
        LoggerWarning, match=r"Recorder failed \(ConnectionError: no route\); the search goes on"
    ) as told:
        result = searched(url, 5, logger)
    assert len([w for w in told if w.category is LoggerWarning]) == 1
    assert result.trials["total"] == 5
    assert logger.numbers == [0, 1, 2, 3, 4] and logger.closed == [False]  # what was missing was logged at the end


def test_a_study_of_several_workers_is_logged_whole_and_once(url: str) -> None:
    searched(url, 3, None)
    logger = Recorder(held=[1])
    searched(url, 5, [logger])
    assert logger.numbers == [0, 2, 3, 4]
    assert [logged.best for logged in logger.got] == [8.0, 8.0, 8.0, 4.0]
    assert [logged.gain for logged in logger.got][-1] == 0.5
    later = Recorder()
    later.log(Study.load("a/<b>", url))
    assert later.numbers == [0, 1, 2, 3, 4] and later.closed == [False]


def test_a_search_that_is_broken_off_closes_the_run_so(url: str) -> None:
    logger = Recorder()

    def breaks(progress: autotune.Progress) -> None:
        if progress.trial.number == 1:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        searched(url, 5, [logger, breaks])
    assert logger.numbers == [0, 1] and logger.closed == [True]
    searched(url, 2, logger)  # nothing is left to measure: the result is logged all the same
    assert logger.closed == [True, False]


def test_a_running_trial_waits_until_it_is_told() -> None:
    study = Study.create(SPACE, strategy="random")
    first, second = study.ask(), study.ask()
    study.tell(second, 1.0)
    logger = Recorder()
    progress = autotune.Progress(study, study.trials[1], None, None, {}, None, 0.0, None)
    logger(progress)
    study.tell(first, 2.0)
    logger(progress)
    assert logger.numbers == [1, 0]
    assert [logged.gain for logged in logger.got] == [None, 0.5]


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("mlflow", MLflowLogger, "mlflow"),
        ("wandb", WandbLogger, "wandb"),
        ("tensorboard", TensorBoardLogger, "tensorboard"),
    ],
)
def test_a_tracker_that_is_missing_names_the_way_out(
    module: str, make: Any, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=re.escape(f"pip install 'autotune[{extra}]'")):
        make()


def test_wrong_arguments_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mode 'off' is unknown to wandb; use one of: online, offline, disabled"):
        WandbLogger(mode="off")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="id follows from the study"):
        WandbLogger(id="mine")
    with pytest.raises(UsageError, match="experiment ' ' is empty"):
        MLflowLogger(" ")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"log_dir .* cannot be written"):
        TensorBoardLogger(tmp_path / "file").log(Study.create(SPACE))
    with pytest.raises(UsageError, match="study"):
        TensorBoardLogger(tmp_path).log("study")  # type: ignore[arg-type]


def test_a_configuration_as_flat_numbers_and_texts() -> None:
    assert flat({"a": [1, 2, 6], "b": ["x", "x", "y"], "c": True, "d": None, "e": [0.5], "f": 2}) == {
        "a.mean": 3.0, "a.min": 1, "a.max": 6, "b": "x ×2, y", "c": True, "d": "None", "e": "0.5", "f": 2
    }  # fmt: skip


def test_the_page_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], empty_mlflow: Path
) -> None:
    import wandb

    wandb.teardown()  # it remembers the working directory of its first run
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    notebook, loggers, live = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_mlflow, "mlflow.db")
    given: dict[str, Any] = {}
    exec(compile(notebook, "notebook", "exec"), given)
    assert "best trial" in capsys.readouterr().out and len(given["frame"]) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoggerWarning)
        exec(compile(loggers, "loggers", "exec"), given)
    assert len(list(Path("tensorboard").glob("logged-*/trial-*"))) == 6
    assert len(list(Path("tensorboard").glob("study-*/trial-*"))) == 12
    assert list(Path("wandb").glob("offline-run-*")) and Path("mlflow.db").is_file()
    served: list[Any] = []
    # The real one, which tests/integrations/test_optuna_dashboard.py asks, would not return.
    monkeypatch.setitem(sys.modules, "optuna_dashboard", SimpleNamespace(run_server=served.append))
    exec(compile(live, "live", "exec"), {})
    assert [s.study_name for s in served[0].get_all_studies()] == ["study", "logged"]

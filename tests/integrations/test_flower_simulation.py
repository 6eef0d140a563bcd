"""Flower's own simulation: the example of the guide as people run it, and an app of the older API."""

from __future__ import annotations

import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import numpy as np
import psutil
import pytest

pytest.importorskip("flwr")
pytest.importorskip("ray")

from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation

from autotune import Float, SearchSpace, Study
from autotune.integrations.flower import ClientState, open_study, tuned_run
from autotune.space import Config
from autotune.store import TrialState
from tests.integrations.flower_apps import TARGETS, classic_client

ROOT = Path(__file__).parents[2]
MARK = "AUTOTUNE_TEST_OF_FLOWER"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
}
ENGINE = {"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment of which nothing may be left running; returns what marks its processes."""
    token = uuid.uuid4().hex
    for name, value in {**QUIET, MARK: token, "FLWR_HOME": str(tmp_path / "flwr"), "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    return token


def left_running(token: str) -> list[str]:
    """Processes that this test started and that are still there; they are given a moment to end."""
    for _ in range(50):
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) == token:
                    found.append(" ".join(process.cmdline())[:80])
            except psutil.Error:
                continue
        if not found:
            return []
        time.sleep(0.2)
    return found


def test_the_guides_example_runs_and_is_gone_on_with(
    tmp_path: Path, alone: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "flower.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(source.splitlines()) < 80
    for trials in (1, 2):
        exec(compile(source.replace("trials=20", f"trials={trials}"), "example", "exec"), {"__name__": "__main__"})
        study = Study.load("digits", "sqlite:///flower.db")
        assert [t.state for t in study.trials] == [TrialState.COMPLETED] * trials
        assert study.best is not None and f"Outcome(number={study.best.number}" in capsys.readouterr().out
    for trial in study.trials:
        clients = sorted(trial.notes["clients"].values(), key=lambda client: float(client["examples"]))
        # The least important of four sends `least_share` of `upload_keep`, the others by rank.
        for rank, client in enumerate(reversed(clients)):
            share = 1.0 - (1.0 - trial.config["least_share"]) * rank / 3
            wanted = {**trial.config, "upload_keep": trial.config["upload_keep"] * share}
            assert client["settings"] == pytest.approx(wanted)
            assert client["returned"] == 3
        assert sum(client["upload_bytes"] for client in clients) == trial.values["upload_bytes"]
        told = [value for _, name, value in study.store.reports(trial.id) if name == "accuracy"]
        assert len(told) == 3 and told[-1] == trial.values["accuracy"] == trial.values["evaluate.accuracy"]
    assert study.trials[0].values["accuracy"] > 0.5, "ten digits are told apart better than by chance"
    assert left_running(alone) == []


def test_the_older_api_in_a_simulation(alone: str) -> None:
    study = open_study(SearchSpace([Float("lr", 0.1, 1.0, default=0.5)]), "minimize loss")

    def rule(config: Config, round_: int, client: ClientState) -> dict[str, Any]:
        return {"lr": config["lr"] / round_}

    with tuned_run(study) as run:
        strategy = run.tuned(
            FedAvg(initial_parameters=ndarrays_to_parameters([np.zeros(3)]), min_fit_clients=4), per_client=rule
        )

        def server_fn(context: Any) -> ServerAppComponents:
            return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))

        run_simulation(
            ServerApp(server_fn=server_fn), ClientApp(client_fn=classic_client), 4, backend_config=dict(ENGINE)
        )
    assert run.record is not None and run.record.state is TrialState.COMPLETED
    told = [client["metrics"]["told_lr"] for client in run.record.notes["clients"].values()]
    assert told == [0.25] * 4, "what clients say that they were sent in the second round"
    mean = 3.8 * 0.5 + (3.8 - 3.8 * 0.5) * 0.25
    assert run.record.values["loss"] == pytest.approx(sum((mean - t) ** 2 for t in TARGETS) / 4)
    assert left_running(alone) == []

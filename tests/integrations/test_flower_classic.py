"""Strategies of Flower's older API under tuning; messages travel within this process."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg, FedProx
from flwr.serverapp import ServerApp

from autotune import Categorical, Float, SearchSpace, UsageError
from autotune.integrations.flower import ClientState, TunedRun, open_study, tune, tuned, tuned_run
from autotune.measurement import FailureKind
from autotune.space import Config
from tests.integrations.flower_apps import Puller, classic_client
from tests.integrations.local_grid import LocalGrid

SPACE = SearchSpace([Float("lr", 0.1, 1.0)])
WAIT = Context(1, 1, {}, RecordDict(), {})


def started() -> Parameters:
    return ndarrays_to_parameters([np.zeros(3)])


def serve(strategy: Any, grid: LocalGrid, rounds: int) -> None:
    def server_fn(context: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))

    ServerApp(server_fn=server_fn)(grid, WAIT)


def weighted(told: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    total = sum(n for n, _ in told)
    return {"told_lr": sum(n * metrics["told_lr"] for n, metrics in told) / total}


def test_clients_receive_what_the_study_asked_for_and_the_study_holds_what_they_report() -> None:
    study, grids = open_study(SPACE, "minimize loss"), []

    def run_app(run: TunedRun) -> None:
        grids.append(LocalGrid(ClientApp(client_fn=classic_client)))
        strategy = FedAvg(initial_parameters=started(), fit_metrics_aggregation_fn=weighted)
        serve(run.tuned(strategy), grids[-1], rounds=3)

    assert tune(study, run_app, trials=2).trials["completed"] == 2
    for trial, grid in zip(study.trials, grids, strict=True):
        lr = trial.config["lr"]
        assert grid.seen == {node: [{"lr": lr}] * 3 for node in (100, 101, 102, 103)}
        mean = 3.8 * (1 - (1 - lr) ** 3)
        assert trial.values["loss"] == pytest.approx(np.mean((mean - np.array([1, 2, 3, 6])) ** 2))
        assert trial.values["train.told_lr"] == pytest.approx(lr)
        assert trial.values["upload_bytes"] == sum(grid.up.values())
        assert trial.values["download_bytes"] == sum(grid.down.values())
        assert trial.values["evaluate_bytes"] == grid.evaluate
        assert trial.values["slowest_s"] == pytest.approx(0.75)
        assert trial.notes["clients"]["102"]["examples"] == 30
        losses = [value for _, name, value in study.store.reports(trial.id) if name == "loss"]
        assert len(losses) == 3 and losses[-1] == trial.values["loss"]


def test_every_client_has_settings_and_a_model_of_its_own() -> None:
    def rule(config: Config, round_: int, client: ClientState) -> dict[str, Any]:
        return {
            "lr": 1.0,
            "weight": 1.0 if client.node_id == 103 else 0.0,
            "away": -1 if client.away is None else client.away,
        }

    def pack(parameters: Parameters, settings: Any) -> Parameters:
        return ndarrays_to_parameters([a.astype("f2") for a in parameters_to_ndarrays(parameters)])

    def unpack(update: Parameters, settings: Any, before: Parameters) -> Parameters:
        (new,), (old,) = parameters_to_ndarrays(update), parameters_to_ndarrays(before)
        return ndarrays_to_parameters([old + settings["weight"] * (new.astype("f8") - old)])

    means = []

    def evaluate(server_round: int, parameters: list[Any], config: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        means.append(float(parameters[0][0]))
        return 1.0, {}

    strategy = FedProx(proximal_mu=0.5, initial_parameters=started(), evaluate_fn=evaluate)
    grid = LocalGrid(ClientApp(client_fn=classic_client))
    serve(tuned(strategy, {}, per_client=rule, pack=pack, unpack=unpack), grid, rounds=2)
    assert means == pytest.approx([0.0, 2.4, 2.4 + 0.4 * 3.6], abs=1e-2), "of 100 examples, node 103 has 40"
    assert grid.seen[103] == [{"proximal_mu": 0.5, "lr": 1.0, "weight": 1.0, "away": away} for away in (-1, 1)]
    assert grid.seen[100] == [{"proximal_mu": 0.5, "lr": 1.0, "weight": 0.0, "away": away} for away in (-1, 1)]


def test_clients_that_fail_are_counted() -> None:
    class Failing(Puller):
        def fit(self, parameters: list[Any], config: dict[str, Any]) -> Any:
            if self._context.node_id != 103:
                raise ValueError("no data")
            return super().fit(parameters, config)

    study, grid = (
        open_study(SPACE, "minimize loss"),
        LocalGrid(ClientApp(client_fn=lambda context: Failing(context).to_client())),
    )
    with tuned_run(study) as run:
        serve(run.tuned(FedAvg(initial_parameters=started())), grid, rounds=2)
    assert run.record is not None and run.record.values["client_failures"] == 6
    assert "no data" in str(run.rounds[0].failure) and run.rounds[0].trained == 1
    assert run.record.values["upload_bytes"] == sum(grid.up.values())


@pytest.mark.parametrize("server", [True, False])
def test_a_run_that_diverges_is_told_as_nan(server: bool) -> None:
    losses = {0: 1.0, 1: 1.0, 2: math.nan}
    evaluate: Callable[..., Any] | None = None
    if server:
        evaluate = lambda server_round, parameters, config: (losses[server_round], {})  # noqa: E731

    class Diverging(Puller):
        def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> Any:
            return 1.0 if parameters[0][0] == 0 else math.nan, 1, {}

    client = (lambda context: Diverging(context).to_client()) if not server else classic_client
    study, grid = (
        open_study(SPACE, "minimize server.loss" if server else "minimize loss"),
        LocalGrid(ClientApp(client_fn=client)),
    )
    with tuned_run(study) as run:
        serve(run.tuned(FedAvg(initial_parameters=started(), evaluate_fn=evaluate)), grid, rounds=9)
    assert run.record is not None and run.record.failure_kind is FailureKind.NAN
    assert run.record.failure_message == (
        "server.loss is nan in round 2" if server else "evaluate.loss is nan in round 1"
    )
    assert len(grid.seen[100]) == (2 if server else 1)


def test_a_vector_is_refused_as_the_older_api_has_no_lists() -> None:
    space = SearchSpace([Categorical("widths", ["a", "b"], size=2)])
    with pytest.raises(UsageError, match="the setting 'widths' is a list"), tuned_run(open_study(space, "loss")) as run:
        grid = LocalGrid(ClientApp(client_fn=classic_client))
        serve(run.tuned(FedAvg(initial_parameters=started())), grid, rounds=1)

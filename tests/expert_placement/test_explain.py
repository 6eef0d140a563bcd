"""What `autotune show` tells of a placement, from stored trials alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.explaining import Section, explain
from autotune.measurement import Metric
from autotune.store.records import TrialRecord, TrialState
from evaluators.expert_placement.cluster import Cluster
from evaluators.expert_placement.explain import explain as explain_trials
from evaluators.expert_placement.measure import layer_costs, measure
from evaluators.expert_placement.solvers import SOLVERS, Task
from tests.expert_placement.instances import chained


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> autotune.Study:
    folder = tmp_path_factory.mktemp("explain")
    how: dict[str, Any] = {"options": {"program_seconds": 0.2}, "storage": f"sqlite:///{folder}/a.db", "seed": 0}
    return autotune.search("expert-placement", trials=9, strategy="random", **how).study


def sections(study: autotune.Study, **how: Any) -> dict[str, Section]:
    return {part.name: part for part in explain(study, **how)}


@pytest.mark.parametrize("cluster", [Cluster(4, 4), Cluster(4, 2)])
def test_layers_add_up_to_what_is_measured(cluster: Cluster) -> None:
    task = Task(chained(4, 8, 3, tokens=90, seed=1), cluster)
    placement = SOLVERS["greedy"](task).placement
    whole, layers = measure(placement, task.routing, cluster), layer_costs(placement, task.routing, cluster)
    assert layers.hop_cost.sum() == pytest.approx(whole.hop_cost_per_token)
    assert layers.max_load.mean() == pytest.approx(whole.max_load)
    assert layers.gpu_load.mean(axis=1) == pytest.approx(np.ones(4))


def test_a_layer_that_too_few_tokens_use_has_no_load(tmp_path: Path) -> None:
    cluster = Cluster(2, 2)
    routing = chained(3, 4, 2, tokens=30, seed=1, skip=0.9)  # the last layer
    layers = layer_costs(SOLVERS["contiguous"](Task(routing, cluster)).placement, routing, cluster)
    assert np.isnan(layers.max_load).tolist() == [False, False, True]
    assert np.isnan(layers.gpu_load).all(axis=1).tolist() == [False, False, True]
    noted = {
        "hop_cost": layers.hop_cost.tolist(),
        "max_load": [*layers.max_load[:2].tolist(), None],
        "gpu_load": [*layers.gpu_load[:2].tolist(), [None, None]],
    }
    _, by_layer, by_gpu = explain_trials({"best": trial(layers=noted)}, unicode=False)
    assert by_layer.data["best"][2]["max_load"] is None
    assert by_layer.lines[-1].rstrip().endswith("–")
    assert sum(gpu["fullest_in_layers"] for gpu in by_gpu.data["best"]) == 2


def trial(**notes: Any) -> TrialRecord:
    return TrialRecord(
        1, 0, {"solver": "greedy", "sweeps": 0}, "hash", TrialState.COMPLETED, "made", 1, 1,
        metrics={"hops_per_token": Metric(3.5)}, notes=notes,
    )  # fmt: skip


def test_both_ends_of_the_front_are_told_beside_the_default(study: autotune.Study) -> None:
    found = sections(study)
    assert list(found) == ["costs", "layers", "gpus"]
    costs = found["costs"].data
    assert list(costs) == ["best in hops_per_token", "best in max_load", "default"]
    for label, metric in (("best in hops_per_token", "hops_per_token"), ("best in max_load", "max_load")):
        measured = study.trials[costs[label]["trial"]]
        assert costs[label][metric] == measured.values[metric] == min(c[metric] for c in costs.values())
        layers = found["layers"].data[label]
        assert sum(layer["hop_cost"] for layer in layers) == pytest.approx(measured.values["hops_per_token"], rel=1e-3)
        assert np.mean([layer["max_load"] for layer in layers]) == pytest.approx(measured.values["max_load"], rel=1e-3)
        assert sum(gpu["fullest_in_layers"] for gpu in found["gpus"].data[label]) == len(layers) == 8


@pytest.mark.parametrize("unicode", [True, False])
def test_text_fits_a_terminal_of_80_columns(study: autotune.Study, unicode: bool) -> None:
    found = sections(study, unicode=unicode)
    lines = [line for part in found.values() for line in (part.title, *part.lines)]
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() for line in lines) is not unicode


def test_a_trial_that_did_not_note_its_layers_is_told_as_far_as_it_goes() -> None:
    (costs,) = explain_trials({"best": trial(placement=[[0, 1]])}, unicode=False)
    assert costs.data["best"]["hops_per_token"] == 3.5
    assert costs.data["best"]["max_load"] is None

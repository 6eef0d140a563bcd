"""Placements for engines: read back as the engines read them, and what each says that it cannot express."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

import autotune
from autotune import Exported, UsageError
from autotune.measurement import Metric
from autotune.options import parse_options
from autotune.store.records import TrialRecord, TrialState
from evaluators.expert_placement.cluster import Cluster
from evaluators.expert_placement.exporters import exporters
from evaluators.expert_placement.exporters.plan_json import SCHEMA

FOUR = Cluster(4, 2)
LINEAR = [[0, 0, 1, 1, 2, 2, 3, 3]] * 3
OTHER = [[3, 0, 1, 1, 2, 2, 0, 3], *LINEAR[:2]]


def trial(placement: list[list[int]], **config: Any) -> TrialRecord:
    return TrialRecord(
        1, 7, {"solver": "greedy", "sweeps": 0, **config}, "hash", TrialState.COMPLETED, "made", 1, 1,
        metrics={"gpus_per_token": Metric(2.5), "max_load": Metric(1.25)}, notes={"placement": placement},
    )  # fmt: skip


def export(format_: str, given: TrialRecord, **options: object) -> Exported:
    exporter = exporters(FOUR, "made")[format_]
    return exporter.write(given, parse_options(exporter.options, options), "run")


def gpus_in_sglang(text: str, gpus: int) -> list[list[int]]:
    """SGLang: place p of a layer is on rank ``p // (places / ep_size)``."""
    rows = np.array(json.loads(text)["physical_to_logical_map"])
    found = np.empty_like(rows)
    np.put_along_axis(
        found, rows, np.broadcast_to(np.arange(rows.shape[1]) * gpus // rows.shape[1], rows.shape), axis=1
    )
    return found.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("placement", [LINEAR, OTHER])
def test_sglang_reads_the_placement(placement: list[list[int]]) -> None:
    exported = export("sglang", trial(placement))
    assert exported.suffix == ".json"
    assert gpus_in_sglang(exported.text, 4) == placement
    assert "SGLang brings a token's results back" in exported.cannot[0]
    assert "gpus_per_token (2.5) and max_load (1.25)" in exported.cannot[0]


def test_layers_without_experts_are_counted_by_sglang() -> None:
    rows = gpus_in_sglang(export("sglang", trial(OTHER), dense_layers="0, 2").text, 4)
    assert [rows[1], rows[3], rows[4]] == OTHER
    with pytest.raises(UsageError, match="names layer 5; with 3 layers of experts and 1 without they are 0 to 3"):
        export("sglang", trial(OTHER), dense_layers="5")
    with pytest.raises(UsageError, match=r"option dense_layers.0 = 'first'"):
        export("sglang", trial(OTHER), dense_layers="first")


def test_vllm_is_told_what_it_knows_and_left_the_rest() -> None:
    linear, other = export("vllm", trial(LINEAR)), export("vllm", trial(OTHER))
    assert linear.text.splitlines()[-1] == "--enable-expert-parallel --expert-placement-strategy linear"
    assert "whose product is 4" in linear.text
    assert [sentence.split(":")[0] for sentence in linear.cannot] == ["the dataflow that hops_per_token counts"]
    assert "--enable-eplb" in other.text.splitlines()[-1]
    assert [sentence.split(":")[0] for sentence in other.cannot] == ["the placement"]
    assert all(f"# - {sentence}\n" in other.text for sentence in other.cannot)


@pytest.mark.parametrize(
    ("config", "weights"),
    [({}, []), ({"sweeps": 4, "load_weight": 0.5}, [0.5]), ({"sweeps": 1, "load_weight": [0.0, 1.0]}, [0.0, 1.0])],
)
def test_the_plan_follows_its_schema_and_holds_the_placement(config: dict[str, Any], weights: list[float]) -> None:
    exported = export("plan", trial(OTHER, **config))
    plan = json.loads(exported.text)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(plan)
    assert exported.cannot == ()
    assert [layer["gpu_of_expert"] for layer in plan["layers"]] == OTHER
    assert plan["layers"][0]["experts_of_gpu"] == [[1, 6], [2, 3], [4, 5], [0, 7]]
    assert plan["cluster"] == {"gpus": 4, "gpus_per_node": 2, "experts_per_gpu": 2}
    assert plan["made_by"]["load_weight"] == weights
    assert plan["metrics"] == {"gpus_per_token": 2.5, "max_load": 1.25}


@pytest.mark.parametrize("format_", ["plan", "sglang", "vllm"])
def test_a_trial_without_a_placement_is_refused(format_: str) -> None:
    failed = TrialRecord(1, 3, {"solver": "exflow", "sweeps": 0}, "hash", TrialState.FAILED, "made", 1, 1)
    with pytest.raises(UsageError, match="trial 3 is failed and has no placement; export a completed one"):
        export(format_, failed)


def test_a_study_exports_the_placement_that_it_measured(tmp_path: Any) -> None:
    """Of an integer program that its time limit ended, which may end elsewhere when it is run again."""
    study = autotune.search(
        "expert-placement",
        options={"program_seconds": 0.3, "gpus_per_node": 2},
        objectives="minimize hops_per_token",
        trials=7,
        strategy="random",
        storage=f"sqlite:///{tmp_path}/a.db",
    ).study
    for number in (0, 6):
        plan = json.loads(study.export("plan", trial=number).text)
        assert [layer["gpu_of_expert"] for layer in plan["layers"]] == study.trials[number].notes["placement"]
        assert plan["metrics"] == study.trials[number].values
        jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(plan)
        assert gpus_in_sglang(study.export("sglang", trial=number).text, 4) == study.trials[number].notes["placement"]

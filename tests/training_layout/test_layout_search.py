"""Knobs, the space of a job, and the search from end to end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune import UsageError
from evaluators.training_layout.gpus import gpu
from evaluators.training_layout.knobs import default_of, space_of
from evaluators.training_layout.presets import preset
from evaluators.training_layout.profiled import GIB, Profiled
from evaluators.training_layout.tables import kernel_times
from tests.cli.conftest import Run, run
from tests.training_layout.jobs import job

__all__ = ["run"]  # a fixture


@pytest.mark.parametrize(("model", "gpus"), [("llama3-8b", 16), ("mixtral-8x7b", 32), ("nemotron-3-nano", 8)])
def test_every_layout_of_the_space_exists_and_fits(model: str, gpus: int) -> None:
    one = job(model, gpus)
    shape = one.model
    table = space_of(one).enumerate()
    assert table is not None
    columns = table.columns()
    layouts = one.layouts(columns)
    assert (layouts.gpus == gpus).all()
    assert (layouts.dp * layouts.micro_batch * layouts.microbatches == one.global_batch).all()
    assert (shape.n_heads % layouts.tp == 0).all()
    assert (Profiled(one).of_columns(columns)["memory_gib"] * GIB <= one.memory_bytes).all()
    if shape.n_experts:
        assert (shape.n_experts % layouts.ep == 0).all()
        assert (layouts.expert_replicas * layouts.ep * layouts.etp * layouts.pp == gpus).all()
    # Whatever is left out breaks a rule that can be told.
    space = space_of(one)
    one_of_them = next(config for config in map(table.config, range(len(table))) if config["cp"] == 1)
    refused = {**one_of_them, "tp": 8, "pp": max(columns["pp"].tolist())}
    assert any("% (tp * cp * pp) == 0" in reason for reason in space.explain(refused))


def test_columns_and_single_configurations_are_scored_alike() -> None:
    one = job("mixtral-8x7b", 32)
    table = space_of(one).enumerate()
    assert table is not None
    evaluator = Profiled(one)
    all_of_them = evaluator.of_columns(table.columns())
    for row in range(0, len(table), max(1, len(table) // 20)):
        values = evaluator(table.config(row)).values()
        for name, column in all_of_them.items():
            assert values[name] == pytest.approx(float(column[row])), name


def test_the_parts_of_a_step_and_of_memory_add_up() -> None:
    one = job("deepseek-v3", 256)
    table = space_of(one).enumerate()
    assert table is not None
    metrics = Profiled(one).of_columns(table.columns())
    parts = [metrics[f"{part}_s"] for part in ("products", "attention", "elementwise", "launching", "recomputing", "tensor",
             "context", "expert", "stages", "bubble", "data", "optimizer")]  # fmt: skip
    np.testing.assert_allclose(np.sum(parts, axis=0), metrics["step_s"])
    held = [
        metrics[f"{part}_gib"] for part in ("weights", "gradients", "optimizer", "gathered", "activations", "working")
    ]
    np.testing.assert_allclose(np.sum(held, axis=0), metrics["memory_gib"])


def test_the_default_is_the_rule_of_thumb() -> None:
    found = default_of(job("llama3-70b", 64, sequence=8192, global_batch=128))
    # As little model parallelism as fits with states spread over the copies: tensor parallelism within a node first.
    assert found["zero"] == 1
    assert found["micro_batch"] == 1
    assert found["recompute"] == "none"
    assert found["tp"] * found["pp"] > 1


def test_a_search_starts_with_the_default_and_finds_the_best_of_all_layouts() -> None:
    options = {"model": "llama3-70b", "gpus": 64, "kernels": "peak"}
    result = autotune.search("training-layout", options=options, trials=15, seed=0)
    one = job("llama3-70b", 64, sequence=8192, global_batch=128)
    table = space_of(one).enumerate()
    assert table is not None
    best = Profiled(one).of_columns(table.columns())["tokens_per_s_gpu"].max()
    assert result.best is not None
    assert result.default is not None
    assert result.best.metrics["tokens_per_s_gpu"] == pytest.approx(best)
    assert result.default.config == default_of(one)


def test_a_thousand_gpus_are_laid_out_and_scored_in_seconds() -> None:
    began = time.perf_counter()
    one = job("deepseek-v3", 1024, sequence=4096, global_batch=8192)
    table = space_of(one).enumerate()
    assert table is not None
    Profiled(one).of_columns(table.columns())
    assert len(table) > 1000
    assert time.perf_counter() - began < 20.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "llama9"}, r"model 'llama9' is unknown; use one of llama2-7b, .* or the path of a config\.json"),
        ({"hardware": "h900"}, "GPU 'h900' is unknown; known are: v100, "),
        ({"hardware": "a100", "precision": "fp8", "kernels": "peak"}, "a100 does not compute in fp8; it does in: bf16"),
        (
            {"model": "llama3-405b", "gpus": 2},
            r"no layout of llama3-405b on 2 x h100 fits in 76.0 GiB a GPU; .* GiB: give --set gpus=128, a shorter",
        ),
        ({"gpus": 7, "global_batch": 5}, "no layout of llama3-8b on 7 x h100"),
    ],
)
def test_what_cannot_be_laid_out_is_told_in_one_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        autotune.search("training-layout", options=changed, trials=1)


def test_kernel_times_say_where_they_come_from() -> None:
    lacking = kernel_times(gpu("rtx4090")).source
    assert lacking.startswith("peak figures of rtx4090")
    assert "there are tables of a100-40gb, a100, h100, " in lacking
    assert kernel_times(gpu("h100"), measured=False).source.startswith("peak figures of h100")
    measured = kernel_times(gpu("h100"))
    assert measured.source.startswith("tables of h100_sxm in aiconfigurator_core")
    # Large products reach 60 to 95 % of the data sheet's figure, fp8 more operations a second than bf16.
    seconds = measured.gemm_s(8192, 8192, 8192, "bf16")
    assert 0.6 < 2 * 8192**3 / seconds / 989e12 < 0.95
    assert measured.gemm_s(8192, 8192, 8192, "fp8") < 0.75 * seconds
    assert (np.diff(measured.node_collective_s("all_gather", 8, [2.0**i for i in range(8, 34)])) >= 0).all()


def test_a_config_json_is_read_like_the_preset_of_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64,
                "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256,
            }
        )
    )  # fmt: skip
    from evaluators.training_layout.model_file import from_config_json

    assert from_config_json(tmp_path).total_parameters == preset("llama3-70b").total_parameters


def test_the_command_answers_with_all_that_a_reader_asks(run: Run) -> None:
    arguments = (
        "search",
        "training-layout",
        "--set",
        "model=llama3-8b",
        "--set",
        "gpus=16",
        "--trials",
        4,
        "--set",
        "kernels=peak",
    )
    told = run(*arguments, "--json", "--study", "one")
    assert told.code == 0, told.err
    found = told.json
    assert found["gain"] >= 0.0
    assert any("are layouts that exist" in line for line in found["facts"]["pruned"])
    assert any("divides 16 GPUs" in line for line in found["facts"]["pruned"])
    assert any("memory of a GPU" in line for line in found["facts"]["pruned"])
    for part, total in (("time", "step_s"), ("memory", "memory_gib")):
        for label in ("best", "default"):
            assert sum(found["explanation"][part][label].values()) == pytest.approx(found[label]["metrics"][total])
    assert set(found["exports"]) == {"megatron", "deepspeed", "torchtitan", "megatron-bridge"}
    text = run(*arguments, "--study", "two").out
    for piece in (
        "pruned:",
        "time of a step, s",
        "memory of a GPU, GiB",
        "gain over default",
        "to run it: ",
        "--format megatron",
    ):
        assert piece in text
    assert run("export", "one", "--format", "torchtitan").code == 0

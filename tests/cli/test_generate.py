"""`autotune trace generate`: from a checkpoint's trace over a study to text, and what is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune import UsageError
from autotune.hardware import ComputeEntry
from evaluators.moe_cache.machine import LayerWork
from evaluators.moe_cache.model_config import from_config_json
from evaluators.moe_cache.plan_file import read_plan
from evaluators.moe_cache.recording.tiny_moe import TinyMoE, TinyMoEConfig
from evaluators.moe_cache.recording.tiny_recording import load_tiny, save_tiny
from evaluators.moe_cache.runtime.layout import ExpertLayout
from evaluators.moe_cache.runtime.tiers import DiskTier, random_experts
from tests.cli.conftest import Run
from tests.machine import made_profile
from tests.moe_cache_recording.checkpoints import save

LAYERS, EXPERTS, TOP_K, HIDDEN, INTER = 2, 6, 2, 16, 64
BYTES = 3 * HIDDEN * INTER * 4


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    layout = ExpertLayout(HIDDEN, INTER, torch.float32)
    try:
        DiskTier(folder, layout, 1, 1, random_experts(layout)).close()
    except UsageError as reason:
        pytest.skip(f"the temporary folder has no disk with direct I/O: {reason}")
    return folder


def document(**changes: Any) -> dict[str, Any]:
    """A plan as `autotune export --format plan` writes it, for the tiny model below."""
    layer = {"budget_bytes": 3 * BYTES, "expert_bytes": BYTES, "theta": 1.0, "slots": 3}
    usual = {
        "schema": "autotune/moe-cache-plan",
        "schema_version": 1,
        "model": {
            "name": "tiny-moe", "decoder_layers": LAYERS, "moe_layers": LAYERS, "experts_per_layer": EXPERTS,
            "experts_per_token": TOP_K, "hidden_size": HIDDEN, "expert_intermediate_size": INTER,
        },
        "trace_model": "small-tiny-moe",
        "policy": {"name": "lru"},
        "prefetch_depth_layers": 1,
        "predictor": "recorded",
        "cpu_threshold_tokens": 0,
        "memory": {"budget_bytes": 0, "staging_bytes": 0, "caches_bytes": 0},
        "layers": [
            {**layer, "layer": i, "decoder_layer": i, "experts_by_popularity": list(range(EXPERTS))} for i in range(LAYERS)
        ],
    }  # fmt: skip
    return {**usual, **changes}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = TinyMoEConfig(
        n_layers=LAYERS, n_experts=EXPERTS, top_k=TOP_K, hidden_size=HIDDEN, expert_intermediate_size=INTER, n_heads=2
    )
    save_tiny(TinyMoE(config), tmp_path / "tiny.pt", {})
    assert load_tiny(tmp_path / "tiny.pt").config == config
    return tmp_path / "tiny.pt"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"policy": {"name": "static"}, "prefetch_depth_layers": 0, "predictor": None},
        {"policy": {"name": "belady"}, "predictor": "oracle"},
        {"predictor": "popularity"},
    ],
)
def test_a_plan_runs_and_the_text_is_the_same(
    run: Run, tmp_path: Path, scratch: Path, weights: Path, changes: dict[str, Any]
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(document(**changes)))
    given = ("trace", "generate", "--checkpoint", weights, "--plan", "plan.json", "--prompt", "import os", "--tokens", "9",
             "--tier", "ram<-disk", "--scratch", scratch)  # fmt: skip
    ran = run(*given, "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert told["same_tokens"] is True
    assert told["largest_logit_difference"] < 1e-4
    assert len(told["tokens"]) == 9
    assert 0 < told["offloaded"]["hit_rate"] < 1
    assert told["offloaded"]["tokens_per_s"] > 0 and told["resident"]["tokens_per_s"] > 0
    slots = 2 * 3 + TOP_K * (2 if changes.get("prefetch_depth_layers", 1) else 1)
    assert told["offloaded"]["experts_mib"] == slots * BYTES / 2**20
    assert told["resident"]["experts_mib"] == LAYERS * EXPERTS * BYTES / 2**20
    assert list(scratch.iterdir()) == []
    if not changes:
        shown = run(*given)
        assert "the same tokens as without offloading" in shown.out
        alone = run(*given, "--no-compare", "--json").json
        assert (alone["resident"], alone["same_tokens"], alone["tokens"]) == (None, None, told["tokens"])


def test_a_study_of_a_recorded_checkpoint_runs_on_that_checkpoint_and_no_other(
    run: Run, tmp_path: Path, scratch: Path
) -> None:
    model = save("mixtral", tmp_path / "checkpoint")
    (tmp_path / "prose.txt").write_text("A person has a model that does not fit. " * 3)
    recorded = run(
        "trace", "record", "--model", model, "--text", "prose.txt", "--out", "own.moetrace.npz", "--decode-tokens", "16",
        "--prompt-tokens", "20", "--temperature", "1",
    )  # fmt: skip
    assert recorded.code == 0, recorded.err
    profile = made_profile()
    work = LayerWork.of(from_config_json(model / "config.json"), 512)
    entries = [ComputeEntry(shape=one, device="cpu", curve=profile.compute[0].curve) for one in work.shapes]
    (tmp_path / "machine.json").write_text(profile.merge(entries).to_json())
    searched = run(
        "search", "moe-cache", "--study", "own", "--trials", "6", "--set", "trace=own.moetrace.npz", "--set", f"model={model}",
        "--set", "hardware=machine.json", "--set", "budget_fraction=0.5",
    )  # fmt: skip
    assert searched.code == 0, searched.err
    given = ("--study", "own", "--prompt", "Words", "--tokens", "6", "--tier", "ram<-disk", "--scratch", scratch)
    ran = run("trace", "generate", "--checkpoint", model, *given, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["same_tokens"] is True
    assert isinstance(ran.json["text"], str)

    other = save("qwen3_moe", tmp_path / "other")
    refused = run("trace", "generate", "--checkpoint", other, *given)
    assert refused.code == 2
    assert (
        "a trace from another model than the checkpoint: checkpoint has 4 layers of 8 experts (32 x 48)" in refused.err
    )
    assert len(refused.err.strip().splitlines()) == 1


def test_what_cannot_run_is_said_in_one_line(run: Run, tmp_path: Path, weights: Path) -> None:
    layers = document()["layers"]
    uneven = [{**layers[0], "expert_bytes": BYTES // 2}, layers[1]]
    files = {
        "good": document(),
        "uneven": document(layers=uneven),
        "bits": document(layers=[{**layer, "expert_bytes": BYTES // 2} for layer in layers]),
        "newer": document(schema_version=2),
        "other": {"name": "something else"},
        "cpu": document(cpu_threshold_tokens=2),
        "policy": document(policy={"name": "newest"}),
        "order": document(layers=[{**layer, "experts_by_popularity": [0]} for layer in layers]),
        "future": document(policy={"name": "belady"}),
    }
    for name, one in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    (tmp_path / "torn.json").write_text('{"schema": ')
    (tmp_path / "noise.pt").write_bytes(b"noise")
    usual = ("--tier", "ram<-disk", "--prompt", "a")
    for arguments, words in (
        (("--checkpoint", weights), "give either --study NAME"),
        (("--checkpoint", weights, "--plan", "good.json", "--trial", "3"), "give either --study NAME"),
        (("--checkpoint", weights, "--plan", "absent.json"), "--plan absent.json cannot be read"),
        (("--checkpoint", weights, "--plan", "torn.json"), "no plan of the domain moe-cache"),
        (("--checkpoint", weights, "--plan", "other.json"), "'schema' is missing"),
        (("--checkpoint", weights, "--plan", "newer.json"), "schema autotune/moe-cache-plan 2"),
        (("--checkpoint", weights, "--plan", "policy.json"), "policy 'newest' is unknown"),
        (("--checkpoint", weights, "--plan", "order.json"), "does not order its 6 experts"),
        (("--checkpoint", weights, "--plan", "uneven.json"), "experts differ in size (6144, 12288 bytes)"),
        (("--checkpoint", weights, "--plan", "bits.json"), "search again with --set bits=32"),
        (("--checkpoint", weights, "--plan", "cpu.json"), "the slow tier of ram<-disk computes nothing"),
        (("--checkpoint", weights, "--plan", "future.json", "--no-compare"), "let it run too"),
        (("--checkpoint", "noise.pt", "--plan", "good.json"), "noise.pt does not hold the tiny model"),
        (("--checkpoint", "absent", "--plan", "good.json"), "model folder absent does not exist"),
        (("--checkpoint", weights, "--plan", "good.json", "--tokens", "999"), "exceeds the model's context of 256"),
    ):
        ran = run("trace", "generate", *usual, *map(str, arguments))
        assert ran.code == 2, (arguments, ran.out)
        assert words in ran.err
        told = [line for line in ran.err.strip().splitlines() if not line.startswith(("generating", "moving"))]
        assert len(told) == 1, told


def test_a_plan_says_what_it_said_before_it_was_written() -> None:
    found = read_plan(json.dumps(document(policy={"name": "lcp", "rho": 0.5, "omega_tokens": 64.0})), "it")
    assert (found.plan.policy, found.plan.lcp_rho, found.plan.lcp_omega) == ("lcp", 0.5, 64.0)
    assert found.plan.budget_bytes == (3 * BYTES,) * LAYERS
    assert (found.plan.prefetch_depth, found.plan.predictor) == (1, "recorded")
    assert found.popularity.argmax(axis=1).tolist() == [0] * LAYERS
    old = document()
    del old["predictor"]
    assert read_plan(json.dumps(old), "it").plan.predictor == "recorded"

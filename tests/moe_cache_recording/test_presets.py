"""Model shapes: published totals, agreement with real models of each family, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import UsageError
from evaluators.moe_cache.presets import PRESETS, ModelShape, from_config_json, preset

from .checkpoints import FAMILIES, build

# Billions of parameters in all and per token as the model cards and papers named in each preset's source give them.
PUBLISHED = {
    "mixtral-8x7b": (46.7, 12.9), "qwen3-30b-a3b": (30.5, 3.3), "deepseek-v2-lite": (15.7, None),
    "olmoe-1b-7b": (6.9, 1.3), "gpt-oss-120b": (116.8, None), "granite-3.0-1b-a400m": (1.334, 0.4),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    total, active = PUBLISHED[name]
    assert preset(name).total_parameters == pytest.approx(total * 1e9, rel=0.005)
    if active is not None:  # published to one digit behind the point
        assert preset(name).active_parameters == pytest.approx(active * 1e9, abs=0.06e9)


def test_bytes_of_one_expert() -> None:
    mixtral = preset("Mixtral-8x7B")
    assert mixtral.expert_bytes() == 3 * 4096 * 14336 * 2
    assert mixtral.expert_bytes(4) == 3 * 4096 * 14336 // 2
    gpt_oss = preset("gpt-oss-120b")
    blocks = 3 * 2880 * 2880 // 32  # 32 four-bit values and one byte of scale each
    assert gpt_oss.expert_bytes() == blocks * 17 + (2 * 2880 + 2880) * 2


def test_a_dense_layer_counts_to_the_next_routed_one() -> None:
    first, *others = preset("deepseek-v2-lite").dense_bytes()
    assert len(others) == 25
    assert set(others) == {others[0]}
    shared_and_router = 3 * 2048 * 2 * 1408 + 64 * 2048
    assert first - others[0] == (others[0] // 2 - shared_and_router + 3 * 2048 * 10944) * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_json_counts_every_parameter_of_the_real_model(family: str, tmp_path: Path) -> None:
    model = build(family)
    model.config.save_pretrained(tmp_path)
    shape = from_config_json(tmp_path / "config.json")
    n_experts, top_k, layers, expert_parameters = FAMILIES[family][2]
    assert (shape.n_experts, shape.top_k, shape.n_layers) == (n_experts, top_k, len(layers))
    assert shape.expert_parameters == expert_parameters
    assert shape.total_parameters == sum(p.numel() for p in model.parameters())


def test_a_folder_gives_its_name_and_its_precision(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    config = build("mixtral").config
    config.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps({**values, "torch_dtype": "float32"}))
    shape = from_config_json(folder)
    assert shape.name == "my-model"
    assert shape.expert_bytes() == 4 * shape.expert_parameters
    (folder / "config.json").write_text(
        json.dumps({**values, "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4"}})
    )
    assert from_config_json(folder).expert_bytes() == 4.25 / 8 * shape.expert_parameters


def _config(tmp_path: Path, **changes: Any) -> Path:
    values = {**build("mixtral").config.to_dict(), "dtype": "bfloat16", **changes}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({k: v for k, v in values.items() if v != "absent"}, default=str))
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, r"model_type 'llama'; known families: mixtral"),
        ({"model_type": ["mixtral"]}, r"known families"),
        ({"num_local_experts": "absent"}, r"field num_local_experts is missing"),
        ({"hidden_size": "wide"}, r"field hidden_size is 'wide'"),
        ({"hidden_size": -1}, r"field hidden_size is -1"),
        ({"num_experts_per_tok": 99}, r"top_k 99 exceeds n_experts"),
        ({"tie_word_embeddings": "maybe"}, r"tie_word_embeddings is 'maybe'"),
        ({"dtype": "int3"}, r"dtype is 'int3'"),
        ({"quantization_config": {"quant_method": "secret"}}, r"quant_method 'secret' is unknown"),
    ],
)
def test_bad_config(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_config_json(_config(tmp_path, **changes))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read"):
        from_config_json(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"is not JSON"):
        from_config_json(tmp_path)


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"'gpt-5' is unknown; use one of .*mixtral-8x7b.*tiny-moe") as caught:
        preset("gpt-5")
    assert all(name in str(caught.value) for name in PRESETS)


def test_bad_shapes() -> None:
    good: dict[str, Any] = {
        "name": "x", "n_layers": 2, "n_experts": 4, "top_k": 2, "hidden_size": 8, "expert_intermediate_size": 8,
        "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "vocab": 16,
    }  # fmt: skip
    ModelShape(**good)
    for change, message in (
        ({"n_layers": 0}, "n_layers is 0"),
        ({"dense_layers": (5,)}, "dense_layers"),
        ({"expert_bits": 0}, "expert_bits is 0"),
    ):
        with pytest.raises(UsageError, match=message):
            ModelShape(**{**good, **change})
    with pytest.raises(UsageError, match="bits is -4"):
        ModelShape(**good).expert_bytes(-4)

"""Recording of local checkpoints: what is recorded is what the model used, for every family; and bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from autotune.errors import UsageError
from evaluators.moe_cache.formats import load_trace, save_trace
from evaluators.moe_cache.recording.loop import Generation, RecordingProgress
from evaluators.moe_cache.recording.record import record
from evaluators.moe_cache.trace import DECODE

from .checkpoints import FAMILIES, build, save, save_tokenizer

PROMPT = "def route(token):\n    return 7\n"
DECODE_TOKENS = 6


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save("mixtral", tmp_path_factory.mktemp("mixtral"))
    (folder / "prompt.py").write_text(PROMPT)
    return folder


def _greedy_by_hand(family: str, prompt: list[int], seen: dict[int, Any]) -> list[int]:
    """Generate without a cache, the whole sequence each time; hooks on the experts keep what the last pass gave them."""
    model = build(family)
    routed = [layer for layer in model.model.layers if any(n == "experts" for n, _ in _blocks(layer))]
    for index, layer in enumerate(routed):
        experts = next(m for n, m in _blocks(layer) if n == "experts")
        experts.register_forward_pre_hook(lambda _m, args, i=index: seen.__setitem__(i, args[1:3]))
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(DECODE_TOKENS):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        model(input_ids=torch.tensor([tokens]))
    return tokens


def _blocks(layer: Any) -> list[tuple[str, Any]]:
    return [(name.rsplit(".", 1)[-1], module) for name, module in layer.named_modules() if name]


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_experts_are_what_the_experts_were_called_with(family: str, tmp_path: Path) -> None:
    folder = save(family, tmp_path)
    (folder / "prompt.py").write_text(PROMPT)
    trace = record(folder, [folder / "prompt.py"], Generation(DECODE_TOKENS, stop_at_end=False))
    n_experts, top_k, layers, expert_parameters = FAMILIES[family][2]
    assert (trace.n_experts, trace.top_k, tuple(trace.provenance["layers"])) == (n_experts, top_k, layers)
    assert trace.turn_names == ("prompt.py",)
    assert trace.decode_tokens == DECODE_TOKENS

    prompt = transformers.AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    seen: dict[int, Any] = {}
    tokens = _greedy_by_hand(family, prompt, seen)
    assert trace.n_tokens == len(tokens)
    for layer in range(trace.n_layers):
        experts, weights = seen[layer]
        order = weights.argsort(dim=-1, descending=True)
        np.testing.assert_array_equal(trace.experts[:, layer], experts.gather(-1, order).numpy())
        np.testing.assert_allclose(trace.weights[:, layer], weights.gather(-1, order).numpy(), rtol=1e-4, atol=1e-6)

    model = build(family)
    assert set(trace.expert_bytes) == {4 * expert_parameters}
    decoder = sum(p.numel() for p in model.model.layers.parameters())
    assert 4 * decoder == trace.dense_bytes.sum() + n_experts * trace.expert_bytes.sum()


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "deepseek_v3"])
def test_predictions_are_the_later_router_on_the_earlier_state(family: str, tmp_path: Path) -> None:
    folder = save(family, tmp_path)
    (folder / "prompt.py").write_text(PROMPT)
    trace = record(folder, [folder / "prompt.py"], Generation(0, depths=2))
    model = build(family)
    states: dict[int, torch.Tensor] = {}
    routed = [model.model.layers[i] for i in FAMILIES[family][2][2]]
    for index, layer in enumerate(routed):
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda _m, args, i=index: states.__setitem__(i, args[0][0].clone())
        )
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    with torch.no_grad():
        model(input_ids=torch.tensor([tokens]))
        frozen = dict(states)
        assert trace.predicted is not None
        for depth in (1, 2):
            assert (trace.predicted[depth - 1, :, :depth] == -1).all()
            for index in range(depth, len(routed)):
                normed = routed[index].post_attention_layernorm(frozen[index - depth])
                expected = routed[index].mlp.gate(normed)[2]
                got = trace.predicted[depth - 1, :, index]
                np.testing.assert_array_equal(np.sort(got, axis=-1), np.sort(expected.numpy(), axis=-1))


def test_router_logits_of_the_library_agree(mixtral: Path) -> None:
    trace = record(mixtral, [mixtral / "prompt.py"], Generation(0, depths=0))
    tokens = transformers.AutoTokenizer.from_pretrained(mixtral)(PROMPT)["input_ids"]
    with torch.no_grad():
        logits = build("mixtral")(input_ids=torch.tensor([tokens]), output_router_logits=True).router_logits
    for layer, values in enumerate(logits):
        np.testing.assert_array_equal(trace.experts[:, layer], values.topk(trace.top_k).indices.numpy())
    assert trace.predicted is None


def test_each_file_is_a_turn_and_the_trace_survives_saving(mixtral: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("Prose: naïve café — 日本語.")
    seen: list[RecordingProgress] = []
    sampled = Generation(5, temperature=0.8, seed=3, stop_at_end=False)
    trace = record(mixtral, [mixtral / "prompt.py", other], sampled, prompt_tokens=10, progress=seen.append)
    assert trace.turn_names == ("prompt.py", "notes.txt")
    assert [int((trace.turn == turn).sum()) for turn in (0, 1)] == [15, 15]
    assert [(p.turn, p.token) for p in seen] == [(turn, token) for turn in (0, 1) for token in range(6)]
    save_trace(trace, tmp_path / "x.moetrace.npz")
    loaded = load_trace(tmp_path / "x.moetrace.npz")
    np.testing.assert_array_equal(loaded.experts, trace.experts)
    assert loaded.provenance["generation"]["temperature"] == 0.8

    again = record(mixtral, [mixtral / "prompt.py", other], sampled, prompt_tokens=10)
    np.testing.assert_array_equal(again.experts, trace.experts)
    alone = record(mixtral, [mixtral / "prompt.py"], sampled, prompt_tokens=10)
    np.testing.assert_array_equal(alone.experts, trace.experts[trace.turn == 0])


def test_an_end_token_ends_the_turn(mixtral: Path, tmp_path: Path) -> None:
    text = mixtral / "prompt.py"
    free = record(mixtral, [text], Generation(4, stop_at_end=False))
    tokens = _greedy_by_hand("mixtral", transformers.AutoTokenizer.from_pretrained(mixtral)(PROMPT)["input_ids"], {})
    prompt = len(tokens) - DECODE_TOKENS
    ending = tmp_path / "ending"
    model = build("mixtral")
    # The third generated token becomes the end of text, unless the model repeats itself and it came earlier.
    model.generation_config.eos_token_id = tokens[prompt + 2]
    model.save_pretrained(ending)
    save_tokenizer(ending)
    trace = record(ending, [text], Generation(4))
    assert trace.decode_tokens == tokens[prompt:].index(tokens[prompt + 2])
    np.testing.assert_array_equal(trace.experts, free.experts[: trace.n_tokens])


def test_bytes_are_used_only_when_asked_for(tmp_path: Path) -> None:
    build("mixtral").save_pretrained(tmp_path)
    text = tmp_path / "prompt.py"
    text.write_text(PROMPT)
    with pytest.raises(UsageError, match=r"tokenizer of .* cannot be loaded .* tokenization by bytes"):
        record(tmp_path, [text])
    trace = record(tmp_path, [text], Generation(1, stop_at_end=False), tokenization="bytes")
    assert int((trace.phase != DECODE).sum()) == len(PROMPT.encode())


def test_bad_input(mixtral: Path, tmp_path: Path) -> None:
    text = mixtral / "prompt.py"
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "long.txt").write_text("x" * 200)
    cases: list[tuple[str, tuple[Any, Any], dict[str, Any]]] = [
        (r"model folder .*absent does not exist", (tmp_path / "absent", [text]), {}),
        (r"has no config\.json", (tmp_path, [text]), {}),
        (r"no text file was given", (mixtral, []), {}),
        (r"empty\.txt is empty", (mixtral, [tmp_path / "empty.txt"]), {}),
        (r"latin\.txt is not UTF-8", (mixtral, [tmp_path / "latin.txt"]), {}),
        (r"gone\.txt cannot be read", (mixtral, [tmp_path / "gone.txt"]), {}),
        (r"200 tokens, which with 128 to generate exceeds the model's context of 128",
         (mixtral, [tmp_path / "long.txt"]), {}),
        (r"prompt_tokens is 0", (mixtral, [text]), {"prompt_tokens": 0}),
        (r"tokenization 'words' is unknown", (mixtral, [text]), {"tokenization": "words"}),
        (r"device 'abacus' is not available", (mixtral, [text]), {"device": "abacus"}),
        (r"dtype 'int3' is unknown", (mixtral, [text]), {"dtype": "int3"}),
    ]  # fmt: skip
    for message, arguments, options in cases:
        with pytest.raises(UsageError, match=message):
            record(*arguments, **options)
    with pytest.raises(UsageError, match=r"temperature is -1"):
        Generation(temperature=-1)


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(UsageError, match=r"LlamaForCausalLM has no mixture-of-experts layer"):
        record(tmp_path, [tmp_path / "t.txt"], tokenization="bytes")


def test_a_checkpoint_without_its_experts_is_refused_instead_of_filled_with_noise(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build("mixtral").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.2." not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(UsageError, match=r"lacks \d+ weights, model\.layers\.2\."):
        record(tmp_path, [tmp_path / "t.txt"], tokenization="bytes")


def test_a_token_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    model = build("mixtral")
    for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, field, None)
    model.resize_token_embeddings(100)
    model.save_pretrained(tmp_path)
    (tmp_path / "t.txt").write_text("plain é")
    with pytest.raises(UsageError, match=r"token 195, but the model's vocabulary has 100"):
        record(tmp_path, [tmp_path / "t.txt"], tokenization="bytes")


def test_a_damaged_config_is_one_sentence(mixtral: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    with pytest.raises(UsageError, match=r"cannot be loaded \(.*\); give a folder") as caught:
        record(tmp_path, [mixtral / "prompt.py"], tokenization="bytes")
    assert "\n" not in str(caught.value)


def test_without_transformers_the_extra_is_named(mixtral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r'pip install "autotune\[hf\]"'):
        record(mixtral, [mixtral / "prompt.py"])

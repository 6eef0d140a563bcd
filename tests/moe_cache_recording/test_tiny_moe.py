"""The tiny model: its arithmetic against a naive reference, its cache, its training and its corpus."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from autotune.errors import UsageError
from evaluators.moe_cache.presets import preset
from evaluators.moe_cache.recording.corpus import Document, paragraphs, standard_library
from evaluators.moe_cache.recording.loop import Generation, Turn, record_turns
from evaluators.moe_cache.recording.tiny_moe import KVCache, SparseMoE, TinyMoE, TinyMoEConfig
from evaluators.moe_cache.recording.tiny_recording import TinyRoutedModel, held_out_prompts
from evaluators.moe_cache.recording.training import Progress, TrainingOptions, held_out_bits_per_byte, train

SMALL = TinyMoEConfig(
    n_layers=3, n_experts=6, top_k=2, hidden_size=16, expert_intermediate_size=8, n_heads=2, context=32
)


@pytest.fixture
def model() -> TinyMoE:
    torch.manual_seed(7)
    return TinyMoE(SMALL).eval()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, ...]:
    """A small library of functions that count, beside the real language reference."""
    root = tmp_path_factory.mktemp("library")
    (root / "encodings").mkdir()
    for i in range(60):
        lines = [
            f'def add_{i}_{j}(value):\n    """Add {j} to value {i}."""\n    return value + {j}\n' for j in range(9)
        ]
        (root / f"module_{i}.py").write_text("\n".join(lines))
        (root / "encodings" / f"cp{i}.py").write_text("\n".join(f"    '{j:04x}'  # {j} of {i}" for j in range(40)))
    return standard_library(root)


def test_sorted_experts_equal_a_loop_over_tokens() -> None:
    torch.manual_seed(3)
    moe = SparseMoE(SMALL)
    x = torch.randn(11, SMALL.hidden_size)
    mixed, _, experts, weights = moe(x)
    logits = x @ moe.router.weight.T
    for t in range(len(x)):
        best = logits[t].argsort(descending=True)[: SMALL.top_k]
        assert experts[t].tolist() == best.tolist()
        torch.testing.assert_close(weights[t], logits[t][best].softmax(-1))
        expected = torch.zeros(SMALL.hidden_size)
        for expert, weight in zip(best, weights[t], strict=True):
            gate, up = (x[t] @ moe.gate_up[expert]).chunk(2)
            expected += weight * ((functional.silu(gate) * up) @ moe.down[expert])
        torch.testing.assert_close(mixed[t], expected, rtol=1e-4, atol=1e-5)


def test_balance_loss_is_one_when_even_and_n_over_k_when_collapsed() -> None:
    moe = SparseMoE(SMALL)
    with torch.no_grad():
        # Token t prefers experts t and t+1 (mod n) and all are as probable on average: the loss is 1.
        moe.router.weight.zero_()
        moe.router.weight[:, :6] = 5 * (torch.eye(6) + torch.roll(torch.eye(6), 1, dims=0))
        _, even, _, _ = moe(torch.eye(6, SMALL.hidden_size))
        moe.router.weight.zero_()
        moe.router.weight[:2, 0] = 50
        _, collapsed, _, _ = moe(torch.eye(1, SMALL.hidden_size).repeat(6, 1))
    assert float(even) == pytest.approx(1.0)
    assert float(collapsed) == pytest.approx(6 / 2)


def test_a_cache_changes_nothing(model: TinyMoE) -> None:
    tokens = torch.randint(0, 256, (2, 12))
    with torch.no_grad():
        whole, _, routings = model(tokens)
        cache = KVCache(SMALL.n_layers)
        parts = [model(tokens[:, :5], cache)]
        parts += [model(tokens[:, i : i + 1], cache) for i in range(5, 12)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts], dim=1), whole, rtol=1e-4, atol=1e-4)
    experts = torch.cat([p[2][2].experts.view(2, -1, SMALL.top_k) for p in parts], dim=1)
    assert torch.equal(experts, routings[2].experts.view(2, 12, -1))


def test_no_token_sees_the_future(model: TinyMoE) -> None:
    tokens = torch.randint(0, 256, (1, 10))
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_weights_are_counted_as_the_preset_counts_them() -> None:
    model = TinyMoE(TinyMoEConfig())
    shape = preset("tiny-moe")
    assert sum(p.numel() for p in model.parameters()) == shape.total_parameters
    assert tuple(model.dense_bytes()) == shape.dense_bytes()
    assert {block.moe.expert_bytes for block in model.layers()} == {shape.expert_bytes()}


def test_recording_matches_one_pass_over_the_same_tokens(model: TinyMoE) -> None:
    turn = Turn("a", tuple(b"import numpy"))
    trace = record_turns(TinyRoutedModel(model), [turn], Generation(5, depths=2), {})
    tokens = list(turn.tokens)
    with torch.no_grad():
        for _ in range(5):
            tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
        _, _, routings = model(torch.tensor([tokens]))
        assert trace.predicted is not None
        for layer, routing in enumerate(routings):
            np.testing.assert_array_equal(trace.experts[:, layer], routing.experts)
            np.testing.assert_allclose(trace.weights[:, layer], routing.weights, rtol=1e-3)
            for depth in (1, 2):
                if depth > layer:
                    assert (trace.predicted[depth - 1, :, layer] == -1).all()
                    continue
                block = model.layers()[layer]
                logits = block.moe.router(block.moe_norm(routings[layer - depth].hidden))
                expected = logits.topk(SMALL.top_k).indices
                np.testing.assert_array_equal(trace.predicted[depth - 1, :, layer], expected)


def test_a_prompt_that_fills_the_context_is_refused(model: TinyMoE) -> None:
    with pytest.raises(
        UsageError, match=r"'a' has 30 tokens, which with 5 to generate exceeds the model's context of 32"
    ):
        record_turns(TinyRoutedModel(model), [Turn("a", (1,) * 30)], Generation(5), {})
    with pytest.raises(UsageError, match=r"'a' is empty"):
        record_turns(TinyRoutedModel(model), [Turn("a", ())], Generation(5), {})
    with pytest.raises(UsageError, match=r"no text to record"):
        record_turns(TinyRoutedModel(model), [], Generation(5), {})


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("deterministic")
def test_training_learns_and_repeats_itself(library: tuple[Document, ...]) -> None:
    reports: list[Progress] = []
    options = TrainingOptions(steps=30, batch=4, learning_rate=1e-2, warmup=5)
    trained = train(library, SMALL, options, reports.append, every=15)
    assert [p.step for p in reports] == [15, 30]
    losses = held_out_bits_per_byte(trained, library, windows=8)
    assert set(losses) == {"source", "docs", "docstrings", "tables"}
    assert max(losses.values()) < math.log2(256) - 1  # clearly better than knowing nothing
    again = train(library, SMALL, options, reports.append, every=15)
    assert held_out_bits_per_byte(again, library, windows=8) == losses


def test_held_out_text_is_never_trained_on(library: tuple[Document, ...]) -> None:
    """Real topics of the language reference contain each other; what the held-out ones say must be gone from the rest."""
    training = {plain for d in library if not d.held_out for _, plain in paragraphs(d.text)}
    for kind in ("docs", "tables"):
        held = [d for d in library if d.kind == kind and d.held_out]
        blocks = {plain for d in held for _, plain in paragraphs(d.text) if len(plain) >= 80}
        assert len(blocks) >= len(held) > 0
        assert not blocks & training
    names = {d.name for d in library if d.held_out}
    assert all(d.held_out == (d.name in names) for d in library)  # a module and its docstrings stay together


def test_prompts_are_held_out_and_differ(library: tuple[Document, ...]) -> None:
    turns = held_out_prompts(library, 24)
    assert len({turn.name for turn in turns}) == len(turns) == 6
    for turn in turns:
        kind, name = turn.name.split(": ")
        document = next(d for d in library if d.kind == kind and d.name.removeprefix("topic:") == name)
        assert document.held_out
        assert bytes(turn.tokens) in document.text
        assert len(turn.tokens) == 24
    with pytest.raises(UsageError, match=r"held-out documents of kind 'source' with 400000 bytes"):
        held_out_prompts(library, 100_000)


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hidden_size 20 does not give 3 heads"):
        TinyMoEConfig(hidden_size=20, n_heads=3)
    with pytest.raises(UsageError, match="top_k 9 must lie between 1 and n_experts"):
        TinyMoEConfig(top_k=9, n_experts=8)
    with pytest.raises(UsageError, match="steps=0"):
        TrainingOptions(steps=0)
    with pytest.raises(UsageError, match=r"holds no \.py file"):
        standard_library(tmp_path)

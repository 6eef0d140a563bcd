"""The trace that ships with the project: small, whole, of a trained model, and as predictable as its documentation says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.presets import preset
from evaluators.moe_cache.trace import DECODE, RoutingTrace

FILE = Path(__file__).resolve().parents[2] / "evaluators" / "moe_cache" / "traces" / "tiny-moe.moetrace.npz"


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    return load_trace(FILE)


def test_shape_and_size(trace: RoutingTrace) -> None:
    shape = preset("tiny-moe")
    assert FILE.stat().st_size < 500_000
    assert (trace.n_layers, trace.n_experts, trace.top_k) == (shape.n_layers, shape.n_experts, shape.top_k)
    assert trace.expert_bytes is not None
    assert trace.dense_bytes is not None
    assert set(trace.expert_bytes) == {shape.expert_bytes()}
    assert tuple(trace.dense_bytes) == shape.dense_bytes()
    assert (len(trace.turn_names), trace.n_tokens, trace.decode_tokens) == (6, 6 * 256, 6 * 192)
    assert len({name.split(":")[0] for name in trace.turn_names}) == 4


def test_the_model_was_trained(trace: RoutingTrace) -> None:
    """A byte of the held-out text costs an untrained model 8 bits and one that knows byte frequencies about 4.5."""
    losses = trace.provenance["training"]["held_out_bits_per_byte"]
    assert max(losses.values()) < 3.0
    assert losses["source"] < 2.2


def test_provenance_has_no_path_of_the_machine(trace: RoutingTrace) -> None:
    told = json.dumps(dict(trace.provenance))
    assert "scripts/train_tiny_moe.py" in told
    assert ' "/' not in told
    assert " /" not in told


def test_weights_are_a_falling_distribution(trace: RoutingTrace) -> None:
    assert trace.weights is not None
    np.testing.assert_allclose(trace.weights.sum(axis=-1), 1.0, rtol=1e-5)
    assert (np.diff(trace.weights, axis=-1) <= 0).all()


def test_predictions_beat_chance_and_fade_with_depth(trace: RoutingTrace) -> None:
    assert trace.predicted is not None
    decode = trace.phase == DECODE
    recalls = []
    for depth in (1, 2, 3):
        got = trace.predicted[depth - 1, decode, depth:]
        real = trace.experts[decode, depth:]
        recalls.append(float((real[..., :, None] == got[..., None, :]).any(axis=-1).mean()))
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] > 0.6
    assert recalls[2] > 3 * trace.top_k / trace.n_experts


def test_routing_is_neither_uniform_nor_the_same_in_every_turn(trace: RoutingTrace) -> None:
    shares = []
    for turn in range(len(trace.turn_names)):
        picks = trace.experts[(trace.turn == turn) & (trace.phase == DECODE)]
        counts = np.stack([np.bincount(picks[:, layer].ravel(), minlength=32) for layer in range(trace.n_layers)])
        shares.append(counts / counts.sum(axis=1, keepdims=True))
    popular = [np.sort(share, axis=1)[:, -8:].sum(axis=1).mean() for share in shares]
    assert min(popular) > 0.4  # a quarter of the experts takes well over a quarter of the picks
    difference = np.abs(shares[0] - shares[2]).sum(axis=1).mean() / 2
    assert difference > 0.15

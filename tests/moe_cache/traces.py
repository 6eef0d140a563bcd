"""Small traces, random traces and the recorded ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

_ROOT = Path(__file__).resolve().parents[2]


def recorded(name: str) -> Path:
    """The path of a recorded trace; skips the test where the data is absent."""
    path = Path(os.environ.get("AUTOTUNE_DATA", _ROOT.parent / "shared" / "data")) / "moe_routing" / name
    if not path.exists():
        pytest.skip(f"recorded trace {name} is absent; set AUTOTUNE_DATA to the folder that holds moe_routing")
    return path


def decode_trace(
    picks: Sequence[Sequence[Sequence[int]]], n_experts: int, *, turn: Sequence[int] | None = None, prefill: int = 0
) -> RoutingTrace:
    """A trace of ``picks[token][layer][slot]``; the first `prefill` tokens are one prompt."""
    experts = np.array(picks, dtype=np.int16)
    phase = np.full(len(experts), DECODE, dtype=np.int8)
    phase[:prefill] = PREFILL
    return RoutingTrace(
        model="tiny",
        n_experts=n_experts,
        top_k=experts.shape[2],
        experts=experts,
        turn=np.array(turn if turn is not None else [0] * len(experts), dtype=np.int32),
        phase=phase,
    )


def one_layer(sequence: Sequence[int], n_experts: int) -> RoutingTrace:
    """One layer, one expert per token, decode only."""
    return decode_trace([[[expert]] for expert in sequence], n_experts)


@st.composite
def random_traces(draw: st.DrawFn, min_layers: int = 1) -> RoutingTrace:
    """Traces of up to 3 layers, 6 experts and 3 turns, with prompts that may skip the last layer."""
    n_experts = draw(st.integers(2, 6))
    top_k = draw(st.integers(1, min(3, n_experts)))
    n_layers = draw(st.integers(min_layers, 3))
    turns = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 10)), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skip_last = draw(st.booleans())
    experts, turn, phase = [], [], []
    for index, (prompt, generated) in enumerate(turns):
        for position in range(prompt + generated):
            # Squaring skews the choice towards low experts, so that caches have something to find.
            scores = rng.random((n_layers, n_experts)) ** 2 * np.arange(1, n_experts + 1)
            token = np.argsort(scores, axis=1)[:, :top_k]
            if skip_last and position < prompt - 1:
                token[-1] = -1
            experts.append(token)
            turn.append(index)
            phase.append(PREFILL if position < prompt else DECODE)
    return RoutingTrace(
        model="random",
        n_experts=n_experts,
        top_k=top_k,
        experts=np.array(experts, dtype=np.int16),
        turn=np.array(turn, dtype=np.int32),
        phase=np.array(phase, dtype=np.int8),
    )

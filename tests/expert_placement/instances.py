"""Small routings, random ones for hypothesis, and the brute force over all balanced placements."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from evaluators.expert_placement.cluster import Cluster, Placement
from evaluators.expert_placement.routing import Routing
from evaluators.expert_placement.solvers import Task
from evaluators.moe_cache.formats import save_trace
from evaluators.moe_cache.trace import DECODE, RoutingTrace


def routing(picks: Sequence[Sequence[Sequence[int]]], n_experts: int, batches: int = 1) -> Routing:
    """``picks[token][layer][slot]``, in equal batches."""
    array = np.array(picks, dtype=np.int16)
    return Routing(array, n_experts, np.arange(len(array), dtype=np.int64) * batches // len(array))


def chained(
    layers: int, n_experts: int, top_k: int, tokens: int, seed: int, batches: int = 3, skip: float = 0.0
) -> Routing:
    """Tokens whose best expert leans on the one before; some experts are liked more. A token may skip the last layer."""
    rng = np.random.default_rng(seed)
    liking = rng.gumbel(size=(layers, n_experts))
    follow = 3.0 * rng.random((layers, n_experts, n_experts)) ** 4
    picks = np.empty((tokens, layers, top_k), dtype=np.int16)
    best = rng.integers(n_experts, size=tokens)
    for layer in range(layers):
        scores = liking[layer] + follow[layer][best] + rng.gumbel(size=(tokens, n_experts))
        picks[:, layer] = np.argsort(-scores, axis=1)[:, :top_k]
        best = picks[:, layer, 0]
    picks[rng.random(tokens) < skip, -1] = -1
    batches = min(batches, tokens)
    return Routing(picks, n_experts, np.arange(tokens, dtype=np.int64) * batches // tokens)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Up to 3 layers, 12 experts, 4 GPUs in one or two nodes, 3 experts per token."""
    gpus = draw(st.sampled_from([2, 3, 4]))
    per_gpu = draw(st.integers(1, 3))
    n_experts = gpus * per_gpu
    nodes = draw(st.sampled_from([1, 2])) if gpus == 4 else 1
    given = chained(
        layers=draw(st.integers(2, 3)),
        n_experts=n_experts,
        top_k=draw(st.integers(1, min(3, n_experts))),
        tokens=draw(st.integers(1, 40)),
        seed=draw(st.integers(0, 2**32 - 1)),
        skip=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )
    return Task(given, Cluster(gpus, gpus // nodes), seed=draw(st.integers(0, 5)), seconds=5.0)


def balanced_rows(n_experts: int, gpus: int) -> list[tuple[int, ...]]:
    row = sorted(list(range(gpus)) * (n_experts // gpus))
    return sorted(set(itertools.permutations(row)))


def all_placements(layers: int, n_experts: int, gpus: int) -> Iterator[Placement]:
    """Every balanced placement."""
    for rows in itertools.product(balanced_rows(n_experts, gpus), repeat=layers):
        yield np.array(rows, dtype=np.int64)


def write_trace(
    path: Path, *, layers: int = 3, n_experts: int = 8, top_k: int = 2, turns: int = 2, model: str = "made"
) -> Path:
    """A small trace on disk, 40 decode tokens per turn."""
    made = chained(layers, n_experts, top_k, 40 * turns, seed=1)
    trace = RoutingTrace(
        model=model,
        n_experts=n_experts,
        top_k=top_k,
        experts=made.picks,
        turn=np.repeat(np.arange(turns, dtype=np.int32), 40),
        phase=np.full(40 * turns, DECODE, dtype=np.int8),
    )
    save_trace(trace, path)
    return path

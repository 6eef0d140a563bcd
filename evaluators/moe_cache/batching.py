"""Serving shapes: several sequences decoded together, and what padded batches cost against dynamic gating."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autotune.errors import UsageError
from evaluators.moe_cache.trace import DECODE, PREFILL, Int64, RoutingTrace


def batched(trace: RoutingTrace, batch: int) -> RoutingTrace:
    """The trace served in batches: every decode pass gives each of `batch` sequences one token.

    The generated tokens, in their order, are cut into `batch` sequences whose lengths differ by at most one; pass i holds
    the i-th token of each. Sequences are conversations where the trace has as many of equal length, else windows of
    them, or several one after another. All prompts are computed first, each in a pass of its own as before; then the
    decode passes follow as one more turn, "batches of B", because the tokens of a turn must lie together. Predictions and
    weights stay with their tokens.

    Raises:
        UsageError: unless ``1 <= batch <= decode tokens``, or for a trace that is batched already.
    """
    if batch == 1:
        return trace
    if not 1 <= batch <= trace.decode_tokens:
        raise UsageError(
            f"batch={batch} does not fit the trace's {trace.decode_tokens} decode tokens; give 1 to that many sequences"
        )
    if trace.pass_index is not None:
        raise UsageError(f"trace {trace.model!r} already has passes of several decode tokens; give the unbatched trace")
    prompts = np.flatnonzero(trace.phase == PREFILL)
    sequences = np.array_split(np.flatnonzero(trace.phase == DECODE), batch)
    longest = len(sequences[0])
    decode = np.concatenate([[s[i] for s in sequences if i < len(s)] for i in range(longest)])
    step = np.concatenate([np.full(sum(i < len(s) for s in sequences), i) for i in range(longest)])
    order = np.concatenate((prompts, decode))
    prompted, turn = np.unique(trace.turn[prompts], return_inverse=True)
    return replace(
        trace,
        experts=trace.experts[order],
        turn=np.concatenate((turn, np.full(len(decode), len(prompted)))),
        phase=trace.phase[order],
        weights=None if trace.weights is None else trace.weights[order],
        predicted=None if trace.predicted is None else trace.predicted[:, order],
        pass_index=np.concatenate((turn, len(prompted) + step)),
        turn_names=(*(trace.turn_names[i] for i in prompted), f"batches of {batch}"),
        provenance={**trace.provenance, "batch": batch},
    )


def waste_factor(n_experts: int, capacity_factor: float, top_k: int) -> float:
    """Rows that static gating computes for every row that dynamic gating computes: ``E * C / k``.

    Static gating gives each of the E experts room for ``C * S`` of a batch's S tokens and pads what stays empty, where
    the router sends ``k * S`` rows in all (MoE deployment, arXiv:2303.06182, section 4): 12.8 for its language model
    (E = 512, C = 0.05, k = 2), 64 for its translation model (E = 128, C = 1, k = 2). Below 1, tokens must be dropped.

    Raises:
        UsageError: unless ``1 <= top_k <= n_experts`` and ``0 < capacity_factor <= 1``.
    """
    if not 1 <= top_k <= n_experts or not 0.0 < capacity_factor <= 1.0:
        raise UsageError(
            f"n_experts={n_experts}, capacity_factor={capacity_factor}, top_k={top_k}: give 1 <= top_k <= n_experts and "
            "a share of the batch's tokens above 0 and at most 1"
        )
    return n_experts * capacity_factor / top_k


@dataclass(frozen=True)
class GatingCost:
    """What static gating costs on the decode passes of a trace, against dynamic gating, which pads and drops nothing.

    Attributes:
        batch: mean tokens of a decode pass.
        capacity_factor: share of a pass's tokens that every expert has room for; at least one token.
        padding: rows computed, padded ones included, for every routed row of the trace.
        dropped: share of the routed rows for which their expert has no room.
        dropless_capacity_factor: the smallest share for which nothing of this trace is dropped.
        dropless_padding: rows computed for every routed row at that share.
        experts_touched: mean share of a layer's experts that a pass routes to. Dynamic gating needs these alone in fast
            memory; static gating computes all of them.
    """

    batch: float
    capacity_factor: float
    padding: float
    dropped: float
    dropless_capacity_factor: float
    dropless_padding: float
    experts_touched: float


def gating_cost(trace: RoutingTrace, capacity_factor: float = 1.0) -> GatingCost:
    """Measure static gating on the decode passes of a trace; give `batched` traces for batches above 1.

    Raises:
        UsageError: for a trace without decode tokens, or a capacity factor outside (0, 1].
    """
    if trace.decode_tokens == 0:
        raise UsageError(f"trace {trace.model!r} has no decode token; record some generation after the prompt")
    waste_factor(trace.n_experts, capacity_factor, trace.top_k)
    batches = trace.passes()
    decode = np.flatnonzero(batches.pass_phase == DECODE)
    size = batches.pass_tokens.astype(np.int64)
    of_pass = batches.row_of_entry // batches.n_layers
    entries = batches.decode_entries
    tokens, room = batches.tokens[entries].astype(np.int64), _room(capacity_factor, size)
    routed = int(tokens.sum())
    dropless = float((tokens / size[of_pass[entries]]).max())
    slots = batches.n_layers * batches.n_experts
    return GatingCost(
        batch=float(size[decode].mean()),
        capacity_factor=capacity_factor,
        padding=float(room[decode].sum() * slots / routed),
        dropped=float(np.maximum(tokens - room[of_pass[entries]], 0).sum() / routed),
        dropless_capacity_factor=dropless,
        dropless_padding=float(_room(dropless, size)[decode].sum() * slots / routed),
        experts_touched=len(tokens) / (len(decode) * slots),
    )


def _room(capacity_factor: float, tokens: Int64) -> Int64:
    """Tokens that an expert has room for, rounded up; a share that means whole tokens must not gain one by rounding."""
    return np.asarray(np.ceil(capacity_factor * tokens - 1e-9), dtype=np.int64)

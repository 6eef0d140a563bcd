"""A whole mixture-of-experts model generates text with its routed experts in the slow tier, under a cache plan.

The model's own forward pass runs; every block's experts are computed by `OffloadedExperts`, with the router's real choices,
and what later layers will need is foreseen from the running pass. Letters: L layers, N experts, k per token, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotune.errors import AutotuneError, UsageError
from autotune.hardware import TierPair, scratch_folder
from evaluators.moe_cache import kernels
from evaluators.moe_cache.plan import CachePlan, Floats
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.recording.loop import PassRecord
from evaluators.moe_cache.replay import prepare
from evaluators.moe_cache.runtime.caches import Caches
from evaluators.moe_cache.runtime.experts import Batch, Counters, OffloadedExperts, bytes_needed
from evaluators.moe_cache.runtime.foresight import Foresight, foresight
from evaluators.moe_cache.runtime.offloadable import OffloadableModel
from evaluators.moe_cache.runtime.stack import undisturbed
from evaluators.moe_cache.runtime.tiers import DiskTier, FastMemory, HostTier, SlowTier
from evaluators.moe_cache.trace import DECODE, PREFILL, Int16, RoutingTrace


@dataclass(frozen=True, eq=False)
class Generated:
    """A greedy generation of P passes: the prompt's, then one for every token but the last.

    Attributes:
        tokens: what was generated.
        logits: ``(P, vocab)`` that they were chosen by.
        latency_ms: ``(P,)`` wall time of every pass.
        trace: what its routers chose.
    """

    tokens: tuple[int, ...]
    logits: Tensor
    latency_ms: Floats
    trace: RoutingTrace

    @property
    def tokens_per_s(self) -> float | None:
        """Of decoding, the prompt's pass apart; None where nothing was decoded."""
        decode = self.latency_ms[1:]
        return float(1e3 / decode.mean()) if decode.size else None


@dataclass(frozen=True, eq=False)
class Offloaded:
    """A generation with offloaded experts.

    Attributes:
        counters: see `Counters`.
        slots: ``(L,)`` experts that each layer's cache holds.
        fast_bytes: fast memory of caches and staging buffers.
    """

    generated: Generated
    counters: Counters
    slots: npt.NDArray[np.int64]
    fast_bytes: int

    @property
    def hit_rate(self) -> float | None:
        """Share of the decode look-ups that hit; None where nothing was decoded."""
        lookups = int(self.counters.lookups[DECODE].sum())
        return int(self.counters.hits[DECODE].sum()) / lookups if lookups else None

    @property
    def hit_rate_all(self) -> float:
        """Share of all look-ups that hit."""
        return int(self.counters.hits.sum()) / int(self.counters.lookups.sum())


def generate(
    model: OffloadableModel,
    prompt: Sequence[int],
    n_tokens: int,
    begin_pass: Callable[[int, int], None] | None = None,
) -> Generated:
    """Continue a prompt by the likeliest tokens, with whatever computes the model's experts now.

    Args:
        n_tokens: to generate, at least 1; fewer where the model ends its text.
        begin_pass: called with the phase and the number of tokens before every pass.

    Raises:
        UsageError: for an empty prompt, or one that leaves no room.
    """
    _check_prompt(model, prompt, n_tokens)
    model.begin_turn()
    records: list[PassRecord] = []
    latency: list[float] = []
    tokens: list[int] = []
    feed = list(prompt)
    with torch.inference_mode(), undisturbed():
        for step in range(n_tokens):
            began = time.perf_counter()
            if begin_pass is not None:
                begin_pass(DECODE if step else PREFILL, len(feed))
            record = model.forward(feed, 0)
            token = int(record.logits.argmax())  # on CUDA this waits for the pass
            latency.append(time.perf_counter() - began)
            records.append(record)
            tokens.append(token)
            if token in model.end_tokens:
                break
            feed = [token]
    logits = torch.stack([record.logits.detach().cpu() for record in records])
    return Generated(tuple(tokens), logits, np.array(latency) * 1e3, _trace(model, records))


class OffloadedModel:
    """A model whose experts were moved to the slow tier. Use as a context manager; the model is of no use after it.

    Args:
        model: with its experts; they are handed over.
        pair: ``ram<-disk`` or ``gpu<-host``.
        scratch: folder on the disk of ``ram<-disk``; the cache folder if None.
        depth: parallel reads of one transfer there.

    Raises:
        UsageError: for a tier that does not hold the experts.
    """

    def __init__(self, model: OffloadableModel, pair: TierPair, scratch: Path | None = None, depth: int = 1) -> None:
        self.model = model
        self._pair = pair
        layers, experts = model.n_layers, model.n_experts
        self._tier: SlowTier = (
            DiskTier(scratch_folder(scratch), model.layout, layers, experts, model.expert, depth)
            if pair.slow_device is None
            else HostTier(model.layout, layers, experts, model.expert)
        )
        self._memory: FastMemory | None = None
        self._run: _Run | None = None
        _load_kernels()
        model.hand_over(self._compute)
        model.to(pair.fast_device)
        if pair.fast_device == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> OffloadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the experts' file or memory, and the fast memory."""
        self._tier.close()
        self._memory = None

    def generate(
        self,
        plan: CachePlan,
        prompt: Sequence[int],
        n_tokens: int,
        *,
        popularity: npt.ArrayLike | None = None,
        oracle: RoutingTrace | None = None,
    ) -> Offloaded:
        """`generate`, under a plan, with caches as the policy begins with.

        Args:
            popularity: ``(L, N)`` counts that place the experts of the policy `static`.
            oracle: a trace of this very generation, for the policy `belady` and the predictor `oracle`.

        Raises:
            UsageError: for a plan of another model, more memory than is free, and where popularity or an oracle is needed.
            AutotuneError: when the slow tier breaks in the middle.
        """
        model, layout = self.model, self.model.layout
        check_plan(plan, model, self._pair)
        shape = (model.n_layers, model.n_experts, model.top_k)
        if oracle is not None and (oracle.n_layers, oracle.n_experts, oracle.top_k) != shape:
            raise UsageError(_other_model(oracle.model, (oracle.n_layers, oracle.n_experts, oracle.top_k), model))
        ahead = foresight(plan.predictor, plan.prefetch_depth, shape, model.predict, oracle)
        caches, next_use = _caches(plan, model, popularity, oracle)
        needed = bytes_needed(layout, plan, model.n_experts, model.top_k)
        if self._memory is None or self._memory.nbytes < needed:
            self._memory = None  # freed before the larger one is taken
            self._memory = FastMemory(needed, self._tier.device)
        experts = OffloadedExperts(self._tier, self._memory, plan, caches, model.top_k)
        self._run = _Run(experts, ahead, next_use)
        try:
            generated = generate(model, prompt, n_tokens, self._run.begin_pass)
        except OSError as error:
            raise AutotuneError(f"the slow tier broke in the middle: {error}") from error
        finally:
            self._run = None
            experts.close()
        return Offloaded(generated, experts.counters, caches.slots, experts.nbytes)

    def _compute(self, layer: int, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        assert self._run is not None, "the experts are offloaded; generate with OffloadedModel.generate"
        return self._run.layer(layer, hidden, experts, weights)


class _Run:
    """What one generation keeps between its layers."""

    def __init__(
        self,
        experts: OffloadedExperts,
        ahead: Foresight | None,
        next_use: tuple[RoutingTrace, npt.NDArray[np.int64]] | None,
    ) -> None:
        self._experts = experts
        self._ahead = ahead
        self._next_use = next_use
        self._pass = -1

    def begin_pass(self, phase: int, n_tokens: int) -> None:
        self._pass += 1
        self._experts.begin_pass(phase, n_tokens)
        if self._ahead is not None:
            self._ahead.begin_pass(n_tokens)

    def layer(self, layer: int, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        batch, picks = batch_of(experts, weights)
        if self._next_use is not None:
            batch.next_use = self._uses_of(layer, batch.experts, *self._next_use)
        if self._ahead is None:
            return self._experts.layer(layer, hidden, batch)
        self._ahead.saw(layer, picks)
        return self._experts.layer(layer, hidden, batch, partial(self._ahead.ahead, layer))

    def _uses_of(
        self, layer: int, experts: Int16, trace: RoutingTrace, next_use: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        passes = trace.passes()
        row = self._pass * passes.n_layers + layer
        if self._pass < passes.n_passes:
            first, stop = passes.offsets[row], passes.offsets[row + 1]
            if np.array_equal(passes.experts[first:stop], experts):
                return next_use[first:stop]
        raise UsageError(
            f"pass {self._pass} routes otherwise in layer {layer} than the trace that policy 'belady' looks ahead in; give a "
            "trace of this very generation, or another policy"
        )


def batch_of(experts: Tensor, weights: Tensor) -> tuple[Batch, Int16]:
    """What the layer step takes, of a router's ``(T, k)`` choices and weights; and the choices, each token's best first.

    In the order of a recorded trace: tokens one after the other, a token's experts by falling weight, the first slot first
    among equals.
    """
    n_tokens, top_k = experts.shape
    if n_tokens == 1:  # on the path of every layer and decoded token, where plain lists are quickest
        ids, values = experts[0].tolist(), weights[0].tolist()
        slots_in_order = sorted(range(top_k), key=values.__getitem__, reverse=True)  # stable in reverse too
        parts = weights.view(top_k, 1, 1).unbind(0)
        picks = np.array([[ids[slot] for slot in slots_in_order]], dtype=np.int16)
        ones, whole = _of_one_token(top_k)
        return Batch(picks[0], ones, whole, [parts[slot] for slot in slots_in_order]), picks
    order = np.argsort(-weights.float().cpu().numpy(), axis=1, kind="stable")
    picks = np.take_along_axis(experts.cpu().numpy(), order, axis=1).astype(np.int16)
    flat = picks.ravel()
    together = np.argsort(flat, kind="stable")
    distinct, first, counts = np.unique(flat, return_index=True, return_counts=True)
    by_appearance = np.argsort(first)
    tokens = together // top_k
    slots = order.ravel()[together]
    device, sizes = weights.device, counts.tolist()
    rows = torch.from_numpy(tokens).to(device)
    weight = weights[rows, torch.from_numpy(slots).to(device)].unsqueeze(1)
    all_rows, all_weights = torch.split_with_sizes(rows, sizes), torch.split_with_sizes(weight, sizes)
    batch = Batch(
        distinct[by_appearance],
        counts[by_appearance].astype(np.int32),
        [all_rows[i] for i in by_appearance],
        [all_weights[i] for i in by_appearance],
    )
    return batch, picks


def _load_kernels() -> None:
    """Have what is compiled ready before anything is timed."""
    one = Caches(Policy.LRU, 0.0, [1], kernels.empty_state(1, 2))
    one.look_up(0, np.zeros(1, dtype=np.int16), np.ones(1, dtype=np.int32), np.zeros(1, dtype=np.bool_), 0)


@cache
def _of_one_token(top_k: int) -> tuple[npt.NDArray[np.int32], list[Tensor | None]]:
    """Counts and rows of a pass of one token."""
    return np.ones(top_k, dtype=np.int32), [None] * top_k


def check_plan(plan: CachePlan, model: OffloadableModel, pair: TierPair) -> None:
    """Refuse a plan that this model and these tiers cannot run, in one sentence."""
    if len(plan.budget_bytes) != model.n_layers:
        raise UsageError(
            f"the plan is of a trace from another model than the checkpoint: it has {len(plan.budget_bytes)} layers and "
            f"{model.name} {model.n_layers} with experts; search on a trace of this checkpoint"
        )
    if plan.cpu_threshold_tokens and pair.slow_device is None:
        raise UsageError(
            f"cpu_threshold_tokens={plan.cpu_threshold_tokens}, but the slow tier of {pair.name} computes nothing; set it to 0"
        )


def _other_model(name: str, shape: tuple[int, int, int], model: OffloadableModel) -> str:
    return (
        f"{name} is a trace from another model than the checkpoint: {shape[0]} layers of {shape[1]} experts, top {shape[2]}, "
        f"and {model.name} has {model.n_layers} of {model.n_experts}, top {model.top_k}; record one of this checkpoint"
    )


def _caches(
    plan: CachePlan, model: OffloadableModel, popularity: npt.ArrayLike | None, oracle: RoutingTrace | None
) -> tuple[Caches, tuple[RoutingTrace, npt.NDArray[np.int64]] | None]:
    """Caches as the policy begins with, and the next uses that Belady's rule needs."""
    policy = Policy.parse(plan.policy)
    n_layers, n_experts = model.n_layers, model.n_experts
    slots = plan.slots(np.full(n_layers, model.layout.nbytes, dtype=np.int64), n_experts)
    if policy is Policy.BELADY:
        if oracle is None:
            raise UsageError(
                "policy 'belady' reads the future from a trace of this very generation; give one, or another policy"
            )
        state, rows = prepare(oracle.passes(), policy, slots, None, plan.lcp)
        return Caches(policy, rows.decay, slots.tolist(), state), (oracle, rows.next_use)
    state = kernels.empty_state(n_layers, n_experts)
    if policy is Policy.STATIC:
        counts = np.asarray([] if popularity is None else popularity)
        if counts.shape != (n_layers, n_experts):
            raise UsageError(
                f"policy 'static' places experts by popularity, given as {counts.shape}; give counts of the shape "
                f"({n_layers}, {n_experts}), as a trace of this checkpoint has them"
            )
        sizes = np.ones(n_experts, dtype=np.int64)
        for layer, order in enumerate(np.argsort(-counts, axis=1, kind="stable")):
            kernels.preload(state, layer, order, sizes, slots[layer])
    return Caches(policy, plan.lcp.decay, slots.tolist(), state), None


def _check_prompt(model: OffloadableModel, prompt: Sequence[int], n_tokens: int) -> None:
    if not prompt:
        raise UsageError("the prompt is empty; give at least one token")
    if n_tokens < 1:
        raise UsageError(f"tokens is {n_tokens}; give at least 1")
    if model.context is not None and len(prompt) + n_tokens - 1 > model.context:
        raise UsageError(
            f"the prompt has {len(prompt)} tokens, which with {n_tokens} to generate exceeds the model's context of "
            f"{model.context}; shorten the prompt or generate fewer tokens"
        )


def _trace(model: OffloadableModel, records: Sequence[PassRecord]) -> RoutingTrace:
    experts = np.concatenate([record.experts for record in records])
    phase = np.full(len(experts), DECODE, dtype=np.int8)
    phase[: len(records[0].experts)] = PREFILL
    return RoutingTrace(
        model=model.name,
        n_experts=model.n_experts,
        top_k=model.top_k,
        experts=experts,
        turn=np.zeros(len(experts), dtype=np.int32),
        phase=phase,
        weights=np.concatenate([record.weights for record in records]),
        expert_bytes=np.array(model.expert_bytes, dtype=np.int64),
        dense_bytes=np.array(model.dense_bytes, dtype=np.int64),
    )

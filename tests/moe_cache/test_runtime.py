"""Experts that are really moved: the same outputs as without offloading, and the same hits as the replay."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from autotune import Failure, FailureKind, UsageError
from autotune.hardware.tiers import GPU_HOST, RAM_DISK, check_scratch
from evaluators.moe_cache.batching import batched
from evaluators.moe_cache.machine import LayerWork
from evaluators.moe_cache.model_shape import ModelShape
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.profiled import plan_of
from evaluators.moe_cache.real import Real
from evaluators.moe_cache.replay import prepare, replay
from evaluators.moe_cache.runtime.caches import Caches
from evaluators.moe_cache.runtime.experts import Batch, OffloadedExperts, bytes_needed
from evaluators.moe_cache.runtime.layout import BLOCK, ExpertLayout, feed_forward
from evaluators.moe_cache.runtime.stack import LayerStack
from evaluators.moe_cache.runtime.tiers import DiskTier, FastMemory, random_experts
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

L, N, K = 3, 6, 2
LAYOUT = ExpertLayout(hidden=16, inter=128, dtype=torch.float32)
MODEL = ModelShape(
    "small", n_layers=L, n_experts=N, top_k=K, hidden_size=16, expert_intermediate_size=128, n_heads=2, n_kv_heads=2,
    head_dim=8, vocab=32, expert_bits=32, dense_bits=32,
)  # fmt: skip
WORK = LayerWork.of(MODEL, 8)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    try:
        check_scratch(folder, 2**20)
        DiskTier(folder, LAYOUT, 1, 1, random_experts(LAYOUT)).close()
    except UsageError as reason:
        pytest.skip(f"the temporary folder has no disk with direct I/O: {reason}")
    return folder


@pytest.fixture(scope="module")
def tier(scratch: Path) -> Iterator[DiskTier]:
    opened = DiskTier(scratch, LAYOUT, L, N, random_experts(LAYOUT), depth=2)
    yield opened
    opened.close()


def routing(seed: int = 0, prompt: int = 5, tokens: int = 12) -> RoutingTrace:
    """Two turns, each a prompt and some tokens, with predictions that are right in 7 of 10."""
    rng = np.random.default_rng(seed)
    total = 2 * (prompt + tokens)
    experts = np.argsort(rng.random((total, L, N)) * np.linspace(1, 3, N), axis=2)[:, :, :K]
    phase = np.tile([PREFILL] * prompt + [DECODE] * tokens, 2)
    turn = np.repeat([0, 1], prompt + tokens)
    return with_accuracy(RoutingTrace("small", N, K, experts, turn, phase), 0.7, seed)


def plan_for(slots: Sequence[float], theta: Sequence[float], policy: str, depth: int) -> CachePlan:
    budgets = tuple(round(n * max(t, 0.01) * LAYOUT.nbytes) for n, t in zip(slots, theta, strict=True))
    return CachePlan(budgets, tuple(theta), policy, prefetch_depth=depth)


def test_the_segments_of_a_split_add_up_to_the_expert() -> None:
    torch.manual_seed(0)
    gate, up, down = torch.randn(128, 16), torch.randn(128, 16), torch.randn(16, 128)
    x = torch.randn(4, 16)
    rows = LAYOUT.pack(gate, up, down)
    expected = functional.linear(functional.silu(functional.linear(x, gate)) * functional.linear(x, up), down)
    torch.testing.assert_close(feed_forward(rows, x), expected)
    for theta in (0.0, 0.3, 0.5, 1.0):
        top = LAYOUT.top_rows(theta)
        split = feed_forward(rows[:top], x) + feed_forward(rows[top:], x)
        torch.testing.assert_close(split, expected, atol=1e-4, rtol=1e-4)


@given(hidden=st.integers(1, 5000), inter=st.integers(1, 3000), theta=st.floats(0, 1), wide=st.booleans())
def test_a_top_segment_is_whole_blocks_and_no_larger_than_asked(
    hidden: int, inter: int, theta: float, wide: bool
) -> None:
    layout = ExpertLayout(hidden, inter, torch.float32 if wide else torch.bfloat16)
    rows = layout.top_rows(theta)
    assert rows * layout.row_bytes <= theta * layout.nbytes * (1 + 1e-9) + 1
    if rows < inter:
        assert rows * layout.row_bytes % BLOCK == 0
        assert layout.segment_bytes(0, rows) + layout.segment_bytes(rows, inter) == layout.stride


THETAS = st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), min_size=L, max_size=L)
SLOTS = st.lists(st.integers(0, N), min_size=L, max_size=L)
POLICIES = st.sampled_from(list(Policy))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slots=SLOTS, theta=THETAS, policy=POLICIES, depth=st.integers(0, 2), seed=st.integers(0, 3))
def test_outputs_are_those_of_the_model_without_offloading_and_hits_those_of_the_replay(
    tier: DiskTier, slots: list[int], theta: list[float], policy: Policy, depth: int, seed: int
) -> None:
    trace, plan = routing(seed), plan_for(slots, theta, policy, depth)
    memory = FastMemory(bytes_needed(LAYOUT, plan, N, K), "cpu")
    stack = LayerStack(trace, WORK, tier, memory)
    weights = random_experts(LAYOUT)
    original = OffloadedExperts.layer
    checked = []

    def checking(self: OffloadedExperts, layer: int, hidden: Tensor, batch: Batch, *rest: Any) -> Tensor:
        out = original(self, layer, hidden, batch, *rest)
        expected = torch.zeros_like(hidden)
        for i, expert in enumerate(batch.experts):
            chosen = batch.rows[i]
            rows = torch.arange(len(hidden)) if chosen is None else chosen
            expected[rows] += feed_forward(weights(layer, int(expert)), hidden[rows]) * batch.weights[i]
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        checked.append(layer)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OffloadedExperts, "layer", checking)
        run = stack.run(plan)
    passes = trace.passes()
    assert len(checked) == passes.n_passes * L
    sizes = np.full(L, LAYOUT.nbytes)
    expected = replay(passes, policy, plan.slots(sizes, N), lcp=plan.lcp)
    decode = passes.decode_entries
    assert int(run.counters.hits.sum()) == int(expected.hits.sum())
    assert int(run.counters.hits[DECODE].sum()) == int(expected.hits[decode].sum())
    assert int(run.counters.lookups.sum()) == len(expected.hits)
    if depth == 0:
        flags = expected.hits.astype(bool)
        layer = passes.row_of_entry % L
        tops = np.array([LAYOUT.top_rows(t) for t in theta])[layer]
        rests = [LAYOUT.segment_bytes(int(top) if hit else 0, LAYOUT.inter) if not hit or top < LAYOUT.inter else 0
                 for top, hit in zip(tops, flags, strict=True)]  # fmt: skip
        assert int(run.counters.moved.sum()) == sum(rests)
    else:
        assert run.counters.used.sum() <= run.counters.started.sum()
    assert run.fast_bytes <= memory.nbytes


def test_a_fully_resident_model_moves_nothing_after_the_first_use(tier: DiskTier) -> None:
    trace = routing()
    plan = plan_for([N] * L, [1.0] * L, "lru", 0)
    run = LayerStack(trace, WORK, tier, FastMemory(bytes_needed(LAYOUT, plan, N, K), "cpu")).run(plan)
    distinct = len({(layer, e) for layer in range(L) for e in trace.experts[:, layer].ravel().tolist()})
    assert int(run.counters.moved.sum()) == distinct * LAYOUT.stride


@pytest.mark.parametrize("depth", [1, 2])
def test_the_link_goes_on_with_the_next_layer_while_this_one_uses_what_was_prefetched(
    tier: DiskTier, depth: int
) -> None:
    trace, plan = routing(), plan_for([N] * L, [0.5] * L, "lru", depth)
    plan = replace(plan, predictor="oracle")
    stack = LayerStack(trace, WORK, tier, FastMemory(bytes_needed(LAYOUT, plan, N, K), "cpu"))

    def slow(x: Tensor) -> Tensor:  # long enough for a token's experts, so that no prefetch comes too late to begin
        time.sleep(0.02)
        return x

    stack._dense = [slow]
    run = stack.run(plan)
    # Every layer but the first, whose router nothing foresees, finds all rests of its experts prefetched.
    wanted = (L - 1) * K * trace.decode_tokens
    assert run.counters.started[DECODE] == run.counters.used[DECODE] == wanted


def real(folder: Path, **changed: Any) -> Real:
    given = {
        "trace": routing(), "work": WORK, "bits": 32.0, "expert_bytes": np.full(L, LAYOUT.nbytes), "pair": RAM_DISK,
        "scratch": folder,
    }  # fmt: skip
    return Real(**(given | changed))


def config(**changed: Any) -> dict[str, Any]:
    budget = 3 * LAYOUT.nbytes / 2**20
    return {"budget_mib": [budget] * L, "theta": [1.0] * L, "policy": "lru", "prefetch_depth": 1} | changed


def test_the_evaluator_measures_what_the_profiled_one_predicts_by_name(scratch: Path) -> None:
    evaluator = real(scratch)
    measured = evaluator(config())
    evaluator.close()
    assert {"token_latency_ms", "hit_rate", "moved_mib", "exposed_transfer_ms", "prefill_ms"} <= set(measured.metrics)
    assert measured.metrics["token_latency_ms"].value > 0
    expected = replay(routing().passes(), "lru", 3)
    assert measured.metrics["hit_rate"].value == pytest.approx(expected.decode_hit_rate)
    assert measured.notes["slots"] == [3] * L
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_sequences_decoded_together_are_looked_up_once_and_counted_all(scratch: Path, theta: float) -> None:
    trace = batched(routing(tokens=16), 4)
    evaluator = real(scratch, trace=trace)
    measured = evaluator(config(theta=[theta] * L)).values()
    evaluator.close()
    slots = int(3 / theta)
    assert measured["hit_rate"] == pytest.approx(replay(trace.passes(), "lru", slots).decode_hit_rate)
    assert measured["tokens_per_s"] == pytest.approx(4 * 1000 / measured["token_latency_ms"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": 4.5}, r"bits=4\.5: real runs compute with experts of 16 or 32 bits; give --set bits=16"),
        ({"bits": 16.0}, "give --set bits=16, so that budgets count what is really moved"),
        ({"expert_bytes": np.array([LAYOUT.nbytes, LAYOUT.nbytes, 2 * LAYOUT.nbytes])}, "experts of one size"),
        ({"scratch": Path("/absent")}, "scratch folder /absent is not .*give --set scratch=DIR"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_sentence(scratch: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        real(scratch, **changed)(config())


def test_a_budget_beyond_the_free_memory_is_refused(scratch: Path) -> None:
    huge = ExpertLayout(hidden=4096, inter=14336, dtype=torch.float32)
    plan = CachePlan((huge.nbytes * 8,) * 4096, (1.0,) * 4096)
    with pytest.raises(
        UsageError, match=r"memory for the caches would take .* GiB and .* GiB are free; give a smaller"
    ):
        FastMemory(bytes_needed(huge, plan, 8, 2), "cpu")


def test_a_disk_that_breaks_in_the_middle_is_a_typed_failure_and_the_next_run_goes_on(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = real(scratch)
    intact = DiskTier.read
    reads = []

    def breaking(self: DiskTier, *where: Any) -> None:
        reads.append(where)
        if len(reads) == 20:
            raise OSError(5, "Input/output error")
        intact(self, *where)

    monkeypatch.setattr(DiskTier, "read", breaking)
    with pytest.raises(Failure, match="the slow tier broke") as failure:
        evaluator(config())
    assert failure.value.kind is FailureKind.INFRA
    assert list(scratch.iterdir()) == []
    assert evaluator(config()).metrics["hit_rate"].value > 0
    evaluator.close()


def test_the_preloaded_experts_of_a_placement_lie_there_before_the_run(tier: DiskTier) -> None:
    trace, plan = routing(), plan_for([2] * L, [1.0] * L, "static", 0)
    passes = trace.passes()
    state, rows = prepare(passes, Policy.STATIC, np.full(L, 2), None, plan.lcp)
    caches = Caches(Policy.STATIC, rows.decay, [2] * L, state)
    experts = OffloadedExperts(tier, FastMemory(bytes_needed(LAYOUT, plan, N, K), "cpu"), plan, caches, K)
    weights = random_experts(LAYOUT)
    for layer in range(L):
        for expert, buffer in experts._segments.cached[layer].items():
            assert torch.equal(buffer.rows, weights(layer, expert))
    experts.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_experts_come_from_host_memory() -> None:
    evaluator = real(Path(), pair=GPU_HOST)
    measured = evaluator(config(cpu_threshold_tokens=1))
    assert measured.metrics["cpu_expert_share"].value > 0
    assert evaluator(config()).metrics["hit_rate"].value == pytest.approx(
        replay(routing().passes(), "lru", 3).decode_hit_rate
    )
    evaluator.close()


def test_a_link_that_is_held_to_a_speed_is_never_faster(scratch: Path) -> None:
    mib_s = 4.0  # far below any disk
    evaluator = real(scratch)
    evaluator.link_mib_s = mib_s
    run = evaluator.run(plan_of(config()))
    evaluator.close()
    assert run.link_log
    for nbytes, seconds in run.link_log:
        assert seconds >= nbytes / (mib_s * 2**20)
    # Sleeping past the end is the scheduler's; the link itself adds nothing.
    assert np.median([seconds * mib_s * 2**20 / nbytes for nbytes, seconds in run.link_log]) < 1.5


def test_what_no_clock_saw_is_what_remains_of_every_pass(scratch: Path) -> None:
    evaluator = real(scratch)
    run = evaluator.run(plan_of(config()))
    evaluator.close()
    clocked = run.counters.idle_s.sum() + run.counters.cpu_wait_s.sum() + run.counters.expert_total_s
    assert run.beyond_ms.sum() == pytest.approx(run.latency_ms.sum() - run.dense_ms.sum() - 1e3 * clocked)
    assert run.counters.expert_total_s == pytest.approx(sum(seconds for *_, seconds in run.counters.expert_s))
    assert run.loads.sum() == run.counters.loads
    assert (run.beyond_ms > 0.0).all()

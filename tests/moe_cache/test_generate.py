"""Whole models that generate with offloaded experts: the same text as without, and the hits of a replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune import AutotuneError, UsageError
from autotune.hardware.tiers import RAM_DISK
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import Predictor, lookahead
from evaluators.moe_cache.recording.loop import Generation, Turn, record_turns
from evaluators.moe_cache.recording.tiny_moe import TinyMoE, TinyMoEConfig
from evaluators.moe_cache.recording.tiny_recording import TinyRoutedModel
from evaluators.moe_cache.replay import replay, token_counts
from evaluators.moe_cache.runtime.experts import OffloadedExperts
from evaluators.moe_cache.runtime.generate import Generated, OffloadedModel, batch_of, generate
from evaluators.moe_cache.runtime.layout import ExpertLayout
from evaluators.moe_cache.runtime.offloadable import OffloadableHuggingFace, OffloadableModel, OffloadableTiny
from evaluators.moe_cache.runtime.tiers import DiskTier, random_experts
from evaluators.moe_cache.trace import DECODE
from tests.moe_cache_recording.checkpoints import FAMILIES, build

SMALL = TinyMoEConfig(
    n_layers=3, n_experts=6, top_k=2, hidden_size=16, expert_intermediate_size=128, n_heads=2, context=64
)
PROMPT = list(b"def add(a, b):\n    return")
TOKENS = 12


def tiny(seed: int = 0) -> TinyMoE:
    torch.manual_seed(seed)
    return TinyMoE(SMALL).eval()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    layout = ExpertLayout(16, 128, torch.float32)
    try:
        DiskTier(folder, layout, 1, 1, random_experts(layout)).close()
    except UsageError as reason:
        pytest.skip(f"the temporary folder has no disk with direct I/O: {reason}")
    return folder


@dataclass
class Case:
    """A model offloaded, and what it generated before that."""

    resident: Generated
    model: OffloadedModel


def case_of(model: OffloadableModel, folder: Path) -> Case:
    resident = generate(model, PROMPT, TOKENS)
    return Case(resident, OffloadedModel(model, RAM_DISK, folder, depth=2))


@pytest.fixture(scope="module")
def small(scratch: Path) -> Iterator[Case]:
    case = case_of(OffloadableTiny(tiny()), scratch)
    yield case
    case.model.close()


def plan_of_slots(model: OffloadableModel, slots: list[int], theta: list[float], policy: str, depth: int) -> CachePlan:
    size = model.layout.nbytes
    budgets = tuple(round(n * max(t, 0.01) * size) for n, t in zip(slots, theta, strict=True))
    return CachePlan(budgets, tuple(theta), policy, prefetch_depth=depth)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.lists(st.integers(0, 6), min_size=3, max_size=3),
    theta=st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=3, max_size=3),
    policy=st.sampled_from(list(Policy)),
    depth=st.integers(0, 3),
    predictor=st.sampled_from(list(Predictor)),
)
def test_the_text_is_that_of_the_model_without_offloading_and_hits_those_of_a_replay(
    small: Case, slots: list[int], theta: list[float], policy: Policy, depth: int, predictor: Predictor
) -> None:
    model = small.model.model
    plan = replace(plan_of_slots(model, slots, theta, policy, depth), predictor=predictor)
    counts = token_counts(small.resident.trace.passes())
    run = small.model.generate(plan, PROMPT, TOKENS, popularity=counts, oracle=small.resident.trace)
    assert run.generated.tokens == small.resident.tokens
    torch.testing.assert_close(run.generated.logits, small.resident.logits, atol=1e-4, rtol=1e-4)
    # Of the routing that this very run recorded.
    passes = run.generated.trace.passes()
    capacity = plan.slots(np.full(3, model.layout.nbytes), 6)
    expected = replay(passes, policy, capacity, popularity=counts if policy is Policy.STATIC else None, lcp=plan.lcp)
    assert run.hit_rate_all == expected.hit_rate
    assert run.hit_rate == expected.decode_hit_rate
    assert int(run.counters.lookups.sum()) == len(expected.hits)
    by_layer = np.bincount(passes.row_of_entry % 3, weights=expected.hits, minlength=3)
    np.testing.assert_array_equal(run.counters.hits.sum(axis=0), by_layer)
    assert (run.counters.started.sum() > 0) <= (depth > 0)
    assert run.counters.used.sum() <= run.counters.started.sum()
    if depth and predictor is Predictor.ORACLE:
        assert run.counters.wasted.sum() == 0


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("predictor", list(Predictor))
def test_live_predictions_are_those_of_the_recorded_trace(
    small: Case, predictor: Predictor, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the running model queues is what a replay of its recording queues, pass by pass and in order."""
    queued: list[list[tuple[int, int]]] = []
    monkeypatch.setattr(OffloadedExperts, "prefetch", lambda _self, wanted: queued.append(list(wanted)))
    plan = replace(plan_of_slots(small.model.model, [2] * 3, [1.0] * 3, "lru", depth), predictor=predictor)
    small.model.generate(plan, PROMPT, TOKENS, oracle=small.resident.trace)
    turn = Turn("prompt", tuple(PROMPT))
    recorded = record_turns(TinyRoutedModel(tiny()), [turn], Generation(TOKENS - 1, depths=depth), {})
    np.testing.assert_array_equal(recorded.experts, small.resident.trace.experts)
    ahead = lookahead(recorded, depth, predictor).batches
    queued_by_target: dict[tuple[int, int], list[int]] = {}
    for number, wanted in enumerate(queued):
        for layer, expert in wanted:
            queued_by_target.setdefault((number // 3, layer), []).append(expert)
    for p in range(ahead.n_passes):
        for layer in range(3):
            first, stop = ahead.offsets[p * 3 + layer : p * 3 + layer + 2]
            assert queued_by_target.get((p, layer), []) == ahead.experts[first:stop].tolist()


SWIGLU = sorted(set(FAMILIES) - {"gpt_oss"})


@pytest.mark.parametrize("family", SWIGLU)
def test_families_of_checkpoints_generate_the_same(family: str, scratch: Path) -> None:
    """Routers that scale, normalise and sort their weights each in their own way; shared experts; layers without experts."""
    case = case_of(OffloadableHuggingFace(build(family), family), scratch)
    with case.model:
        model = case.model.model
        layers = model.n_layers
        assert (model.n_experts, model.top_k) == FAMILIES[family][2][:2]
        for policy, depth, slots, theta in (("lru", 2, 3, 1.0), ("lfu", 1, 4, 0.5), ("lcp", 0, 0, 0.0)):
            plan = plan_of_slots(model, [slots] * layers, [theta] * layers, policy, depth)
            run = case.model.generate(plan, PROMPT, TOKENS)
            assert run.generated.tokens == case.resident.tokens
            torch.testing.assert_close(run.generated.logits, case.resident.logits, atol=1e-4, rtol=1e-4)
            capacity = plan.slots(np.full(layers, model.layout.nbytes), model.n_experts)
            expected = replay(run.generated.trace.passes(), policy, capacity, lcp=plan.lcp)
            assert run.hit_rate_all == expected.hit_rate


def test_bfloat16_checkpoints_with_wider_router_weights_stay_close(scratch: Path) -> None:
    case = case_of(OffloadableHuggingFace(build("mixtral").to(torch.bfloat16), "mixtral"), scratch)
    with case.model:
        plan = plan_of_slots(case.model.model, [3] * 4, [1.0] * 4, "lru", 1)
        run = case.model.generate(plan, PROMPT, 1)
    assert case.model.model.layout.dtype == torch.bfloat16
    distance = (run.generated.logits[0] - case.resident.logits[0]).norm() / case.resident.logits[0].norm()
    assert distance < 0.05


@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_a_batch_has_every_token_once_with_its_own_weight(tokens: int, top_k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, 6, generator=generator)
    experts = scores.topk(top_k, sorted=False).indices
    weights = torch.rand(tokens, top_k, generator=generator)
    batch, picks = batch_of(experts, weights)
    dense = torch.zeros(tokens, 6)
    for expert, rows, own in zip(batch.experts, batch.rows, batch.weights, strict=True):
        chosen = torch.arange(tokens) if rows is None else rows
        dense[chosen, int(expert)] += own[:, 0]
    torch.testing.assert_close(dense, torch.zeros(tokens, 6).scatter(1, experts, weights))
    assert batch.experts.tolist() == list(dict.fromkeys(picks.ravel().tolist()))
    assert batch.tokens.tolist() == [int((picks == e).sum()) for e in batch.experts]
    ordered = torch.zeros(tokens, 6).scatter(1, experts, weights).gather(1, torch.from_numpy(picks).long())
    assert (ordered[:, :-1] >= ordered[:, 1:]).all()


def test_the_experts_leave_the_memory_of_the_model(scratch: Path) -> None:
    module = tiny()
    model = OffloadableTiny(module)
    before = sum(p.numel() * p.element_size() for p in module.parameters())
    with OffloadedModel(model, RAM_DISK, scratch):
        after = sum(p.numel() * p.element_size() for p in module.parameters())
        assert before - after == 3 * 6 * model.layout.nbytes
        assert after == model.resident_bytes
        assert list(scratch.iterdir()) == []  # the file has no name


def test_what_cannot_run_is_told_in_one_sentence(small: Case, scratch: Path) -> None:
    model = small.model.model
    usual = plan_of_slots(model, [2] * 3, [1.0] * 3, "lru", 1)
    for plan, words in (
        (
            CachePlan((0,) * 4, (1.0,) * 4),
            r"trace from another model than the checkpoint: it has 4 layers and tiny-moe 3",
        ),
        (replace(usual, cpu_threshold_tokens=1), r"slow tier of ram<-disk computes nothing; set it to 0"),
        (replace(usual, policy="belady"), r"policy 'belady' reads the future from a trace"),
        (replace(usual, policy="static"), r"policy 'static' places experts by popularity"),
        (replace(usual, predictor="oracle"), r"predictor 'oracle' reads the future from a trace"),
    ):
        with pytest.raises(UsageError, match=words):
            small.model.generate(plan, PROMPT, 2)
    other = replace(small.resident.trace, n_experts=7)
    with pytest.raises(UsageError, match="tiny-moe is a trace from another model than the checkpoint: 3 layers of 7"):
        small.model.generate(replace(usual, predictor="oracle"), PROMPT, 2, oracle=other)
    with pytest.raises(UsageError, match="oracle's trace ends after"):
        small.model.generate(replace(usual, predictor="oracle"), PROMPT, TOKENS + 1, oracle=small.resident.trace)
    with pytest.raises(UsageError, match="routes otherwise"):
        small.model.generate(replace(usual, policy="belady"), list(b"other text"), 2, oracle=small.resident.trace)
    with pytest.raises(UsageError, match="context of 64"):
        small.model.generate(usual, PROMPT, 64)
    with pytest.raises(UsageError, match=r"GptOssExperts.* no plain SwiGLU"):
        OffloadableHuggingFace(build("gpt_oss"), "gpt_oss")
    assert list(scratch.iterdir()) == []


def test_experts_that_differ_in_size_or_activation_are_refused() -> None:
    uneven = build("mixtral")
    for name, keep in (("gate_up_proj", np.s_[:, :64]), ("down_proj", np.s_[:, :, :32])):
        experts = uneven.model.layers[2].mlp.experts
        setattr(experts, name, torch.nn.Parameter(getattr(experts, name).detach()[keep].clone()))
    with pytest.raises(UsageError, match=r"experts differ in size: 18432 bytes in layer 0 and 12288 in layer 2"):
        OffloadableHuggingFace(uneven, "uneven")
    other = build("mixtral")
    other.model.layers[1].mlp.experts.act_fn = torch.nn.GELU()
    with pytest.raises(UsageError, match=r"experts of layer 1 .* no plain SwiGLU"):
        OffloadableHuggingFace(other, "gelu")


@pytest.mark.parametrize(
    "broken", range(8, 16)
)  # reads that are waited for, and prefetches that turn out not to be wanted
def test_a_disk_that_breaks_in_the_middle_ends_the_run_and_not_the_model(
    small: Case, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    plan = plan_of_slots(small.model.model, [1] * 3, [1.0] * 3, "lru", 1)
    intact, reads = DiskTier.read, []

    def breaking(self: DiskTier, *where: Any) -> None:
        reads.append(where)
        if len(reads) == broken:
            raise OSError(5, "Input/output error")
        intact(self, *where)

    monkeypatch.setattr(DiskTier, "read", breaking)
    with pytest.raises(AutotuneError, match="the slow tier broke in the middle"):
        small.model.generate(plan, PROMPT, TOKENS)
    run = small.model.generate(plan, PROMPT, TOKENS)
    assert run.generated.tokens == small.resident.tokens
    assert run.counters.lookups[DECODE].sum() == (len(run.generated.tokens) - 1) * 3 * 2

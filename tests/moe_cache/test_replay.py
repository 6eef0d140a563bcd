"""Cache replay: hand-worked answers for every policy, and what must hold for all traces."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.policies import Lcp, Policy
from evaluators.moe_cache.replay import first_uses, hit_curves, replay, replay_global, token_counts
from evaluators.moe_cache.trace import Batches, RoutingTrace

from .traces import decode_trace, one_layer, random_traces, recorded

STACK_POLICIES = [policy for policy in Policy if policy.is_stack]


@pytest.mark.parametrize(
    ("policy", "sequence", "flags"),
    [
        # two slots; what they hold after each token is written beside it
        ("lru", [0, 1, 0, 2, 0, 1], [0, 0, 1, 0, 1, 0]),  # 0 | 01 | 01 | 2 puts out 1: 02 | 02 | 01
        ("fifo", [0, 1, 0, 2, 0, 1], [0, 0, 1, 0, 0, 0]),  # 0 | 01 | 01 | 2 puts out 0, first in: 12 | 20 | 01
        ("lifo", [0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 0, 0]),  # 0 | 01 | 2 puts out 1, last in: 02 | 02 | 01 | 02
        ("lfu", [0, 0, 0, 1, 2, 0], [0, 1, 1, 0, 0, 1]),  # 0 x3 | 01 | 2 puts out 1, once against thrice: 02
        ("belady", [0, 1, 2, 0, 1, 2], [1, 1, 0, 1, 1, 0]),  # starts with 01; 2 is needed latest, so it never stays
    ],
)
def test_hand_worked_flags(policy: str, sequence: list[int], flags: list[int]) -> None:
    assert replay(one_layer(sequence, 3).passes(), policy, 2).hits.tolist() == flags


def test_lcp_lies_between_lru_and_lfu() -> None:
    # rho = 1/4 and omega = 2 make P = mu / 2**nu. Before the last token of the first sequence expert 0 has P = 3 / 4 and
    # expert 1 has 1 / 2; in the second 3 / 8 and 1. LRU would put out 0 both times, LFU 1.
    lcp = Lcp(rho=0.25, omega=2.0)
    first, second = [0, 0, 0, 1, 2, 0], [0, 0, 0, 1, 1, 2, 0]
    kept = [int(replay(one_layer(s, 3).passes(), "lcp", 2, lcp=lcp).hits[-1]) for s in (first, second)]
    assert kept == [1, 0]
    assert [int(replay(one_layer(s, 3).passes(), "lru", 2).hits[-1]) for s in (first, second)] == [0, 0]
    assert [int(replay(one_layer(s, 3).passes(), "lfu", 2).hits[-1]) for s in (first, second)] == [1, 1]


def test_static_holds_the_given_favourites_only() -> None:
    batches = one_layer([0, 1, 2, 1, 1], 3).passes()
    assert replay(batches, "static", 2, popularity=[[5, 1, 3]]).hits.tolist() == [1, 0, 1, 0, 0]
    assert replay(batches, "static", 1).hits.tolist() == [0, 1, 0, 1, 1]  # its own counts: expert 1


def test_a_batch_is_looked_up_once_and_spared() -> None:
    # A prompt of three tokens is one batch {0, 1, 2} of three look-ups, which two slots cannot hold: its own are trimmed,
    # least recent first for LRU (0 leaves) and last in first for LIFO (2 leaves).
    trace = decode_trace([[[0, 1]], [[1, 2]], [[2, 0]], [[0, 1]]], 4, prefill=3)
    assert trace.passes().experts.tolist() == [0, 1, 2, 0, 1]
    assert replay(trace.passes(), "lru", 2).hits.tolist() == [0, 0, 0, 0, 1]
    assert replay(trace.passes(), "lifo", 2).hits.tolist() == [0, 0, 0, 1, 1]
    # {2, 3} and then {3, 1} in three slots: 3 is of the batch and stays, and so does 2, used later than 0.
    spared = decode_trace([[[0, 1]], [[2, 3]], [[3, 1]], [[2, 3]]], 4)
    assert replay(spared.passes(), "lru", 3).hits.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_global_cache_counts_bytes() -> None:
    # Layer 0's experts have 3 bytes, layer 1's 5. Eight bytes hold one of each, so token 2 hits twice. Token 3 brings
    # (0, 1): 11 bytes, the least recent is (0, 0), which leaves 8; (1, 0) is still there and hits.
    trace = decode_trace([[[0], [0]], [[0], [0]], [[1], [0]], [[0], [0]]], 2)
    assert replay_global(trace.passes(), "lru", 8, [3, 5]).hits.tolist() == [0, 0, 1, 1, 0, 1, 0, 1]
    # Seven bytes lose one of the two at every step.
    assert replay_global(trace.passes(), "lru", 7, [3, 5]).hits.sum() == 0


def test_known_answer_of_the_device() -> None:
    trace = load_trace(recorded("qwen.route.csv.gz"))
    assert trace.expert_bytes is not None
    rate = replay_global(trace.passes(), "lru", 4000 * 2**20, trace.expert_bytes).hit_rate
    assert round(100 * rate, 1) == 74.9


def test_recorded_traces_rank_the_policies() -> None:
    batches = load_trace(recorded("qwen.route.csv.gz")).passes()
    rate = {policy: replay(batches, policy, 32).decode_hit_rate for policy in Policy}
    assert rate["belady"] > rate["lcp"] > rate["lru"] > rate["fifo"]


class ReferenceLayer:
    """One layer's cache under the rules in plain Python: every rank is worked out anew from the whole history."""

    def __init__(self, batches: Batches, layer: int, policy: Policy, capacity: int, lcp: Lcp) -> None:
        self.policy, self.capacity, self.lcp = policy, capacity, lcp
        self.ends = np.cumsum(batches.pass_tokens)
        self.n_passes = batches.n_passes
        mine = np.flatnonzero(batches.row_of_entry % batches.n_layers == layer)
        # (pass, expert, tokens, entry)
        self.uses = [
            (int(batches.row_of_entry[i] // batches.n_layers), int(batches.experts[i]), int(batches.tokens[i]), int(i))
            for i in mine
        ]
        order: list[int] = []
        if policy is Policy.STATIC:
            order = np.argsort(-token_counts(batches)[layer], kind="stable").tolist()
        elif policy is Policy.BELADY:
            order = np.argsort(first_uses(batches)[layer], kind="stable").tolist()
        self.cache = dict.fromkeys(order[:capacity], -1)  # expert -> the entry that brought it

    def rank(self, expert: int, now: int) -> float:
        past = [use for use in self.uses if use[1] == expert and use[0] <= now]
        if self.policy is Policy.LRU:
            return past[-1][3]
        if self.policy is Policy.FIFO:
            return self.cache[expert]
        if self.policy is Policy.LIFO:
            return -self.cache[expert]
        if self.policy is Policy.BELADY:
            return -min((p for p, e, _, _ in self.uses if e == expert and p > now), default=self.n_passes)
        mu = sum(tokens for _, _, tokens, _ in past)
        if self.policy is Policy.LFU:
            return mu
        nu = int(self.ends[now] - self.ends[past[-1][0]])
        return round(math.log(mu) + nu / self.lcp.omega * math.log(self.lcp.rho), 9)

    def run(self, flags: list[int]) -> None:
        for now in sorted({use[0] for use in self.uses}):
            batch = {expert: entry for p, expert, _, entry in self.uses if p == now}
            for expert, entry in batch.items():
                flags[entry] = int(expert in self.cache)
                if self.policy is not Policy.STATIC:
                    self.cache.setdefault(expert, entry)
            while len(self.cache) > self.capacity:
                last = {e: entry for p, e, _, entry in self.uses if p <= now}
                out = min(
                    self.cache,
                    key=lambda e: (
                        self.policy is not Policy.BELADY and e in batch,
                        self.rank(e, now),
                        last.get(e, -1),
                    ),
                )
                del self.cache[out]


def reference(batches: Batches, policy: Policy, capacity: int, lcp: Lcp) -> list[int]:
    flags = [0] * len(batches.experts)
    for layer in range(batches.n_layers):
        ReferenceLayer(batches, layer, policy, capacity, lcp).run(flags)
    return flags


@given(random_traces(), st.sampled_from(list(Policy)), st.integers(0, 6), st.sampled_from([1.0, 0.3, 0.07]))
@settings(max_examples=150, deadline=None)
def test_replay_follows_the_rules(trace: RoutingTrace, policy: Policy, capacity: int, rho: float) -> None:
    lcp = Lcp(rho, 3.7)  # such that no two different histories rank equal by chance
    batches = trace.passes()
    assert replay(batches, policy, capacity, lcp=lcp).hits.tolist() == reference(batches, policy, capacity, lcp)


@given(random_traces(), st.sampled_from(STACK_POLICIES))
@settings(deadline=None)
def test_what_a_small_cache_hits_a_larger_one_hits(trace: RoutingTrace, policy: Policy) -> None:
    flags = [replay(trace.passes(), policy, c).hits for c in range(trace.n_experts + 1)]
    for smaller, larger in pairwise(flags):
        assert (smaller <= larger).all()
    assert flags[0].sum() == 0


@given(random_traces(), st.sampled_from(list(Policy)))
@settings(deadline=None)
def test_belady_bounds_every_policy(trace: RoutingTrace, policy: Policy) -> None:
    batches = trace.passes()
    layer = batches.row_of_entry % trace.n_layers
    for c in range(trace.n_experts + 1):
        bound = np.bincount(layer, weights=replay(batches, "belady", c).hits, minlength=trace.n_layers)
        hits = np.bincount(layer, weights=replay(batches, policy, c).hits, minlength=trace.n_layers)
        assert (hits <= bound).all()


@given(random_traces(), st.sampled_from(list(Policy)), st.sampled_from([0, 1]))
@settings(deadline=None)
def test_hit_curves_equal_one_replay_per_capacity(trace: RoutingTrace, policy: Policy, phase: int) -> None:
    batches = trace.passes()
    curves = hit_curves(batches, policy, phase=phase)
    kept = np.flatnonzero(batches.pass_phase == phase)
    assert curves.shape == (len(kept), trace.n_layers, trace.n_experts + 1)
    for c in range(trace.n_experts + 1):
        by_row = np.bincount(
            batches.row_of_entry,
            weights=replay(batches, policy, c).hits,
            minlength=batches.n_passes * trace.n_layers,
        ).reshape(-1, trace.n_layers)
        np.testing.assert_array_equal(curves[:, :, c], by_row[kept])


@given(random_traces(), st.sampled_from(list(Policy)), st.integers(0, 40))
@settings(deadline=None)
def test_one_layer_alone_is_a_global_cache(trace: RoutingTrace, policy: Policy, quarters: int) -> None:
    single = RoutingTrace("m", trace.n_experts, trace.top_k, trace.experts[-1:, :1], [0], [1])
    for one in (single, trace):
        if one.n_layers == 1:
            whole = replay_global(one.passes(), policy, quarters, [4]).hits
            np.testing.assert_array_equal(whole, replay(one.passes(), policy, quarters // 4).hits)


def test_bad_input() -> None:
    batches = one_layer([0, 1], 2).passes()
    for call, message in (
        (lambda: replay(batches, "mru", 1), "policy 'mru' is unknown; use one of: lru"),
        (lambda: replay(batches, "lru", -1), "capacity=-1"),
        (lambda: replay(batches, "lru", [1, 1]), "capacity="),
        (lambda: replay(batches, "static", 1, popularity=[1, 2]), "popularity has shape"),
        (lambda: replay_global(batches, "lru", 1, [1, 2]), "expert_bytes has shape"),
        (lambda: replay_global(batches, "lru", -1, [1]), "capacity_bytes=-1"),
        (lambda: Lcp(rho=0.0), "lcp_rho=0.0"),
        (lambda: Lcp(omega=0.0), "lcp_omega=0.0"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert message in str(caught.value)

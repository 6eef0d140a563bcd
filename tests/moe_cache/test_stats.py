"""Trace statistics: small cases by hand, and agreement with the replay."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings

from evaluators.moe_cache.replay import replay
from evaluators.moe_cache.stats import affinity, predictability, summary, trace_stats
from evaluators.moe_cache.trace import RoutingTrace

from .traces import decode_trace, one_layer, random_traces


def test_popularity_and_spread() -> None:
    stats = trace_stats(one_layer([0, 0, 1, 1], 4))
    assert stats.popularity.tolist() == [[2, 2, 0, 0]]
    assert stats.entropy_bits.tolist() == [1.0] and stats.effective_experts.tolist() == [2.0]
    assert stats.hottest_share.tolist() == [0.5]


def test_reuse_distance() -> None:
    # 0 1 0 0 2 1: the second 0 has 1 between, the third none, and the last 1 has 0 and 2 between.
    stats = trace_stats(one_layer([0, 1, 0, 0, 2, 1], 3))
    assert stats.reuse_distance.tolist() == [[1, 1, 1]]
    assert stats.first_touches.tolist() == [3]


def test_affinity_between_layers() -> None:
    trace = decode_trace([[[0], [2]], [[0], [2]], [[0], [1]], [[1], [0]]], 3)
    np.testing.assert_allclose(affinity(trace, 0), [[0, 1 / 3, 2 / 3], [1, 0, 0], [0, 0, 0]])
    assert predictability(trace, 0) == 0.75


@given(random_traces())
@settings(deadline=None)
def test_reuse_distances_tell_lru_hits_of_every_capacity(trace: RoutingTrace) -> None:
    stats = trace_stats(trace)
    assert int(stats.popularity.sum()) == trace.n_picks
    for capacity in range(trace.n_experts + 1):
        assert stats.lru_hit_rate(capacity) == pytest.approx(replay(trace.passes(), "lru", capacity).hit_rate)


@given(random_traces(min_layers=2))
@settings(deadline=None)
def test_affinity_rows_are_distributions_of_k(trace: RoutingTrace) -> None:
    rows = affinity(trace, 0).sum(axis=1)
    assert np.all(np.isclose(rows, trace.top_k) | (rows == 0))
    assert trace.top_k / trace.n_experts - 1e-9 <= predictability(trace, 0) <= 1.0


@given(random_traces())
@settings(deadline=None, max_examples=10)
def test_statistics_are_json(trace: RoutingTrace) -> None:
    stats = trace_stats(trace)
    plain = json.loads(json.dumps(stats.to_dict()))
    assert plain["popularity"] == stats.popularity.tolist() and plain["turn_names"] == list(trace.turn_names)
    assert summary(stats)["chance"] == trace.top_k / trace.n_experts

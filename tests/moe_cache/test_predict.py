"""Predictions for prefetching: causal, able to learn, of a set accuracy where asked, recorded ones first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from evaluators.moe_cache.plan import by_tokens
from evaluators.moe_cache.predict import (
    Predictor,
    affinity_predictions,
    lookahead,
    offered,
    popularity_predictions,
    with_accuracy,
)
from evaluators.moe_cache.trace import RoutingTrace

from .traces import decode_trace, random_traces


def test_a_fixed_successor_is_learned_from_one_sight() -> None:
    # Expert e of layer 0 is followed by e + 1 in layer 1 and e + 2 in layer 2.
    sequence = [0, 1, 2, 0, 2, 1]
    trace = decode_trace([[[e], [(e + 1) % 4], [(e + 2) % 4]] for e in sequence], 4)
    one, two = affinity_predictions(trace, 1), affinity_predictions(trace, 2)
    assert one[0].tolist() == [[-1]] * 3  # nothing was seen yet
    np.testing.assert_array_equal(one[3:, 1:], trace.experts[3:, 1:])
    np.testing.assert_array_equal(two[3:, 2:], trace.experts[3:, 2:])
    assert (one[:, 0] == -1).all() and (two[:, :2] == -1).all()


@given(random_traces(min_layers=2), st.integers(1, 2), st.data())
@settings(deadline=None)
def test_predictions_know_nothing_of_their_own_pass_or_later(
    trace: RoutingTrace, depth: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, int(trace.token_pass[-1])))
    hidden = trace.token_pass >= cut
    other = trace.experts.copy()
    rolled = (other[hidden] + 1) % trace.n_experts
    other[hidden] = np.where(other[hidden] >= 0, rolled, -1)
    changed = replace(trace, experts=other)
    ours, theirs = affinity_predictions(trace, depth), affinity_predictions(changed, depth)
    np.testing.assert_array_equal(ours[~hidden], theirs[~hidden])
    # The choice at the earlier layer is known when layer l is predicted, that at layer l itself is not.
    for layer in range(depth, trace.n_layers):
        swapped = trace.experts.copy()
        now = trace.token_pass == cut
        swapped[now, layer] = np.where(swapped[now, layer] >= 0, (swapped[now, layer] + 1) % trace.n_experts, -1)
        blind = affinity_predictions(replace(trace, experts=swapped), depth)
        np.testing.assert_array_equal(ours[now, layer], blind[now, layer])


@given(random_traces(min_layers=2))
@settings(deadline=None, max_examples=30)
def test_accuracy(trace: RoutingTrace) -> None:
    right = {p: with_accuracy(trace, p, seed=5, depths=1).predicted for p in (0.0, 0.5, 1.0)}
    shares = []
    for p, predicted in right.items():
        assert predicted is not None
        equal = predicted[0, :, 1:] == trace.experts[:, 1:]
        routed = trace.experts[:, 1:] >= 0
        shares.append(equal & routed)
        if p == 0.0:
            hit = (predicted[0, :, 1:, :, None] == trace.experts[:, 1:, None, :]) & routed[:, :, None, :]
            assert not hit.any()
        if p == 1.0:
            assert equal.all()
    assert (shares[0] <= shares[1]).all() and (shares[1] <= shares[2]).all()


def test_accuracy_is_met_on_average_and_bounded() -> None:
    rng = np.random.default_rng(1)
    trace = decode_trace(np.argsort(rng.random((300, 4, 16)), axis=2)[:, :, :2].tolist(), 16)
    predicted = with_accuracy(trace, 0.7, seed=2).predicted
    assert predicted is not None and len(predicted) == 3
    share = (predicted[0, :, 1:] == trace.experts[:, 1:]).mean()
    assert abs(share - 0.7) < 0.03  # 1,800 draws: 2.8 standard deviations
    with pytest.raises(UsageError, match=r"accuracy=1\.5"):
        with_accuracy(trace, 1.5, seed=0)


def test_recorded_predictions_come_first_and_are_named() -> None:
    trace = decode_trace([[[0], [1], [2]], [[0], [1], [2]]], 4)
    recorded = replace(trace, predicted=np.array([[[[-1], [3], [3]]] * 2], dtype=np.int16))
    ahead = lookahead(recorded, 2)
    assert ahead.predictors == ("recorded", "affinity")
    # Layer 1 by depth 1 (recorded: 3), layer 2 by depth 2 (affinity: nothing for token 1, then what was seen: 2).
    assert np.diff(ahead.batches.offsets).tolist() == [0, 1, 0, 0, 1, 1]
    assert ahead.batches.experts.tolist() == [3, 3, 2]
    assert lookahead(trace, 1).predictors == ("affinity",)


def test_popularity_is_that_of_the_passes_before() -> None:
    # A prompt of two tokens is one pass; expert 2 leads from there on, and among equals the lower index comes first.
    picks = [[[0, 1], [2, 3]], [[0, 1], [2, 0]], [[3, 2], [1, 3]], [[3, 2], [3, 2]]]
    trace = decode_trace(picks, 4, prefill=2)
    predicted = popularity_predictions(trace)
    assert (predicted[:2] == -1).all()
    assert predicted[2].tolist() == [[0, 1], [2, 0]]
    assert predicted[3].tolist() == [[0, 1], [2, 3]]  # layer 1 counts 1, 1, 2, 2
    ahead = lookahead(trace, 2, "popularity")
    assert ahead.predictors == ("popularity", "popularity")
    assert np.diff(ahead.batches.offsets).tolist() == [0, 0, 0, 2, 0, 2]
    assert ahead.batches.experts.tolist() == [2, 0, 2, 3]


@given(random_traces(min_layers=2), st.data())
@settings(deadline=None)
def test_popularity_counts_what_was_used_most(trace: RoutingTrace, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, trace.n_tokens - 1))
    layer = data.draw(st.integers(0, trace.n_layers - 1))
    before = trace.experts[trace.token_pass < trace.token_pass[token], layer].ravel()
    counts = np.bincount(before[before >= 0], minlength=trace.n_experts)
    best = [int(e) for e in np.argsort(-counts, kind="stable")[: trace.top_k] if counts[e] > 0]
    if trace.experts[token, layer, 0] < 0:
        best = []
    assert popularity_predictions(trace)[token, layer].tolist() == best + [-1] * (trace.top_k - len(best))


@given(random_traces(min_layers=2), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_the_oracle_is_the_trace_itself(trace: RoutingTrace, depth: int) -> None:
    wanted, ahead = trace.passes(), lookahead(trace, depth, "oracle").batches
    later = wanted.row_of_entry % trace.n_layers > 0
    np.testing.assert_array_equal(ahead.experts, wanted.experts[later])
    np.testing.assert_array_equal(ahead.row_of_entry, wanted.row_of_entry[later])


def test_a_trace_offers_what_an_engine_could_run() -> None:
    trace = decode_trace([[[0], [1]]] * 3, 4)
    assert offered(trace) == ("affinity", "popularity")
    assert offered(with_accuracy(trace, 0.5, seed=0)) == ("recorded", "affinity", "popularity")
    assert Predictor.ORACLE not in offered(trace)
    recorded = with_accuracy(trace, 0.0, seed=0)
    assert lookahead(recorded, 1, "affinity").batches.experts.tolist() == [1, 1]
    with pytest.raises(UsageError, match="predictor 'psychic' is unknown; use one of: recorded, affinity"):
        lookahead(trace, 1, "psychic")


def test_times_by_tokens() -> None:
    assert by_tokens([1, 3, 5], [2.0, 4.0, 8.0], 7).tolist() == [0, 2, 3, 4, 6, 8, 10, 12]
    assert by_tokens([2, 4], [5.0, 4.0], 6).tolist() == [0, 5, 5, 4.5, 4, 4, 4]
    with pytest.raises(UsageError, match="tokens must ascend"):
        by_tokens([2, 1], [1.0, 1.0], 3)

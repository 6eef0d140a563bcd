"""What is read from a trace: the split, batches, loads and which expert follows which."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.expert_placement.routing import split
from evaluators.moe_cache.trace import RoutingTrace
from tests.expert_placement.instances import chained, routing
from tests.moe_cache.traces import decode_trace, one_layer, random_traces


def numbered(turns: list[int]) -> RoutingTrace:
    """Token t picks expert t in both layers, so that a part of the trace tells which tokens it has."""
    return decode_trace([[[t], [t]] for t in range(len(turns))], len(turns), turn=turns)


def test_the_first_tokens_of_every_turn_are_trained_on() -> None:
    train, held_out = split(numbered([0] * 4 + [1] * 2), 0.5)
    assert train.picks[:, 0, 0].tolist() == [0, 1, 4]
    assert held_out.picks[:, 0, 0].tolist() == [2, 3, 5]


def test_the_last_turns_are_held_out() -> None:
    train, held_out = split(numbered([2] * 3 + [0] * 2 + [1]), 0.5, "turns")
    assert train.picks[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert held_out.picks[:, 0, 0].tolist() == [5]


@given(random_traces(min_layers=2), st.floats(0.2, 0.8))
def test_no_token_is_lost_or_on_both_sides(trace: RoutingTrace, share: float) -> None:
    try:
        train, held_out = split(trace, share)
    except UsageError as error:
        assert "train_share" in str(error) or "without any pick" in str(error)
        return
    assert train.n_tokens + held_out.n_tokens == trace.n_tokens
    assert (train.picks >= 0).sum() + (held_out.picks >= 0).sum() == trace.n_picks


@given(st.integers(1, 200), st.integers(1, 64))
def test_batches_have_about_the_size_asked_for(tokens: int, batch_tokens: int) -> None:
    trace = decode_trace([[[0], [1]]] * (2 * tokens), 4)
    train, _ = split(trace, 0.5, batch_tokens=batch_tokens)
    sizes = np.bincount(train.batch)
    assert sizes.sum() == tokens
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= min(tokens, batch_tokens) / 2
    assert sizes.max() <= 2 * batch_tokens


def test_shares_and_mean_load_by_hand() -> None:
    made = routing([[[0, 1]], [[0, 2]], [[3, 2]], [[0, 1]]], 4, batches=2)
    assert made.shares.tolist() == [[[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25]]]
    assert made.mean_load.tolist() == [[3 / 8, 2 / 8, 2 / 8, 1 / 8]]


def test_affinity_counts_from_the_best_expert() -> None:
    affinity = routing([[[0, 1], [2, 3]], [[0, 2], [2, 0]], [[1, 0], [-1, -1]]], 4).affinity
    assert affinity.across[0, 0].tolist() == [1, 0, 2, 1]
    assert affinity.across[0, 1:].sum() == 0
    assert affinity.within[0].tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_affinity_among_some_experts() -> None:
    affinity = chained(layers=3, n_experts=6, top_k=2, tokens=40, seed=0).affinity
    members = np.array([[0, 2], [1, 5], [3, 4]])
    part = affinity.among(members)
    assert part.across[1].tolist() == affinity.across[1][np.ix_([1, 5], [3, 4])].tolist()
    assert part.within[2].tolist() == affinity.within[2][np.ix_([3, 4], [3, 4])].tolist()


@pytest.mark.parametrize(
    ("trace", "share", "by", "words"),
    [
        (one_layer([0, 1, 2, 3], 4), 0.5, "tokens", "has one layer"),
        (numbered([0, 0, 0]), 0.01, "tokens", "no token of 3 for training"),
        (numbered([0, 0, 0]), 0.99, "tokens", "no token of 3 for testing"),
        (numbered([0, 0, 0]), 0.5, "turns", "has one turn"),
    ],
)
def test_traces_that_cannot_be_split_are_refused(trace: RoutingTrace, share: float, by: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        split(trace, share, by)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)

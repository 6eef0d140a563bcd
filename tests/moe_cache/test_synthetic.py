"""Made-up routing has the properties that it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.moe_cache.predict import lookahead
from evaluators.moe_cache.replay import replay
from evaluators.moe_cache.stats import trace_stats
from evaluators.moe_cache.synthetic import SyntheticRouting
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace


def kept(trace: RoutingTrace) -> float:
    """Share of a token's experts that the token before had too."""
    before, after = trace.experts[:-1], trace.experts[1:]
    return float((after[..., :, None] == before[..., None, :]).any(axis=-1).mean())


def test_flat_routing_without_memory_hits_in_proportion_to_the_cache() -> None:
    trace = SyntheticRouting(60, 4, 4, 2000).trace()
    for share in (0.25, 0.5, 0.75):
        assert replay(trace.passes(), "lru", round(60 * share)).hit_rate == pytest.approx(share, abs=0.02)
    assert trace_stats(trace).effective_experts.min() > 59


@pytest.mark.parametrize("locality", [0.0, 0.7])
def test_popularity_follows_zipf_in_every_layer_with_ranks_of_its_own(locality: float) -> None:
    routing = SyntheticRouting(12, 1, 3, 20_000, skew=(0.0, 0.7, 1.4), locality=locality, memory=2, seed=4)
    share = trace_stats(routing.trace()).popularity / 20_000
    np.testing.assert_allclose(share, routing.popularity(), atol=0.02)
    ranked = -np.sort(-routing.popularity(), axis=1)
    np.testing.assert_allclose(ranked[:, 0] / ranked[:, 3], [1.0, 4**0.7, 4**1.4])
    assert not np.array_equal(np.argsort(routing.popularity()[1]), np.argsort(routing.popularity()[2]))


def test_locality_is_the_share_of_experts_that_stay() -> None:
    for locality in (0.3, 0.8):
        trace = SyntheticRouting(400, 4, 2, 2000, locality=locality, memory=1).trace()
        # A fresh choice comes upon a kept expert once in a hundred.
        assert kept(trace) == pytest.approx(locality, abs=0.02)


def test_all_locality_and_one_token_of_memory_never_changes() -> None:
    trace = SyntheticRouting(60, 4, 3, 50, locality=1.0, memory=1).trace()
    assert (np.sort(trace.experts, axis=2) == np.sort(trace.experts[:1], axis=2)).all()


def test_a_longer_memory_spreads_the_reuse() -> None:
    """The same share of repeats, but further back: a small cache finds less of it, half of the experts as much."""
    short, long = (SyntheticRouting(60, 4, 4, 1000, locality=0.8, memory=m).trace().passes() for m in (1, 8))
    assert replay(short, "lru", 6).hit_rate > replay(long, "lru", 6).hit_rate + 0.2
    assert replay(short, "lru", 30).hit_rate == pytest.approx(replay(long, "lru", 30).hit_rate, abs=0.03)


@given(skew=st.floats(0.0, 1.5), locality=st.floats(0.0, 0.9), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_more_skew_and_more_locality_are_easier_to_cache(skew: float, locality: float, seed: int) -> None:
    def hits(skew: float, locality: float) -> float:
        return replay(
            SyntheticRouting(24, 2, 2, 300, skew=skew, locality=locality, seed=seed).trace().passes(), "lru", 8
        ).hit_rate

    base = hits(skew, locality)
    assert hits(skew + 0.5, locality) > base - 0.03
    assert hits(skew, min(1.0, locality + 0.3)) > base - 0.03


def test_sequences_have_prompts_and_share_the_popularity_alone() -> None:
    trace = SyntheticRouting(16, 2, 2, 30, prompt_tokens=5, sequences=3, skew=1.0).trace()
    assert trace.turn_names == ("sequence 0", "sequence 1", "sequence 2")
    assert trace.phase[:36].tolist() == [PREFILL] * 5 + [DECODE] * 30 + [PREFILL]
    first, second = trace.experts[:35], trace.experts[35:70]
    assert not np.array_equal(first, second)


def test_seeds_repeat_and_predictions_do_not_change_the_routing() -> None:
    plain = SyntheticRouting(16, 2, 3, 40, skew=0.5, locality=0.4, seed=7)
    predicted = SyntheticRouting(16, 2, 3, 40, skew=0.5, locality=0.4, seed=7, accuracy=1.0)
    np.testing.assert_array_equal(plain.trace().experts, predicted.trace().experts)
    assert plain.trace().predicted is None
    ahead = lookahead(predicted.trace(), 1)
    assert ahead.predictors == ("recorded",)
    np.testing.assert_array_equal(predicted.trace().predicted[0][:, 1:], plain.trace().experts[:, 1:])  # type: ignore[index]
    other = SyntheticRouting(16, 2, 3, 40, skew=0.5, locality=0.4, seed=8).trace()
    assert not np.array_equal(plain.trace().experts, other.experts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"top_k": 17}, "top_k=17 is more than n_experts=16"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"memory": 0}, "memory=0"),
        ({"prompt_tokens": -1}, "prompt_tokens=-1"),
        ({"locality": 1.2}, "locality=1.2"),
        ({"skew": -0.1}, "skew=-0.1"),
        ({"skew": (0.1, 0.2)}, "skew has 2 numbers for 3 layers"),
        ({"accuracy": 1.5}, "accuracy=1.5"),
    ],
)
def test_routing_that_cannot_be_is_named(change: dict[str, object], words: str) -> None:
    fields: dict[str, object] = {"n_experts": 16, "top_k": 2, "n_layers": 3, "decode_tokens": 10, **change}
    with pytest.raises(UsageError) as caught:
        SyntheticRouting(**fields).trace()  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

"""Drift of routing: exact statistics on small cases, false alarms as often as stated, real drift noticed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from autotune.errors import UsageError
from evaluators.moe_cache.drift import Drift, drift, jensen_shannon_bits
from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.token_blocks import Piece, find_block
from evaluators.moe_cache.trace import DECODE, RoutingTrace

from .traces import decode_trace, one_layer, random_traces, recorded

SHIPPED = Path(__file__).resolve().parents[2] / "evaluators" / "moe_cache" / "traces" / "tiny-moe.moetrace.npz"
LAYERS, EXPERTS, TOP_K = 4, 12, 3


def sticky(tokens: int, stay: float, seed: int, *, swapped: int = 0) -> RoutingTrace:
    """Layers that keep a token's experts with probability `stay`; the first `swapped` layers prefer other experts."""
    rng = np.random.default_rng(seed)
    picks = np.empty((tokens, LAYERS, TOP_K), dtype=np.int64)
    weight = np.log((np.arange(EXPERTS) + 1.0) ** -1.2)
    for layer in range(LAYERS):
        fresh = np.argsort(-(weight + rng.gumbel(size=(tokens, EXPERTS))), axis=1)[:, :TOP_K]
        hold = rng.random(tokens) < stay
        hold[0] = False
        source = np.maximum.accumulate(np.where(hold, 0, np.arange(tokens)))
        picks[:, layer] = EXPERTS - 1 - fresh[source] if layer < swapped else fresh[source]
    return decode_trace(picks.tolist(), EXPERTS)


def alarms(pairs: int, one: Callable[[int], Drift]) -> int:
    return sum(bool(one(seed).drifted) for seed in range(pairs))


def most_alarms(pairs: int, alpha: float) -> int:
    """More than this happens with a chance below one in a thousand, were `alpha` right."""
    chances = [math.comb(pairs, n) * alpha**n * (1 - alpha) ** (pairs - n) for n in range(pairs + 1)]
    return next(n for n in range(pairs + 1) if sum(chances[n + 1 :]) < 1e-3)


# ------------------------------------------------------------------------------------------------------- statistics


def test_divergence_of_known_distributions() -> None:
    p, q = np.array([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]]), np.array([[0.0, 1.0], [0.5, 0.5], [0.25, 0.75]])
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert jensen_shannon_bits(p, q) == pytest.approx([1.0, 0.0, 1.0 - entropy])


def test_excess_is_the_divergence_to_second_order() -> None:
    """Of long independent pieces, whose own noise is small; the second order is exact up to (p - q)^4."""
    before, after = sticky(4000, 0.0, 1), sticky(4000, 0.0, 2, swapped=1)
    found = drift(before, after, dealings=9)
    assert found.layer_excess_bits[0] == pytest.approx(found.layer_divergence_bits[0], rel=0.25)
    assert np.abs(found.layer_excess_bits[1:]).max() < 1e-3
    assert found.most[0] == 0


def test_reuse_is_counted_within_turns() -> None:
    trace = one_layer([0, 0, 1, 1, 2, 2], 3)
    turns = decode_trace(trace.experts.tolist(), 3, turn=[0, 0, 0, 1, 1, 1])
    whole, parts = (drift(t, trace, block_tokens=1, dealings=9) for t in (trace, turns))
    assert whole.layer_reuse_before.tolist() == [3 / 5]
    assert parts.layer_reuse_before.tolist() == [2 / 4]


@given(random_traces())
def test_a_trace_has_not_drifted_from_itself(trace: RoutingTrace) -> None:
    found = drift(trace, trace, dealings=49)
    assert found.divergence_bits == pytest.approx(0.0, abs=1e-12)
    assert not found.drifted
    assert 0.0 < found.p <= 1.0


@given(random_traces())
def test_blocks_hold_every_token_once(trace: RoutingTrace) -> None:
    piece = Piece.of(trace)
    whole = np.bincount(trace.experts[trace.phase == DECODE].reshape(-1), minlength=trace.n_experts)
    for length in (1, 2, 5, 100):
        blocks = piece.blocks(length)
        assert blocks.picks.sum(axis=(0, 1)).tolist() == whole.tolist()
        assert int(blocks.tokens.sum()) == trace.decode_tokens
        assert int(blocks.followers.sum()) == trace.decode_tokens - len(piece.turn_lengths)


def test_blocks_are_as_long_as_choices_last() -> None:
    lengths = [find_block([Piece.of(sticky(600, stay, 3)), Piece.of(sticky(600, stay, 4))]) for stay in (0.0, 0.4, 0.8)]
    assert lengths == sorted(set(lengths))
    assert lengths[0] == 4
    assert lengths[2] > 20


def test_turns_that_differ_make_whole_turns_the_blocks() -> None:
    """Otherwise the second of several prompts would be drift from the first."""
    parts = [sticky(40, 0.2, seed, swapped=LAYERS * (seed % 2)) for seed in range(6)]
    picks = np.concatenate([part.experts for part in parts])
    trace = decode_trace(picks.tolist(), EXPERTS, turn=np.repeat(np.arange(6), 40).tolist())
    found = drift(trace.select([0, 1, 2]), trace.select([3, 4, 5]))
    assert found.block_tokens == 40
    assert found.blocks == (3, 3)
    assert found.drifted is None  # of 20 dealings none is rare enough


# ------------------------------------------------------------------------------------------- alarms, false and true


@pytest.mark.parametrize("stay", [0.0, 0.5])
def test_false_alarms_are_as_rare_as_stated(stay: float) -> None:
    pairs = 150
    found = alarms(pairs, lambda s: drift(sticky(120, stay, s), sticky(90, stay, 10_000 + s), dealings=199))
    # A tenth of the variance may be missed, which is worth a few points; the rate of dealing out tokens is told below.
    assert found <= most_alarms(pairs, 0.08)


def test_single_tokens_dealt_out_would_raise_false_alarms() -> None:
    pairs = 30
    found = alarms(
        pairs, lambda s: drift(sticky(120, 0.7, s), sticky(90, 0.7, 10_000 + s), dealings=199, block_tokens=1)
    )
    assert found > pairs / 2


def test_drift_of_one_layer_is_noticed_and_found() -> None:
    found = [drift(sticky(120, 0.5, s), sticky(90, 0.5, 10_000 + s, swapped=1), dealings=199) for s in range(10)]
    assert sum(bool(one.drifted) for one in found) >= 9
    assert all(one.most[0] == 0 for one in found)
    assert sum(one.layer_p[0] <= 0.05 for one in found) >= 9
    assert sum(bool((one.layer_p[1:] <= 0.05).any()) for one in found) <= 3


def test_drift_of_reuse_alone_is_noticed() -> None:
    found = [drift(sticky(300, 0.1, s), sticky(300, 0.6, 10_000 + s), dealings=199) for s in range(5)]
    assert all(one.drifted and one.reuse_p <= 0.01 for one in found)


def test_stretches_of_real_turns_dealt_out_raise_few_alarms() -> None:
    """Stretches of 32 tokens of a turn, far longer than choices last, on either side by chance: the routing is one."""
    trace = load_trace(SHIPPED)
    pairs, alarmed = 60, 0
    for seed in range(pairs):
        rng = np.random.default_rng(seed)
        own = trace.select([seed % len(trace.turn_names)], ["decode"])
        stretch = np.arange(own.n_tokens) // 32
        side = np.isin(stretch, rng.permutation(6)[:3])
        # What was cut apart is no longer consecutive, so every stretch is a turn.
        pieces = [as_turns(own, side == one, stretch) for one in (True, False)]
        alarmed += bool(drift(*pieces, block_tokens=8, dealings=199, seed=seed).drifted)
    assert alarmed <= most_alarms(pairs, 0.08)


def as_turns(trace: RoutingTrace, keep: np.ndarray, turn: np.ndarray) -> RoutingTrace:
    return decode_trace(trace.experts[keep].tolist(), trace.n_experts, turn=turn[keep].tolist())


def test_prose_code_and_mathematics_differ() -> None:
    trace = load_trace(recorded("granite.trace.json.gz"))
    for one, other in itertools.combinations(range(3), 2):
        found = drift(trace.select([one]), trace.select([other]))
        assert found.p <= 0.005
        assert found.excess_bits > 0.03


# ---------------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_compared_is_refused() -> None:
    trace = sticky(20, 0.0, 0)
    other = decode_trace([[[0]], [[1]]], 2)
    with pytest.raises(
        UsageError, match=r"1 layers of 2 experts, top 1.*4 layers of 12 experts, top 3; give a trace of the"
    ):
        drift(trace, other)
    prompt = decode_trace(trace.experts.tolist(), EXPERTS, prefill=20)
    with pytest.raises(UsageError, match="has no decode token"):
        drift(trace, prompt)
    for arguments, words in (
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"block_tokens": 0}, "block_tokens is 0"),
        ({"dealings": 0}, "dealings is 0"),
    ):
        with pytest.raises(UsageError, match=words):
            drift(trace, trace, **arguments)  # type: ignore[arg-type]


def test_few_tokens_give_no_verdict() -> None:
    found = drift(sticky(6, 0.0, 0), sticky(6, 0.0, 1, swapped=4))
    assert found.drifted is None
    assert found.resolution > 0.025
    assert found.to_dict()["drifted"] is None

"""Routing traces: what is refused, how tokens form passes, and how a part is selected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from autotune.errors import UsageError
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

from .traces import random_traces


def fields(**changes: Any) -> dict[str, Any]:
    """A valid trace of 1 prompt token and 2 generated ones, 2 layers, top-2 of 4."""
    base: dict[str, Any] = {
        "model": "m",
        "n_experts": 4,
        "top_k": 2,
        "experts": np.array([[[0, 1], [-1, -1]], [[0, 1], [2, 3]], [[3, 1], [0, 2]]]),
        "turn": np.array([0, 0, 0]),
        "phase": np.array([PREFILL, PREFILL, DECODE]),
    }
    return {**base, **changes}


def changed(token: int, layer: int, picks: list[int]) -> np.ndarray:
    experts = fields()["experts"].copy()
    experts[token, layer] = picks
    return experts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": np.zeros((0, 2, 2), dtype=int), "turn": [], "phase": []}, "is empty"),
        ({"experts": changed(2, 1, [4, 0])}, "expert 4 at token 2, layer 1, slot 0; experts go from 0 to 3"),
        ({"experts": changed(2, 1, [-2, 0])}, "expert -2 at token 2"),
        ({"experts": changed(2, 0, [70000, 0])}, "70000"),
        ({"experts": changed(2, 1, [-1, -1])}, "lacks layer 1 of decode token 2"),
        ({"experts": changed(1, 1, [3, 3])}, "expert 3 twice at token 1, layer 1"),
        ({"experts": changed(1, 1, [3, -1])}, "1 of 2 experts at token 1, layer 1"),
        (
            {"experts": np.array([[[0, 1], [-1, -1]]]), "turn": [0], "phase": [PREFILL]},
            "no pick in layer 1",
        ),
        ({"top_k": 3}, "top_k=3"),
        ({"n_experts": 1}, "n_experts=1"),
        ({"turn": [0, 0]}, "turn has shape"),
        ({"phase": [0, 0, 2]}, "phase holds 2"),
        ({"phase": [0, 1, 0]}, "prefill token 2 after a decode token"),
        ({"turn": [0, 1, 0], "phase": [1, 1, 1], "experts": changed(0, 1, [0, 1])}, "turn 0 in several pieces"),
        ({"turn": [0, 0, 5], "turn_names": ("a",)}, "with 1 turn names"),
        ({"expert_bytes": [10, 0]}, "expert_bytes holds 0"),
        ({"expert_bytes": [10]}, "expert_bytes has shape"),
        ({"experts": fields()["experts"] + 0.5}, "experts holds float64"),
        ({"weights": np.full((3, 2, 2), np.nan)}, "weights holds a number that is not finite"),
        ({"predicted": np.full((1, 3, 2, 2), 9)}, "predicted has expert 9"),
    ],
)
def test_what_a_replay_cannot_use_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RoutingTrace(**fields(**changes))
    assert message in str(caught.value)


def test_passes_are_whole_prompts_and_single_tokens() -> None:
    trace = RoutingTrace(**fields())
    batches = trace.passes()
    assert batches.n_passes == 2
    assert batches.pass_tokens.tolist() == [2, 1]
    rows = [batches.experts[a:b].tolist() for a, b in zip(batches.offsets[:-1], batches.offsets[1:], strict=True)]
    assert rows == [[0, 1], [2, 3], [3, 1], [0, 2]]
    assert batches.tokens.tolist() == [2, 2, 1, 1, 1, 1, 1, 1]
    assert trace.n_picks == 10


def test_each_turn_begins_a_pass() -> None:
    experts = np.array([[[0]], [[1]], [[2]], [[0]]])
    trace = RoutingTrace("m", 3, 1, experts, turn=np.array([0, 0, 1, 1]), phase=np.array([0, 0, 0, 1], dtype=np.int8))
    assert trace.token_pass.tolist() == [0, 0, 1, 2]
    assert trace.passes().pass_turn.tolist() == [0, 1, 1]


@given(random_traces())
def test_batches_hold_every_pick_once(trace: RoutingTrace) -> None:
    batches = trace.passes()
    assert int(batches.tokens.sum()) == trace.n_picks
    for row in range(batches.n_passes * trace.n_layers):
        one, layer = divmod(row, trace.n_layers)
        picks = trace.experts[trace.token_pass == one, layer].reshape(-1)
        in_order = list(dict.fromkeys(int(e) for e in picks if e >= 0))
        span = slice(batches.offsets[row], batches.offsets[row + 1])
        assert batches.experts[span].tolist() == in_order
        assert batches.tokens[span].tolist() == [int((picks == e).sum()) for e in in_order]


def test_select_keeps_names_and_phases() -> None:
    experts = np.array([[[0]], [[1]], [[2]], [[0]]])
    trace = RoutingTrace(
        "m", 3, 1, experts, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1], dtype=np.int8), turn_names=("prose", "code")
    )
    code = trace.select(turns=["code"])
    assert (code.turn_names, code.turn.tolist(), code.experts.reshape(-1).tolist()) == (("code",), [0, 0], [2, 0])
    assert trace.select(turns=[1], phases=["decode"]).experts.reshape(-1).tolist() == [0]
    with pytest.raises(UsageError, match="turn 'math' is not in the trace"):
        trace.select(turns=["math"])

"""Corrections of what things cost, fitted from the clocks of runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotune import UsageError
from evaluators.moe_cache.correction import Clocks, Correction, Line, fit_line, means
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.timeline import simulate
from tests.moe_cache.traces import decode_trace

COSTS = Costs(
    expert_bytes=np.full(2, 1000),
    link_bytes=np.array([100.0, 1000.0]),
    link_ms=np.array([0.2, 1.0]),
    expert_ms=np.array([0.0, 0.5, 0.6, 0.7]),
    dense_ms=np.array([0.0, 0.3, 0.4, 0.5]),
)
TRUTH = Correction(
    Line(1.5, 0.1),
    Line(1.2, 0.05),
    Line(2.0, 0.02),
    layer_ms=0.04,
    load_ms=0.07,
    rest_load_ms=0.1,
    expert_busy=1.5,
    dense_busy=2.0,
    runs=2,
)


def handled(truth: Correction, layers: int, loads: int, rests: int) -> float:
    return layers * truth.layer_ms + (loads - rests) * truth.load_ms + rests * truth.rest_load_ms


def clocks(truth: Correction, layers: int, loads: list[int]) -> Clocks:
    """What a run of passes with so many loads shows whose mechanisms take what `truth` says."""
    sizes, parts, tokens = np.array([100.0, 600.0, 1000.0]), np.array([0.5, 1.0, 1.0]), np.array([1, 1, 3])
    expert_ms, dense_ms = truth.expert(COSTS.expert_ms[0, tokens] * parts), truth.dense(COSTS.dense_ms[0, [1, 3]])
    idle, busy = np.zeros(3), np.ones(3)
    return Clocks(
        link=np.column_stack((sizes, truth.link(COSTS.transfer_ms(sizes)), [4, 5, 6])),
        expert=np.concatenate(
            [
                np.column_stack((tokens, parts, idle, expert_ms, [3, 2, 1])),
                np.column_stack((tokens, parts, busy, expert_ms * truth.expert_busy, [1, 5, 1])),
            ]
        ),
        dense=np.concatenate(
            [
                np.column_stack(([1, 3], idle[:2], dense_ms, [7, 1])),
                np.column_stack(([1, 3], busy[:2], dense_ms * truth.dense_busy, [2, 2])),
            ]
        ),
        handling=np.array(
            [[layers, n, rests, handled(truth, layers, n, rests), 1] for n in loads for rests in (0, n // 2)]
        ),
    )


def test_the_lines_of_runs_are_found_again() -> None:
    found = Correction.fit([clocks(TRUTH, 10, [5, 7]), clocks(TRUTH, 10, [40])], COSTS)
    for name in ("link", "expert", "dense"):
        line, true = getattr(found, name), getattr(TRUTH, name)
        assert (line.scale, line.offset_ms) == pytest.approx((true.scale, true.offset_ms))
    assert (found.layer_ms, found.load_ms, found.rest_load_ms) == pytest.approx((0.04, 0.07, 0.1))
    assert found.runs == 2
    assert (found.expert_busy, found.dense_busy) == pytest.approx((1.5, 2.0))
    assert Correction.fit([], COSTS) == Correction()


def test_clocks_and_corrections_are_kept_as_json_values() -> None:
    seen = clocks(TRUTH, 10, [5])
    again = Clocks.from_dict(seen.to_dict())
    assert np.allclose(again.link, seen.link)
    assert np.allclose(again.expert, seen.expert)
    assert np.allclose(again.handling, seen.handling)
    assert Correction.from_dict(TRUTH.to_dict()) == TRUTH


@pytest.mark.parametrize("document", [{}, {"link": 1}, {**TRUTH.to_dict(), "dense": {"scale": -1.0}}])
def test_what_is_no_correction_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"make one with: autotune validate moe-cache|is none"):
        Correction.from_dict(document)


def test_without_clocks_of_their_own_experts_are_what_remains() -> None:
    seen = clocks(replace(TRUTH, layer_ms=0.0, load_ms=0.0, rest_load_ms=0.0), 10, [5])
    total = float((COSTS.expert_ms[0, seen.expert[:, 0].astype(int)] * seen.expert[:, 1] * seen.expert[:, 4]).sum())
    hidden = replace(seen, expert=seen.expert.copy(), handling=np.array([[10, 5, 0, 3.0 * total, 1]]))
    hidden.expert[:, 3] = math.nan
    found = Correction.fit([Clocks.from_dict(hidden.to_dict())], COSTS)
    assert (found.expert.scale, found.expert.offset_ms) == pytest.approx((3.0, 0.0))
    assert (found.layer_ms, found.load_ms) == (0.0, 0.0)


def test_without_a_busy_link_nothing_is_said_of_one() -> None:
    seen = clocks(TRUTH, 10, [5])
    seen.dense[2:, 3] = 0.0
    found = Correction.fit([replace(seen, expert=seen.expert[:3])], COSTS)
    assert (found.expert_busy, found.dense_busy) == (1.0, 1.0)
    assert found.expert.scale == pytest.approx(TRUTH.expert.scale)


def test_a_line_that_would_fall_or_begin_below_nothing_is_a_scale() -> None:
    x, count = np.array([1.0, 2.0]), np.ones(2)
    falling = fit_line(x, np.array([3.0, 2.0]), count)
    assert (falling.scale, falling.offset_ms) == pytest.approx((5 / 3, 0.0))
    assert fit_line(x, np.array([1.0, 4.0]), count).offset_ms == pytest.approx(-2.0)
    assert fit_line(np.array([1.0, 1.1]), np.array([3.0, 2.2]), count).offset_ms == 0.0


def test_means_of_equal_keys() -> None:
    assert means([[1.0, 2.0], [0.0, 5.0], [1.0, 2.0]], [3.0, 7.0, 5.0]).tolist() == [[0, 5, 7, 1], [1, 2, 4, 2]]


def test_what_handing_over_takes_is_counted_once_for_each_layer_load_and_second_part() -> None:
    trace = decode_trace([[[0], [1]]] * 4, 2)
    plan = CachePlan((500, 500), (0.5, 0.5))
    costs = TRUTH.of(COSTS)
    parts, plain = (
        simulate(trace, plan, costs).metrics(),
        simulate(trace, plan, replace(costs, load_ms=0.0, rest_load_ms=0.0, part_ms=0.0)).metrics(),
    )
    # Each token: two layers, two experts brought; all but the first find a top there, so that they are computed in two parts.
    assert parts["overhead_ms"] == pytest.approx(2 * 0.04 + (2 * 0.07 + 3 * 2 * 0.1) / 4)
    assert plain["overhead_ms"] == pytest.approx(2 * 0.04)
    assert parts["expert_compute_ms"] - plain["expert_compute_ms"] == pytest.approx(2 * 0.05 * 3 / 4)
    names = ("dense_ms", "expert_compute_ms", "exposed_transfer_ms", "cpu_wait_ms", "overhead_ms")
    assert sum(parts[name] for name in names) == pytest.approx(parts["token_latency_ms"])
    assert parts["dense_ms"] == pytest.approx(2 * (2.0 * 0.3 + 0.02))


def test_costs_that_fall_are_refused() -> None:
    with pytest.raises(UsageError, match="load_ms=-1"):
        replace(COSTS, load_ms=-1.0)
    with pytest.raises(UsageError, match=r"dense_busy=0\.0 is no factor"):
        replace(COSTS, dense_busy=0.0)

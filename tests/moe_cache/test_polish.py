"""The descent on measured local curves: what it may change, what it must not lose, and its knapsack."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.polish import Change, Room, Share, choose, polish

U = 100
ROOM = Room(expert_bytes=np.full(3, U), n_experts=8, cache_bytes=10 * U, thetas=(1.0, 0.5, 0.0))


def slots(plan: CachePlan) -> list[int]:
    return plan.slots(np.full(len(plan.theta), U), 8).tolist()


def separable(plan: CachePlan) -> float:
    """Layer l wants ``2 + 2 l`` slots of whole experts; halves are worth half."""
    have = zip(slots(plan), plan.theta, strict=True)
    return 10.0 + sum(max(0.0, 2 + 2 * layer - n * theta) for layer, (n, theta) in enumerate(have))


def test_what_layers_have_too_much_of_goes_to_those_that_lack_it() -> None:
    found, ms = polish(CachePlan((8 * U, 1 * U, 1 * U), (1.0, 1.0, 1.0)), separable, ROOM, 500)
    assert ms == separable(found) == 12.0  # ten slots where twelve are wanted
    assert sum(found.budget_bytes) <= 10 * U


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([1.0, 0.5])), min_size=3, max_size=3),
    st.integers(1, 200),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_it_never_gets_worse_nor_takes_more_than_there_is(
    shares: list[tuple[int, float]], evaluations: int, seed: int
) -> None:
    """Whatever the latency is, even without any order in it."""
    table = np.random.default_rng(seed).random((9, 3, 9, 3, 9, 3)) + 1.0
    asked = 0

    def latency(plan: CachePlan) -> float:
        nonlocal asked
        asked += 1
        splits = [(1.0, 0.5, 0.0).index(theta) for theta in plan.theta]
        return float(table[tuple(itertools.chain(*zip(slots(plan), splits, strict=True)))])

    plan = CachePlan(tuple(int(n * theta * U) for n, theta in shares), tuple(theta for _, theta in shares))
    room = Room(ROOM.expert_bytes, 8, max(10 * U, sum(plan.budget_bytes)), ROOM.thetas)
    before = latency(plan)
    asked = 0
    found, ms = polish(plan, latency, room, evaluations)
    assert asked <= evaluations
    assert ms == latency(found) <= before
    assert sum(found.budget_bytes) <= room.cache_bytes


def test_equal_budgets_stay_equal_while_splits_change() -> None:
    room = Room(np.full(3, U), 8, 6 * U, (1.0, 0.5), uniform_budgets=True)

    def more_slots(plan: CachePlan) -> float:
        return 100.0 - sum(slots(plan))

    found, ms = polish(CachePlan((2 * U,) * 3, (1.0,) * 3), more_slots, room, 200)
    assert found.budget_bytes == (2 * U,) * 3 and found.theta == (0.5,) * 3 and ms == 88.0


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    one = st.tuples(st.integers(0, 3), st.integers(-9, 9), st.integers(-5, 5))
    return [
        Change(layer, Share(i, 0), float(ms), taken)
        for i, (layer, ms, taken) in enumerate(draw(st.lists(one, max_size=8)))
    ]


GIFT_FOR_NOTHING = [
    Change(0, Share(0, 0), -4.0, 3), Change(1, Share(1, 0), 3.0, -3), Change(2, Share(2, 0), -2.0, 1)
]  # fmt: skip


@given(changes(), st.integers(0, 40))
@example(GIFT_FOR_NOTHING, 0)
@settings(max_examples=200, deadline=None)
def test_the_knapsack_is_filled_with_what_fits_and_optimally_where_all_fits(around: list[Change], free: int) -> None:
    _, chosen = choose(around, free)
    assert len({c.layer for c in chosen}) == len(chosen)
    assert sum(c.taken for c in chosen) <= free
    by_layer = [[None, *(c for c in around if c.layer == layer)] for layer in range(4)]
    best = min(
        sum(c.ms for c in picked if c)
        for picked in itertools.product(*by_layer)
        if sum(c.taken for c in picked if c) <= free
    )
    found = sum(c.ms for c in chosen)
    assert best - 1e-9 <= found <= 0.0
    if free >= sum(abs(c.taken) for c in around):
        assert found == best


def test_of_equal_prices_as_many_are_taken_as_fit() -> None:
    around = [Change(layer, Share(1, 0), -3.0, 2) for layer in range(4)] + [Change(4, Share(0, 0), 3.0, -2)]
    _, chosen = choose(around, 5)
    assert sorted(c.layer for c in chosen) == [0, 1]  # a third would cost the fifth layer what it gains
    around[4] = Change(4, Share(0, 0), 1.0, -2)
    _, chosen = choose(around, 4)
    assert sum(c.ms for c in chosen) == -8.0


def test_a_plan_without_anything_to_gain_comes_back() -> None:
    plan = CachePlan((2 * U, 4 * U, 4 * U), (1.0, 1.0, 1.0))
    found, ms = polish(plan, lambda _: 5.0, ROOM, 300)
    assert found == plan and ms == 5.0


def test_one_evaluation_only_looks_at_the_plan() -> None:
    plan = CachePlan((2 * U, 4 * U, 4 * U + 7), (1.0, 1.0, 1.0))
    found, ms = polish(plan, separable, ROOM, 1)
    assert slots(found) == slots(plan) and ms == separable(plan)
    assert found.budget_bytes[2] == 4 * U  # what holds no slot is given back
    assert math.isfinite(ms) and pytest.approx(ms) == 12.0

"""Solvers of placements: exact on small cases, balanced always, never worse than where they began."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.expert_placement import placement_of
from evaluators.expert_placement.cluster import Cluster, Placement, is_balanced
from evaluators.expert_placement.measure import measure
from evaluators.expert_placement.solvers import SOLVERS, NoSolutionError, Task, usable
from evaluators.expert_placement.solvers.alternating import alternating, descend
from evaluators.expert_placement.solvers.exact import exact
from evaluators.expert_placement.solvers.exflow import bisection, exflow
from evaluators.expert_placement.solvers.integer_program import least_cut
from evaluators.expert_placement.solvers.swap import by_layer, swap, weighted_sum
from tests.expert_placement.instances import all_placements, chained, routing, tasks
from tests.moe_cache.traces import recorded

FOUR = Cluster(4, 4)


def pair_cost(task: Task, placement: Placement) -> float:
    return task.routing.affinity.cost(placement, task.cluster.hop_cost)


@pytest.mark.parametrize(
    ("top_k", "n_experts", "cluster"), [(1, 4, Cluster(2, 2)), (2, 4, Cluster(2, 2)), (2, 4, Cluster(4, 2))]
)
@pytest.mark.parametrize("seed", range(3))
def test_exact_is_the_brute_force(top_k: int, n_experts: int, cluster: Cluster, seed: int) -> None:
    layers = 3 if cluster.gpus == 2 else 2
    task = Task(chained(layers, n_experts, top_k, tokens=30, seed=seed), cluster)
    least = min(pair_cost(task, p) for p in all_placements(layers, n_experts, cluster.gpus))
    assert pair_cost(task, exact(task).placement) == pytest.approx(least)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("gpus", [2, 3])
def test_the_integer_program_proves_the_optimum_of_small_cases(top_k: int, gpus: int) -> None:
    task = Task(chained(3, 6, top_k, tokens=40, seed=gpus), Cluster(gpus, gpus))
    cut = least_cut(task.routing.affinity, gpus, seconds=60.0)
    assert cut.optimal
    assert cut.weight == pytest.approx(pair_cost(task, exact(task).placement))
    assert cut.bound == pytest.approx(cut.weight, rel=1e-3)
    assert cut.gap <= 1e-3
    assert pair_cost(task, cut.parts) == cut.weight


def test_the_integer_program_of_one_token_per_row_has_the_same_optimum() -> None:
    """ExFlow's own form, a cost for each token and step, by brute force: counting steps loses nothing."""
    made = chained(3, 4, 1, tokens=25, seed=8)
    cluster = Cluster(2, 2)
    least = min(measure(p, made, cluster).exflow_hops_per_token for p in all_placements(3, 4, 2))
    found = measure(exflow(Task(made, cluster, seconds=60.0)).placement, made, cluster)
    assert found.exflow_hops_per_token == pytest.approx(least)


def test_a_time_limit_leaves_a_gap_that_is_told() -> None:
    task = Task(chained(8, 16, 2, tokens=400, seed=0), FOUR, seconds=2.0)
    solution = exflow(task)
    assert is_balanced(solution.placement, 4)
    assert solution.facts["proved_optimal"] == 0
    assert 0 < float(solution.facts["largest_gap"]) <= 1


def test_nodes_come_before_gpus() -> None:
    """Two groups of experts that never mix: the cheapest placement gives each group a node."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=60)
    picks = [[[int(4 * g + rng.integers(4))] for _ in range(3)] for g in group]
    task = Task(routing(picks, 8), Cluster(4, 2), seconds=20.0)
    for solve in (exflow, bisection):
        node = solve(task).placement // 2
        assert [set(row[:4]) for row in node] in ([{0}] * 3, [{1}] * 3)


def test_bisection_makes_a_program_for_every_halving() -> None:
    task = Task(chained(2, 8, 1, tokens=40, seed=0), Cluster(8, 8), seconds=20.0)
    assert bisection(task).facts["programs"] == 7
    with pytest.raises(UsageError, match="gpus=6"):
        bisection(Task(chained(2, 6, 1, tokens=10, seed=0), Cluster(6, 6)))


@settings(max_examples=40)
@given(tasks())
def test_every_quick_solver_balances_and_none_beats_the_exact_one(task: Task) -> None:
    names = [name for name in usable(task) if not name.startswith("exflow")]
    found = {name: SOLVERS[name](task).placement for name in names}
    for name, placement in found.items():
        assert is_balanced(placement, task.cluster.gpus), name
        assert placement.shape == (task.routing.n_layers, task.routing.n_experts)
    if "exact" in found:
        least = pair_cost(task, found["exact"])
        assert all(least <= pair_cost(task, placement) + 1e-9 for placement in found.values())


@settings(max_examples=5)
@given(tasks())
def test_integer_programs_balance(task: Task) -> None:
    for name in ("exflow", "exflow-bisection"):
        if name in usable(task):
            assert is_balanced(SOLVERS[name](task).placement, task.cluster.gpus)


@settings(max_examples=40)
@given(tasks())
def test_alternating_only_betters_what_it_is_given(task: Task) -> None:
    start = SOLVERS["random"](task).placement
    ended = descend(task.routing.affinity, task.cluster, start)
    assert is_balanced(ended, task.cluster.gpus)
    assert pair_cost(task, ended) <= pair_cost(task, start) + 1e-9
    assert pair_cost(task, descend(task.routing.affinity, task.cluster, ended)) == pytest.approx(pair_cost(task, ended))


@pytest.mark.parametrize("top_k", [1, 2])
def test_kicks_find_the_optimum_where_one_descent_does_not(top_k: int) -> None:
    task = Task(chained(6, 8, top_k, tokens=300, seed=4), FOUR)
    least = pair_cost(task, exact(task).placement)
    contiguous = SOLVERS["contiguous"](task).placement
    assert pair_cost(task, descend(task.routing.affinity, FOUR, contiguous)) > least + 1
    assert pair_cost(task, alternating(task).placement) <= 1.01 * least


@pytest.mark.parametrize("seed", range(5))
def test_a_layer_placed_anew_is_the_best_given_its_neighbours(seed: int) -> None:
    """Top-1: no placement of one layer alone is better than what alternating ends with."""
    task = Task(chained(3, 4, 1, tokens=50, seed=seed), Cluster(2, 2))
    ended = descend(task.routing.affinity, task.cluster, SOLVERS["random"](task).placement)
    for layer, row in itertools.product(range(3), all_placements(1, 4, 2)):
        other = ended.copy()
        other[layer] = row[0]
        assert pair_cost(task, ended) <= pair_cost(task, other) + 1e-9


@settings(max_examples=40)
@given(tasks(), st.sampled_from([0.0, 0.3, 1.0, (0.9, 0.1)]))
def test_the_swap_search_ends_where_no_swap_helps(task: Task, weight: float | tuple[float, float]) -> None:
    start = SOLVERS["random"](task).placement
    before = start.copy()
    found = swap(task, start, sweeps=100, load_weight=weight)
    assert (start == before).all()
    assert is_balanced(found.placement, task.cluster.gpus)
    reached = weighted_sum(task, found.placement, weight)
    assert reached <= weighted_sum(task, start, weight) + 1e-9
    for layer in range(task.routing.n_layers):
        for a, b in itertools.combinations(range(task.routing.n_experts), 2):
            other = found.placement.copy()
            other[layer, [a, b]] = other[layer, [b, a]]
            assert reached <= weighted_sum(task, other, weight) + 1e-8


def test_the_weighted_sum_is_in_units_of_the_contiguous_placement() -> None:
    task = Task(chained(4, 8, 2, tokens=80, seed=2), FOUR)
    for weight in (0.0, 0.4, 1.0):
        assert weighted_sum(task, SOLVERS["contiguous"](task).placement, weight) == pytest.approx(1.0)


def test_ranges_of_layers_have_weights_of_their_own() -> None:
    assert by_layer([0.0, 1.0], 5).tolist() == [0, 0, 0, 1, 1]
    assert by_layer(0.5, 3).tolist() == [0.5] * 3
    task = Task(chained(4, 8, 2, tokens=200, seed=2), FOUR)
    start = SOLVERS["contiguous"](task).placement
    mixed = swap(task, start, 50, [0.0, 1.0]).placement
    loads = [task.routing.shares[2:] @ np.eye(4)[row] for row in (mixed[2:], swap(task, start, 50, 0.0).placement[2:])]
    assert loads[0].max(axis=-1).mean() < loads[1].max(axis=-1).mean()


def test_the_weight_trades_hops_for_load() -> None:
    task = Task(chained(4, 16, 2, tokens=300, seed=5), FOUR)
    start = alternating(task).placement
    hops, load = zip(
        *(
            (m.hops_per_token, m.max_load)
            for w in (0.0, 1.0)
            for m in [_measured(task, swap(task, start, 50, w).placement)]
        ),
        strict=True,
    )
    assert hops[0] < hops[1]
    assert load[0] > load[1]


def _measured(task: Task, placement: Placement) -> object:
    return measure(placement, task.routing, task.cluster)


def test_what_engines_do() -> None:
    task = Task(chained(2, 8, 1, tokens=5, seed=0), FOUR)
    assert SOLVERS["contiguous"](task).placement.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2


def test_placement_by_popularity() -> None:
    task = Task(routing([[[e], [3 - e]] for e in (2, 2, 2, 0, 0, 3)], 4), Cluster(2, 2))
    assert SOLVERS["popularity"](task).placement.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert SOLVERS["stacked"](task).placement.tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_greedy_puts_the_next_expert_on_the_lightest_gpu_with_room() -> None:
    picks = [0] * 10 + [1] * 4 + [2] * 3 + [3] * 2 + [4] * 1
    task = Task(routing([[[e], [e]] for e in picks], 6), Cluster(2, 2))
    # 10 | 4 + 3 + 2 fill the second GPU, so 4 and 5 go to the first.
    assert SOLVERS["greedy"](task).placement.tolist() == [[0, 1, 1, 1, 0, 0]] * 2


def test_anti_correlation_parts_experts_that_are_busy_together() -> None:
    # Experts 0 and 1 are busy in the first batch, 2 and 3 in the second; all have the same mean load.
    picks = [[[0], [0]], [[1], [1]], [[2], [2]], [[3], [3]]]
    task = Task(routing(picks, 4, batches=2), Cluster(2, 2))
    for row in SOLVERS["anti-correlation"](task).placement:
        assert row[0] != row[1]
        assert row[2] != row[3]


def test_an_unknown_solver_is_named() -> None:
    task = Task(chained(2, 4, 1, tokens=5, seed=0), Cluster(2, 2))
    with pytest.raises(UsageError, match="solver 'gurobi' is unknown; choose one of: contiguous, random"):
        placement_of({"solver": "gurobi", "sweeps": 0}, task)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sweeps": 0}, "has no solver; give solver, sweeps$"),
        ({"solver": "greedy"}, "has no sweeps; give solver, sweeps$"),
        ({"solver": "greedy", "sweeps": 2}, "has no load_weight; give solver, sweeps, load_weight$"),
    ],
)
def test_a_configuration_that_lacks_something_is_told_what(config: dict[str, object], words: str) -> None:
    task = Task(chained(2, 4, 1, tokens=5, seed=0), Cluster(2, 2))
    with pytest.raises(UsageError, match=words):
        placement_of(config, task)


def test_a_prime_number_of_experts_fits_no_cluster() -> None:
    with pytest.raises(
        UsageError, match=r"67 experts per layer .* over gpus=4; nor over any other number from 2 to 64"
    ):
        Cluster(4, 4).experts_per_gpu(67)


def test_solvers_that_cannot_place_these_experts_are_left_out() -> None:
    small = usable(Task(chained(2, 8, 1, tokens=20, seed=0), FOUR))
    assert set(small) == set(SOLVERS)
    assert "exflow-bisection" not in usable(Task(chained(2, 6, 1, tokens=20, seed=0), Cluster(3, 3)))
    large = Task(chained(2, 64, 1, tokens=20, seed=0), FOUR)
    assert "exact" not in usable(large)
    with pytest.raises(UsageError, match="solver 'exact'"):
        exact(large)


@pytest.mark.parametrize("name", ["granite.trace.json.gz"])
def test_affinity_of_a_recorded_trace_holds_for_tokens_not_seen(name: str) -> None:
    from evaluators.expert_placement import split
    from evaluators.moe_cache.formats import load_trace

    train, held_out = split(load_trace(recorded(name)), 0.5)
    task = Task(train, FOUR)
    by_affinity = measure(alternating(task).placement, held_out, FOUR).hops_per_token
    others = {
        n: measure(SOLVERS[n](task).placement, held_out, FOUR).hops_per_token
        for n in ("random", "popularity", "contiguous")
    }
    assert by_affinity < 0.8 * min(others.values())


def test_a_program_without_any_placement_in_time_says_so() -> None:
    affinity = chained(8, 32, 2, tokens=400, seed=0).affinity
    with pytest.raises(NoSolutionError, match="no placement of 8 x 32 experts over 4 parts"):
        least_cut(affinity, 4, seconds=1e-6)

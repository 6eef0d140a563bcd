"""Hops and loads of placements: by hand, against a naive count, and in expectation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from autotune import UsageError
from evaluators.expert_placement.cluster import Cluster, Placement, is_balanced
from evaluators.expert_placement.measure import expected_random_hops, max_loads, measure
from evaluators.expert_placement.routing import Routing
from evaluators.expert_placement.solvers import SOLVERS, Task
from tests.expert_placement.instances import all_placements, chained, routing, tasks

TWO = Cluster(2, 2)
HALVES = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])


def exflow_cost(picks: np.ndarray, placement: Placement, per_node: int) -> float:  # type: ignore[type-arg]
    """ExFlow's count as its published evaluation states it: 1 within a node, 2 beyond, per token, of top-1 traces."""
    total = 0
    for token in picks[:, :, 0]:
        for layer in range(len(token) - 1):
            a, b = placement[layer, token[layer]], placement[layer + 1, token[layer + 1]]
            if a != b:
                total += 1 if a // per_node == b // per_node else 2
    return total / len(picks)


def test_top_1_hops_are_exflows() -> None:
    made = chained(layers=5, n_experts=8, top_k=1, tokens=60, seed=3)
    cluster = Cluster(4, 2)
    for seed in range(5):
        placement = SOLVERS["random"](Task(made, cluster, seed=seed)).placement
        found = measure(placement, made, cluster)
        assert found.hop_cost_per_token == pytest.approx(exflow_cost(made.picks, placement, per_node=2))
        hops = exflow_cost(made.picks, placement, per_node=4)
        for same in (found.hops_per_token, found.exflow_hops_per_token, found.pair_hops_per_token):
            assert same == pytest.approx(hops)
        assert found.combine_hops_per_token == 0
        assert found.gpus_per_token == 1


def test_a_token_with_two_experts_by_hand() -> None:
    # Layer 0: experts 0 and 2 lie on GPUs 0 and 1, so a partial sum goes from 1 to the home 0.
    # Layer 1: experts 3 and 2 both lie on GPU 1: one copy goes there, where the best expert is too.
    found = measure(HALVES, routing([[[0, 2], [3, 2]]], 4), TWO)
    assert (found.combine_hops_per_token, found.dispatch_hops_per_token, found.hops_per_token) == (1, 1, 2)
    assert found.gpus_per_token == 1.5
    assert found.pair_hops_per_token == 3  # the two copies to GPU 1 counted one by one
    assert found.exflow_hops_per_token == 1


def test_a_hop_to_another_node_costs_two() -> None:
    placement = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
    picks = routing([[[0], [1]], [[0], [3]]], 4)
    found = measure(placement, picks, Cluster(4, 2))
    assert found.hops_per_token == 1
    assert found.hop_cost_per_token == 1.5


def test_a_skipped_layer_is_no_hop() -> None:
    found = measure(HALVES, routing([[[0], [-1]], [[0], [2]]], 4), TWO)
    assert found.hops_per_token == 0.5


def test_loads_by_hand() -> None:
    # Two batches of two tokens; in the second all picks of layer 1 lie on GPU 1.
    picks = routing([[[0], [0]], [[2], [2]], [[0], [2]], [[1], [3]]], 4, batches=2)
    assert max_loads(HALVES, picks, TWO).tolist() == [1.0, 2.0, 1.0, 2.0]
    found = measure(HALVES, picks, TWO)
    assert (found.max_load, found.worst_load) == (1.5, 2.0)


def test_a_layer_that_most_tokens_of_a_batch_skipped_says_nothing_of_load() -> None:
    picks = routing([[[0], [-1]], [[2], [-1]], [[1], [3]]], 4)
    assert max_loads(HALVES, picks, TWO).tolist() == pytest.approx([4 / 3])


@pytest.mark.parametrize(("gpus", "published"), [(4, 23.25), (8, 27.125)])
def test_random_placement_has_the_published_hops_of_mixtral(gpus: int, published: float) -> None:
    assert expected_random_hops(32, 8, 1, gpus) == pytest.approx(published)
    made = chained(layers=32, n_experts=8, top_k=1, tokens=50, seed=0)
    cluster = Cluster(gpus, gpus)
    hops = [measure(SOLVERS["random"](Task(made, cluster, seed=s)).placement, made, cluster) for s in range(300)]
    assert np.mean([h.hops_per_token for h in hops]) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_expectation_of_random_placement_is_the_mean_over_all(top_k: int) -> None:
    made = chained(layers=2, n_experts=4, top_k=top_k, tokens=7, seed=top_k)
    hops = [measure(p, made, TWO).hops_per_token for p in all_placements(2, 4, 2)]
    assert len(hops) == 36
    assert np.mean(hops) == pytest.approx(expected_random_hops(2, 4, top_k, 2))


@given(tasks())
def test_counts_hang_together(task: Task) -> None:
    placement = SOLVERS["random"](task).placement
    found = measure(placement, task.routing, task.cluster)
    assert found.hops_per_token == pytest.approx(found.dispatch_hops_per_token + found.combine_hops_per_token)
    assert found.hops_per_token <= found.pair_hops_per_token + 1e-9
    assert found.hops_per_token <= found.hop_cost_per_token <= 2 * found.hops_per_token + 1e-9
    assert 1 <= found.gpus_per_token <= min(task.cluster.gpus, task.routing.top_k)
    assert 1 - 1e-9 <= found.max_load <= found.worst_load <= task.cluster.gpus + 1e-9


@given(tasks())
def test_the_names_of_gpus_do_not_matter(task: Task) -> None:
    one_node = Cluster(task.cluster.gpus, task.cluster.gpus)
    placement = SOLVERS["random"](task).placement
    renamed = np.random.default_rng(0).permutation(one_node.gpus)[placement]
    a, b = (measure(p, task.routing, one_node) for p in (placement, renamed))
    assert a.hops_per_token == pytest.approx(b.hops_per_token)
    assert a.max_load == pytest.approx(b.max_load)


def test_balanced_means_every_gpu_of_every_layer() -> None:
    assert is_balanced(HALVES, 2)
    assert not is_balanced(np.array([[0, 0, 1, 1], [0, 1, 1, 1]]), 2)
    assert not is_balanced(np.array([[0, 0, 2, 2]]), 2)


@pytest.mark.parametrize(
    ("gpus", "per_node", "words"),
    [(1, 1, "gpus is 1"), (65, 65, "gpus is 65"), (4, 3, "gpus_per_node is 3"), (4, 0, "gpus_per_node is 0")],
)
def test_numbers_that_make_no_cluster_are_refused(gpus: int, per_node: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Cluster(gpus, per_node)


def test_experts_that_cannot_be_shared_out_are_refused_with_what_fits() -> None:
    with pytest.raises(UsageError, match=r"6 experts per layer .* gpus=4; give one of: 2, 3, 6"):
        Task(Routing(np.zeros((1, 2, 1), dtype=np.int16), 6, np.zeros(1, dtype=np.int64)), Cluster(4, 4))

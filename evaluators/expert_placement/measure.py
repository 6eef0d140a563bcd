"""What a placement costs: hops of tokens between GPUs, and how unevenly the GPUs are loaded.

**What a hop is.** In ExFlow's context-coherent expert parallelism (arXiv:2401.08383, section IV) every GPU holds the context
of all tokens, so attention and the next router run wherever a token is, and nothing brings it back after a layer. A
top-1 token hops where the GPU of its expert at layer s + 1 is not that of its expert at layer s; that is ExFlow's count.
The paper's dataflow leaves open what happens to a token with several experts. Here, as the project's own
generalisation, a token lives after layer s on the GPU of its *best* expert there (its home), and a hop is one transfer
of one token's activations between two GPUs:

- *dispatch* of layer s + 1: from the home of layer s to each other GPU that has any of the token's experts, once per
  GPU however many of them it has;
- *combine* of layer s: from each other GPU that computed for the token to its home, a partial sum.

The first layer's dispatch is left out, as in ExFlow: a token may begin anywhere. With top-1 nothing is combined and the
count is ExFlow's. A combine must be counted: without it a placement that spreads every token over all GPUs would be free.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from evaluators.expert_placement.cluster import Cluster, Floats, Placement
from evaluators.expert_placement.kernels import gpu_loads, hop_totals
from evaluators.expert_placement.routing import Routing


@dataclass(frozen=True)
class PlacementCost:
    """Costs of a placement on some tokens. Hops are per token of the whole model, loads are relative to an even share.

    Attributes:
        hops_per_token: transfers of a token between GPUs, dispatch and combine.
        hop_cost_per_token: the same with 1 for a transfer within a node and 2 beyond (ExFlow's hierarchical cost).
        dispatch_hops_per_token, combine_hops_per_token: the two parts of `hops_per_token`.
        pair_hops_per_token: the same where the copies for experts on one GPU are sent one by one; linear in pairs of
            experts, it is what the integer program and the alternating solver minimise. Equal to `hops_per_token` for
            top-1, else at least it.
        exflow_hops_per_token: ExFlow's own count on the best experts alone; equal to `hops_per_token` for top-1.
        gpus_per_token: distinct GPUs that compute for a token in a layer, mean; what an engine that brings every token
            back after each layer pays for.
        max_load: the most loaded GPU's share of a batch's picks in a layer, times G, mean over layers and batches: 1 is
            even, G is all on one GPU. ``max_n |sum_m P_mn A_mb - 1/D|`` of arXiv:2303.06182 is ``(this - 1) / D``,
            wherever the largest deviation is an overload.
        worst_load: the maximum over layers and batches instead of the mean.
    """

    hops_per_token: float
    hop_cost_per_token: float
    dispatch_hops_per_token: float
    combine_hops_per_token: float
    pair_hops_per_token: float
    exflow_hops_per_token: float
    gpus_per_token: float
    max_load: float
    worst_load: float


def measure(placement: Placement, routing: Routing, cluster: Cluster) -> PlacementCost:
    """Replay tokens through a balanced placement. Exact, and linear in the number of picks."""
    tokens = routing.n_tokens
    dispatch, combine, visited = hop_totals(routing.picks, placement, cluster.hop_count).sum(axis=0).tolist()
    cost = float(hop_totals(routing.picks, placement, cluster.hop_cost)[:, :2].sum()) / tokens
    best_alone = hop_totals(routing.picks[:, :, :1], placement, cluster.hop_count)
    loads = max_loads(placement, routing, cluster)
    return PlacementCost(
        hops_per_token=(dispatch + combine) / tokens,
        hop_cost_per_token=cost,
        dispatch_hops_per_token=dispatch / tokens,
        combine_hops_per_token=combine / tokens,
        pair_hops_per_token=routing.affinity.cost(placement, cluster.hop_count) / tokens,
        exflow_hops_per_token=float(best_alone[:, 0].sum()) / tokens,
        gpus_per_token=visited / int(np.count_nonzero(routing.picks[:, :, 0] >= 0)),
        max_load=float(loads.mean()),
        worst_load=float(loads.max()),
    )


@dataclass(frozen=True, eq=False)
class LayerCosts:
    """Where a placement's costs come from.

    Attributes:
        hop_cost: ``(L,)`` dispatch and combine of each layer per token, 1 for a transfer within a node and 2 beyond; they
            add up to `PlacementCost.hop_cost_per_token`.
        max_load: ``(L,)`` mean of the batches' maximal loads; nan where no batch counts (see `Routing.shares`).
        gpu_load: ``(L, G)`` mean share of each GPU times G, over the same batches.
    """

    hop_cost: Floats
    max_load: Floats
    gpu_load: Floats


def layer_costs(placement: Placement, routing: Routing, cluster: Cluster) -> LayerCosts:
    """The costs of `measure`, layer by layer."""
    hops = hop_totals(routing.picks, placement, cluster.hop_cost)[:, :2].sum(axis=1) / routing.n_tokens
    loads = gpu_loads(routing.shares, placement, cluster.gpus) * cluster.gpus
    max_load, gpu_load = np.full(len(loads), np.nan), np.full((len(loads), cluster.gpus), np.nan)
    counts: npt.NDArray[np.bool_] = np.any(routing.shares, axis=2)
    for layer, counted in enumerate(counts):
        if counted.any():
            max_load[layer] = loads[layer, counted].max(axis=1).mean()
            gpu_load[layer] = loads[layer, counted].mean(axis=0)
    return LayerCosts(hops, max_load, gpu_load)


def max_loads(placement: Placement, routing: Routing, cluster: Cluster) -> Floats:
    """The most loaded GPU's share times G, for each layer and batch that counts (see `Routing.shares`)."""
    counted = routing.shares.any(axis=2)
    loads = gpu_loads(routing.shares, placement, cluster.gpus)
    return np.asarray(loads.max(axis=2)[counted] * cluster.gpus)


def expected_random_hops(n_layers: int, n_experts: int, top_k: int, gpus: int) -> float:
    """Hops per token that a random balanced placement has in expectation, whatever the routing.

    With q the probability that none of a token's k distinct experts lies on a given GPU, which is hypergeometric, a token
    visits ``G (1 - q)`` GPUs in a layer. Top-1 gives ``(L - 1)(1 - 1/G)``, the 23.25 and 27.13 that the layers of
    Mixtral-8x7B cost on 4 and 8 GPUs. Tokens that skip layers have fewer.
    """
    avoided = comb(n_experts - n_experts // gpus, top_k) / comb(n_experts, top_k)
    dispatch = (n_layers - 1) * (gpus - 1) * (1 - avoided)
    combine = n_layers * (gpus * (1 - avoided) - 1)
    return dispatch + combine

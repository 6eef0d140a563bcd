"""The compiled loops: hops of a placement, the swap search that changes one, and a step of the dynamic program.

One file on purpose, as numba's on-disk cache of a function is not renewed when a function that it calls changes in another
file. The typed doors are `measure.py`, `solvers/swap.py` and `solvers/exact.py`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from evaluators.expert_placement.cluster import Floats, Ints


@njit(cache=True, nogil=True)
def home_of(picks, placement, token, layer):  # type: ignore[no-untyped-def]
    """The GPU where a token is after a layer: that of its best expert; -1 where it skipped the layer."""
    best = picks[token, layer, 0]
    return placement[layer, best] if best >= 0 else -1


@njit(cache=True, nogil=True)
def token_cost(picks, placement, hop_cost, token, layer):  # type: ignore[no-untyped-def]
    """``(dispatch, combine, gpus)`` of a token at a layer; see `measure.py` for what they count."""
    home = home_of(picks, placement, token, layer)
    if home < 0:
        return 0, 0, 0
    before = home_of(picks, placement, token, layer - 1) if layer > 0 else -1
    dispatch, combine, gpus, visited = 0, 0, 0, np.uint64(0)
    for slot in range(picks.shape[2]):
        gpu = placement[layer, picks[token, layer, slot]]
        bit = np.uint64(1) << np.uint64(gpu)
        if visited & bit:
            continue
        visited |= bit
        gpus += 1
        combine += hop_cost[gpu, home]
        if before >= 0:
            dispatch += hop_cost[before, gpu]
    return dispatch, combine, gpus


@njit(cache=True, nogil=True)
def hop_totals(picks, placement, hop_cost) -> Ints:  # type: ignore[no-untyped-def]
    """``(L, 3)``: dispatch, combine and visited GPUs, summed over tokens."""
    tokens, layers = picks.shape[0], picks.shape[1]
    totals = np.zeros((layers, 3), dtype=np.int64)
    for token in range(tokens):
        for layer in range(layers):
            dispatch, combine, gpus = token_cost(picks, placement, hop_cost, token, layer)
            totals[layer, 0] += dispatch
            totals[layer, 1] += combine
            totals[layer, 2] += gpus
    return totals


@njit(cache=True, nogil=True)
def gpu_loads(shares, placement, gpus) -> Floats:  # type: ignore[no-untyped-def]
    """``(L, B, G)``: the share of each batch's picks in each layer that each GPU computes."""
    layers, batches, experts = shares.shape
    loads = np.zeros((layers, batches, gpus))
    for layer in range(layers):
        for batch in range(batches):
            for expert in range(experts):
                loads[layer, batch, placement[layer, expert]] += shares[layer, batch, expert]
    return loads


@njit(cache=True, nogil=True)
def _weighted_hops(picks, placement, hop_cost, hop_weight, users, offsets, layer, a, b):  # type: ignore[no-untyped-def]
    """What the tokens that pick expert a or b of a layer pay there, and on the way from their home there."""
    n_experts, layers = placement.shape[1], picks.shape[1]
    total = 0.0
    for expert in (a, b):
        row = layer * n_experts + expert
        for entry in range(offsets[row], offsets[row + 1]):
            token = users[entry]
            if expert == b:  # counted with a already?
                both = False
                for slot in range(picks.shape[2]):
                    both |= picks[token, layer, slot] == a
                if both:
                    continue
            dispatch, combine, _ = token_cost(picks, placement, hop_cost, token, layer)
            total += hop_weight[layer] * (dispatch + combine)
            best = picks[token, layer, 0]
            if layer + 1 < layers and best in (a, b):
                dispatch, _, _ = token_cost(picks, placement, hop_cost, token, layer + 1)
                total += hop_weight[layer + 1] * dispatch
    return total


@njit(cache=True, nogil=True)
def _load_change(shares, loads, layer, a, b, on_a, on_b):  # type: ignore[no-untyped-def]
    """Change of the summed maximal loads of a layer when experts a and b trade places."""
    batches, gpus = loads.shape[1], loads.shape[2]
    change = 0.0
    for batch in range(batches):
        moved = shares[layer, batch, b] - shares[layer, batch, a]
        if moved == 0.0:
            continue
        before, after = 0.0, 0.0
        for gpu in range(gpus):
            load = loads[layer, batch, gpu]
            before = max(before, load)
            if gpu == on_a:
                load += moved
            elif gpu == on_b:
                load -= moved
            after = max(after, load)
        change += after - before
    return change


@njit(cache=True, nogil=True)
def swap_sweep(  # type: ignore[no-untyped-def]
    picks, placement, hop_cost, hop_weight, shares, loads, load_weight, users, offsets, tolerance
) -> int:
    """One pass over all pairs of experts of a layer on different GPUs; whatever lowers the sum is swapped at once.

    `placement` and `loads` are changed in place. Returns the number of swaps made.
    """
    layers, experts = placement.shape
    made = 0
    for layer in range(layers):
        for a in range(experts):
            for b in range(a + 1, experts):
                on_a, on_b = placement[layer, a], placement[layer, b]
                if on_a == on_b:
                    continue
                change = 0.0
                if load_weight[layer] > 0.0:
                    change += load_weight[layer] * _load_change(shares, loads, layer, a, b, on_a, on_b)
                before = _weighted_hops(picks, placement, hop_cost, hop_weight, users, offsets, layer, a, b)
                placement[layer, a], placement[layer, b] = on_b, on_a
                change += _weighted_hops(picks, placement, hop_cost, hop_weight, users, offsets, layer, a, b) - before
                if change >= -tolerance:
                    placement[layer, a], placement[layer, b] = on_a, on_b
                    continue
                made += 1
                for batch in range(loads.shape[1]):
                    moved = shares[layer, batch, b] - shares[layer, batch, a]
                    loads[layer, batch, on_a] += moved
                    loads[layer, batch, on_b] -= moved
    return made


@njit(cache=True, nogil=True)
def best_predecessors(cost, towards, states):  # type: ignore[no-untyped-def]
    """The cheapest way to every placement of the next layer.

    Args:
        cost: ``(S,)`` least cost of all layers so far by how the last of them is placed.
        towards: ``(S, N, G)`` cost of each next expert on each GPU by that placement.
        states: ``(S, N)`` the placements.

    Returns:
        ``(S,)`` least costs, and which placement of the last layer each goes by.
    """
    n_states, experts = states.shape
    least = np.full(n_states, np.inf)
    previous = np.zeros(n_states, dtype=np.int64)
    for before in range(n_states):
        for after in range(n_states):
            total = cost[before]
            for expert in range(experts):
                total += towards[before, expert, states[after, expert]]
            if total < least[after]:
                least[after] = total
                previous[after] = before
    return least, previous


def users_of(picks: np.ndarray[tuple[int, int, int], np.dtype[np.int16]], n_experts: int) -> tuple[Ints, Ints]:
    """``(offsets, users)`` in compressed rows: row ``layer * N + expert`` holds the tokens that pick the expert."""
    token, layer, slot = np.nonzero(picks >= 0)
    row = layer * n_experts + picks[token, layer, slot]
    order = np.argsort(row, kind="stable")
    offsets = np.zeros(picks.shape[1] * n_experts + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(offsets) - 1), out=offsets[1:])
    return offsets, token[order].astype(np.int64)

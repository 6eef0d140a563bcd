"""What each layer costs at each share of the budget and each split, for given prefetch windows: the pieces of the solver.

Our own model (the paper's solver is not published; see `docs/moe-cache.md`). Times in ms. For one decode pass and layer,
from the moment the router's choice is known, with n look-ups, h of them hits, r experts that were predicted rightly and w
wrongly, ``x`` and ``y`` the transfer of a whole expert and of what a slot lacks of it, ``t`` an expert's mean compute time:

    need   = (1 - h/n) * x + (h/n) * y                       mean transfer of an expert, hit or miss
    sent   = min(1, (window + backlog) / ((r + w) * need))   share of the prefetches that the link began before that moment
    demand = (n - r * sent) * need                           what is left to ask for
    layer  = max(n * t, backlog + demand + tail)   if anything is demanded, else n * t

`window` is the link time that prefetches for this layer had, `backlog` how long the transfer then running still takes, and
`tail` the computation of the last segment to arrive. The maximum is taken pass by pass and only then averaged: what a split
is worth lies in it. With experts on the slow tier's processor, misses of few tokens are computed there instead of loaded;
whether an expert hits is taken to be independent of how many of the pass's tokens it has.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]


_NOTHING = 1e-9  # ms; what remains of a demand after rounding


class LayerPasses(NamedTuple):
    """Decode passes of one layer, ``(P,)`` each.

    lookups, right, wrong: experts looked up, predicted rightly and predicted wrongly; hits ``(P, N + 1)`` by capacity;
    mean_ms: mean time of one on the fast tier; slow_share: share of the look-ups that may run on the slow
    tier's processor, 0 where none may; slow_ms: mean time of one of them there.
    """

    lookups: Int64
    right: Int64
    wrong: Int64
    hits: Int16
    mean_ms: Floats
    slow_share: Floats
    slow_ms: Floats


@njit(cache=True, nogil=True)
def layer_costs(
    passes: LayerPasses,
    slots: Int64,
    thetas: Floats,
    whole_ms: float,
    rest_ms: Floats,
    window_ms: float,
    backlog_ms: float,
    layer_ms: Floats,
    demand_ms: Floats,
) -> None:
    """Means per decode pass, for every share of the budget and every split.

    Args:
        slots: ``(Q, S)`` experts that fit with q quanta at split s.
        thetas, rest_ms: ``(S,)`` splits, and the transfer of what their slots lack.
        window_ms, backlog_ms: link time that prefetches had, and that the transfer then running still takes.
        layer_ms: ``(Q, S)``, written: time of the layer's experts.
        demand_ms: ``(Q, S)``, written: link time of what is asked for when the router's choice is known.
    """
    lookups, rights, wrongs, all_hits, means, slow_shares, slow_times = passes
    n_passes = len(lookups)
    for q in range(slots.shape[0]):
        for s in range(slots.shape[1]):
            capacity = slots[q, s]
            # A quantum more often buys no slot; the cost is that of the share before.
            if q > 0 and capacity == slots[q - 1, s]:
                layer_ms[q, s] = layer_ms[q - 1, s]
                demand_ms[q, s] = demand_ms[q - 1, s]
                continue
            total, demanded = 0.0, 0.0
            for p in range(n_passes):
                n, h, right, mean_ms = lookups[p], all_hits[p, capacity], rights[p], means[p]
                hit_share = h / n
                need = (1.0 - hit_share) * whole_ms + hit_share * rest_ms[s]
                prefetched = (right + wrongs[p]) * need
                late = float(n)
                if prefetched > 0.0:
                    late -= right * min(1.0, (window_ms + backlog_ms) / prefetched)
                compute = n * mean_ms
                demand = late * need
                missed = (1.0 - hit_share) * whole_ms / need if need > 0.0 else 0.0  # share of the demand
                on_cpu = 0.0
                if slow_shares[p] > 0.0:
                    # Misses that no prefetch brings run where they lie, if they may; hits still wait for the rest of them.
                    on_cpu = late * (1.0 - hit_share) * slow_shares[p]
                    compute -= on_cpu * mean_ms
                    loaded = demand * missed - on_cpu * whole_ms
                    demand -= on_cpu * whole_ms
                    missed = loaded / demand if demand > _NOTHING else 0.0
                tail = (missed + (1.0 - missed) * (1.0 - thetas[s])) * mean_ms
                fast = compute if demand <= _NOTHING else max(compute, backlog_ms + demand + tail)
                total += max(fast, on_cpu * slow_times[p]) if on_cpu > 0.0 else fast
                demanded += demand
            layer_ms[q, s] = total / n_passes
            demand_ms[q, s] = demanded / n_passes

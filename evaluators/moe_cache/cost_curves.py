"""What each layer costs at each share of the budget and each split, for given prefetch windows: the pieces of the solver.

Our own model (the paper's solver is not published; see `docs/moe-cache.md`). Times in ms. For one decode pass and layer,
from the moment the router's choice is known, with n look-ups, h of them hits, r experts that were predicted rightly and w
wrongly, ``x`` and ``y`` the transfer of a whole expert and of what a slot lacks of it, ``t`` an expert's compute time:

    need   = (1 - h/n) * x + (h/n) * y                       mean transfer of an expert, hit or miss
    sent   = min(1, (window + backlog) / ((r + w) * need))   share of the prefetches that the link began before that moment
    demand = (n - r * sent) * need                           what is left to ask for
    layer  = max(n * t, backlog + demand + tail)   if anything is demanded, else n * t

`window` is the link time that prefetches for this layer had, `backlog` how long the transfer then running still takes, and
`tail` the computation of the last segment to arrive. The maximum is taken pass by pass and only then averaged: what a split
is worth lies in it. With experts on the slow tier's processor, misses are computed there instead of loaded.
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
    """Decode passes of one layer, ``(P,)`` each: look-ups, rightly and wrongly predicted experts; hits ``(P, N + 1)``."""

    lookups: Int64
    right: Int64
    wrong: Int64
    hits: Int16


@njit(cache=True, nogil=True)
def layer_costs(
    passes: LayerPasses,
    slots: Int64,
    thetas: Floats,
    whole_ms: float,
    rest_ms: Floats,
    expert_ms: float,
    cpu_ms: float,
    window_ms: float,
    backlog_ms: float,
    layer_ms: Floats,
    demand_ms: Floats,
) -> None:
    """Means per decode token, for every share of the budget and every split.

    Args:
        slots: ``(Q, S)`` experts that fit with q quanta at split s.
        thetas, rest_ms: ``(S,)`` splits, and the transfer of what their slots lack.
        cpu_ms: one expert on the slow tier's processor; infinite where misses are loaded.
        window_ms, backlog_ms: link time that prefetches had, and that the transfer then running still takes.
        layer_ms: ``(Q, S)``, written: time of the layer's experts.
        demand_ms: ``(Q, S)``, written: link time of what is asked for when the router's choice is known.
    """
    n_passes = len(passes.lookups)
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
                n, h, right = passes.lookups[p], passes.hits[p, capacity], passes.right[p]
                hit_share = h / n
                need = (1.0 - hit_share) * whole_ms + hit_share * rest_ms[s]
                prefetched = (right + passes.wrong[p]) * need
                late = float(n)
                if prefetched > 0.0:
                    late -= right * min(1.0, (window_ms + backlog_ms) / prefetched)
                compute = n * expert_ms
                if cpu_ms < np.inf:
                    # Misses that no prefetch brings run where they lie; hits still wait for the rest of them.
                    on_cpu = late * (1.0 - hit_share)
                    demand = late * hit_share * rest_ms[s]
                    compute -= on_cpu * expert_ms
                    tail = (1.0 - thetas[s]) * expert_ms
                else:
                    on_cpu = 0.0
                    demand = late * need
                    miss_part = (1.0 - hit_share) * whole_ms / need if need > 0.0 else 0.0
                    tail = (miss_part + (1.0 - miss_part) * (1.0 - thetas[s])) * expert_ms
                fast = compute if demand <= _NOTHING else max(compute, backlog_ms + demand + tail)
                total += max(fast, on_cpu * cpu_ms) if on_cpu > 0.0 else fast
                demanded += demand
            layer_ms[q, s] = total / n_passes
            demand_ms[q, s] = demanded / n_passes

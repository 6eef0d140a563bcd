"""What each layer costs at each share of the budget and each split, for given prefetch windows: the pieces of the solver.

Our own model (the paper's solver is not published; see `docs/moe-cache.md`). Times in ms. For one decode pass and layer,
from the moment the router's choice is known, with n look-ups, h of them hits, r experts that were predicted rightly and w
wrongly, ``x`` and ``y`` the transfer of a whole expert and of what a slot lacks of it, ``t`` an expert's compute time:

    need(e) = (1 - h/n) * x + (h/n) * y                      mean transfer of an expert, hit or miss
    sent    = min(window, (r + w) * need)                    what the link brought before the router was known
    load    = (n - r) * need + r * need * (1 - sent / ((r + w) * need))
    layer   = max(n * t, load + tail)   if anything is left to load, else n * t

`tail` is the computation of the last segment to arrive. The maximum is taken pass by pass and only then averaged: what a
split is worth lies in it. With experts on the slow tier's processor, misses are computed there instead of loaded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]


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
    out: Floats,
) -> None:
    """Mean time of a layer's experts per decode token, for every share of the budget and every split.

    Args:
        slots: ``(Q, S)`` experts that fit with q quanta at split s.
        thetas, rest_ms: ``(S,)`` splits, and the transfer of what their slots lack.
        cpu_ms: one expert on the slow tier's processor; infinite where misses are loaded.
        window_ms: link time before the router is known that prefetches for this layer can use; 0 without prefetch.
        out: ``(Q, S)``, written.
    """
    n_passes = len(passes.lookups)
    for q in range(slots.shape[0]):
        for s in range(slots.shape[1]):
            capacity = slots[q, s]
            # Few quanta more often buy no slot; the cost is that of the share before.
            if q > 0 and capacity == slots[q - 1, s]:
                out[q, s] = out[q - 1, s]
                continue
            total = 0.0
            for p in range(n_passes):
                n = passes.lookups[p]
                h = passes.hits[p, capacity]
                total += _layer_ms(
                    n,
                    h,
                    passes.right[p],
                    passes.wrong[p],
                    thetas[s],
                    whole_ms,
                    rest_ms[s],
                    expert_ms,
                    cpu_ms,
                    window_ms,
                )
            out[q, s] = total / n_passes


@njit(cache=True, nogil=True)
def _layer_ms(
    n: int,
    h: int,
    right: int,
    wrong: int,
    theta: float,
    whole_ms: float,
    rest_ms: float,
    expert_ms: float,
    cpu_ms: float,
    window_ms: float,
) -> float:
    hit_share = h / n
    need = (1.0 - hit_share) * whole_ms + hit_share * rest_ms
    prefetched = (right + wrong) * need
    missing = 1.0
    if prefetched > 0.0 and window_ms > 0.0:
        missing = max(0.0, 1.0 - window_ms / prefetched)
    late = right * missing
    if cpu_ms < np.inf:
        # Misses that no prefetch brings run where they lie; hits still wait for the rest of them.
        on_cpu = (n - right + late) * (1.0 - hit_share)
        load = (n - right + late) * hit_share * rest_ms
        compute = (n - on_cpu) * expert_ms
        return max(on_cpu * cpu_ms, compute if load <= 0.0 else max(compute, load + (1.0 - theta) * expert_ms))
    load = (n - right + late) * need
    compute = n * expert_ms
    if load <= 0.0:
        return compute
    miss_load = (1.0 - hit_share) * whole_ms
    last_is_miss = miss_load / need
    tail = (last_is_miss + (1.0 - last_is_miss) * (1.0 - theta)) * expert_ms
    return max(compute, load + tail)

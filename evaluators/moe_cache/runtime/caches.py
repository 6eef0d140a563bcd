"""Which experts lie where in fast memory: the policy's bookkeeping, cache slots and staging buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from evaluators.moe_cache import kernels
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.runtime.layout import ExpertLayout
from evaluators.moe_cache.runtime.tiers import FastMemory

_NO_NEXT_USE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class LookUp:
    """What became of one batch of a layer: ``n`` distinct experts.

    Attributes:
        hit, on_cpu: ``(n,)``; an expert that is neither is to be loaded.
        kept: ``(n,)`` whether the expert is in the cache after the batch.
        evicted: experts that were cached before and are not after.
    """

    hit: npt.NDArray[np.bool_]
    on_cpu: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]
    evicted: tuple[int, ...]


class Caches:
    """The caches of all layers, by the very bookkeeping of the timeline, so that both count the same hits.

    Args:
        decay: of LCP, ``-ln(rho) / omega``.
        slots: ``(L,)`` capacities.
        state: what they hold at first, for L caches of N objects.
    """

    def __init__(self, policy: Policy, decay: float, slots: Sequence[int], state: kernels.CacheState) -> None:
        self._policy = policy
        self._decay = decay
        self.slots = np.asarray(slots, dtype=np.int64)
        self.state = state
        n_experts = state.place.shape[1]
        self._entries = 0
        self._hit = np.empty(n_experts, dtype=np.bool_)
        self._on_cpu = np.empty(n_experts, dtype=np.bool_)
        self._evicted = np.empty(2 * n_experts, dtype=np.int32)
        self.clock = 0

    def held(self, layer: int) -> list[int]:
        """Experts in a layer's cache."""
        return [int(e) for e in self.state.held[layer, : self.state.n_held[layer]]]

    def holds(self, layer: int, expert: int) -> bool:
        return bool(self.state.place[layer, expert] >= 0)

    def look_up(
        self,
        layer: int,
        experts: npt.NDArray[np.int16],
        tokens: npt.NDArray[np.int32],
        on_its_way: npt.NDArray[np.bool_],
        cpu_threshold: int,
        next_use: npt.NDArray[np.int64] = _NO_NEXT_USE,
    ) -> LookUp:
        """Count a batch's look-ups and decide what enters and leaves."""
        state, n = self.state, len(experts)
        before = state.place[layer] >= 0
        n_held, n_evicted = kernels.look_up(
            self._policy.code,
            experts,
            tokens,
            next_use,
            self._entries,
            self.clock * self._decay,
            on_its_way,
            cpu_threshold,
            int(self.slots[layer]),
            state.held[layer],
            int(state.n_held[layer]),
            state.place[layer],
            state.key[layer],
            state.stamp[layer],
            state.routed[layer],
            self._hit,
            self._on_cpu,
            self._evicted,
        )
        state.n_held[layer] = n_held
        self._entries += n
        evicted = tuple(int(e) for e in self._evicted[:n_evicted] if before[e])
        return LookUp(self._hit[:n].copy(), self._on_cpu[:n].copy(), state.place[layer, experts] >= 0, evicted)


@dataclass(eq=False)
class Buffer:
    """A run of fast memory; `rows` views it as an expert's rows, made once as views take time."""

    nbytes: Tensor
    rows: Tensor
    free_after: Any = None  # a CUDA event: computation that still reads it


class Segments:
    """The buffers behind the caches: `slots` for top segments, `staging` for experts on their way.

    A layer that caches whole experts swaps buffers with the staging pool; one that splits them has slots of its own size.

    Args:
        top_rows: ``(L,)`` rows of each layer's top segments.
    """

    def __init__(
        self, memory: FastMemory, layout: ExpertLayout, slots: Sequence[int], top_rows: Sequence[int], staging: int
    ) -> None:
        self._layout = layout
        self.top_rows = tuple(top_rows)
        memory.clear()
        self.staging = [self._buffer(memory, layout.inter) for _ in range(staging)]
        self._free = [[self._buffer(memory, rows) for _ in range(n)] for n, rows in zip(slots, top_rows, strict=True)]
        self.cached: list[dict[int, Buffer]] = [{} for _ in self.top_rows]

    def _buffer(self, memory: FastMemory, rows: int) -> Buffer:
        found = memory.take(self._layout.segment_bytes(0, rows))
        return Buffer(found, self._layout.rows_of(found, rows))

    @staticmethod
    def bytes_of(layout: ExpertLayout, slots: Sequence[int], top_rows: Sequence[int], staging: int) -> int:
        """Fast memory that such buffers take."""
        tops = sum(int(n) * layout.segment_bytes(0, rows) for n, rows in zip(slots, top_rows, strict=True))
        return tops + staging * layout.stride

    def whole(self, layer: int) -> bool:
        """Whether the layer caches whole experts."""
        return self.top_rows[layer] == self._layout.inter

    def claim(self, layer: int, expert: int) -> Buffer | None:
        """A free slot for an expert that is about to arrive; None where one is freed only after the batch."""
        if not self._free[layer]:
            return None
        self.cached[layer][expert] = self._free[layer].pop()
        return self.cached[layer][expert]

    def release(self, layer: int, expert: int) -> None:
        """Free an expert's slot."""
        self._free[layer].append(self.cached[layer].pop(expert))

    def promote(self, layer: int, expert: int, arrived: Buffer) -> Buffer:
        """Keep an expert that lies in a staging buffer: swapped where whole, else copied. Returns the buffer freed by it."""
        slot = self._free[layer].pop()
        if self.whole(layer):
            self.cached[layer][expert] = arrived
            return slot
        slot.nbytes.copy_(arrived.nbytes[: slot.nbytes.numel()])
        self.cached[layer][expert] = slot
        return arrived

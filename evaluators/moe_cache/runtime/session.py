"""What runs of one problem share: the slow tier with all experts, the fast memory, and the layer stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autotune.errors import UsageError
from autotune.hardware import scratch_folder
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.runtime.experts import bytes_needed
from evaluators.moe_cache.runtime.layout import DTYPES, ExpertLayout
from evaluators.moe_cache.runtime.stack import LayerStack, StackRun
from evaluators.moe_cache.runtime.tiers import DiskTier, FastMemory, HostTier, SlowTier, random_experts

if TYPE_CHECKING:
    from evaluators.moe_cache.real import Real


class Session:
    """An open slow tier, and what was prepared to run on it."""

    def __init__(self, real: Real, layout: ExpertLayout, tier: SlowTier) -> None:
        self._trace = real.trace
        self._work = real.work
        self._link_bytes_s = None if real.link_mib_s is None else real.link_mib_s * 2**20
        self._layout = layout
        self._tier = tier
        self._memory: FastMemory | None = None
        self._stack: LayerStack | None = None

    @classmethod
    def open(cls, real: Real) -> Session:
        """Put all experts, with random weights, where they lie.

        Raises:
            UsageError: for experts that cannot be computed with, or tiers that do not hold them.
        """
        layout = layout_of(real)
        weights = random_experts(layout)
        n_layers, n_experts = real.trace.n_layers, real.trace.n_experts
        if real.pair.slow_device is not None:
            return cls(real, layout, HostTier(layout, n_layers, n_experts, weights))
        folder = real.scratch or scratch_folder(None)
        return cls(real, layout, DiskTier(folder, layout, n_layers, n_experts, weights, real.depth))

    def run(self, plan: CachePlan) -> StackRun:
        """One run of the whole trace."""
        needed = bytes_needed(self._layout, plan, self._trace.n_experts, self._trace.widest_decode)
        if self._memory is None or self._memory.nbytes < needed:
            self._memory = self._stack = None  # freed before the larger one is taken
            self._memory = FastMemory(needed, self._tier.device)
        if self._stack is None:
            self._stack = LayerStack(self._trace, self._work, self._tier, self._memory, self._link_bytes_s)
        return self._stack.run(plan)

    def close(self) -> None:
        """Free everything."""
        self._tier.close()
        self._memory = self._stack = None


def layout_of(real: Real) -> ExpertLayout:
    """How an expert lies in memory.

    Raises:
        UsageError: for weights that the runtime cannot compute with, and experts that differ in size.
    """
    sizes = np.unique(real.expert_bytes)
    if len(sizes) > 1:
        raise UsageError(
            f"experts have {', '.join(map(str, sizes[:4]))} bytes in different layers; real runs hold experts of one size, "
            "so use the evaluator profiled"
        )
    if real.bits not in DTYPES:
        raise UsageError(
            f"bits={real.bits:g}: real runs compute with experts of {' or '.join(f'{b:g}' for b in DTYPES)} bits; "
            "give --set bits=16"
        )
    layout = ExpertLayout(real.work.expert.hidden, real.work.expert.inter, DTYPES[real.bits])
    if layout.nbytes != sizes[0]:
        raise UsageError(
            f"an expert of the trace has {sizes[0]} bytes and one of {real.bits:g} bits would have {layout.nbytes}; "
            f"give --set bits={real.bits:g}, so that budgets count what is really moved"
        )
    return layout

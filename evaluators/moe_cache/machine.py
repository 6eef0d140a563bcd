"""What a model's parts cost on a measured machine: the tables that the timeline works with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.hardware import DenseShape, FfnShape, HardwareProfile
from autotune.hardware.shapes import DType
from evaluators.moe_cache.model_shape import ModelShape
from evaluators.moe_cache.plan import Costs, Floats, Ints

# torch has no kernels for narrower weights; quantised experts are timed as the narrowest type that it has.
_WIDE_BITS = 16.0


@dataclass(frozen=True)
class LayerWork:
    """What one layer computes: its routed experts, its dense part, and the shared experts if it has any."""

    expert: FfnShape
    dense: DenseShape
    shared: FfnShape | None

    @classmethod
    def of(cls, model: ModelShape, context: int) -> LayerWork:
        """The work of a model's layer while it attends to `context` cached positions.

        Latent attention is timed as plain attention of the same heads, which reads more cached bytes than it does.
        """
        expert_type, dense_type = _dtype(model.expert_bits), _dtype(model.dense_bits)
        shared = model.shared_intermediate_size
        return cls(
            expert=FfnShape(hidden=model.hidden_size, inter=model.expert_intermediate_size, dtype=expert_type),
            dense=DenseShape(
                hidden=model.hidden_size,
                heads=model.n_heads,
                kv_heads=model.n_kv_heads,
                head_dim=model.head_dim,
                experts=model.n_experts,
                context=context,
                dtype=dense_type,
            ),
            shared=FfnShape(hidden=model.hidden_size, inter=shared, dtype=dense_type) if shared else None,
        )

    @property
    def shapes(self) -> tuple[FfnShape | DenseShape, ...]:
        """What a hardware profile has to hold."""
        return (self.expert, self.dense) if self.shared is None else (self.expert, self.dense, self.shared)


def _dtype(bits: float) -> DType:
    return "float32" if bits > _WIDE_BITS else "bfloat16"


def costs_of(profile: HardwareProfile, work: LayerWork, expert_bytes: Ints, max_tokens: int) -> Costs:
    """The timeline's cost tables from a measured profile.

    Transfers take the queue depth at which the link is fastest, as a runtime that fetches an expert in parts would.

    Args:
        expert_bytes: ``(L,)`` bytes of one expert.
        max_tokens: largest batch of the trace.

    Raises:
        UsageError: for a shape that the profile lacks.
    """
    tokens = np.arange(1, max_tokens + 1, dtype=np.float64)
    link = next(entry.curve for entry in profile.links if entry.depth == profile.best_depth).isotonic()
    slow = profile.tiers.slow_device
    dense = profile.dense_ms(work.dense, tokens)
    if work.shared is not None:
        dense = dense + profile.ffn_ms(work.shared, tokens)
    return Costs(
        expert_bytes=expert_bytes,
        link_bytes=np.asarray(link.x, dtype=np.float64),
        link_ms=np.asarray(link.ms, dtype=np.float64),
        expert_ms=_table(profile.ffn_ms(work.expert, tokens)),
        dense_ms=_table(dense),
        cpu_expert_ms=None if slow is None else _table(profile.ffn_ms(work.expert, tokens, slow)),
    )


def _table(ms: Floats) -> Floats:
    """From times of 1, 2, … tokens to a table that begins at 0 tokens."""
    return np.concatenate(([0.0], np.asarray(ms, dtype=np.float64)))

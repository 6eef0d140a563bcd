"""`Layouts`: how a model is split over GPUs, many layouts at once, a column for every degree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Recompute(IntEnum):
    """What the backward pass computes anew instead of finding it kept (arXiv:2205.05198, section 5)."""

    NONE = 0
    SELECTIVE = 1
    FULL = 2


class Context(IntEnum):
    """How context parallelism brings every query together with every key.

    RING passes keys and values round (arXiv:2310.01889). ULYSSES exchanges sequence for heads by all-to-alls
    (arXiv:2309.14509). TOKEN_RING passes queries one way round and what they found the other way (arXiv:2412.20501).
    """

    RING = 0
    ULYSSES = 1
    TOKEN_RING = 2


# What a layout has unless it says otherwise; `dp` and `microbatches` have to be said.
_USUAL: Mapping[str, float] = {
    "tp": 1, "pp": 1, "cp": 1, "ep": 1, "etp": 1, "interleave": 1, "micro_batch": 1, "sequence_parallel": True,
    "recompute": Recompute.NONE, "recompute_share": 1.0, "weight_shards": 1, "gradient_shards": 1, "optimizer_shards": 1,
    "weight_bytes": 2.0, "gradient_bytes": 4.0, "optimizer_bytes": 12.0, "offloaded_states": 0.0,
    "states_on_ssd": False, "offloaded_activations": 0.0, "context": Context.RING, "local_steps": 1, "moe_pipeline": 1,
    "gradient_slices": 0, "attention_share": 1.0, "context_share": 1.0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layouts:
    """``n`` layouts. Every attribute is an array ``(n,)``.

    Attributes:
        dp, tp, pp, cp: data, tensor, pipeline and context parallel degrees. Their product is the number of GPUs.
        ep, etp: expert parallel degree and tensor parallel degree of the experts; both lie within ``dp * cp * tp``.
        interleave: model chunks of every pipeline stage.
        micro_batch: sequences of a micro-batch.
        microbatches: of one step, on every pipeline.
        sequence_parallel: whether tensor parallelism splits what lies between its blocks along the sequence.
        recompute, recompute_share: what is computed anew, and in which share of the layers.
        weight_shards, gradient_shards, optimizer_shards: over how many data-parallel GPUs weights, gradients and optimizer
            states are spread. 1, 1, 1 is plain data parallelism; ZeRO's stages spread over all of them, from the last to the
            first; numbers between are shard groups.
        weight_bytes, gradient_bytes, optimizer_bytes: per parameter. Mixed precision by Adam keeps 2, 2 or 4, and 12.
        offloaded_states, offloaded_activations: share of optimizer states, and of kept activations, that lie in host memory.
        states_on_ssd: whether offloaded states lie on an SSD instead.
        context: how context parallelism works.
        local_steps: steps between synchronisations of the groups that `gradient_shards` and `optimizer_shards` leave.
        moe_pipeline: parts that the tokens of a layer of experts are cut into, so that sending them hides behind computing.
        gradient_slices: slices of a layer's gradients that are reduced in the gaps of its experts' pipeline; 0 for none.
        attention_share, context_share: attention of the slowest GPU, and context-parallel traffic, over those of whole
            sequences; less than 1 where sequences are packed of documents.
    """

    dp: Ints
    microbatches: Ints
    tp: Ints
    pp: Ints
    cp: Ints
    ep: Ints
    etp: Ints
    interleave: Ints
    micro_batch: Ints
    sequence_parallel: Bools
    recompute: Ints
    recompute_share: Floats
    weight_shards: Ints
    gradient_shards: Ints
    optimizer_shards: Ints
    weight_bytes: Floats
    gradient_bytes: Floats
    optimizer_bytes: Floats
    offloaded_states: Floats
    states_on_ssd: Bools
    offloaded_activations: Floats
    context: Ints
    local_steps: Ints
    moe_pipeline: Ints
    gradient_slices: Ints
    attention_share: Floats
    context_share: Floats

    @classmethod
    def of(cls, dp: npt.ArrayLike, microbatches: npt.ArrayLike, **given: npt.ArrayLike) -> Layouts:
        """From columns or single numbers; what is left out is as usual: degrees of 1, bfloat16 with Adam's states in float32.

        Raises:
            UsageError: for a name that is no column, or columns of different lengths.
        """
        unknown = set(given) - set(_USUAL)
        if unknown:
            raise UsageError(f"a layout has no {sorted(unknown)[0]!r}; it has: {', '.join(_types())}")
        columns = {"dp": dp, "microbatches": microbatches, **_USUAL, **given}
        made: dict[str, npt.NDArray[Any]] = {
            name: np.asarray(columns[name], dtype=kind) for name, kind in _types().items()
        }
        try:
            shape = np.broadcast_shapes(*(column.shape for column in made.values()), (1,))
        except ValueError:
            lengths = {name: column.size for name, column in made.items() if column.size > 1}
            raise UsageError(f"the columns of layouts have different lengths: {lengths}") from None
        return cls(**{name: np.broadcast_to(column, shape) for name, column in made.items()})

    def __len__(self) -> int:
        return len(self.dp)

    @property
    def gpus(self) -> Ints:
        return self.dp * self.tp * self.pp * self.cp

    @property
    def replicas(self) -> Ints:
        """GPUs that hold the same dense weights, over which ZeRO spreads them."""
        return self.dp * self.cp

    @property
    def expert_replicas(self) -> Ints:
        """GPUs that hold the same experts."""
        return self.dp * self.cp * self.tp // (self.ep * self.etp)

    def distinct(self, names: Sequence[str]) -> tuple[Layouts, npt.NDArray[np.intp]]:
        """One layout of every combination of some columns, and ``(n,)`` which of these each layout has."""
        packed = np.zeros(len(self), dtype=np.int64)
        for name in names:
            values, number = np.unique(getattr(self, name), return_inverse=True)
            packed = packed * len(values) + number
        _, first, which = np.unique(packed, return_index=True, return_inverse=True)
        return self.take(first), which

    def take(self, rows: npt.NDArray[np.intp] | Bools) -> Layouts:
        """Some of them, by number or mask."""
        return Layouts(**{name: getattr(self, name)[rows] for name in _types()})


def zero(stage: npt.ArrayLike, replicas: npt.ArrayLike) -> dict[str, Ints]:
    """Columns of `Layouts` for ZeRO's stages (arXiv:1910.02054): 1 spreads optimizer states, 2 gradients too, 3 weights too.

    Raises:
        UsageError: for a stage that is none of 0, 1, 2, 3.
    """
    stages, over = np.broadcast_arrays(np.asarray(stage, dtype=np.int64), np.asarray(replicas, dtype=np.int64))
    if ((stages < 0) | (stages > 3)).any():
        raise UsageError(
            f"ZeRO stage {stages[(stages < 0) | (stages > 3)].flat[0]} does not exist; stages are 0, 1, 2, 3"
        )
    names = ("optimizer_shards", "gradient_shards", "weight_shards")
    return {name: np.where(stages >= first, over, 1) for first, name in enumerate(names, start=1)}


def _types() -> dict[str, type]:
    kinds = {"Ints": np.int64, "Floats": np.float64, "Bools": np.bool_}
    return {column.name: kinds[str(column.type)] for column in fields(Layouts)}

"""`Job`: what is trained, and on what; and configurations of it as columns of `Layouts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from autotune.errors import UsageError
from evaluators.training_layout.choices import CONTEXTS, OPTIMIZER_BYTES, chosen, shard_levels
from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.gpus import CLUSTER
from evaluators.training_layout.layouts import Bools, Floats, Ints, Layouts, Recompute
from evaluators.training_layout.lengths import Lengths, Packing
from evaluators.training_layout.memory import HALF, WHOLE, Batch, memory
from evaluators.training_layout.shape import TransformerShape

# What the driver, libraries and fragments of freed memory take of a GPU's.
USABLE = 0.95
HOST_GIB = 128.0  # of host memory for each GPU; nodes for training have 1 to 2 TB for eight

RECOMPUTATIONS: Mapping[str, tuple[Recompute, float]] = MappingProxyType(
    {
        "none": (Recompute.NONE, 1.0),
        "selective": (Recompute.SELECTIVE, 1.0),
        "full 1/4": (Recompute.FULL, 0.25),
        "full 1/2": (Recompute.FULL, 0.5),
        "full": (Recompute.FULL, 1.0),
    }
)
# Of a pruned weight nothing is kept but the weight itself; of the others gradient, states, a packed copy and their place
# (SAMO, arXiv:2302.05045: 24 bytes instead of 18).
_PRUNED_GRADIENT, _PRUNED_OPTIMIZER = 2.0, 22.0
# Local steps keep the weights of the last synchronisation and their momentum, in float32 (arXiv:2311.08105).
_OUTER_BYTES = 8.0


@dataclass(frozen=True)
class Job:
    """What is trained, and on what.

    Attributes:
        sequence: tokens of a sequence.
        global_batch: sequences of a step.
        settings: values of `choices.CHOICES`; those with several are knobs. As usual unless given.
        memory_bytes: of a GPU, to use.
        host_bytes: of host memory for each GPU, to use.
        imbalance: tokens of the fullest expert-parallel GPU over the mean.
        lengths: of documents that sequences are packed of; whole sequences if None.
    """

    model: TransformerShape
    cluster: Cluster
    sequence: int
    global_batch: int
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    memory_bytes: float = 0.0
    host_bytes: float = HOST_GIB * 2**30
    imbalance: float = 1.0
    lengths: Lengths | None = None

    def __post_init__(self) -> None:
        for name in ("sequence", "global_batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.memory_bytes:
            object.__setattr__(self, "memory_bytes", USABLE * self.cluster.gpu.memory_bytes)
        settings = {**chosen({}, self.cluster.gpu), **self.settings}
        for value in settings["shard_within"]:
            _known_levels(value, self.cluster)
        object.__setattr__(self, "settings", MappingProxyType(settings))

    @cached_property
    def _packing(self) -> Packing | None:
        return None if self.lengths is None else Packing(self.lengths, self.sequence)

    @property
    def gpus(self) -> int:
        return self.cluster.gpus

    @property
    def flops_per_token(self) -> float:
        """Of training, recomputation not counted; attention within documents only."""
        whole = self.model.training_flops(self.sequence)
        if self._packing is None:
            return whole
        return whole - (1.0 - self._packing.mean) * (whole - self.model.training_flops(0))

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that have one value."""
        return {name: values[0] for name, values in self.settings.items() if len(values) == 1}

    def batch(self, precision: str) -> Batch:
        """What is trained on, in a number format of the products."""
        number = WHOLE if precision == "fp32" else HALF
        product = number if precision in ("fp32", "bf16") else 1.0
        return Batch(self.sequence, number_bytes=number, product_bytes=product, imbalance=self.imbalance)

    def setting(self, columns: Mapping[str, Any], name: str) -> Any:
        """``(n,)`` the values of a setting in columns of knobs; where it is inactive or fixed, the first."""
        values = self.settings[name]
        if name not in columns:
            return np.full(len(columns["tp"]), values[0], dtype=object if isinstance(values[0], str) else None)
        column = np.asarray(columns[name])
        return np.where(column == None, values[0], column) if column.dtype == object else column  # noqa: E711 - elementwise

    def layouts(self, columns: Mapping[str, Any]) -> Layouts:
        """Columns of knobs as layouts; data parallelism is what the other degrees leave."""
        given = {name: np.asarray(value) for name, value in columns.items()}
        tp, cp, pp = (given[name].astype(np.int64) for name in ("tp", "cp", "pp"))
        dp = self.gpus // (tp * cp * pp)
        micro = given["micro_batch"].astype(np.int64)
        one = np.ones_like(tp)
        kinds = _looked_up(RECOMPUTATIONS, given["recompute"]).reshape(-1, 2)
        kept = 1.0 - self.setting(given, "sparsity").astype(np.float64)
        local = self.setting(given, "local_steps").astype(np.int64)
        states = _looked_up(OPTIMIZER_BYTES, self.setting(given, "optimizer"))
        where = self.setting(given, "offload_states")
        pruned = kept < 1.0
        # In float32 weights are their own master copy.
        whole = self.setting(given, "precision") == "fp32"
        states = np.where(whole, states - WHOLE, states)
        full = np.where(whole | (given["zero"] != 3), WHOLE, HALF)
        spread = self.shards(given)
        microbatches = np.maximum(1, self.global_batch // np.maximum(1, dp * micro))
        dynamic = self.setting(given, "length_groups") == "dynamic"
        packing = self._packing
        return Layouts.of(
            dp,
            microbatches,
            tp=tp,
            pp=pp,
            cp=cp,
            ep=given.get("ep", one),
            etp=given.get("etp", one),
            interleave=given["interleave"],
            micro_batch=micro,
            recompute=kinds[:, 0],
            recompute_share=kinds[:, 1],
            weight_bytes=np.where(whole, WHOLE, HALF),
            gradient_bytes=np.where(pruned, _PRUNED_GRADIENT * kept, full),
            optimizer_bytes=np.where(pruned, (_PRUNED_OPTIMIZER - OPTIMIZER_BYTES["adam"] + states) * kept, states)
            + np.where(local > 1, _OUTER_BYTES, 0.0),
            weight_shards=spread[0],
            gradient_shards=spread[1],
            optimizer_shards=spread[2],
            offloaded_states=where != "none",
            states_on_ssd=where == "ssd",
            offloaded_activations=self.setting(given, "offload_activations"),
            context=_looked_up(CONTEXTS, self.setting(given, "context")),
            local_steps=local,
            moe_pipeline=self.setting(given, "moe_pipeline"),
            gradient_slices=self.setting(given, "gradient_slices"),
            attention_share=1.0 if packing is None else packing.attention_share(dp, microbatches, micro, cp, dynamic),
            context_share=1.0 if packing is None else packing.context_share(micro, cp, dynamic),
        )

    def shards(self, columns: Mapping[str, Any]) -> tuple[Ints, Ints, Ints]:
        """``(n,)`` over how many data-parallel GPUs weights, gradients and optimizer states are spread: by ZeRO's stage, within
        the link level of each."""
        tp, cp, pp, stage = (np.asarray(columns[name]).astype(np.int64) for name in ("tp", "cp", "pp", "zero"))
        replicas = self.gpus // (tp * cp * pp) * cp
        within = self.setting(columns, "shard_within")
        found = [np.ones_like(tp) for _ in range(3)]
        for value in set(within.tolist()):
            rows = within == value
            for place, (level, first) in enumerate(zip(shard_levels(value), (3, 2, 1), strict=True)):
                most = replicas[rows] if level == CLUSTER else self.cluster.levels[level] // tp[rows]
                found[place][rows] = np.where(stage[rows] >= first, _part_of(replicas[rows], most), 1)
        return found[0], found[1], found[2]

    def columns(self, configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Configurations as columns of knobs, None where one is inactive."""
        names = dict.fromkeys(name for config in configs for name in config)
        return {name: np.array([config.get(name) for config in configs]) for name in names}

    def needed(self, columns: Mapping[str, Any]) -> tuple[Floats, Floats]:
        """``(n,)`` bytes of the fullest GPU, and of host memory for each GPU."""
        layouts = self.layouts(columns)
        precision = self.setting(columns, "precision")
        gpu = np.zeros(len(layouts))
        host = np.zeros(len(layouts))
        for kind in set(precision.tolist()):
            rows = precision == kind
            held = memory(self.model, layouts.take(rows), self.batch(kind))
            gpu[rows], host[rows] = held.total, held.host
        return gpu, host

    def fits(self, columns: Mapping[str, Any]) -> Bools:
        """``(n,)`` whether layouts fit in the memory of a GPU and of its host."""
        gpu, host = self.needed(columns)
        fitting: Bools = (gpu <= self.memory_bytes) & (host <= self.host_bytes)
        return fitting


def _looked_up(table: Mapping[str, Any], names: Any) -> Floats:
    """What a table says of ``(n,)`` names."""
    known = {name: number for number, name in enumerate(table)}
    numbers = np.fromiter((known[name] for name in np.asarray(names).tolist()), dtype=np.intp, count=len(names))
    return np.array(list(table.values()), dtype=np.float64)[numbers]


def _part_of(replicas: Ints, most: Ints) -> Ints:
    """``(n,)`` the largest number that divides `replicas` and is at most `most`, and at least 1."""
    found = np.ones_like(replicas)
    for whole, limit in {(int(a), int(b)) for a, b in zip(replicas, most, strict=True)}:
        part = next(part for part in range(max(1, min(limit, whole)), 0, -1) if whole % part == 0)
        found[(replicas == whole) & (most == limit)] = part
    return found


def _known_levels(value: str, cluster: Cluster) -> None:
    for level in shard_levels(value):
        if level != CLUSTER and level not in cluster.levels:
            raise UsageError(
                f"shard_within {value!r} names level {level!r}, which a cluster of {cluster.gpu.name} does not have; it has: "
                f"{', '.join([*cluster.levels, CLUSTER])}"
            )

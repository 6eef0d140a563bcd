"""The knobs of a training layout: the search space of a job, and its default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.space import Config, Constraint, Ordinal, SearchSpace
from autotune.space.feasible import FeasibleTable
from evaluators.choices import Knob
from evaluators.training_layout.choices import knobs, shard_levels
from evaluators.training_layout.job import RECOMPUTATIONS, Job
from evaluators.training_layout.layouts import Bools
from evaluators.training_layout.shape import TransformerShape

MOST_CONTEXT = 64
MOST_MICRO_BATCH = 16
MOST_CHUNKS = 8
RECOMPUTE = tuple(RECOMPUTATIONS)


def space_of(job: Job, *, fitting: bool = True) -> SearchSpace:
    """All layouts of a job that exist and, unless told otherwise, fit.

    Raises:
        UsageError: for a job that has no layouts at all.
    """

    def distinct(config: Mapping[str, Any]) -> Bools:
        return _distinct(job, config)

    def memory(config: Mapping[str, Any]) -> Bools:
        return job.fits(config)

    rules: list[str | Constraint] = [
        *rules_of(job).values(),
        Constraint(distinct, "each layout in one way", columns=True),
    ]
    if fitting:
        rules.append(Constraint(memory, "memory", columns=True))
    return SearchSpace(parameters_of(job), rules)


def layouts_of(job: Job, space: SearchSpace | None = None) -> FeasibleTable:
    """All configurations of a space of a job.

    Args:
        space: which may have been listed already; `space_of` if None.

    Raises:
        UsageError: when they are too many to list.
    """
    table = (space_of(job) if space is None else space).enumerate()
    if table is None:
        several = [name for name, values in job.settings.items() if len(values) > 1]
        raise UsageError(
            f"the layouts of {job.model.name} on {job.gpus} GPUs are too many to list; give fewer values of "
            f"{', '.join(several) or 'global_batch'}"
        )
    return table


def parameters_of(job: Job) -> list[Knob]:
    """The knobs, in the order of the space."""
    model, gpus = job.model, job.gpus
    together = min(job.cluster.joined, gpus)
    tensor = [t for t in range(1, together + 1) if gpus % t == 0 and model.n_heads % t == 0 and _heads_split(model, t)]
    context = [c for c in _powers(min(MOST_CONTEXT, gpus)) if c == 1 or (job.sequence % (2 * c) == 0 and gpus % c == 0)]
    stages = [p for p in range(1, min(gpus, model.n_layers) + 1) if gpus % p == 0 and _stages(model, p)]
    chunks = [v for v in range(1, MOST_CHUNKS + 1) if v == 1 or any(_stages(model, p * v) for p in stages if p > 1)]
    micro = [b for b in _powers(min(MOST_MICRO_BATCH, job.global_batch)) if job.global_batch % b == 0]
    found: list[Knob] = [
        Ordinal("tp", tensor),
        Ordinal("cp", context),
        Ordinal("pp", stages),
        Ordinal("interleave", chunks),
        Ordinal("micro_batch", micro),
        Ordinal("zero", [0, 1, 2, 3], default=1),
        Ordinal("recompute", list(RECOMPUTE)),
    ]
    if model.n_experts:
        experts = [e for e in range(1, min(model.n_experts, gpus) + 1) if model.n_experts % e == 0 and gpus % e == 0]
        found += [Ordinal("ep", experts), Ordinal("etp", tensor)]
    return [*found, *knobs(job.settings, model.n_experts > 0)]


def rules_of(job: Job) -> dict[str, str]:
    """The rules of layouts that exist, as text over the knobs, by what they are for."""
    model, gpus, batch = job.model, job.gpus, job.global_batch
    replicas = f"({gpus} // (tp * cp * pp))"
    rules = {
        f"tp x cp x pp divides {gpus} GPUs": f"{gpus} % (tp * cp * pp) == 0",
        f"copies x micro_batch divides {batch} sequences": f"{batch} % ({replicas} * micro_batch) == 0",
        # Embedding and loss may count as a layer each.
        f"pp x interleave divides {model.n_layers} or {model.n_layers + 2} layers": (
            f"{model.n_layers} % (pp * interleave) == 0 or {model.n_layers + 2} % (pp * interleave) == 0"
        ),
        # Interleaving hands micro-batches round in groups of as many as there are stages.
        "interleaving takes a pipeline, and pp divides its micro-batches": (
            f"interleave == 1 or pp > 1 and {batch} // ({replicas} * micro_batch) % pp == 0"
        ),
        # A pipeline adds up gradients over micro-batches, which spread gradients or weights would send each time.
        "ZeRO 2 and 3 take no pipeline": "zero <= 1 or pp == 1",
    }
    if model.n_experts:
        rules |= {
            "ep x etp divides the GPUs of a pipeline stage": f"({gpus} // pp) % (ep * etp) == 0",
            "etp is 1 or tp": "etp == 1 or etp == tp",
        }
    # Key and value heads are exchanged as they are, not copied (as in Megatron-LM).
    ulysses = f"{model.n_kv_heads} % (tp * cp) == 0"
    told = f"Ulysses exchanges heads: tp x cp divides {model.n_kv_heads}"
    if len(job.settings["context"]) > 1:
        rules[told] = f"context != 'ulysses' or {ulysses}"
    elif job.fixed["context"] == "ulysses":
        rules[told] = f"cp == 1 or {ulysses}"
    return rules


def _distinct(job: Job, columns: Mapping[str, Any]) -> Bools:
    """``(n,)`` whether no earlier value of a setting makes the same layout, and the settings mean something."""
    shards = np.stack(job.shards(columns))
    tp, cp, pp = (np.asarray(columns[name]).astype(np.int64) for name in ("tp", "cp", "pp"))
    replicas = job.gpus // (tp * cp * pp) * cp
    stage = np.asarray(columns["zero"]).astype(np.int64)
    # A stage that spreads nothing more than the one before is that one.
    kept: Bools = (stage == 0) | (np.choose(np.maximum(stage, 1) - 1, shards[::-1]) > 1)
    values = job.settings["shard_within"]
    if "shard_within" in columns:
        within = job.setting(columns, "shard_within")
        for place, value in enumerate(values[1:], start=1):
            rows = within == value
            some = {name: np.asarray(column)[rows] for name, column in columns.items()}
            for earlier in values[:place]:
                there = np.stack(job.shards({**some, "shard_within": np.full(rows.sum(), earlier, dtype=object)}))
                kept[rows] &= (there != shards[:, rows]).any(axis=0)
    if len(values) > 1 or len(set(shard_levels(values[0]))) > 1:
        # Weights are spread over no more than gradients, and these over no more than states.
        kept &= (shards[0] <= shards[1]) & (shards[1] <= shards[2])
    local = job.setting(columns, "local_steps").astype(np.int64)
    kept &= (local == 1) | (shards[2] < replicas)
    overlap = job.setting(columns, "overlap")
    for method, means in (
        ("fuyou", job.setting(columns, "offload_states") != "none"),
        ("t3", tp > 1),
        ("ladder", tp > 1),
        ("co2", shards[2] < replicas),
    ):
        kept &= (overlap != method) | means
    return kept


def default_of(job: Job, space: SearchSpace | None = None) -> Config:
    """Megatron-LM's rule of thumb (docs of Megatron Core, parallelism guide; arXiv:2104.04473, section 5, takeaways 1 to 3): as
    little model parallelism as fits, tensor parallelism first, up to a node, then pipelines; micro-batches of one; states
    spread over the data-parallel GPUs; experts over as many GPUs as can be. Settings have their first values.

    Args:
        space: see `layouts_of`.

    Raises:
        UsageError: when nothing fits; the message says what would.
    """
    table = layouts_of(job, space)
    if not len(table):
        raise UsageError(nothing_fits(job))
    columns = table.columns()
    usual = np.zeros(len(table), dtype=np.int64)
    for name, values in job.settings.items():
        if len(values) > 1:
            usual += job.setting(columns, name) != values[0]
    return table.config(_rule_of_thumb(columns, usual))


def _rule_of_thumb(columns: Mapping[str, Any], unusual: Any) -> int:
    """The row that the rule of thumb chooses."""
    flat = np.zeros_like(columns["tp"])
    order = np.lexsort(
        [
            -columns.get("ep", flat),
            columns.get("etp", flat),
            columns["interleave"],
            columns["tp"],
            columns["pp"],
            [RECOMPUTE.index(str(name)) for name in columns["recompute"]],
            np.abs(columns["zero"] - 1),
            columns["cp"],
            columns["micro_batch"],
            unusual,
        ]
    )
    return int(order[0])


def nothing_fits(job: Job) -> str:
    """Why a job has no layouts, in a sentence that says what would change it."""
    table = layouts_of(job, space_of(job, fitting=False))
    of = f"{job.model.name} on {job.gpus} x {job.cluster.gpu.name}"
    if not len(table):
        return (
            f"no layout of {of} exists: a global_batch of {job.global_batch} sequences cannot be shared out evenly over its "
            f"data-parallel copies; give a multiple of {job.gpus}, or a number of GPUs that its {job.model.n_heads} heads and "
            f"{job.model.n_layers} layers divide into"
        )
    least, enough = _leanest(job), _enough_gpus(job)
    return (
        f"no layout of {of} fits in {job.memory_bytes / 2**30:.1f} GiB a GPU; the leanest of {len(table)} needs "
        f"{least / 2**30:.1f} GiB: give {enough}a shorter sequence, or --set offload_states=host "
        "--set offload_activations=0,0.5,1 --set optimizer=adam8bit"
    )


def _leanest(job: Job) -> float:
    """Bytes of a GPU that the leanest layout needs, of those that the host's memory allows if there are any."""
    table = layouts_of(job, space_of(job, fitting=False))
    if not len(table):
        return math.inf
    gpu, host = job.needed(table.columns())
    allowed = host <= job.host_bytes
    return float(gpu[allowed].min() if allowed.any() else gpu.min())


def _enough_gpus(job: Job) -> str:
    """How many more GPUs would do, each with as many sequences as now; nothing where no number tried does."""
    for times in (2**i for i in range(1, 11)):
        more = replace(job, cluster=replace(job.cluster, gpus=times * job.gpus), global_batch=times * job.global_batch)
        if _leanest(more) <= job.memory_bytes:
            return f"--set gpus={more.gpus}, "
    return ""


def _powers(most: int) -> list[int]:
    return [2**i for i in range(int(math.log2(most)) + 1)]


def _heads_split(model: TransformerShape, tp: int) -> bool:
    """Whether key and value heads can be split, or copied evenly where there are fewer."""
    return model.n_kv_heads % tp == 0 or tp % model.n_kv_heads == 0


def _stages(model: TransformerShape, chunks: int) -> bool:
    """Whether layers can be shared out evenly, or with embedding and loss counted as a layer each (as Megatron-LM can)."""
    return model.n_layers % chunks == 0 or (model.n_layers + 2) % chunks == 0

"""Memory and throughput of measured runs as the model predicts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.errors import UsageError
from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.gpus import gpu
from evaluators.training_layout.job import USABLE
from evaluators.training_layout.layouts import Layouts, Recompute
from evaluators.training_layout.machine import EAGER, FUSED, Machine
from evaluators.training_layout.memory import Batch, memory
from evaluators.training_layout.presets import preset
from evaluators.training_layout.rows import MeasuredRun
from evaluators.training_layout.step import step_time
from evaluators.training_layout.tables import kernel_times

# From the least on.
_SHARES = np.arange(1, 9) / 8
_RECOMPUTATIONS = {
    "recompute": np.repeat([Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL], [1, len(_SHARES), len(_SHARES)]),
    "recompute_share": np.concatenate(([1.0], _SHARES, _SHARES)),
}


@dataclass(frozen=True)
class Prediction:
    """Of one run.

    Attributes:
        tokens_s: tokens per second of a GPU.
        step_s: seconds of a step, by component.
        memory_bytes: of the fullest GPU.
        recompute, recompute_share: what is computed anew: as measured, or, where the table does not say, the least that fits.
        source: where kernel times come from.
    """

    tokens_s: float
    step_s: dict[str, float]
    memory_bytes: float
    recompute: Recompute
    recompute_share: float
    source: str


def predict(run: MeasuredRun, machine: Machine | None = None, *, measured: bool = True) -> Prediction:
    """Of one measured run.

    Args:
        machine: as of the run's stack if None.
        measured: whether kernel tables are used where there are some; else peak figures.

    Raises:
        UsageError: for a model or GPU that is unknown, and degrees that make no layout.
    """
    _check(run)
    model, device = preset(run.model), gpu(run.gpu)
    cluster = Cluster(device, run.gpus, kernel_times(device, measured=measured), network_bytes_s=run.network_bytes_s)
    batch = Batch(run.sequence, run.fused_attention, product_bytes=2.0 if run.kind == "bf16" else 1.0)
    shards = run.sharded or 1
    replicas = run.dp * run.cp
    common: dict[str, float] = {
        "dp": run.dp,
        "microbatches": max(1, round(run.global_batch / (run.dp * run.micro_batch))),
        "tp": run.tp,
        "pp": run.pp,
        "cp": run.cp,
        "ep": run.ep,
        "interleave": run.interleave,
        "micro_batch": run.micro_batch,
        "weight_shards": shards,
        "gradient_shards": shards,
        "optimizer_shards": run.sharded or replicas,
        "gradient_bytes": 2.0 if run.sharded > 1 else 4.0,
        "sequence_parallel": run.sequence_parallel,
    }
    if run.recompute is None:
        tried = Layouts.of(**common, **_RECOMPUTATIONS)
        fits = memory(model, tried, batch).total <= USABLE * device.memory_bytes
        chosen = int(np.argmax(fits)) if fits.any() else len(fits) - 1
        layouts = tried.take(np.array([chosen]))
    else:
        layouts = Layouts.of(**common, recompute=run.recompute)
    step = step_time(
        model, layouts, batch, cluster, run.kind, machine or (EAGER if run.stack == "llm-foundry" else FUSED)
    )
    total = float(step.total[0])
    return Prediction(
        tokens_s=run.global_batch * run.sequence / run.gpus / total,
        step_s={name: float(part[0]) for name, part in step.parts().items()},
        memory_bytes=float(memory(model, layouts, batch).total[0]),
        recompute=Recompute(int(layouts.recompute[0])),
        recompute_share=float(layouts.recompute_share[0]),
        source=cluster.times.source,
    )


def _check(run: MeasuredRun) -> None:
    """Refuse degrees that make no layout, in one sentence."""
    for name in ("gpus", "sequence", "global_batch", "micro_batch", "tp", "pp", "cp", "ep", "interleave"):
        if getattr(run, name) < 1:
            raise UsageError(f"{name} is {getattr(run, name)}; it must be at least 1")
    if run.gpus % (run.tp * run.pp * run.cp):
        raise UsageError(f"tp {run.tp} x pp {run.pp} x cp {run.cp} does not divide {run.gpus} GPUs")
    if run.gpus // run.pp % run.ep:
        raise UsageError(f"ep {run.ep} does not divide the {run.gpus // run.pp} GPUs of a pipeline stage")

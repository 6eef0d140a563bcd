"""Evaluator `profiled`: memory and step time of training layouts from measured kernels and links, thousands in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.measurement import Failure, FailureKind, Measurement, Metric
from evaluators.training_layout.goodput import Reliability
from evaluators.training_layout.job import Job
from evaluators.training_layout.layouts import Floats, Layouts
from evaluators.training_layout.machine import FUSED, Machine
from evaluators.training_layout.memory import memory
from evaluators.training_layout.step import forward_s, step_time
from evaluators.training_layout.tables import peak_flops

GIB = 2**30
TIME_PARTS = (
    "products", "attention", "elementwise", "launching", "recomputing", "tensor", "context", "expert", "stages", "bubble",
    "data", "optimizer",
)  # fmt: skip
MEMORY_PARTS = ("weights", "gradients", "optimizer", "gathered", "activations", "working")

METRICS = (
    "tokens_per_s_gpu",
    "step_s",
    "mfu",
    "memory_gib",
    "host_gib",
    "goodput",
    "data_parallel",
    "microbatches",
    *(f"{part}_s" for part in TIME_PARTS),
    *(f"{part}_gib" for part in MEMORY_PARTS),
)


class Profiled:
    """Predicts layouts of a job. Deterministic: metrics carry no half-widths.

    The notes of a measurement say where kernel times come from (`kernels`), what a GPU's memory may hold
    (`memory_limit_gib`), how many GPUs the nearest links join (`gpus_per_node`), and `step.forward_s` of the layout
    (`forward_s`, `loss_s`).

    Args:
        reliability: of the cluster; `tokens_per_s_gpu` counts what is left of failures, checkpoints and stragglers.
    """

    def __init__(self, job: Job, machine: Machine = FUSED, reliability: Reliability | None = None) -> None:
        self.job = job
        self.machine = machine
        self.reliability = reliability

    def __call__(self, config: Mapping[str, Any]) -> Measurement:
        job = self.job
        values = {name: float(column[0]) for name, column in self.predict([config]).items()}
        for name, limit, told in (
            ("memory_gib", job.memory_bytes, "of a GPU"),
            ("host_gib", job.host_bytes, "of host memory a GPU"),
        ):
            if values[name] * GIB > limit:
                raise Failure(
                    FailureKind.OOM, f"{values[name]:.1f} GiB {told} are needed and {limit / GIB:.1f} GiB can be used"
                )
        metrics = {name: Metric(value) for name, value in values.items()}
        return Measurement(metrics, {"kernels": job.cluster.times.source, **self._for_pictures(config)})

    def _for_pictures(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What pictures of a trial need and no metric tells."""
        job = self.job
        columns = job.columns([config])
        kind = str(job.setting(columns, "precision")[0])
        machine = self.machine.overlapping(str(job.setting(columns, "overlap")[0]))
        forward, loss = forward_s(job.model, job.layouts(columns), job.batch(kind), job.cluster, kind, machine)
        return {
            "memory_limit_gib": job.memory_bytes / GIB,
            "gpus_per_node": min(next(iter(job.cluster.levels.values())), job.gpus),
            "forward_s": float(forward[0]),
            "loss_s": float(loss[0]),
        }

    def predict(self, configs: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
        """The metrics of many configurations, ``(n,)`` each."""
        return self.of_columns(self.job.columns(configs)) if len(configs) else {}

    def of_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Floats]:
        """The metrics of configurations given as columns."""
        job = self.job
        layouts = job.layouts(columns)
        precision, overlap = (job.setting(columns, name) for name in ("precision", "overlap"))
        pairs = sorted(set(zip(precision.tolist(), overlap.tolist(), strict=True)))
        found: dict[str, Floats] = {}
        for kind, method in pairs:
            rows = (precision == kind) & (overlap == method)
            some = layouts if len(pairs) == 1 else layouts.take(rows)
            for name, values in self._of(some, kind, self.machine.overlapping(method)).items():
                found.setdefault(name, np.empty(len(layouts)))[rows] = values
        redundancy = job.setting(columns, "redundancy").astype(np.int64)
        seconds, goodput = found["step_s"], np.ones(len(layouts))
        if self.reliability is not None:
            # A copy that need not be waited for spares all of its GPUs.
            spared = redundancy * (layouts.gpus // layouts.dp)
            seconds = seconds * self.reliability.slowdown(layouts.gpus, spared) * (1.0 + redundancy)
            goodput = np.full(len(layouts), self.reliability.goodput(job.gpus))
        tokens = job.global_batch * job.sequence / job.gpus
        return {
            **found,
            "tokens_per_s_gpu": goodput * tokens / seconds,
            "step_s": seconds,
            "mfu": found["mfu"] * found["step_s"] / seconds,
            "goodput": goodput,
        }

    def _of(self, layouts: Layouts, kind: str, machine: Machine) -> dict[str, Floats]:
        """In one number format, with one method of overlap."""
        job = self.job
        batch = job.batch(kind)
        step = step_time(job.model, layouts, batch, job.cluster, kind, machine)
        held = memory(job.model, layouts, batch)
        tokens = job.global_batch * job.sequence / job.gpus
        return {
            "step_s": step.total,
            "mfu": tokens * job.flops_per_token / step.total / peak_flops(job.cluster.gpu, kind),
            "memory_gib": held.total / GIB,
            "host_gib": held.host / GIB,
            "data_parallel": layouts.dp.astype(np.float64),
            "microbatches": layouts.microbatches.astype(np.float64),
            **{f"{name}_s": part for name, part in step.parts().items()},
            **{f"{name}_gib": getattr(held, name) / GIB for name in MEMORY_PARTS},
        }

"""Evaluator `real`: step time and memory of a training layout from a few steps that are really trained on this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from autotune.errors import UsageError
from autotune.measurement import Failure, FailureKind, Measurement, Metric, summarise
from evaluators.training_layout.job import Job
from evaluators.training_layout.layouts import Layouts, Recompute
from evaluators.training_layout.real.launch import WORKER, launch
from evaluators.training_layout.real.run import Run, layout_refusal, model_differences, model_refusal

GIB = 2**30
# Processes on CPUs; more of them than this train nothing that anybody wants to know the speed of.
MOST_ON_CPUS = 16
# Starting processes takes some ten seconds, steps of models that fill a GPU some seconds each.
DEFAULT_LIMIT_S = 900.0

# What is run of the settings that a job may have, and the knob that has to be above 1 for some of them to mean anything.
_SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "precision": ("bf16", "fp32"),
    "optimizer": ("adam",),
    "context": ("ring",),
    "offload_states": ("none",),
    "offload_activations": (0.0,),
    "overlap": ("standard",),
    "sparsity": (0.0,),
    "local_steps": (1,),
    "moe_pipeline": (1,),
    "gradient_slices": (0,),
    "redundancy": (0,),
}
_SOMETIMES: Mapping[str, str] = {"context": "cp", "moe_pipeline": "ep", "gradient_slices": "ep"}
_ZERO = {
    0: "weights, gradients and states whole on every process (FSDP2 over a mesh of replicas x 1)",
    1: "states spread by FSDP2; weights gathered and gradients scattered once a step",
    2: "states and gradients spread by FSDP2; weights gathered once a step, gradients scattered after every micro-batch",
    3: "all spread by FSDP2; weights gathered for the forward and for the backward pass of every block",
}
_ZERO_IN_PIPELINE = {
    **_ZERO,
    2: "as zero 1: a pipeline adds up gradients over micro-batches and scatters them once a step",
    3: "states and weights spread by FSDP2; weights gathered for every forward pass, gradients scattered once a step",
}
_RECOMPUTE = {
    "none": "none",
    "selective": "norms and activations (PyTorch's selective checkpointing); the norm before experts is kept",
    "full": "all of a layer (PyTorch's checkpointing)",
}


class Real:
    """Trains a job's model for a few steps under a configuration, on this machine's GPUs or, where it has none, its CPUs.

    Args:
        job: its model may have fewer layers than the one that is meant.
        limit_s: seconds that one configuration may take, the start of its processes included.
        warm_up: steps that do not count; the first allocates memory and is never counted.
        steps: that count.
        device: `cpu` or `cuda`; GPUs where there are some if None.

    Raises:
        UsageError: for numbers that make no run. Whether the job can be run here is found out by `check`, or at the first call.
    """

    def __init__(
        self, job: Job, *, limit_s: float = DEFAULT_LIMIT_S, warm_up: int = 1, steps: int = 3, device: str | None = None
    ) -> None:
        for name, value in (("warm_up", warm_up), ("steps", steps), ("limit_s", limit_s)):
            if not value >= 1:
                raise UsageError(f"{name} is {value}; a real run needs at least 1")
        if device not in (None, "cpu", "cuda"):
            raise UsageError(f"device {device!r} is unknown; use cpu or cuda")
        self.job = job
        self.limit_s = limit_s
        self.warm_up = warm_up
        self.steps = steps
        self._device = device

    @cached_property
    def _gpus(self) -> int:
        import torch  # noqa: PLC0415 - takes seconds that searches without it need not cost

        return torch.cuda.device_count()

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._device or ("cuda" if self._gpus else "cpu")

    def check(self) -> None:
        """Find out whether the job can be run on this machine at all.

        Raises:
            UsageError: when it cannot, whatever the layout.
        """
        refusal = model_refusal(self.job.model) or self._refusal()
        if refusal is not None:
            raise UsageError(refusal)

    def _refusal(self) -> str | None:
        job = self.job
        if self.device == "cuda" and job.gpus > self._gpus:
            return (
                f"gpus is {job.gpus}, and this machine has {self._gpus} to run on; use at most so many, or the evaluator "
                "profiled"
            )
        if self.device == "cpu" and job.gpus > MOST_ON_CPUS:
            return (
                f"gpus is {job.gpus}, and without GPUs at most {MOST_ON_CPUS} processes are run on the CPUs; use at most so "
                "many, or the evaluator profiled"
            )
        if job.lengths is not None:
            return "lengths are not run by the evaluator real, which trains on whole sequences; leave them out, or use profiled"
        for name, values in _SETTINGS.items():
            if name not in _SOMETIMES and not set(values) & set(job.settings[name]):
                return f"{_other(name, job.settings[name][0])}; give {_runs(name)}, or use the evaluator profiled"
        return None

    def __call__(self, config: Mapping[str, Any]) -> Measurement:
        """Train, and measure.

        Raises:
            UsageError: see `check`.
            Failure: `invalid` for a layout that PyTorch has no means to run, `nan` for a loss that is no number, `oom` also
                where more memory was taken than the job lets a GPU use; for the others see `launch.launch`.
        """
        self.check()
        run = self.run_of(config)
        cores = len(os.sched_getaffinity(0))
        measured = launch(WORKER, run.to_dict(), run.processes, self.limit_s, max(1, cores // run.processes))
        if not all(math.isfinite(loss) for loss in measured["losses"]):
            raise Failure(FailureKind.NAN, f"the losses of the steps are {measured['losses']}")
        if run.device == "cuda" and measured["memory_bytes"] > self.job.memory_bytes:
            raise Failure(
                FailureKind.OOM,
                f"{measured['memory_bytes'] / GIB:.1f} GiB were taken and {self.job.memory_bytes / GIB:.1f} GiB can be used",
            )
        return measurement(run, measured)

    def run_of(self, config: Mapping[str, Any]) -> Run:
        """What processes are told of a configuration.

        Raises:
            Failure: `invalid` for one that cannot be run.
        """
        columns = self.job.columns([config])
        for name, values in _SETTINGS.items():
            given = self.job.setting(columns, name)[0]
            if given not in values and (name not in _SOMETIMES or config.get(_SOMETIMES[name], 1) > 1):
                raise Failure(FailureKind.INVALID, f"{_other(name, given)}, which runs {_runs(name)}")
        lay = self.job.layouts(columns)
        stage, shards = _spread(lay)
        recompute = Recompute(int(lay.recompute[0]))
        run = Run(
            self.job.model,
            self.device,
            self.job.sequence,
            precision=str(self.job.setting(columns, "precision")[0]),
            dp=int(lay.dp[0]),
            tp=int(lay.tp[0]),
            pp=int(lay.pp[0]),
            cp=int(lay.cp[0]),
            ep=int(lay.ep[0]),
            etp=int(lay.etp[0]),
            interleave=int(lay.interleave[0]),
            zero=stage,
            shards=shards,
            micro_batch=int(lay.micro_batch[0]),
            microbatches=int(lay.microbatches[0]),
            recompute=recompute.name.lower(),
            recompute_share=float(lay.recompute_share[0]),
            warm_up=self.warm_up,
            steps=self.steps,
        )
        refusal = layout_refusal(run)
        if refusal is not None:
            raise Failure(FailureKind.INVALID, refusal)
        return run


def measurement(run: Run, measured: Mapping[str, Any]) -> Measurement:
    """Metrics of a run under the names of the evaluator `profiled`, and what was run, in words.

    Args:
        measured: what `launch.launch` returned.
    """
    tokens = run.dp * run.rows * run.sequence / run.processes
    seconds = measured["step_s"]
    metrics = {
        "tokens_per_s_gpu": summarise([tokens / second for second in seconds]),
        "step_s": summarise(seconds),
        "memory_gib": Metric(measured["memory_bytes"] / GIB),
        "data_parallel": Metric(float(run.dp)),
        "microbatches": Metric(float(run.microbatches)),
    }
    zero = (
        (_ZERO if run.pp == 1 else _ZERO_IN_PIPELINE)[run.zero] if run.replicas > 1 else "one copy, nothing to spread"
    )
    groups = run.replicas // run.shards
    notes = {
        "device": measured["device"],
        "dtype": measured["dtype"],
        "backend": measured["backend"],
        "torch": measured["torch"],
        "processes": run.processes,
        "layers": run.shape.n_layers,
        "zero": zero if run.zero == 0 or groups == 1 else f"{zero}; {groups} groups of {run.shards} shards",
        "recompute": _RECOMPUTE[run.recompute],
        "context": "a ring (PyTorch's context_parallel)" if run.cp > 1 else "none",
        "differences": model_differences(run.shape, run.pp),
        "reserved_gib": measured["reserved_bytes"] / GIB,
        "first_loss": measured["losses"][0],
        "first_gradient_norm": measured["gradient_norm"],
    }
    return Measurement(metrics, notes)


def _spread(lay: Layouts) -> tuple[int, int]:
    """ZeRO's stage of a layout, and over how many replicas it spreads.

    Raises:
        Failure: `invalid` where weights, gradients and states are spread over different numbers.
    """
    shards = [int(count[0]) for count in (lay.optimizer_shards, lay.gradient_shards, lay.weight_shards) if count[0] > 1]
    if len(set(shards)) > 1:
        told = "/".join(str(int(count[0])) for count in (lay.weight_shards, lay.gradient_shards, lay.optimizer_shards))
        raise Failure(
            FailureKind.INVALID,
            f"weights/gradients/states are spread over {told} processes, and FSDP2 spreads them over as many each; use one "
            "level in shard_within",
        )
    return len(shards), max(shards, default=1)


def _other(name: str, value: object) -> str:
    return f"{name}={value} is not run by the evaluator real"


def _runs(name: str) -> str:
    return " or ".join(f"{name}={value}" for value in _SETTINGS[name])

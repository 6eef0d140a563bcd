"""Domain `training-layout`: how a model that is trained is split over GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from autotune.comparison import Comparison
from autotune.domain import Problem
from autotune.errors import UsageError
from autotune.explaining import Section
from autotune.exporting import Exporter
from autotune.space import Config
from autotune.space.feasible import FeasibleTable
from autotune.store.records import TrialRecord
from autotune.strategies.fixed_point import Vector
from autotune.viewing import View
from evaluators.choices import as_text
from evaluators.training_layout.choices import CHOICES, chosen
from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.comparison import compare
from evaluators.training_layout.explain import explain
from evaluators.training_layout.exporters import Subject, exporters
from evaluators.training_layout.goodput import Reliability
from evaluators.training_layout.gpus import GPUS, Gpu, gpu
from evaluators.training_layout.job import HOST_GIB, USABLE, Job
from evaluators.training_layout.knobs import default_of, layouts_of, space_of
from evaluators.training_layout.lengths import Lengths
from evaluators.training_layout.machine import EAGER, FUSED
from evaluators.training_layout.model_file import from_config_json
from evaluators.training_layout.own_gpu import OWN, own_gpu
from evaluators.training_layout.own_tables import OwnTimes
from evaluators.training_layout.presets import PRESETS, preset
from evaluators.training_layout.profiled import GIB, METRICS, Profiled
from evaluators.training_layout.pruning import pruned
from evaluators.training_layout.real.evaluator import DEFAULT_LIMIT_S, Real
from evaluators.training_layout.shape import TransformerShape
from evaluators.training_layout.tables import KernelTimes, kernel_times

_STARTS = 12  # families of layouts whose best are proposed first


def _setting(name: str) -> Any:
    """The option of a setting: a value, or several by commas, which are searched over."""
    choice = CHOICES[name]
    return Field(
        default=choice.usual or None, description=f"{choice.told}; several values, by commas, are searched over"
    )


_Values = Annotated[str, BeforeValidator(as_text)]


class Options(BaseModel):
    """What a user may set with ``--set NAME=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[
        str, Field(description=f"a known model ({', '.join(PRESETS)}), or the path of a Hugging Face config.json")
    ] = "llama3-8b"
    layers: Annotated[
        int | None, Field(ge=1, description="train a model of so many of its layers; all if left out")
    ] = None
    gpus: Annotated[int, Field(ge=1, le=1_000_000, description="GPUs to train on")] = 64
    hardware: Annotated[
        str, Field(description=f"which GPUs: {', '.join(GPUS)}; or own: what the file `kernels` was measured on")
    ] = "h100"
    sequence: Annotated[int, Field(ge=1, le=16_777_216, description="tokens of a sequence")] = 8192
    global_batch: Annotated[int | None, Field(ge=1, description="sequences of a step; twice the GPUs if left out")] = (
        None
    )
    precision: _Values = _setting("precision")
    optimizer: _Values = _setting("optimizer")
    context: _Values = _setting("context")
    shard_within: _Values | None = _setting("shard_within")
    offload_states: _Values = _setting("offload_states")
    offload_activations: _Values = _setting("offload_activations")
    overlap: _Values = _setting("overlap")
    sparsity: _Values = _setting("sparsity")
    local_steps: _Values = _setting("local_steps")
    moe_pipeline: _Values = _setting("moe_pipeline")
    gradient_slices: _Values = _setting("gradient_slices")
    length_groups: _Values = _setting("length_groups")
    redundancy: _Values = _setting("redundancy")
    lengths: Annotated[
        str | None,
        Field(
            description="documents that sequences are packed of: TOKENS:WEIGHT,TOKENS:WEIGHT,..., or a file with the tokens of "
            "one document a line; whole sequences if left out"
        ),
    ] = None
    stack: Annotated[
        Literal["fused", "eager"],
        Field(description="kernels of Megatron-LM or compiled PyTorch, or PyTorch as it comes"),
    ] = "fused"
    kernels: Annotated[
        str,
        Field(
            description="kernel times from measured tables where the GPU has some (tables), from peak figures (peak), or from "
            "a file that `autotune kernels` measured"
        ),
    ] = "tables"
    memory_gib: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description=f"of a GPU, to use; {USABLE:.0%} of what it has if left out"),
    ] = None
    host_gib: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="host memory for each GPU, to use for what is offloaded")
    ] = HOST_GIB
    gpus_per_node: Annotated[
        int | None, Field(ge=1, description="GPUs that fast links join; as the GPU's systems have it if left out")
    ] = None
    network_gb_s: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="GB/s of one GPU, one way, between nodes; as its systems have it if left out",
        ),
    ] = None
    imbalance: Annotated[
        float, Field(ge=1, allow_inf_nan=False, description="tokens of the fullest expert-parallel GPU over the mean")
    ] = 1.0
    gpu_hours_to_failure: Annotated[
        float | None,
        Field(
            gt=0, allow_inf_nan=False, description="mean time to a failure of one GPU; failures are left out without it"
        ),
    ] = None
    checkpoint_s: Annotated[float, Field(ge=0, allow_inf_nan=False, description="that a checkpoint stops training")] = (
        60.0
    )
    checkpoint_every_s: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="between checkpoints; the best interval if left out")
    ] = None
    restart_s: Annotated[float, Field(ge=0, allow_inf_nan=False, description="from a failure to the next step")] = 600.0
    limit_s: Annotated[
        float, Field(ge=1, allow_inf_nan=False, description="seconds that one real run may take, its start included")
    ] = DEFAULT_LIMIT_S
    straggler_spread: Annotated[
        float, Field(ge=0, le=1, description="standard deviation of a GPU's step time over the mean")
    ] = 0.0


class TrainingLayout:
    """The domain; see `docs/training-layout.md`."""

    name = "training-layout"
    summary = "a training job over GPUs: parallel degrees, sharding, micro-batches, recomputation"
    options = Options

    def problem(self, options: Options) -> Problem:
        """Lay out the search.

        Raises:
            UsageError: for a model, GPU or job that cannot be laid out.
        """
        job, reliability = _job(options), _reliability(options)
        space = space_of(job)
        default = default_of(job, space)
        evaluator = Profiled(job, EAGER if options.stack == "eager" else FUSED, reliability)
        solver = LayoutSolver(evaluator, layouts_of(job, space))
        return Problem(
            space=space,
            objectives=("maximize tokens_per_s_gpu",),
            default=default,
            evaluators={"profiled": evaluator, "real": Real(job, limit_s=options.limit_s)},
            metrics=METRICS,
            highlights=("mfu", "memory_gib", "step_s", "bubble_s", "data_parallel"),
            domain_map=solver,
            facts=_facts(job, options, solver),
        )

    def compare(self, folder: Path, share: float, seed: int) -> Comparison:
        """Predictions beside measured runs of others, before and after a calibration by a share of them."""
        return compare(folder, share, seed)

    def exporters(self, options: Options) -> dict[str, Exporter]:
        """Layouts for engines that people train with."""
        job = _job(options)
        node = (
            min(job.cluster.joined, job.gpus) if options.gpus_per_node else min(job.cluster.gpu.level_gpus[0], job.gpus)
        )
        subject = Subject(
            job.model,
            job.gpus,
            job.sequence,
            job.global_batch,
            fixed=job.fixed,
            levels=job.cluster.levels,
            node_gpus=node,
        )
        return exporters(subject)

    def explain(self, trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
        """Where the time of a step and the memory of a GPU go."""
        return explain(trials, unicode=unicode)

    def views(self) -> Mapping[str, View]:
        """Pictures; they need the extra `plots`, which a search does not."""
        from evaluators.training_layout.views import VIEWS  # noqa: PLC0415

        return VIEWS


class LayoutSolver:
    """All layouts of a job, scored at once: the best of every family (tensor x pipeline degree), as a `FixedPointMap`.

    The model couples nothing that a family leaves open, so that the first iterate is its solution.
    """

    def __init__(self, evaluator: Profiled, layouts: FeasibleTable) -> None:
        self._evaluator = evaluator
        self._table = layouts

    @cached_property
    def scored(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns of all layouts, and ``(n,)`` their tokens per second of a GPU."""
        columns = self._table.columns()
        return columns, self._evaluator.of_columns(columns)["tokens_per_s_gpu"]

    @property
    def kernels(self) -> str:
        """Where the times of all layouts come from."""
        _ = self.scored
        return self._evaluator.job.cluster.times.source

    @cached_property
    def _best(self) -> dict[str, int]:
        """The row of the best of every family, the best family first."""
        columns, speed = self.scored
        found: dict[str, int] = {}
        for row in np.argsort(-speed, kind="stable"):
            found.setdefault(f"tp {columns['tp'][row]} x pp {columns['pp'][row]}", int(row))
        return found

    def starts(self) -> Sequence[str]:
        return list(self._best)[:_STARTS]

    def initial(self, start: str) -> Vector:
        return np.zeros(1)

    def apply(self, start: str, coupling: Vector) -> tuple[Vector, Config, float]:
        row = self._best[start]
        return coupling, self._table.config(row), -float(self.scored[1][row])

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        return config, -float(self._evaluator.predict([config])["tokens_per_s_gpu"][0])


def _job(options: Options) -> Job:
    device, times = _device(options)
    network = 0.0 if options.network_gb_s is None else 1e9 * options.network_gb_s
    texts = {name: getattr(options, name) for name in CHOICES}
    return Job(
        _model(options),
        Cluster(device, options.gpus, times, options.gpus_per_node or 0, network),
        options.sequence,
        options.global_batch or 2 * options.gpus,
        chosen(texts, device),
        0.0 if options.memory_gib is None else options.memory_gib * GIB,
        options.host_gib * GIB,
        options.imbalance,
        None if options.lengths is None else Lengths.read(options.lengths),
    )


def _device(options: Options) -> tuple[Gpu, KernelTimes]:
    """The GPU, and where its kernel times come from."""
    if options.kernels in ("tables", "peak"):
        if options.hardware == OWN:
            raise UsageError(
                "hardware 'own' is what a file of kernel times was measured on; give --set kernels=FILE.json too"
            )
        device = gpu(options.hardware)
        return device, kernel_times(device, measured=options.kernels == "tables")
    times = OwnTimes.read(Path(options.kernels).expanduser())
    if options.hardware == OWN:
        return own_gpu(times.tables), times
    return replace(gpu(options.hardware), memory_bytes_s=times.memory_bytes_s), times


def _reliability(options: Options) -> Reliability | None:
    if options.gpu_hours_to_failure is None and not options.straggler_spread:
        return None
    return Reliability(
        options.gpu_hours_to_failure or math.inf,
        options.checkpoint_s,
        options.restart_s,
        options.straggler_spread,
        options.checkpoint_every_s,
    )


def _model(options: Options) -> TransformerShape:
    name = options.model
    path = Path(name).expanduser()
    whole = from_config_json(path) if name.endswith(".json") or path.is_dir() else preset(name)
    return whole if options.layers is None else whole.of_layers(options.layers)


def _facts(job: Job, options: Options, solver: LayoutSolver) -> dict[str, object]:
    model, device = job.model, job.cluster.gpu
    active = f", {_count(model.active_parameters)} of them for a token" if model.n_experts else ""
    return {
        "model": f"{model.name}: {_count(model.total_parameters)} parameters{active}",
        "cluster": f"{job.gpus} x {device.name}, {min(job.cluster.joined, job.gpus)} joined by fast links",
        "step": f"{job.global_batch} sequences of {job.sequence} tokens in {options.precision}",
        # Known when all layouts have been scored, which the search does anyway.
        "kernels": solver.kernels,
        "pruned": pruned(job),
    }


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} billion" if parameters >= 1e8 else f"{parameters / 1e6:.1f} million"


DOMAIN = TrainingLayout()

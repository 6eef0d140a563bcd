"""What is exported: a layout with the job that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluators.training_layout.shape import TransformerShape

_SHARES = {"full": 1.0, "full 1/2": 0.5, "full 1/4": 0.25}


@dataclass(frozen=True)
class Subject:
    """A job, as far as engines want to know it.

    Attributes:
        precision: number format of the matrix products, where no setting says it.
        optimizer: ``adam`` or ``adam8bit``, where no setting says it.
        fixed: settings that were not searched over, by name.
        levels: GPUs that each link level joins, by its name, from the nearest.
        node_gpus: GPUs of a machine, as the launcher starts them.
    """

    model: TransformerShape
    gpus: int
    sequence: int
    global_batch: int
    precision: str = "bf16"
    optimizer: str = "adam"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)
    node_gpus: int = 8


@dataclass(frozen=True)
class Chosen:
    """One layout of a job.

    Attributes:
        config: of the trial.
        metrics: of it, by name; empty where it was not measured.
    """

    subject: Subject
    config: Mapping[str, Any]
    metrics: Mapping[str, float]

    def __getitem__(self, knob: str) -> Any:
        """A knob's value; 1 for degrees that a dense model does not have."""
        return self.get(knob, 1)

    def get(self, knob: str, default: Any) -> Any:
        """A knob's value, or that of a fixed setting, or `default`; a knob without effect has none."""
        for known in (self.config, self.subject.fixed):
            if known.get(knob) is not None:
                return known[knob]
        return default

    def degree(self, knob: str) -> int:
        """A knob that is a whole number, 1 where the layout has none."""
        return int(self[knob])

    @property
    def zero(self) -> int:
        """ZeRO's stage."""
        return int(self.get("zero", 0))

    @property
    def precision(self) -> str:
        """Number format of the matrix products."""
        return str(self.get("precision", self.subject.precision))

    @property
    def optimizer(self) -> str:
        """``adam`` or ``adam8bit``."""
        return str(self.get("optimizer", self.subject.optimizer))

    @property
    def offload_states(self) -> str:
        """Where optimizer states lie: ``none`` (on the GPU), ``host`` or ``ssd``."""
        return str(self.get("offload_states", "none"))

    @property
    def offload_activations(self) -> float:
        """Share of the kept activations that wait in host memory."""
        return float(self.get("offload_activations", 0.0))

    @property
    def context(self) -> str:
        """How context parallelism works: ``ring``, ``ulysses`` or ``tokenring``."""
        return str(self.get("context", "ring"))

    @property
    def dp(self) -> int:
        """Data-parallel copies."""
        return self.subject.gpus // int(self["tp"] * self["cp"] * self["pp"])

    @property
    def replicas(self) -> int:
        """GPUs that hold the same dense weights, over which ZeRO spreads them."""
        return self.dp * self.degree("cp")

    @property
    def expert_replicas(self) -> int:
        """GPUs that hold the same experts."""
        return self.subject.gpus // (self.degree("pp") * self.degree("ep") * self.degree("etp"))

    @property
    def microbatches(self) -> int:
        """Of a step."""
        return max(1, self.subject.global_batch // (self.dp * self.degree("micro_batch")))

    @property
    def chunks(self) -> int:
        """Model chunks of all pipeline stages."""
        return self.degree("pp") * self.degree("interleave")

    @property
    def counts_ends(self) -> bool:
        """Whether layers are shared out evenly only with embedding and loss counted as a layer each."""
        return bool(self.subject.model.n_layers % self.chunks)

    @property
    def chunk_layers(self) -> int:
        """Layers of a model chunk; of the fullest, where embedding and loss count as one each."""
        return -(-(self.subject.model.n_layers + 2 * self.counts_ends) // self.chunks)

    @property
    def recomputed_share(self) -> float:
        """Share of the layers that are computed anew in full; 0 for none."""
        return _SHARES.get(str(self.get("recompute", "none")), 0.0)

    @property
    def recomputed_layers(self) -> int:
        """Layers of a model chunk that are computed anew in full; 0 for none."""
        share = self.recomputed_share
        return max(1, round(share * self.chunk_layers)) if share else 0

    def told(self) -> list[str]:
        """What it is, in lines of a comment."""
        job = self.subject
        lines = [f"{job.model.name} on {job.gpus} GPUs, {job.global_batch} sequences of {job.sequence} tokens a step"]
        if "tokens_per_s_gpu" in self.metrics:
            lines.append(
                f"predicted: {self.metrics['tokens_per_s_gpu']:.0f} tokens per second of a GPU, "
                f"{self.metrics['memory_gib']:.1f} GiB of its memory"
            )
        return lines

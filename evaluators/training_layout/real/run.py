"""`Run`: what the processes of a short training run are told, and which runs there cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluators.training_layout.shape import TransformerShape


@dataclass(frozen=True)
class Run:
    """A layout of a model on the processes of one machine.

    Attributes:
        shape: the model, with as many layers as are run.
        device: `cpu` or `cuda`.
        sequence: tokens of a sequence.
        precision: `bf16` or `fp32`; on CPUs both are float32, in which they are faster.
        dp, tp, pp, cp: degrees; their product is the number of processes.
        ep, etp: expert parallel degree and tensor parallel degree of the experts, within ``dp * cp * tp``.
        interleave: model chunks of a pipeline stage.
        zero: what is spread over data-parallel processes: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too.
        shards: data-parallel processes over which it is spread; it is repeated over the groups of so many.
        micro_batch, microbatches: sequences, and how many times they are passed in a step.
        recompute: `none`, `selective` or `full`.
        recompute_share: of the layers.
        warm_up, steps: that do not count, and that do.
    """

    shape: TransformerShape
    device: str
    sequence: int
    precision: str = "bf16"
    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    interleave: int = 1
    zero: int = 0
    shards: int = 1
    micro_batch: int = 1
    microbatches: int = 1
    recompute: str = "none"
    recompute_share: float = 1.0
    warm_up: int = 1
    steps: int = 3

    @property
    def processes(self) -> int:
        return self.dp * self.tp * self.pp * self.cp

    @property
    def replicas(self) -> int:
        """Processes that hold the same dense weights."""
        return self.dp * self.cp

    @property
    def expert_replicas(self) -> int:
        """Processes that hold the same experts."""
        return self.dp * self.cp * self.tp // (self.ep * self.etp)

    @property
    def chunks(self) -> int:
        """Model chunks of the whole pipeline."""
        return self.pp * self.interleave

    @property
    def rows(self) -> int:
        """Sequences of one data-parallel process and step."""
        return self.micro_batch * self.microbatches

    def layers_of(self, chunk: int) -> range:
        """Layers of a model chunk: an even share, or one where embedding and loss count as a layer each."""
        layers = self.shape.n_layers
        if layers % self.chunks == 0:
            each = layers // self.chunks
            return range(chunk * each, (chunk + 1) * each)
        each = (layers + 2) // self.chunks
        return range(max(0, chunk * each - 1), min(layers, (chunk + 1) * each - 1))

    def recomputed(self, layer: int) -> bool:
        """Whether a layer is recomputed; such layers lie evenly among the others, so that pipeline stages get their share."""
        share = self.recompute_share
        return self.recompute != "none" and int((layer + 1) * share + 1e-9) > int(layer * share + 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Run:
        """What `to_dict` returned."""
        return cls(**{**given, "shape": TransformerShape(**given["shape"])})


def model_refusal(shape: TransformerShape) -> str | None:
    """Why a model cannot be run, in a sentence; None where it can."""
    runs = "choose a model of plain or grouped-query attention in every layer, such as llama3-8b or qwen3-30b-a3b"
    if shape.latent is not None:
        return f"model {shape.name} has latent attention, which the evaluator real does not run; {runs}"
    if shape.mamba is not None or shape.attention_layers != shape.n_layers:
        return f"model {shape.name} has layers without attention, which the evaluator real does not run; {runs}"
    if shape.dense_layers + shape.expert_layers != shape.n_layers:
        return (
            f"model {shape.name} has {shape.dense_layers} dense and {shape.expert_layers} expert layers, which are not its "
            f"{shape.n_layers} layers, so that the evaluator real does not run it; {runs}"
        )
    if shape.head_dim % 2:
        return f"model {shape.name} has heads of odd width {shape.head_dim}, which rotary positions cannot turn; {runs}"
    return None


def model_differences(shape: TransformerShape, pp: int) -> list[str]:
    """What of a model is run otherwise than it is trained."""
    found = {
        "rotary positions in place of learned ones": shape.positions,
        "no dropout": shape.dropout,
        "full attention in place of windows": shape.windowed_layers and shape.window,
        "embedding and output projection trained apart": shape.tied and pp > 1,
        "no balancing of experts": shape.n_experts,
    }
    return [text for text, applies in found.items() if applies]


def layout_refusal(run: Run) -> str | None:
    """Why a layout cannot be run though the model can, in a sentence; None where it can."""
    shape = run.shape
    stage = run.dp * run.cp * run.tp
    whole = run.cp * run.tp * (2 if run.cp > 1 else 1)
    checks = [
        (
            run.cp == 1 or run.device == "cuda",
            f"cp={run.cp} needs GPUs: PyTorch's context parallelism has no kernel for CPUs",
        ),
        (
            shape.n_kv_heads % run.tp == 0,
            f"tp={run.tp} does not divide the {shape.n_kv_heads} key and value heads, and PyTorch's tensor parallelism copies "
            "none; use a smaller tp",
        ),
        (
            run.sequence % whole == 0,
            f"a sequence of {run.sequence} tokens cannot be shared out over cp={run.cp} and tp={run.tp}; "
            f"use a multiple of {whole}",
        ),
        (
            shape.n_layers % run.chunks == 0 or (shape.n_layers + 2) % run.chunks == 0,
            f"{shape.n_layers} layers cannot be shared out over pp={run.pp} stages of {run.interleave} chunks",
        ),
        (
            run.microbatches >= run.pp,
            f"micro-batches are {run.microbatches}, fewer than the pp={run.pp} stages, which PyTorch's schedules refuse; use a "
            "smaller pp or micro_batch",
        ),
        (
            run.interleave == 1 or run.microbatches % run.pp == 0,
            f"{run.microbatches} micro-batches are no multiple of pp={run.pp}, which interleaving needs",
        ),
        (
            run.replicas % run.shards == 0,
            f"{run.shards} shards do not divide the {run.replicas} data-parallel processes",
        ),
    ]
    if shape.n_experts:
        checks += [
            (shape.n_experts % run.ep == 0, f"ep={run.ep} does not divide the {shape.n_experts} experts"),
            (
                stage % (run.ep * run.etp) == 0,
                f"ep={run.ep} x etp={run.etp} does not divide the {stage} processes of a stage",
            ),
            (run.etp in (1, run.tp), f"etp={run.etp} must be 1 or tp={run.tp}"),
            (
                shape.expert_ffn % run.etp == 0,
                f"etp={run.etp} does not divide the experts' width of {shape.expert_ffn}",
            ),
        ]
    return next((sentence for good, sentence in checks if not good), None)

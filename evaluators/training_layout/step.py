"""Time of one training step under a layout, by component, from measured parts.

A step of m micro-batches on p stages with v chunks each takes ``(m + (p - 1) / v)`` times the slowest stage's forward and
backward pass (arXiv:2104.04473, section 2.2), and what of the data-parallel traffic the passes do not hide, and the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.layer import layer_pass
from evaluators.training_layout.layouts import Floats, Layouts, Recompute
from evaluators.training_layout.machine import FUSED, Machine
from evaluators.training_layout.memory import Batch, activation_bytes
from evaluators.training_layout.shape import TransformerShape
from evaluators.training_layout.sharding import exposed_traffic, offload_s, optimizer_s, traffic

_OF_LAYERS = (
    "tp", "cp", "ep", "etp", "micro_batch", "sequence_parallel", "context", "moe_pipeline", "attention_share", "context_share",
)  # fmt: skip
_OF_SHARDS = (
    "dp", "tp", "cp", "pp", "ep", "etp", "weight_shards", "gradient_shards", "optimizer_shards", "weight_bytes",
    "gradient_bytes",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class StepTime:
    """Seconds of one step, ``(n,)`` each, on the slowest GPU.

    Attributes:
        products, attention, elementwise, launching: computation: matrix products, attention kernels, kernels that memory
            bounds, and launches.
        recomputing: forward computation that is done again.
        tensor, context, expert, stages: exposed traffic of tensor, context, expert and pipeline parallelism.
        offload: exposed traffic of activations to host memory and back.
        bubble: waiting for the first micro-batches to come and the last ones to end.
        data: exposed traffic of gradients and weights.
        optimizer: its update.
    """

    products: Floats
    attention: Floats
    elementwise: Floats
    launching: Floats
    recomputing: Floats
    tensor: Floats
    context: Floats
    expert: Floats
    stages: Floats
    offload: Floats
    bubble: Floats
    data: Floats
    optimizer: Floats

    @property
    def total(self) -> Floats:
        """Of all parts."""
        parts: Floats = np.sum([getattr(self, part.name) for part in fields(self)], axis=0)
        return parts

    def parts(self) -> dict[str, Floats]:
        """By name, in the order of the attributes."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


def step_time(
    model: TransformerShape, layouts: Layouts, batch: Batch, cluster: Cluster, kind: str, machine: Machine = FUSED
) -> StepTime:
    """Of every layout.

    Args:
        kind: number format of the matrix products: `fp32`, `bf16`, `fp8`, `fp8-block`, `mxfp8`, `fp4`.
    """
    lay = layouts
    # What a micro-batch takes depends on few columns, and so does data-parallel traffic; layouts by the hundred thousand share
    # few of their combinations.
    some, which = lay.distinct(_OF_LAYERS)
    one = layer_pass(model, some, batch, cluster, kind, machine).take(which)
    some, which = lay.distinct(_OF_SHARDS)
    spread = traffic(model, some, cluster).take(which)
    layers = model.n_layers / lay.pp
    m = lay.microbatches.astype(np.float64)

    def both(part: tuple[Floats, Floats]) -> Floats:
        return layers * (part[0] + part[1])

    again = np.where(lay.recompute == Recompute.FULL, lay.recompute_share, 0.0)
    forward = layers * (one.products[0] + one.attention[0] + one.elementwise[0] + machine.kernel_s)
    cheap = layers * (one.elementwise[0] if batch.fused_attention else one.attention[0])
    recomputing = again * (forward + layers * (one.tensor[0] + one.expert[0]))
    recomputing += np.where(lay.recompute == Recompute.SELECTIVE, lay.recompute_share, 0.0) * cheap
    parts = {
        "products": both(one.products) + one.loss,
        "attention": both(one.attention),
        "elementwise": both(one.elementwise),
        "launching": 3.0 * layers * machine.kernel_s,
        "recomputing": recomputing,
        "tensor": both(one.tensor),
        "context": both(one.context),
        "expert": both(one.expert),
        "stages": _sends(model, lay, batch, cluster),
    }
    stage = np.sum(list(parts.values()), axis=0)
    waiting = layers * activation_bytes(model, lay, batch) * lay.micro_batch * batch.sequence / lay.cp
    parts["offload"] = offload_s(lay, waiting, cluster, stage)
    stage = stage + parts["offload"]
    # The last stage alone computes the loss; while it does, the others' bubbles are shorter.
    bubble = (lay.pp - 1) / lay.interleave * (stage - one.loss)
    backward = stage - forward
    return StepTime(
        **{name: m * value for name, value in parts.items()},
        bubble=bubble,
        data=exposed_traffic(
            spread, lay, m, machine.data_hidden * stage, m * stage + bubble, layers * one.gaps, machine
        ),
        optimizer=optimizer_s(model, lay, cluster, backward, machine),
    )


def forward_s(
    model: TransformerShape, layouts: Layouts, batch: Batch, cluster: Cluster, kind: str, machine: Machine = FUSED
) -> tuple[Floats, Floats]:
    """Seconds of one micro-batch's forward pass through a pipeline stage, its exposed traffic included, and of the loss on the
    last stage; ``(n,)`` each. What else `step_time` counts of a micro-batch belongs to its backward pass.

    Arguments as of `step_time`.
    """
    one = layer_pass(model, layouts, batch, cluster, kind, machine)
    parts = (one.products, one.attention, one.elementwise, one.tensor, one.context, one.expert)
    layers = model.n_layers / layouts.pp
    return layers * (np.sum([part[0] for part in parts], axis=0) + machine.kernel_s), one.loss


def _sends(model: TransformerShape, lay: Layouts, batch: Batch, cluster: Cluster) -> Floats:
    """Seconds of a micro-batch's sends between pipeline stages, there and back."""
    nbytes = batch.number_bytes * model.hidden * lay.micro_batch * batch.sequence / lay.cp / lay.tp
    sends = 2.0 * cluster.send_s(lay.tp * lay.cp * lay.dp, nbytes)
    # Chunks send as often as there are of them; most of it hides behind the other chunks' passes.
    return np.where(lay.pp > 1, sends * np.where(lay.interleave > 1, 0.25 * lay.interleave, 1.0), 0.0)

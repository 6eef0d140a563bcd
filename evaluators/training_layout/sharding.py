"""Time of data-parallel traffic, of the optimizer, and of what lies in host memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.layouts import Floats, Ints, Layouts
from evaluators.training_layout.machine import Machine
from evaluators.training_layout.memory import spread_parameters, stage_parameters
from evaluators.training_layout.shape import TransformerShape

_OPTIMIZER_READS = 2.5  # times that Adam's states, gradients and weights cross the memory
# Of host memory for each GPU, that Adam on the host's processors reaches: 200 GB/s of a socket among four GPUs.
_HOST_MEMORY_BYTES_S = 5e10
SSD_BYTES_S = 3e9  # for each GPU: an NVMe drive reads or writes 6 to 7 GB/s, and two GPUs share one


@dataclass(frozen=True, eq=False)
class Traffic:
    """Seconds of data-parallel traffic: `each` with every micro-batch, `once` a step, `between` groups of shards at every
    synchronisation, of which there may be fewer than steps."""

    each: Floats
    once: Floats
    between: Floats

    def take(self, rows: npt.NDArray[np.intp]) -> Traffic:
        """Of some layouts, by number."""
        return Traffic(self.each[rows], self.once[rows], self.between[rows])


def traffic(model: TransformerShape, lay: Layouts, cluster: Cluster) -> Traffic:
    """Of the dense parameters, and of the experts, one after the other.

    Spread weights are gathered for every forward and backward pass and their gradients scattered after it. Otherwise gradients
    are scattered among those that share them once a step. Then the shards are summed up between groups: scattered further
    where states are spread over more GPUs than gradients, and reduced over all where groups have the same states; and weights
    whose states are spread are gathered.
    """
    dense, experts = stage_parameters(model, lay, np.zeros_like(lay.pp))
    found = Traffic(*(np.zeros(len(lay)) for _ in range(3)))
    groups = ((dense, lay.replicas, lay.tp), (experts, lay.expert_replicas, lay.tp * lay.ep))
    for held, replicas, stride in groups:
        if (held > 0).any():
            one = _of_group(held, replicas, stride, lay, cluster)
            found = Traffic(found.each + one.each, found.once + one.once, found.between + one.between)
    return found


def _of_group(held: Floats, replicas: Ints, stride: Ints, lay: Layouts, cluster: Cluster) -> Traffic:
    weights, gradients, states = (
        np.minimum(shards, replicas) for shards in (lay.weight_shards, lay.gradient_shards, lay.optimizer_shards)
    )
    states = np.maximum(states, gradients)
    collective = cluster.collective_s
    gathered = collective("all_gather", weights, stride, lay.weight_bytes * held)
    scattered = collective("reduce_scatter", gradients, stride, lay.gradient_bytes * held)
    spread = weights > 1
    further = collective(
        "reduce_scatter", states // gradients, stride * gradients, lay.gradient_bytes * held / gradients
    )
    back = collective("all_gather", states // weights, stride * weights, lay.weight_bytes * held / weights)
    return Traffic(
        each=np.where(spread, 2.0 * gathered + scattered, 0.0),
        once=np.where(spread, 0.0, scattered) + further + back,
        between=collective("all_reduce", replicas // states, stride * states, lay.gradient_bytes * held / states),
    )


def exposed_traffic(
    parts: Traffic, lay: Layouts, microbatches: Floats, hidden: Floats, step: Floats, gaps: Floats, machine: Machine
) -> Floats:
    """Seconds of a step by which data-parallel traffic makes it longer.

    Args:
        hidden: seconds of traffic that the passes of one micro-batch hide.
        step: seconds of a step's passes.
        gaps: seconds of the last backward pass in which a pipeline of experts leaves links between nodes idle.
    """

    def longer(traffic: Floats, hides: Floats) -> Floats:
        return np.maximum(0.0, traffic - hides) + machine.contention * np.minimum(traffic, hides)

    # Slices fill gaps in whole, so that finer ones leave less of a gap unused.
    slices = np.maximum(lay.gradient_slices, 1)
    filled = np.where(lay.gradient_slices > 0, gaps * (1.0 - 1.0 / (slices + 1.0)), 0.0)
    late = lay.local_steps * step if machine.late_gradients else hidden
    between = longer(np.maximum(0.0, parts.between - filled), late) / lay.local_steps
    return longer(np.maximum(0.0, parts.once - filled), hidden) + microbatches * longer(parts.each, hidden) + between


def optimizer_s(model: TransformerShape, lay: Layouts, cluster: Cluster, backward: Floats, machine: Machine) -> Floats:
    """Seconds of the optimizer's update: on the GPU by its memory's bandwidth; on the host by the link, the host's memory, and
    an SSD where states lie there, whichever is the slowest.

    Args:
        backward: seconds of a backward pass, beside which an offloaded optimizer may work.
    """
    dense, experts = stage_parameters(model, lay, np.zeros_like(lay.pp))
    held = spread_parameters(lay, dense, experts, lay.optimizer_shards)
    nbytes = lay.optimizer_bytes + lay.gradient_bytes + lay.weight_bytes
    here = _OPTIMIZER_READS * nbytes / (machine.memory_share * cluster.gpu.memory_bytes_s)
    there = np.maximum(
        (lay.gradient_bytes + lay.weight_bytes) / cluster.gpu.host_bytes_s,
        _OPTIMIZER_READS * nbytes / _HOST_MEMORY_BYTES_S,
    )
    there = np.where(lay.states_on_ssd, np.maximum(there, 2.0 * lay.optimizer_bytes / SSD_BYTES_S), there)
    away = lay.offloaded_states * held * there
    if machine.optimizer_behind:
        away = np.maximum(0.0, away - backward)
    return (1.0 - lay.offloaded_states) * held * here + away


def offload_s(lay: Layouts, waiting: Floats, cluster: Cluster, stage: Floats) -> Floats:
    """Exposed seconds of a micro-batch to bring its activations to host memory and back, beside a stage's passes.

    Args:
        waiting: bytes of a micro-batch's activations on a stage.
        stage: seconds of its passes.
    """
    return np.maximum(0.0, 2.0 * lay.offloaded_activations * waiting / cluster.gpu.host_bytes_s - stage)

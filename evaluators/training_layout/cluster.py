"""`Cluster`: GPUs joined by link levels, and what collectives take among any of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.training_layout.gpus import Gpu
from evaluators.training_layout.layouts import Floats, Ints
from evaluators.training_layout.tables import KernelTimes, bus_bytes

# What of the network's bandwidth collectives reach, and what each doubling of the nodes adds.
_NETWORK_OF_PEAK = 0.8
_HOP_S = 1e-5


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind.

    Attributes:
        gpu: which.
        gpus: how many.
        times: of kernels and of collectives within a node.
        domain: GPUs that the fast links join; those of the GPU's systems if 0.
        network_bytes_s: of one GPU, one way, beyond them; that of the GPU's systems if 0.
    """

    gpu: Gpu
    gpus: int
    times: KernelTimes
    domain: int = 0
    network_bytes_s: float = 0.0

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UsageError(f"gpus is {self.gpus}; a cluster has at least one")

    @property
    def joined(self) -> int:
        """GPUs that the fast links join."""
        return self.domain or self.gpu.level_gpus[-1]

    @property
    def levels(self) -> dict[str, int]:
        """GPUs that each link level joins, by name, from the nearest."""
        found = {name: count for name, count in self.gpu.levels.items() if count < self.joined}
        last = [name for name in self.gpu.levels if name not in found][-1:] or ["node"]
        return {**found, last[0]: self.joined}

    @property
    def network(self) -> float:
        """Bytes per second of one GPU, one way, beyond the fast links."""
        return self.network_bytes_s or self.gpu.level_bytes_s[-1]

    def collective_s(
        self, operation: str, group: npt.ArrayLike, stride: npt.ArrayLike, nbytes: npt.ArrayLike
    ) -> Floats:
        """Seconds of a collective among every `stride`-th GPU of a row of them.

        Within the fast links as measured. Beyond them every node takes in what it lacks over the network ports of all its
        members at once; the two overlap, and the slower counts.

        Args:
            operation: `all_gather`, `reduce_scatter`, `all_reduce` or `alltoall`.
            group: GPUs that take part.
            stride: from one to the next.
            nbytes: of the whole result (of a reduce-scatter, of the input).
        """
        groups, strides, sizes = np.broadcast_arrays(
            np.asarray(group, dtype=np.int64), np.asarray(stride, dtype=np.int64), np.asarray(nbytes, dtype=np.float64)
        )
        seconds = np.zeros(groups.shape)
        for g, step in {(int(g), int(s)) for g, s in zip(groups.ravel(), strides.ravel(), strict=True)}:
            if g > 1:
                chosen = (groups == g) & (strides == step)
                seconds[chosen] = self._of(operation, g, step, sizes[chosen])
        return seconds

    def _of(self, operation: str, group: int, stride: int, nbytes: Floats) -> Floats:
        near = min(group, max(1, self.joined // stride))
        inside = self.times.node_collective_s(operation, near, nbytes) if near > 1 else np.zeros_like(nbytes)
        if near == group:
            return inside
        nodes = math.ceil(group / near)
        exchanged = operation == "alltoall"
        outside = nbytes * (group - near) / group if exchanged else bus_bytes(operation, nodes, nbytes) / near
        return np.maximum(inside, outside / (self.network * _NETWORK_OF_PEAK)) + _HOP_S * math.log2(nodes)

    def send_s(self, stride: Ints, nbytes: Floats) -> Floats:
        """Seconds to send so many bytes to the GPU `stride` further on."""
        fast = self.gpu.level_bytes_s[0]
        return _HOP_S + nbytes / (np.where(stride < self.joined, fast, self.network) * _NETWORK_OF_PEAK)

"""The GPUs that experts are placed on, and what a placement is.

Letters used in shapes, in this package throughout: ``T`` tokens, ``L`` mixture-of-experts layers, ``k`` experts per
token (top-k), ``N`` experts per layer, ``G`` GPUs, ``B`` batches of tokens. A placement is an ``(L, N)`` array: the GPU
of every expert. It is balanced where every GPU has ``N / G`` experts of every layer, which all solvers keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError

MAX_GPUS = 64  # the kernels keep the GPUs that a token visits in the bits of one integer
INTRA_NODE, INTER_NODE = 1, 2  # cost of a hop, ExFlow (arXiv:2401.08383), calculate_cost of its published solver

Placement = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """GPUs numbered node by node: GPU g is in node ``g // gpus_per_node``.

    Raises:
        UsageError: for numbers of GPUs that make no cluster.
    """

    gpus: int
    gpus_per_node: int

    def __post_init__(self) -> None:
        if not 2 <= self.gpus <= MAX_GPUS:
            raise UsageError(f"gpus is {self.gpus}; give 2 to {MAX_GPUS}, as on one GPU there is nothing to place")
        if self.gpus_per_node < 1 or self.gpus % self.gpus_per_node:
            raise UsageError(
                f"gpus_per_node is {self.gpus_per_node}, which does not divide the {self.gpus} GPUs; give a divisor of "
                f"{self.gpus}, or leave it out for one node"
            )

    @property
    def nodes(self) -> int:
        return self.gpus // self.gpus_per_node

    @cached_property
    def hop_cost(self) -> Ints:
        """``(G, G)``: cost of sending a token from one GPU to another: 0 to itself, 1 within its node, 2 beyond."""
        node = np.arange(self.gpus) // self.gpus_per_node
        cost = np.where(node[:, None] == node, INTRA_NODE, INTER_NODE).astype(np.int64)
        np.fill_diagonal(cost, 0)
        return cost

    @cached_property
    def hop_count(self) -> Ints:
        """``(G, G)``: 0 from a GPU to itself, 1 to every other."""
        return (self.hop_cost > 0).astype(np.int64)

    def experts_per_gpu(self, n_experts: int) -> int:
        """Experts of each layer on each GPU.

        Raises:
            UsageError: where the experts cannot be shared out evenly.
        """
        if n_experts % self.gpus:
            fits = [str(g) for g in range(2, min(n_experts, MAX_GPUS) + 1) if n_experts % g == 0]
            possible = f"give one of: {', '.join(fits)}" if fits else f"nor over any other number from 2 to {MAX_GPUS}"
            raise UsageError(
                f"{n_experts} experts per layer cannot be shared out evenly over gpus={self.gpus}; {possible}"
            )
        return n_experts // self.gpus


def is_balanced(placement: Placement, gpus: int) -> bool:
    """Whether every GPU has the same number of experts of every layer, and every expert lies on one of the GPUs."""
    inside = bool(((placement >= 0) & (placement < gpus)).all())
    return inside and all((np.bincount(row, minlength=gpus) * gpus == len(row)).all() for row in placement)

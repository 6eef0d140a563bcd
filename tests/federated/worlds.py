"""Worlds by hand: links and speeds in round numbers, and losses whose optimum is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evaluators.federated.fleet import Fleet
from evaluators.federated.methods import Method
from evaluators.federated.tradeoffs import Quadratics, world_of
from evaluators.federated.world import World


def machines(n: int, slower: Sequence[float] | None = None) -> Fleet:
    """Devices with 100 bytes/s down, 50 up, one second of latency; `slower` divides their speed."""

    def column(value: float) -> Tensor:
        return torch.full((n,), value, dtype=torch.float64)

    return Fleet(
        gflops=1.0 / torch.tensor(slower or [1.0] * n, dtype=torch.float64),
        memory_bytes=column(2.0**30),
        down_bytes_s=column(100.0),
        up_bytes_s=column(50.0),
        latency_s=column(1.0),
        busy_w=column(5.0),
        idle_w=column(1.0),
        radio_w=column(2.0),
        kind=torch.zeros(n, dtype=torch.int64),
        kinds=("made",),
    )


def drifting(n: int = 4, size: int = 6, seed: int = 0) -> Quadratics:
    """Devices that disagree about the optimum and about curvature, between 0.5 and 4."""
    generator = torch.Generator().manual_seed(seed)
    curvature = 0.5 + 3.5 * torch.rand(n, size, generator=generator)
    return Quadratics(curvature, 2.0 * torch.randn(n, size, generator=generator), torch.zeros(size))


def even_world(learner: Quadratics, each: int = 10, **options: Any) -> World:
    """As many samples on every device."""
    return world_of(learner, [each] * len(learner.centres), devices=machines(len(learner.centres)), **options)


def run(method: Method, rounds: int) -> Tensor:
    """The model after some rounds, ``(size,)`` float64."""
    for round_ in range(rounds):
        method.round(round_)
    return method.model.double()

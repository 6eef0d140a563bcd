"""No server: devices train, then average with their neighbours, several times if wished.

Compressed as in CHOCO-SGD (Koloskova et al., arXiv:1902.00340, algorithm 2): every device keeps a public copy of its model, and
sends its neighbours compressed differences to it. Several gossip steps a round as in DFedSAM (arXiv:2302.04083); weights by how
near neighbours' models are, in the spirit of Papaya's trust, are a reconstruction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.methods.base import Method
from evaluators.federated.settings import Settings
from evaluators.federated.uploads import Uploads
from evaluators.federated.world import World

_DEGREE = 4  # neighbours of a device in a random graph


class Gossip(Method):
    """Every device takes part in every round; `model` is the mean of all."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        if settings.feedback != "none":
            raise UsageError(
                f"feedback {settings.feedback!r} is not for method 'gossip', which sends differences itself"
            )
        if settings.download != "none":
            raise UsageError(f"download is {settings.download!r}; method 'gossip' has none, say 'none'")
        self.graph = neighbours(settings.topology, world.n, world.generator())
        # Public copies remember what was dropped, so that random coordinates must not be scaled up.
        self.uploads = Uploads(world, settings, self.tensors, scaled=False)
        self.models = self.model.repeat(world.n, 1)
        self.public = self.models.clone()

    @property
    def memories(self) -> int:
        """See `Method.memories`: its own public copy, and those of its neighbours."""
        return 1 + int(self.graph.sum(dim=1).max())

    def round(self, round_: int) -> float:
        """See `Method.round`."""
        settings, world = self.settings, self.world
        who = world.everyone
        up, down = (torch.zeros(world.n, dtype=torch.int64) for _ in range(2))
        batch = self.batches(round_, who, down, self.uploads.expected_bytes(round_, who, self.tensors.size))
        self.models, loss = self.train(self.models, who, batch, round_)
        degree = self.graph.sum(dim=1)
        for step in range(settings.gossip_steps):
            difference, sent = self.uploads.send(round_, who, self.models - self.public, use=step)
            self.public = self.public + difference
            weights = mixing(self.graph, self.public, settings.trust)
            moved = weights @ self.public - weights.sum(dim=1, keepdim=True) * self.public
            self.models = self.models + settings.server_rate * moved
            up += sent * degree
            down += (self.graph.long() * sent[None, :]).sum(dim=1)
        self.model = self.models.mean(dim=0)
        everyone = torch.ones(world.n, dtype=torch.bool)
        seconds = self.compute_seconds(who, batch, settings.local_steps)
        # Each further step waits for the neighbours' answer.
        further = 2.0 * (settings.gossip_steps - 1) * world.fleet.latency_s
        world.charge(self.ledger, round_, who, everyone, down, up, seconds + further)
        return float(loss.mean())


def neighbours(topology: str, n: int, generator: torch.Generator) -> Tensor:
    """Who is linked with whom, ``(n, n)`` of bool, symmetric, without the diagonal; connected."""
    graph = torch.zeros(n, n, dtype=torch.bool)
    if topology == "complete":
        graph[:] = True
    else:
        order = torch.arange(n) if topology == "ring" else torch.randperm(n, generator=generator)
        _link(graph, order)
        if topology == "random":
            for _ in range(_DEGREE // 2 - 1):
                _link(graph, torch.randperm(n, generator=generator))
    graph.fill_diagonal_(False)
    return graph


def _link(graph: Tensor, order: Tensor) -> None:
    """Link devices in a circle."""
    following = order.roll(-1)
    graph[order, following] = True
    graph[following, order] = True


def mixing(graph: Tensor, models: Tensor, trust: float) -> Tensor:
    """Weights of neighbours, ``(n, n)``: Metropolis and Hastings' ``1 / (1 + max(degree))``, rows summing to less than 1.

    With trust above 0, weights of a row fall with the distance of models, ``exp(-trust * distance / mean distance)``, and keep
    their sum.
    """
    degree = graph.sum(dim=1)
    weights = graph / (1.0 + torch.maximum(degree[:, None], degree[None, :]))
    if trust == 0.0:
        return weights
    distance = torch.cdist(models, models)
    mean = (distance * graph).sum() / graph.sum().clamp_min(1)
    if mean == 0.0:
        return weights
    trusted = weights * torch.exp(-trust * distance / mean)
    return trusted * (weights.sum(dim=1) / trusted.sum(dim=1).clamp_min(1e-30))[:, None]

"""Methods of training together, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from evaluators.federated.adapters import Adapted
from evaluators.federated.methods.base import Method
from evaluators.federated.methods.controlled import ControlledAveraging
from evaluators.federated.methods.diloco import DiLoCo
from evaluators.federated.methods.fedavg import FedAvg
from evaluators.federated.methods.fedfix import FedFix
from evaluators.federated.methods.gossip import Gossip
from evaluators.federated.methods.locodl import LoCoDL
from evaluators.federated.methods.seeds import Seeds
from evaluators.federated.settings import Settings
from evaluators.federated.world import World

_METHODS: Mapping[str, type[Method]] = {
    "fedavg": FedAvg,
    "diloco": DiLoCo,
    "scallion": ControlledAveraging,
    "scafcom": ControlledAveraging,
    "locodl": LoCoDL,
    "fedfix": FedFix,
    "gossip": Gossip,
    "seeds": Seeds,
}


def make_method(world: World, settings: Settings) -> Method:
    """A run of these settings, at its start.

    Raises:
        UsageError: for settings that do not go together.
    """
    if settings.adapter_rank:
        world = _adapted(world, settings.adapter_rank)
    return _METHODS[settings.method](world, settings)


def _adapted(world: World, rank: int) -> World:
    """The world with adapters in place of weights; their factors come from the gradient of all devices' data."""
    task = world.task
    base = world.initial()
    who = world.everyone
    _, gradients = task.learner.gradients(base.repeat(len(who), 1), *world.samples(0, 0, who, torch.zeros_like(who)))
    mean = (world.volumes / world.volumes.sum()) @ gradients
    return replace(world, task=replace(task, learner=Adapted(task.learner, base, mean, rank)))


__all__ = ["Method", "make_method"]

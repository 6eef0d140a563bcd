"""Which part of a layout every GPU holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Coordinates of one GPU, each from 0: in its tensor, context, data and pipeline parallel groups, and of its experts."""

    tensor: int
    context: int
    data: int
    stage: int
    expert: int
    expert_tensor: int


@dataclass(frozen=True)
class Grid:
    """Ranks as the links' costs of `step` take them, nearest first: tensor, context, data, pipeline.

    Within a pipeline stage experts are split over neighbours first, ``expert_tensor``, then ``expert``; what is left are
    copies.
    """

    tensor: int
    context: int
    data: int
    stages: int
    expert: int = 1
    expert_tensor: int = 1

    @classmethod
    def of(cls, config: Mapping[str, Any], data: int) -> Grid:
        """Of a configuration of the domain, with so many data-parallel copies."""
        tensor, context, stages = (int(config.get(name) or 1) for name in ("tp", "cp", "pp"))
        return cls(tensor, context, data, stages, int(config.get("ep") or 1), int(config.get("etp") or 1))

    @property
    def of_stage(self) -> int:
        """GPUs of one pipeline stage."""
        return self.tensor * self.context * self.data

    @property
    def gpus(self) -> int:
        return self.of_stage * self.stages

    def place(self, rank: int) -> Place:
        """Of one GPU, by its rank from 0."""
        stage, within = divmod(rank, self.of_stage)
        return Place(
            tensor=within % self.tensor,
            context=within // self.tensor % self.context,
            data=within // (self.tensor * self.context),
            stage=stage,
            expert=within // self.expert_tensor % self.expert,
            expert_tensor=within % self.expert_tensor,
        )

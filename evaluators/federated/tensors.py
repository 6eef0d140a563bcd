"""A model's parameters as one flat vector, and many models as the rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FLOAT_BYTES = 4  # of a number that is sent as it is: float32


@dataclass(frozen=True)
class Tensors:
    """Names and shapes of a model's tensors, in the order in which a flat vector of ``size`` numbers holds them.

    Everything that is trained, compressed and sent is a matrix of shape ``(n, size)`` in float32, a row for each device.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> Tensors:
        """The layout of named tensors."""
        return cls(tuple(parameters), tuple(tuple(value.shape) for value in parameters.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Numbers in all tensors together."""
        return sum(self.sizes)

    def part(self, first: int, end: int) -> Tensors:
        """The layout of the tensors from `first` up to, and without, `end`."""
        return Tensors(self.names[first:end], self.shapes[first:end])

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views ``(..., size of tensor)`` of a flat ``(..., size)``, in order."""
        return list(torch.split(flat, list(self.sizes), dim=-1))

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat ``(..., size)`` by name, each of shape ``(..., *shape)``."""
        parts = zip(self.names, self.shapes, self.split(flat), strict=True)
        return {name: part.reshape(*flat.shape[:-1], *shape) for name, shape, part in parts}

    def flat(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The flat vector ``(size,)`` of named tensors."""
        return torch.cat([parameters[name].detach().reshape(-1).float() for name in self.names])

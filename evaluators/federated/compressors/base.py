"""What a compressor is: how a vector looks to who receives it, and the exact bytes that this takes on the wire."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from evaluators.federated.tensors import Tensors


@dataclass(frozen=True)
class Sent:
    """What a batch of senders put on the wire.

    Attributes:
        values: ``(n, size)`` float32, what the receiver decodes.
        bytes: ``(n,)`` int64, the length of each sender's payload.
    """

    values: Tensor
    bytes: Tensor


class Compressor(abc.ABC):
    """One way to send a vector in fewer bytes, for the tensors of one model.

    `keep` is always a share of what is kept, in (0, 1]: of the elements for sparsifiers, of the 32 bits of an element for
    quantisers, of the numbers of a matrix for low-rank factors; 1 is the most that the compressor can send.

    Class attributes:
        name: by which a user asks for it.
        summary: what it does, in a few words, with its source.
        unbiased: whether the mean over seeds of what is decoded is what was sent; an instance may tell it anew.
        rated: whether `keep` changes anything (1-bit signs have no ratio).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    unbiased: bool = False
    rated: ClassVar[bool] = True

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    @abc.abstractmethod
    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """Compress every row by itself.

        Args:
            values: ``(n, size)`` float32.
            keep: ``(n,)`` float64 in (0, 1].
            seeds: ``(n,)`` int64, shared by sender and receiver; the randomness of a row depends on its seed alone.
        """

    @abc.abstractmethod
    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """The payload of one vector ``(size,)``; ``len`` of it is what `compress` tells, byte for byte."""

    @abc.abstractmethod
    def decode(self, payload: bytes, seed: int) -> Tensor:
        """The vector ``(size,)`` that a payload holds; equal to what `compress` tells, number for number."""

    def delta(self, keep: float) -> float | None:
        """The contraction: E|C(x) - x|^2 <= (1 - delta) |x|^2 for every x; None where there is no such bound."""
        return None

    def omega(self, keep: float) -> float | None:
        """The variance of an unbiased one: E|C(x) - x|^2 <= omega |x|^2 for every x; None where there is no such bound."""
        return None

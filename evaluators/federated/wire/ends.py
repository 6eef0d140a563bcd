"""The two ends of a transfer: a device that packs its update into bytes, and whoever averages what devices sent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.feedback import EF21, EControl, Feedback

_ME = torch.zeros(1, dtype=torch.int64)  # the row of a memory that has one


class Sender:
    """A device's memory, and what it makes of an update.

    Args:
        feedback: made for one device.
    """

    def __init__(self, feedback: Feedback) -> None:
        self.feedback = feedback

    @property
    def memories(self) -> list[Tensor]:
        """What the device remembers, ``(1, size)`` each, to be written to in place; in the same order for one kind."""
        return [value for value in vars(self.feedback).values() if isinstance(value, Tensor)]

    @property
    def sums(self) -> bool:
        """Whether payloads are differences, which receivers have to add up."""
        return isinstance(self.feedback, (EF21, EControl))

    def pack(self, update: Tensor, compressor: Compressor, keep: float, seed: int) -> bytes:
        """The payload of an update ``(size,)``; what it lost goes to the memory."""
        payloads: list[bytes] = []

        def compress(rows: Tensor) -> Sent:
            payloads.append(compressor.encode(rows[0], keep, seed))
            decoded = compressor.decode(payloads[0], seed)
            return Sent(decoded[None], torch.tensor([len(payloads[0])]))

        self.feedback.send(_ME, update[None], compress)
        return payloads[0]


class Receiver:
    """The weighted mean of what devices stand for.

    Args:
        size: numbers of an update.
        weights: ``(n,)``, of the devices; they sum to 1.
        sums: see `Sender.sums`.

    Attributes:
        known: ``(size,)``, the mean of all that was sent before, where payloads are differences; else None.
    """

    def __init__(self, size: int, weights: Tensor, *, sums: bool) -> None:
        self.weights = weights
        self.known = torch.zeros(size) if sums else None

    def mean(self, payloads: Sequence[bytes], compressor: Compressor, seeds: Sequence[int]) -> Tensor:
        """The mean update ``(size,)`` of one payload from each device, in order."""
        decoded = [compressor.decode(payload, seed) for payload, seed in zip(payloads, seeds, strict=True)]
        mean = self.weights @ torch.stack(decoded)
        if self.known is None:
            return mean
        self.known += mean
        return self.known.clone()

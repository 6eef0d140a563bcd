"""What a device sends of its update, and what it remembers of what a compressor dropped.

Each memory is ``(n, size)``, a row for every device, also for those that are away. Formulas: error feedback (Karimireddy et
al., arXiv:1901.09847, algorithm 2), EF21 (Richtárik et al., arXiv:2106.05203, algorithm 2), EControl (Gao et al.,
arXiv:2311.05645; written from a second-hand description, hence a reconstruction), Deep Gradient Compression (Lin et al.,
arXiv:1712.01887, algorithms 1 and 2, momentum correction and factor masking).
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor

from evaluators.federated.compressors.base import Sent

Send = Callable[[Tensor], Sent]
"""Compresses rows ``(m, size)`` of the devices that take part."""


class Feedback(abc.ABC):
    """What devices remember. `send` is called once a round with those that take part."""

    memories: int  # vectors of the model's size that a device keeps

    @abc.abstractmethod
    def send(self, who: Tensor, update: Tensor, compress: Send) -> tuple[Tensor, Sent]:
        """Compress updates.

        Args:
            who: ``(m,)`` devices whose updates reach the server.
            update: ``(m, size)``, what each of them would send uncompressed.

        Returns:
            What the server takes for the updates, ``(m, size)``, and what went over the wire.
        """


class NoFeedback(Feedback):
    """What is dropped is lost."""

    memories = 0

    def send(self, who: Tensor, update: Tensor, compress: Send) -> tuple[Tensor, Sent]:
        """See `Feedback.send`."""
        sent = compress(update)
        return sent.values, sent


class ErrorFeedback(Feedback):
    """What is dropped is added to the next update."""

    memories = 1

    def __init__(self, n: int, size: int) -> None:
        self.error = torch.zeros(n, size)

    def send(self, who: Tensor, update: Tensor, compress: Send) -> tuple[Tensor, Sent]:
        """See `Feedback.send`."""
        wanted = update + self.error[who]
        sent = compress(wanted)
        self.error[who] = wanted - sent.values
        return sent.values, sent


class EF21(Feedback):
    """The server keeps an estimate of each device's update, and devices send differences to it."""

    memories = 1

    def __init__(self, n: int, size: int) -> None:
        self.estimate = torch.zeros(n, size)

    def send(self, who: Tensor, update: Tensor, compress: Send) -> tuple[Tensor, Sent]:
        """See `Feedback.send`."""
        known = self.estimate[who]
        sent = compress(update - known)
        self.estimate[who] = known + sent.values
        return self.estimate[who], sent


class EControl(Feedback):
    """EF21's estimate, corrected by a share `strength` of the error that has gathered."""

    memories = 2

    def __init__(self, n: int, size: int, strength: float) -> None:
        self.estimate = torch.zeros(n, size)
        self.error = torch.zeros(n, size)
        self.strength = strength

    def send(self, who: Tensor, update: Tensor, compress: Send) -> tuple[Tensor, Sent]:
        """See `Feedback.send`."""
        sent = compress(self.strength * self.error[who] + update - self.estimate[who])
        self.estimate[who] += sent.values
        self.error[who] += update - self.estimate[who]
        return self.estimate[who], sent


class MomentumCorrection(Feedback):
    """Momentum before the compressor; where something was sent, both the momentum and what waits begin anew.

    A number that is sent every round has no momentum then; one that waits for long gathers up to ``1 / (1 - momentum)`` times
    its updates, as the paper has it.
    """

    memories = 2

    def __init__(self, n: int, size: int, momentum: float) -> None:
        self.velocity = torch.zeros(n, size)
        self.waiting = torch.zeros(n, size)
        self.momentum = momentum

    def send(self, who: Tensor, update: Tensor, compress: Send) -> tuple[Tensor, Sent]:
        """See `Feedback.send`."""
        velocity = self.momentum * self.velocity[who] + update
        waiting = self.waiting[who] + velocity
        sent = compress(waiting)
        masked = sent.values != 0
        self.velocity[who] = velocity.masked_fill(masked, 0.0)
        self.waiting[who] = (waiting - sent.values).masked_fill(masked, 0.0)
        return sent.values, sent


def make_feedback(name: str, n: int, size: int, *, strength: float, momentum: float) -> Feedback:
    """The feedback of that name, for `n` devices."""
    if name == "ef":
        return ErrorFeedback(n, size)
    if name == "ef21":
        return EF21(n, size)
    if name == "econtrol":
        return EControl(n, size, strength)
    if name == "dgc":
        return MomentumCorrection(n, size, momentum)
    return NoFeedback()

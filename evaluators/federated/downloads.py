"""How the server's model reaches devices, and what a device has of it before it trains."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from evaluators.federated.compressors import make
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.low_deviation import LowDeviation
from evaluators.federated.settings import LOW_DEVIATION
from evaluators.federated.tensors import FLOAT_BYTES, Tensors


class Download(abc.ABC):
    """One way to send models. `send` is called at the start of a round, `trained` at its end."""

    memories: int = 0  # vectors of the model's size that a device keeps between rounds

    @abc.abstractmethod
    def send(self, who: Tensor, model: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """The models ``(m, size)`` that devices `who` start from, and the bytes that each was sent.

        Args:
            who: ``(m,)`` devices.
            model: ``(size,)`` of the server.
            keep: ``(m,)``, for those that send a share.
            seeds: ``(m,)``.
        """

    def trained(self, who: Tensor, models: Tensor) -> None:  # noqa: B027 - most need to know nothing of it
        """Devices `who` have trained to `models`, ``(m, size)``."""


class Compressed(Download):
    """By a compressor that needs to know nothing of the device."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor

    def send(self, who: Tensor, model: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Download.send`."""
        return self.compressor.compress(model.expand(len(who), -1).contiguous(), keep, seeds)


class Differences(Download):
    """Compressed differences to what each device has, of which the server keeps a copy; the whole model at first."""

    memories = 1

    def __init__(self, n: int, compressor: Compressor) -> None:
        self.compressor = compressor
        self.copies = torch.zeros(n, compressor.tensors.size)
        self.new = torch.ones(n, dtype=torch.bool)

    def send(self, who: Tensor, model: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Download.send`."""
        sent = self.compressor.compress(model - self.copies[who], keep, seeds)
        new = self.new[who]
        copies = torch.where(new[:, None], model, self.copies[who] + sent.values)
        lengths = torch.where(new, FLOAT_BYTES * len(model), sent.bytes)
        self.copies[who] = copies
        self.new[who] = False
        return Sent(copies.clone(), lengths)


class Recovered(Download):
    """Caesar's, with the model that a device trained last; the whole model at first."""

    memories = 1

    def __init__(self, n: int, tensors: Tensors) -> None:
        self.rule = LowDeviation(tensors)
        self.models = torch.zeros(n, tensors.size)
        self.new = torch.ones(n, dtype=torch.bool)

    def send(self, who: Tensor, model: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Download.send`."""
        return self.rule.recover(model, self.models[who], torch.where(self.new[who], 1.0, keep))

    def trained(self, who: Tensor, models: Tensor) -> None:
        """See `Download.trained`."""
        self.models[who] = models
        self.new[who] = False


def make_download(name: str, n: int, tensors: Tensors) -> Download:
    """The download of that name, for `n` devices."""
    if name == LOW_DEVIATION:
        return Recovered(n, tensors)
    compressor = make(name, tensors)
    return Compressed(compressor) if name in ("none", "half") else Differences(n, compressor)

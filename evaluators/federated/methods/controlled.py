"""Controlled averaging with compression: SCALLION and SCAFCOM (Huang, Li and Li, arXiv:2308.08165); reconstructions.

Every device keeps a control variate c_i, the server their mean c, weighted by samples. A device takes K local steps along
``gradient - c_i + c``, and sends, compressed, how far its mean gradient is from c_i; both sides add what was sent to c_i.
SCALLION damps what a device sends by ``1 / (1 + omega)``, omega being of its own ratio, and needs an unbiased compressor;
SCAFCOM sends a moving average of gradients by any contractive one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.downloads import make_download
from evaluators.federated.methods.base import Method
from evaluators.federated.settings import Settings
from evaluators.federated.uploads import Uploads, unbiased_compressor
from evaluators.federated.world import World


class ControlledAveraging(Method):
    """`settings.method` says which of the two."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        if settings.feedback != "none":
            raise UsageError(f"feedback {settings.feedback!r} is not for method {settings.method!r}, which has its own")
        self._moving = settings.method == "scafcom"
        if not self._moving:
            unbiased_compressor(settings, self.tensors)  # refuses others
        self.uploads = Uploads(world, settings, self.tensors, scaled=not self._moving)
        self.download = make_download(settings.download, world.n, self.tensors)
        self.controls = torch.zeros(world.n, self.tensors.size)
        self.control = torch.zeros(self.tensors.size)
        self.averages = torch.zeros(world.n, self.tensors.size) if self._moving else None

    @property
    def memories(self) -> int:
        """See `Method.memories`."""
        return self.download.memories + (2 if self._moving else 1)

    def round(self, round_: int) -> float:
        """See `Method.round`."""
        settings, world = self.settings, self.world
        who = world.participants(round_)
        start, down = self.fetch(self.download, round_, who)
        down = down + self.model_bytes  # the server's control variate
        keep = self.uploads.keep(round_, who)
        batch = self.batches(round_, who, down, self.model_bytes * keep)
        correction = self.control - self.controls[who]
        end, loss = self.train(start, who, batch, round_, correction)
        self.download.trained(who, end)
        travelled = settings.learning_rate * settings.local_steps
        mean_gradient = (start - end) / travelled - correction
        arrived = world.arrive(round_, who)
        senders = who[arrived]
        sent, up_sent = self._send(round_, senders, mean_gradient[arrived], keep[arrived])
        direction = self.control + self.shares(senders) @ sent
        self.controls[senders] += sent
        self.control = self.control + (world.volumes[senders] / world.volumes.sum()) @ sent
        self.model = self.model - settings.server_rate * travelled * direction
        up = down.new_zeros(len(who))
        up[arrived] = up_sent
        world.charge(
            self.ledger, round_, who, arrived, down, up, self.compute_seconds(who, batch, settings.local_steps)
        )
        return float(loss.mean())

    def _send(self, round_: int, who: Tensor, gradient: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        wanted = gradient
        if self.averages is not None:
            momentum = self.settings.momentum
            # The first gradient of a device is its first average.
            new = (self.averages[who] == 0.0).all(dim=1, keepdim=True)
            wanted = torch.where(new, gradient, momentum * self.averages[who] + (1.0 - momentum) * gradient)
            self.averages[who] = wanted
        increment = self._damping(keep)[:, None] * (wanted - self.controls[who])
        sent = self.uploads.compress(round_, who, increment, keep)
        return sent.values, sent.bytes

    def _damping(self, keep: Tensor) -> Tensor:
        """What each device multiplies its message with, ``(m,)``."""
        if self._moving:
            return torch.ones(len(keep))
        return torch.tensor([1.0 / (1.0 + (self.uploads.compressor.omega(float(share)) or 0.0)) for share in keep])

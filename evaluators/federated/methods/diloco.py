"""Local steps with Nesterov momentum on the mean, one fragment of the model a round (DiLoCo, Streaming DiLoCo)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autotune.errors import UsageError
from evaluators.federated.downloads import make_download
from evaluators.federated.methods.base import Method, ServerStep
from evaluators.federated.settings import LOW_DEVIATION, Settings
from evaluators.federated.tensors import Tensors
from evaluators.federated.uploads import Uploads
from evaluators.federated.world import World


class DiLoCo(Method):
    """Devices keep their models; round t exchanges fragment ``t mod fragments`` and leaves the others as they are.

    A device that was away gets the fragments that it missed when it is back. The inner optimizer is SGD, where the papers
    (arXiv:2311.08105, arXiv:2501.18512) have AdamW, and nothing is sent while the next steps are computed.
    """

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        if settings.download == LOW_DEVIATION:
            raise UsageError(f"download {LOW_DEVIATION!r} sends whole models; method 'diloco' needs another")
        self.parts = fragments(self.tensors, settings.fragments)
        layouts = [self.tensors.part(first, end) for first, end in self.parts]
        self.downloads = [make_download(settings.download, world.n, layout) for layout in layouts]
        self.uploads = [Uploads(world, settings, layout) for layout in layouts]
        self.servers = [ServerStep(layout.size, settings.server_rate, settings.server_momentum) for layout in layouts]
        self.models = self.model.repeat(world.n, 1)
        # The initial model is drawn from a seed that all share, so that nobody needs to be sent it.
        self._missing = torch.zeros(world.n, len(self.parts), dtype=torch.bool)

    @property
    def memories(self) -> int:
        """See `Method.memories`; the model that a device keeps is the one that it trains."""
        return self.downloads[0].memories + self.uploads[0].feedback.memories

    def round(self, round_: int) -> float:
        """See `Method.round`."""
        who = self.world.participants(round_)
        down = self._fetch(round_, who)
        chosen = round_ % len(self.parts)
        first, end = self._slice(chosen)
        uploads = self.uploads[chosen]
        batch = self.batches(round_, who, down, uploads.expected_bytes(round_, who, end - first))
        trained, loss = self.train(self.models[who], who, batch, round_)
        self.models[who] = trained
        arrived = self.world.arrive(round_, who)
        senders = who[arrived]
        update = self.model[first:end] - trained[arrived, first:end]
        estimate, sent = uploads.send(round_, senders, update)
        model = self.model.clone()
        model[first:end] = self.servers[chosen](model[first:end], self.shares(senders) @ estimate)
        self.model = model
        self._missing[:, chosen] = True
        up = down.new_zeros(len(who))
        up[arrived] = sent
        seconds = self.compute_seconds(who, batch, self.settings.local_steps)
        self.world.charge(self.ledger, round_, who, arrived, down, up, seconds)
        return float(loss.mean())

    def _fetch(self, round_: int, who: Tensor) -> Tensor:
        """Bring the devices up to date, fragment by fragment; the bytes that each was sent, ``(m,)``."""
        down = torch.zeros(len(who), dtype=torch.int64)
        keep = self.download_keep(round_, who)
        for place, download in enumerate(self.downloads):
            behind = self._missing[who, place]
            if not behind.any():
                continue
            first, end = self._slice(place)
            rows = who[behind]
            seeds = self.world.seeds(round_, rows, use=1 + place)
            sent = download.send(rows, self.model[first:end], keep[behind], seeds)
            self.models[rows, first:end] = sent.values
            self._missing[rows, place] = False
            down[behind] += sent.bytes
        self._last[who] = round_
        return down

    def _slice(self, place: int) -> tuple[int, int]:
        """First number of a fragment, and the one after its last."""
        starts = np.cumsum([0, *self.tensors.sizes])
        first, end = self.parts[place]
        return int(starts[first]), int(starts[end])


def fragments(tensors: Tensors, count: int) -> list[tuple[int, int]]:
    """Contiguous groups of tensors of about the same size, as ``(first, end)``.

    Raises:
        UsageError: when there are fewer tensors than fragments.
    """
    n = len(tensors.sizes)
    if count > n:
        raise UsageError(f"fragments is {count}, and the model has {n} tensors; use at most {n}")
    ends = np.cumsum(tensors.sizes)
    bounds = [0]
    for place in range(1, count):
        nearest = int(np.argmin(np.abs(ends - ends[-1] * place / count))) + 1
        bounds.append(min(max(nearest, bounds[-1] + 1), n - (count - place)))
    return list(zip(bounds, [*bounds[1:], n], strict=True))

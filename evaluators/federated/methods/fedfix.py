"""No barrier: the server averages at fixed intervals whatever has arrived (FedFix; Fraboni et al., arXiv:2206.10189).

An update that began s averages ago weighs ``(1 + s) ** -staleness_power`` (Xie et al., arXiv:1903.03934, polynomial weights).
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluators.federated.downloads import make_download
from evaluators.federated.methods.base import Method, ServerStep
from evaluators.federated.settings import Settings
from evaluators.federated.uploads import Uploads
from evaluators.federated.world import World


class FedFix(Method):
    """Round t is the interval before the t-th average; devices that are done begin anew with it."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        self.download = make_download(settings.download, world.n, self.tensors)
        self.uploads = Uploads(world, settings, self.tensors)
        self.server = ServerStep(self.tensors.size, settings.server_rate, settings.server_momentum)
        self.interval_s = settings.interval * self._median_round()
        self.waiting = torch.zeros(world.n, self.tensors.size)  # updates under way
        self.done_s = torch.zeros(world.n, dtype=torch.float64)  # when each of them arrives
        self.began = torch.full((world.n,), -1)  # the round in which each began; -1 for devices that are free
        self.lost = torch.zeros(world.n, dtype=torch.bool)

    @property
    def memories(self) -> int:
        """See `Method.memories`."""
        return self.download.memories + self.uploads.feedback.memories

    def round(self, round_: int) -> float:
        """See `Method.round`."""
        free = self.world.participants(round_)
        free = free[self.began[free] < 0]
        loss = self._begin(round_, free) if len(free) else 0.0
        end_s = self.ledger.seconds + self.interval_s
        done = torch.nonzero((self.began >= 0) & (self.done_s <= end_s)).reshape(-1)
        waited = end_s - self.done_s[done]
        self.ledger.add(done, waiting_s=waited, joules=waited * self.world.fleet.idle_w[done])
        arrived = done[~self.lost[done]]
        if len(arrived):
            staleness = (round_ - self.began[arrived]).float()
            weights = self.shares(arrived) * (1.0 + staleness) ** -self.settings.staleness_power
            self.model = self.server(self.model, weights @ self.waiting[arrived])
        self.began[done] = -1
        self.ledger.seconds = end_s
        return loss

    def _begin(self, round_: int, who: Tensor) -> float:
        """Devices fetch the model and train; what they send is under way until their clock says so."""
        world, settings = self.world, self.settings
        start, down = self.fetch(self.download, round_, who)
        batch = self.batches(round_, who, down, self.uploads.expected_bytes(round_, who, self.tensors.size))
        end, loss = self.train(start, who, batch, round_)
        self.download.trained(who, end)
        arrive = world.arrive(round_, who)
        estimate, sent = self.uploads.send(round_, who[arrive], (start - end)[arrive])
        up = down.new_zeros(len(who))
        up[arrive] = sent
        seconds = self.compute_seconds(who, batch, settings.local_steps)
        sending = world.sending_seconds(round_, who, down, up)
        world.spend(self.ledger, who, down, up, seconds, sending)
        self.waiting[who[arrive]] = estimate
        self.lost[who] = ~arrive
        self.began[who] = round_
        self.done_s[who] = self.ledger.seconds + sending + seconds
        return float(loss.mean())

    def _median_round(self) -> float:
        """Seconds of the median device's first round."""
        who = self.world.everyone
        up = self.uploads.expected_bytes(self.settings.warmup_rounds, who, self.tensors.size)
        down = torch.full((len(who),), self.model_bytes * self.settings.download_keep)
        batch = self.batches(0, who, down, up)
        sending = self.world.sending_seconds(0, who, down, up)
        return float((sending + self.compute_seconds(who, batch, self.settings.local_steps)).median())

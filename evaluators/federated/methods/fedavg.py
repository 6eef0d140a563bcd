"""Federated averaging with a barrier: send, train, compress, average (McMahan et al., arXiv:1602.05629, algorithm 1)."""

from __future__ import annotations

from evaluators.federated.downloads import make_download
from evaluators.federated.methods.base import Method, ServerStep
from evaluators.federated.settings import Settings
from evaluators.federated.uploads import Uploads
from evaluators.federated.world import World


class FedAvg(Method):
    """Devices start every round from what they are sent of the server's model."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        self.download = make_download(settings.download, world.n, self.tensors)
        self.uploads = Uploads(world, settings, self.tensors)
        self.server = ServerStep(self.tensors.size, settings.server_rate, settings.server_momentum)

    @property
    def memories(self) -> int:
        """See `Method.memories`."""
        return self.download.memories + self.uploads.feedback.memories

    def round(self, round_: int) -> float:
        """See `Method.round`."""
        who = self.world.participants(round_)
        start, down = self.fetch(self.download, round_, who)
        batch = self.batches(round_, who, down, self.uploads.expected_bytes(round_, who, self.tensors.size))
        end, loss = self.train(start, who, batch, round_)
        self.download.trained(who, end)
        arrived = self.world.arrive(round_, who)
        senders = who[arrived]
        estimate, sent = self.uploads.send(round_, senders, (start - end)[arrived])
        self.model = self.server(self.model, self.shares(senders) @ estimate)
        up = down.new_zeros(len(who))
        up[arrived] = sent
        seconds = self.compute_seconds(who, batch, self.settings.local_steps)
        self.world.charge(self.ledger, round_, who, arrived, down, up, seconds)
        return float(loss.mean())

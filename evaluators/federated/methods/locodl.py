"""LoCoDL: a random number of local steps, then compressed differences to a model that all share (arXiv:2403.04348).

Written from a second-hand description, hence a reconstruction. All devices and the server flip one coin after every local
step, and exchange when it shows heads, with probability p = 1 / local_steps. Step sizes of the exchange follow the variance
omega of the compressor: ``rho = chi = 1 / (1 + omega max(w))``, w being the devices' weights by their samples; 1 / n where all
have as many. The shared model has no loss of its own, where the analysis gives it half of the strong convexity; on quadratics
it converges linearly all the same.
"""

from __future__ import annotations

import math

import torch

from autotune.errors import UsageError
from evaluators.federated.methods.base import Method
from evaluators.federated.settings import Settings
from evaluators.federated.uploads import unbiased_compressor
from evaluators.federated.world import World

_LONGEST = 20  # times the mean number of steps; a longer row of tails is as rare as 2e-9


def steps_until_heads(chance: float, mean: int) -> int:
    """Local steps until a coin of probability ``1 / mean`` shows heads, from one uniform number."""
    if mean == 1:
        return 1
    drawn = math.ceil(math.log1p(-chance) / math.log1p(-1.0 / mean))
    return min(max(1, drawn), _LONGEST * mean)


class LoCoDL(Method):
    """Every device takes part in every round, and none is lost."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        for name, value, wanted in (
            ("feedback", settings.feedback, "none"),
            ("download", settings.download, "none"),
            ("importance_share", settings.importance_share, 1.0),
        ):
            if value != wanted:
                raise UsageError(f"{name} is {value!r}; method 'locodl' knows {wanted!r} only")
        self.compressor, omega = unbiased_compressor(settings, self.tensors)
        # Noise of independent compressors adds up to sum(w_i^2) omega |x_i|^2, at most max(w) omega of the weighted norm.
        self.step = 1.0 / (1.0 + omega * float(self.shares(world.everyone).max()))
        self.dual_step = self.step / (settings.local_steps * settings.learning_rate * (1.0 + 2.0 * omega))
        self.models = self.model.repeat(world.n, 1)
        self.controls = torch.zeros(world.n, self.tensors.size)
        self.control = torch.zeros(self.tensors.size)

    @property
    def memories(self) -> int:
        """See `Method.memories`: a control variate, the shared model, and that one's control variate."""
        return 3

    def round(self, round_: int) -> float:
        """See `Method.round`."""
        settings, world = self.settings, self.world
        who = world.everyone
        steps = steps_until_heads(world.coin(round_), settings.local_steps)
        batch = self.batches(round_, who, torch.full((world.n,), self.model_bytes), torch.zeros(world.n))
        models, loss = world.train(
            self.models, who, self.drawn(batch), steps, settings.learning_rate, round_, correction=-self.controls
        )
        shared = self.model + steps * settings.learning_rate * self.control
        keep = torch.full((world.n,), settings.upload_keep, dtype=torch.float64)
        sent = self.compressor.compress(models - shared, keep, world.seeds(round_, who))
        mean = self.shares(who) @ sent.values / 2.0  # the server is a party too, with a difference of zero
        self.models = (1.0 - self.step) * models + self.step * (shared + mean)
        self.controls = self.controls + self.dual_step * (mean - sent.values)
        self.model = shared + self.step * mean
        self.control = self.control + self.dual_step * mean
        down = torch.full((world.n,), self.model_bytes)
        everyone = torch.ones(world.n, dtype=torch.bool)
        world.charge(self.ledger, round_, who, everyone, down, sent.bytes, self.compute_seconds(who, batch, steps))
        return float(loss.mean())

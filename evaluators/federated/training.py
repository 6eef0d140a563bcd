"""One training run: rounds of a method, its accuracy as it goes, and what it took to reach a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from autotune.measurement import Failure, FailureKind
from evaluators.federated.methods import make_method
from evaluators.federated.settings import Settings
from evaluators.federated.world import World

SMOOTHED = 3  # evaluations whose mean counts as the accuracy, so that one lucky one reaches no target
FINAL_SHARE = 0.1  # of the rounds, the last ones, whose mean accuracy is the final one


@dataclass(frozen=True)
class Point:
    """Where a run was after a round. Costs are sums since the start.

    Attributes:
        round: counted from 1.
        accuracy: of the newest model on the test data; `smoothed`: mean over the last evaluations.
    """

    round: int
    accuracy: float
    smoothed: float
    loss: float
    traffic_mib: float
    upload_mib: float
    download_mib: float
    time_s: float
    energy_j: float
    idle_share: float


class Training:
    """One run, moved on by `advance`.

    Args:
        world, settings: what is trained, and how.
        rounds: how many in all.
        target: accuracy in (0, 1].
        every: rounds from one evaluation to the next; the last round is evaluated too.

    Attributes:
        points: evaluations so far.
        reached: the first whose smoothed accuracy is at the target, None before it.

    Raises:
        UsageError: for settings that do not go together.
    """

    def __init__(self, world: World, settings: Settings, *, rounds: int, target: float, every: int = 1) -> None:
        self.method = make_method(world, settings)
        self.rounds = rounds
        self.target = target
        self.every = every
        self.points: list[Point] = []
        self.reached: Point | None = None
        self._round = 0

    @property
    def done(self) -> bool:
        """Whether all rounds are over."""
        return self._round >= self.rounds

    @property
    def final_accuracy(self) -> float:
        """Mean over the last evaluations."""
        last = max(1, math.ceil(FINAL_SHARE * len(self.points)))
        return float(np.mean([point.accuracy for point in self.points[-last:]]))

    def advance(self) -> Point:
        """Train up to the next evaluation.

        Raises:
            Failure: of kind `nan` as soon as the loss or the model is no number, saying in which round.
        """
        while True:
            loss = self.method.round(self._round)
            self._round += 1
            self._check(loss)
            if self._round % self.every == 0 or self.done:
                return self._evaluated(loss)

    def finish(self) -> Training:
        """Train to the end."""
        while not self.done:
            self.advance()
        return self

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss) or not bool(torch.isfinite(self.method.model).all()):
            raise Failure(
                FailureKind.NAN,
                f"training diverged in round {self._round} of {self.rounds}: the loss is {loss:g}; a smaller learning rate, a "
                "larger ratio or another feedback may help",
            )

    def _evaluated(self, loss: float) -> Point:
        data, learner, ledger = self.method.world.task.data, self.method.world.task.learner, self.method.ledger
        accuracy = learner.evaluate(self.method.model, data.test_x, data.test_y).accuracy
        recent = [*(point.accuracy for point in self.points[-SMOOTHED + 1 :]), accuracy]
        point = Point(
            round=self._round,
            accuracy=accuracy,
            smoothed=float(np.mean(recent)) if len(recent) == SMOOTHED else 0.0,
            loss=loss,
            traffic_mib=ledger.traffic_mib,
            upload_mib=ledger.upload_mib,
            download_mib=ledger.download_mib,
            time_s=ledger.seconds,
            energy_j=ledger.energy_j,
            idle_share=ledger.idle_share,
        )
        self.points.append(point)
        if self.reached is None and point.smoothed >= self.target:
            self.reached = point
        return point

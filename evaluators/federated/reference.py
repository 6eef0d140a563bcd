"""What everything is compared with: runs of federated averaging without compression, and how fast they learn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.federated.training import FINAL_SHARE, Training

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """Means over runs.

    Attributes:
        rounds_to_target: where a run does not get there, all of its rounds.
        final_accuracy: see `Training.final_accuracy`.
        rounds, accuracy: of the evaluations, ``(e,)`` each.
    """

    rounds_to_target: float
    final_accuracy: float
    rounds: Floats
    accuracy: Floats

    @classmethod
    def of(cls, runs: Sequence[Training]) -> Reference:
        """Of runs that are over."""
        return cls(
            statistics.fmean(float(run.rounds if run.reached is None else run.reached.round) for run in runs),
            statistics.fmean(run.final_accuracy for run in runs),
            np.array([point.round for point in runs[0].points], dtype=np.float64),
            np.mean([[point.accuracy for point in run.points] for run in runs], axis=0),
        )

    def accuracy_after(self, rounds: Floats) -> Floats:
        """Mean over as many evaluations as count at the end, up to so many rounds; what is lost again later does not count."""
        count = max(1, math.ceil(FINAL_SHARE * len(self.accuracy)))
        sums = np.concatenate([[0.0], np.cumsum(self.accuracy)])
        last = np.arange(1, len(sums))
        first = np.maximum(last - count, 0)
        lasting = np.minimum.accumulate(((sums[last] - sums[first]) / (last - first))[::-1])[::-1]
        return np.asarray(np.interp(rounds, self.rounds, lasting))

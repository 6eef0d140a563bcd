"""What failures, checkpoints and stragglers leave of a step's speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.training_layout.layouts import Floats


@dataclass(frozen=True)
class Reliability:
    """Of a cluster.

    Attributes:
        gpu_hours_to_failure: mean time to a failure of one GPU, whatever breaks; infinite for none. Meta reports about 50,000
            for 16,384 H100 (arXiv:2407.21783, section 3.3.4: 419 unplanned interruptions in 54 days).
        checkpoint_s: that writing a checkpoint stops training.
        restart_s: from a failure to the first step after it, lost work apart.
        straggler_spread: standard deviation of a GPU's step time over the mean.
        checkpoint_every_s: between checkpoints; the best interval if None.
    """

    gpu_hours_to_failure: float = math.inf
    checkpoint_s: float = 60.0
    restart_s: float = 600.0
    straggler_spread: float = 0.0
    checkpoint_every_s: float | None = None

    def __post_init__(self) -> None:
        if self.gpu_hours_to_failure <= 0 or self.checkpoint_s < 0 or self.restart_s < 0 or self.straggler_spread < 0:
            raise UsageError(
                f"reliability {self} must have positive hours to failure and no negative seconds or spread"
            )

    def seconds_to_failure(self, gpus: npt.ArrayLike) -> Floats:
        """Mean, of the whole cluster; failures are independent."""
        return 3600.0 * self.gpu_hours_to_failure / np.asarray(gpus, dtype=np.float64)

    def interval_s(self, gpus: npt.ArrayLike) -> Floats:
        """Between checkpoints, the best one to first order: ``sqrt(2 C M) - C`` (Young, CACM 17, 1974; Daly, FGCS 22, 2006)."""
        to_failure = self.seconds_to_failure(gpus)
        return np.maximum(np.sqrt(2.0 * self.checkpoint_s * to_failure) - self.checkpoint_s, 1.0)

    def goodput(self, gpus: npt.ArrayLike, interval_s: npt.ArrayLike | None = None) -> Floats:
        """Share of the time that is useful training (Daly 2006, eq. 13: time to solution under exponential failures).

        Args:
            interval_s: between checkpoints; what the cluster has, or the best one, if None.
        """
        to_failure = self.seconds_to_failure(gpus)
        chosen = self.checkpoint_every_s if interval_s is None else interval_s
        every = np.asarray(self.interval_s(gpus) if chosen is None else chosen, dtype=np.float64)
        # Without failures the interval is infinite, and so is what is divided by it.
        with np.errstate(invalid="ignore", over="ignore"):
            lost = to_failure * np.exp(self.restart_s / to_failure) * np.expm1((every + self.checkpoint_s) / to_failure)
            return np.where(np.isinf(to_failure), 1.0 / (1.0 + self.checkpoint_s / every), every / lost)

    def slowdown(self, workers: npt.ArrayLike, spared: npt.ArrayLike = 0) -> Floats:
        """Step time of the slowest that is waited for over the mean, for normally spread workers.

        Args:
            spared: stragglers that need not be waited for.
        """
        from scipy.stats import norm  # noqa: PLC0415

        n = np.asarray(workers, dtype=np.float64)
        # The expected order statistic, by Blom's approximation (1958).
        rank = np.maximum(n - np.asarray(spared, dtype=np.float64), 1.0)
        slowest = 1.0 + self.straggler_spread * norm.ppf((rank - 0.375) / (n + 0.25))
        return np.where(n > 1, np.maximum(slowest, 1.0), 1.0)

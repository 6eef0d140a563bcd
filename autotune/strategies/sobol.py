"""Optuna's scrambled Sobol sequence, one point of it at a time."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler, RandomSampler


class SobolPoint(QMCSampler):  # type: ignore[misc]
    """Gives the `place`-th point of the sequence that `seed` scrambles.

    Optuna counts the points that it gave in its study, and takes the dimensions from the first trial, where parameters
    that are inactive are lacking. Here both are given, so that a point depends on nothing else.
    """

    def __init__(self, distributions: dict[str, BaseDistribution], seed: int, place: int) -> None:
        # Only dimensions of a single value are sampled independently, and they have nothing to be random about.
        super().__init__(
            scramble=True, seed=seed, independent_sampler=RandomSampler(seed=seed), warn_independent_sampling=False
        )
        self._distributions = {name: d for name, d in distributions.items() if not d.single()}
        self._place = place

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every dimension that has more than one value."""
        return self._distributions

    def _find_sample_id(self, *_: Any) -> int:
        return self._place

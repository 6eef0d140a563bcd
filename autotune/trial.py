"""A configuration on its way: what `ask` hands out and `tell` takes back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.space import Config
from autotune.store.records import TrialRecord


@dataclass(frozen=True)
class Trial:
    """A configuration to evaluate, leased to this process."""

    record: TrialRecord
    study_seed: int

    @property
    def seed(self) -> int:
        """Derived from the study's seed and the trial's number; pass it to whatever is random in the evaluation."""
        return int(np.random.SeedSequence([self.study_seed, self.record.number]).generate_state(1)[0])

    @property
    def number(self) -> int:
        return self.record.number

    @property
    def config(self) -> Config:
        return dict(self.record.config)

    @property
    def fidelity(self) -> str | None:
        """Name of the cheaper evaluator to use; None for the one whose results count."""
        return self.record.fidelity

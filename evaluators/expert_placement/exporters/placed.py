"""What is exported: the placement of one trial, as it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.store.records import TrialRecord
from autotune.text import number
from evaluators.expert_placement.cluster import Cluster, Placement


@dataclass(frozen=True, eq=False)
class Placed:
    """A measured placement.

    Attributes:
        placement: ``(L, N)`` GPU of every expert.
        cluster: the GPUs.
        trace: the study's option, a file or the name of a shipped trace.
        config: that it was made by.
        metrics: measured on the held-out tokens, those named ``train_`` on the others.
    """

    placement: Placement
    cluster: Cluster
    trace: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, trial: TrialRecord, cluster: Cluster, trace: str) -> Placed:
        """The placement that a trial noted. An integer program that was cut off might place otherwise another time.

        Raises:
            UsageError: for a trial that noted none.
        """
        if "placement" not in trial.notes:
            raise UsageError(
                f"trial {trial.number} is {trial.state} and has no placement; export a completed one (autotune trials)"
            )
        placement = np.array(trial.notes["placement"], dtype=np.int64)
        return cls(placement, cluster, trace, trial.config, trial.values)

    @property
    def n_experts(self) -> int:
        return int(self.placement.shape[1])

    def other_dataflow(self, engine: str) -> str:
        """What an engine leaves out that brings every token back after each layer."""
        return (
            f"the dataflow that hops_per_token counts: {engine} brings a token's results back after every layer, so that the "
            f"placement shows in gpus_per_token ({number(self.metrics.get('gpus_per_token'))}) and max_load "
            f"({number(self.metrics.get('max_load'))})"
        )

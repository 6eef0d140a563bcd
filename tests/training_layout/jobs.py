"""Jobs that tests lay out."""

from __future__ import annotations

from typing import Any

from evaluators.training_layout.choices import chosen
from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.gpus import gpu
from evaluators.training_layout.job import Job
from evaluators.training_layout.presets import preset
from evaluators.training_layout.tables import PeakTimes


def job(
    model: str = "llama3-8b",
    gpus: int = 16,
    device: str = "h100",
    *,
    settings: dict[str, str] | None = None,
    **changed: Any,
) -> Job:
    """A job on peak figures; settings as their options' text."""
    of = gpu(device)
    given = {"sequence": 4096, "global_batch": 64, **changed}
    return Job(preset(model), Cluster(of, gpus, PeakTimes(of)), settings=chosen(settings or {}, of), **given)


def columns(**values: Any) -> dict[str, Any]:
    """One configuration as columns of knobs, degrees of 1 unless given."""
    import numpy as np

    usual = {"tp": 1, "cp": 1, "pp": 1, "interleave": 1, "micro_batch": 1, "zero": 1, "recompute": "none"}
    return {name: np.array([value]) for name, value in {**usual, **values}.items()}

"""Trials as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from autotune.store import StudyRecord, TrialRecord


def trials_frame(trials: Sequence[TrialRecord], study: StudyRecord) -> pd.DataFrame:
    """One row per trial; parameters as ``config.NAME`` (vectors stay lists), metrics under their own names.

    In a study of several fidelities, `fidelity` names the evaluator of every trial. A trial that was pruned has no metrics;
    `failure_message` says why, and columns ``reported.NAME`` hold the last values that it reported.
    """
    return pd.DataFrame([_row(trial, study) for trial in trials])


def _row(trial: TrialRecord, study: StudyRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.value,
        "label": trial.label,
        "proposer": trial.proposer,
        "fidelity": study.evaluator_of(trial),
        "failure_kind": trial.failure_kind.value if trial.failure_kind else None,
        "failure_message": trial.failure_message,
    }
    row |= {f"config.{name}": value for name, value in trial.config.items()}
    for name, metric in trial.metrics.items():
        row[name] = metric.value
        if metric.half_width is not None:
            row[f"{name}.half_width"] = metric.half_width
    row |= {f"reported.{name}": value for name, value in trial.reported.items()}
    return row | {
        "suggest_s": trial.suggest_s,
        "evaluate_s": trial.evaluate_s,
        "created_at": trial.created_at,
        "finished_at": trial.finished_at,
    }

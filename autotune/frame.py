"""Trials as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from autotune.store import StudyRecord, TrialRecord

_FIRST = ("number", "state", "label", "proposer", "fidelity", "failure_kind", "failure_message")
_TIMES = ("suggest_s", "evaluate_s", "created_at", "finished_at")


def trials_frame(trials: Sequence[TrialRecord], study: StudyRecord) -> pd.DataFrame:
    """One row per trial; parameters as ``config.NAME`` (vectors stay lists), metrics under their own names.

    In a study of several fidelities, `fidelity` names the evaluator of every trial. A trial that was pruned has no metrics;
    `failure_message` says why, and columns ``reported.NAME`` hold the last values that it reported. What a trial does not have
    is missing in pandas' sense. Metrics and seconds are floats and times are UTC, also where every value is missing; a table
    of no trials has the columns of parameters and objectives too.
    """
    rows = [_row(trial, study) for trial in trials]
    found = [name for row in rows for name in row]
    config = dict.fromkeys([*(f"config.{name}" for name in study.default_config), *filter(_is_parameter, found)])
    goals = [goal.metric for goal in study.goals.objectives]
    metrics = dict.fromkeys([*goals, *(n for n in found if n not in {*_FIRST, *_TIMES} and not _is_parameter(n))])
    columns = list(dict.fromkeys([*_FIRST, *config, *metrics, *_TIMES]))
    frame = pd.DataFrame(rows, columns=columns)
    floats = list(dict.fromkeys([*metrics, "suggest_s", "evaluate_s"]))
    frame[floats] = frame[floats].astype(float)
    for name in ("created_at", "finished_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def _is_parameter(column: str) -> bool:
    return column.startswith("config.")


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

"""Predictions beside measured training runs of others, before and after a calibration by a few of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotune.comparison import ALL, Comparison, Score, Unanswered
from autotune.errors import UsageError
from evaluators.training_layout.calibration import Calibration, Case
from evaluators.training_layout.prediction import Prediction, predict
from evaluators.training_layout.presets import preset
from evaluators.training_layout.rows import MeasuredRun, read_runs

_LEAST = 3  # rows of a table that calibrate


def compare(folder: Path, share: float, seed: int, *, measured: bool = True) -> Comparison:
    """Predict every run of a folder's tables, calibrated by a share of each table's.

    Args:
        share: of a table's runs that calibrate, at least 3 of them and at most half; 0 for none.
        seed: of their choice.
        measured: whether kernel tables are used where there are some; else peak figures.

    Raises:
        UsageError: for a folder without known tables.
    """
    runs = read_runs(folder)
    answers = [_answer(run, measured) for run in runs]
    tables = list(dict.fromkeys(run.table for run in runs))
    chosen: set[int] = set()
    for table in tables:
        chosen.update(_drawn([i for i, run in enumerate(runs) if run.table == table], share, seed))
    predictions = {i: answer for i, answer in enumerate(answers) if isinstance(answer, Prediction)}
    cases = {i: case_of(runs[i], prediction) for i, prediction in predictions.items()}
    known = [i for i in sorted(chosen) if i in predictions]
    errors = np.array([math.log(predictions[i].tokens_s / runs[i].tokens_s) for i in known])
    calibration = Calibration([cases[i] for i in known], errors)
    shifts = dict(zip(cases, calibration.errors(list(cases.values())), strict=True))

    def score(rows: Sequence[int]) -> Score:
        found = [i for i in rows if i in predictions]
        of = [
            [runs[i].tokens_s, predictions[i].tokens_s, predictions[i].tokens_s * math.exp(-shifts[i])] for i in found
        ]
        return Score.of(len(rows), *np.array(of, dtype=np.float64).reshape(-1, 3).T)

    judging = [i for i in range(len(runs)) if i not in chosen]
    groups: dict[tuple[str, str], Score] = {}
    for table in tables:
        rows = [i for i in judging if runs[i].table == table]
        groups[table, ALL] = score(rows)
        for group in dict.fromkeys(runs[i].group for i in rows):
            groups[table, group] = score([i for i in rows if runs[i].group == group])
    return Comparison(
        score(judging),
        groups,
        len(known),
        tuple(
            Unanswered(runs[i].table, runs[i].line, answer)
            for i, answer in enumerate(answers)
            if isinstance(answer, str) and i not in chosen
        ),
        {f"kernels of {runs[i].gpu}": prediction.source for i, prediction in predictions.items()},
    )


def case_of(run: MeasuredRun, prediction: Prediction) -> Case:
    """The effects that a run's error is put down to."""
    total = sum(prediction.step_s.values())
    model = preset(run.model)
    sparse = model.name if model.n_experts else ""
    return Case(
        {
            "gpu": run.gpu,
            "kind": run.kind,
            "model": model.name,
            "sparse model": sparse,
            "sparse model on gpu": f"{sparse} {run.gpu}" if sparse else "",
            "stack": run.stack,
        },
        [part / total for part in prediction.step_s.values()],
    )


def _answer(run: MeasuredRun, measured: bool) -> Prediction | str:
    try:
        return predict(run, measured=measured)
    except UsageError as error:
        return str(error)


def _drawn(rows: Sequence[int], share: float, seed: int) -> list[int]:
    """Rows of one table that calibrate."""
    if share == 0.0:
        return []
    n = min(max(_LEAST, int(share * len(rows))), len(rows) // 2)
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:n]]

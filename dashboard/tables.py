"""Tables that several pages show: trials with their metrics, and what a configuration changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from autotune import text
from autotune.store import StudyRecord, TrialRecord
from autotune.study_view import StudyView, parameters
from dashboard import markup
from dashboard.markup import Cell, Row


def comparison(view: StudyView, named: Sequence[tuple[str, TrialRecord | None]]) -> Markup:
    """Named trials with every metric; the first one is the one that matters."""
    metrics = view.metric_names([trial for _, trial in named if trial is not None])
    columns = [Cell("configuration"), Cell("trial", numeric=True), *(Cell(name, numeric=True) for name in metrics)]
    columns += [Cell("gain over default", numeric=True), Cell("remark")]
    rows = [_compared(view, *item, metrics, strong=place == 0) for place, item in enumerate(named)]
    return markup.table("comparison", columns, rows)


def _compared(view: StudyView, label: str, trial: TrialRecord | None, metrics: list[str], *, strong: bool) -> Row:
    is_default = trial is not None and view.default is not None and trial.number == view.default.number
    return Row(
        [
            Cell(label, wraps=True),
            Cell(text.NOTHING if trial is None else markup.trial_link(view.study.name, trial.number), numeric=True),
            *metric_cells(trial, metrics),
            Cell(text.NOTHING if is_default else markup.gain(view.goals.gain(trial, view.default)), numeric=True),
            Cell(view.remark(trial), wraps=True),
        ],
        kind="at-strong" if strong else "",
    )


def metric_cells(trial: TrialRecord | None, metrics: Sequence[str]) -> list[Cell]:
    """One cell for each metric; those that a trial does not have are told as such."""
    found = {} if trial is None else trial.metrics
    return [
        markup.metric_cell(name, found[name].value, found[name].half_width)
        if name in found
        else markup.metric_cell(name, None)
        for name in metrics
    ]


def changes(config: Mapping[str, Any], default: Mapping[str, Any], label: str) -> Markup:
    """What to change: parameters that differ from the default first, the others after."""
    changed, same = parameters(config, default)
    columns = [Cell("parameter"), Cell("default"), Cell(label)]
    rows = [_parameter(*row) for row in changed] + [_parameter(*row, kind="at-same") for row in same]
    return markup.table("parameters", columns, rows)


def _parameter(name: str, before: Any, after: Any, kind: str = "") -> Row:
    scale = markup.common_scale(before, after)
    return Row([Cell(name, wraps=True), markup.value_cell(before, scale), markup.value_cell(after, scale)], kind=kind)


def trials(study: StudyRecord, found: Sequence[TrialRecord], metrics: Sequence[str], name: str = "trials") -> Markup:
    """Trials, a line each: how each ended, its metrics, and what it changes of the default."""
    columns = [
        Cell("trial", numeric=True),
        Cell("state"),
        Cell("proposer"),
        *(Cell(metric, numeric=True) for metric in metrics),
        Cell("s", numeric=True),
        Cell("differs from the default in"),
    ]
    return markup.table(name, columns, [_trial(study, trial, metrics) for trial in found])


def _trial(study: StudyRecord, trial: TrialRecord, metrics: Sequence[str]) -> Row:
    changed, _ = parameters(trial.config, study.default_config)
    difference = ", ".join(f"{name} = {text.value_text(after)}" for name, _, after in changed)
    state = trial.state.value if trial.failure_kind is None else f"{trial.state.value}: {trial.failure_kind}"
    return Row(
        [
            Cell(markup.trial_link(study.name, trial.number), numeric=True),
            Cell(state),
            Cell(trial.label or trial.proposer),
            *metric_cells(trial, metrics),
            Cell(text.NOTHING if trial.evaluate_s is None else text.number(trial.evaluate_s), numeric=True),
            Cell(difference or "nothing", wraps=True),
        ]
    )

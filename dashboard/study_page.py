"""One study: headline numbers, history, the best configuration beside the default, and what failed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import streamlit as st
from markupsafe import Markup

from autotune import text
from autotune.objective import Objective
from autotune.store import TrialRecord, TrialState
from autotune.study_view import SHOWN_STATES, StudyView, parameters
from dashboard import charts, markup
from dashboard.markup import Cell, Row

_LOG_WORTHWHILE = 10.0  # ratio of the largest to the smallest value
_FRONT_ROWS = 50
_PRUNED_ROWS = 20
_CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}


def show(view: StudyView) -> None:
    """Draw the page of a study."""
    several = len(view.goals.objectives) > 1
    _heading(view)
    if not view.trials:
        st.info("This study has no trial yet. Start or resume its search, then refresh.")
        return
    st.html(markup.cards(_cards(view, several=several)))
    _notices(view)
    if view.feasible or view.infeasible:
        _pareto(view) if several else _history(view)
    elif view.failed:
        st.plotly_chart(charts.history(view), config=_CHART, key="history")
    if several:
        _front(view)
    elif view.best is not None:
        _comparison(view)
        _configuration(view.best.config, view.study.default_config, "best", view.best.number)
    if view.pruned:
        _pruned(view)
    if view.failed:
        _failures(view)


def _heading(view: StudyView) -> None:
    study, now = view.study, dt.datetime.now(dt.UTC)
    facts = text.listing(
        [
            study.domain or "",
            ", ".join(map(str, view.goals.objectives)),
            " and ".join(f"subject to {c}" for c in view.goals.constraints),
            f"strategy {study.strategy}",
            f"seed {study.seed}",
            f"created {text.age(study.created_at, now)}",
            f"last change {text.age(study.updated_at, now)}",
        ]
    )
    st.html(
        Markup("<div class='at-name' id='at-study'>{}</div><div class='at-muted'>{}</div>").format(study.name, facts)
    )


def _cards(view: StudyView, *, several: bool) -> list[tuple[str, str | Markup, str | Markup]]:
    states = view.states
    finished = states[TrialState.COMPLETED] + states[TrialState.FAILED] + states[TrialState.PRUNED]
    budget = view.study.budget.get("trials")
    counts = text.listing(
        [f"{states[state]} {state.value}" for state in SHOWN_STATES if states[state] or state is TrialState.COMPLETED]
    )
    counts = text.listing([counts, *(f"{len(found)} {name}, not ranked" for name, found in view.cheaper.items())])
    trials = ("trials finished", f"{finished}" + (f" of {budget}" if budget else ""), counts)
    stop = ("state", view.study.state, view.study.stop_reason or "")
    if several:
        front = ("Pareto front", str(len(view.pareto)), text.plural(len(view.feasible), "feasible trial") + " compared")
        return [front, trials, stop]
    objective = view.goals.first
    best_note = f"{objective.metric}, trial {view.best.number}" if view.best else "no feasible trial yet"
    default = view.default if view.default is not None and view.goals.is_usable(view.default) else None
    return [
        ("best", _objective_value(objective, view.best), best_note),
        ("default", _objective_value(objective, default), _default_note(view)),
        ("gain over default", markup.gain(view.gain), _gain_note(objective)),
        trials,
        stop,
    ]


def _objective_value(objective: Objective, trial: TrialRecord | None) -> Markup:
    return markup.exact(None if trial is None else trial.values.get(objective.metric), objective.unit)


def _default_note(view: StudyView) -> str:
    trial, metric = view.default, view.goals.first.metric
    if trial is None:
        return "not measured yet"
    if trial.state is TrialState.FAILED:
        return f"trial {trial.number} failed: {trial.failure_kind}"
    if trial.state is not TrialState.COMPLETED:
        return f"trial {trial.number} is {trial.state.value}"
    if not view.goals.is_usable(trial):
        return f"trial {trial.number}: {metric} is not a number"
    return f"{metric}, trial {trial.number}" + ("" if view.goals.is_feasible(trial) else ", breaks a constraint")


def _gain_note(objective: Objective) -> str:
    return f"of {objective.metric}, {'lower' if objective.direction == 'minimize' else 'higher'} is better"


def _notices(view: StudyView) -> None:
    """What a reader would otherwise wonder about. Only numbers of ours go into these texts, as they are Markdown."""
    if not view.completed and view.failed and len(view.failed) == len(view.counted):
        st.error(f"Every trial failed ({len(view.failed)} of {len(view.counted)}). The messages are below.")
    elif not view.completed:
        st.info("No trial has finished with a measurement yet. Refresh in a while.")
    elif not view.feasible and view.infeasible:
        st.warning("No measured trial keeps every outcome constraint, so there is no best configuration yet.")
    if view.cheaper:
        apart = text.plural(sum(map(len, view.cheaper.values())), "trial")
        st.info(f"{apart} of cheaper evaluators are kept, but neither ranked nor shown here.")
    if view.unusable:
        counted = text.plural(len(view.unusable), "completed trial")
        st.warning(f"{counted} without a number for every objective: counted above, but not in the chart.")


def _history(view: StudyView) -> None:
    values = [t.values[view.goals.first.metric] for t in (*view.feasible, *view.infeasible)]
    log = False
    if min(values) > 0 and max(values) / min(values) >= _LOG_WORTHWHILE:
        log = st.toggle("Logarithmic axis", key="log")
    st.plotly_chart(charts.history(view, log=log), config=_CHART, key="history")
    st.caption(_shown(view))


def _shown(view: StudyView) -> str:
    measured = len(view.feasible) + len(view.infeasible)
    return text.listing(
        [
            f"{text.plural(measured + len(view.failed), 'trial')} in the chart: {measured} measured",
            f"{len(view.infeasible)} of them infeasible" if view.infeasible else "",
            f"{len(view.failed)} failed" if view.failed else "",
            f"{len(view.pruned)} pruned, not shown" if view.pruned else "",
        ]
    )


def _pareto(view: StudyView) -> None:
    objectives = view.goals.objectives
    x, y = objectives[0], objectives[1]
    if len(objectives) > 2:
        left, right = st.columns(2)
        x = left.selectbox("Horizontal axis", objectives, index=0, format_func=str, key="x")
        y = right.selectbox("Vertical axis", objectives, index=1, format_func=str, key="y")
    st.plotly_chart(charts.pareto(view, x, y), config=_CHART, key="pareto")
    measured = len(view.feasible) + len(view.infeasible)
    st.caption(
        text.listing(
            [
                f"{text.plural(measured, 'trial')} in the chart",
                f"{len(view.infeasible)} of them infeasible" if view.infeasible else "",
            ]
        )
    )


def _comparison(view: StudyView) -> None:
    """Best, default and baselines with every metric."""
    named: list[tuple[str, TrialRecord | None]] = [("best", view.best), ("default", view.default)]
    named += view.baselines.items()
    metrics = view.metric_names([trial for _, trial in named if trial is not None])
    columns = [Cell("configuration"), Cell("trial", numeric=True), *(Cell(name, numeric=True) for name in metrics)]
    columns += [Cell("gain over default", numeric=True), Cell("")]
    st.subheader(
        "Best beside the default and the baselines" if view.baselines else "Best beside the default", anchor=False
    )
    st.html(markup.table("comparison", columns, [_compared(view, *item, metrics) for item in named]))


def _compared(view: StudyView, label: str, trial: TrialRecord | None, metrics: list[str]) -> Row:
    number = text.NOTHING if trial is None else str(trial.number)
    is_default = trial is not None and view.default is not None and trial.number == view.default.number
    return Row(
        [
            Cell(label, wraps=True),
            Cell(number, numeric=True),
            *_metric_cells(trial, metrics),
            Cell(text.NOTHING if is_default else markup.gain(view.goals.gain(trial, view.default)), numeric=True),
            Cell(_remark(view, trial), wraps=True),
        ],
        kind="at-strong" if label == "best" else "",
    )


def _metric_cells(trial: TrialRecord | None, metrics: list[str]) -> list[Cell]:
    found = {} if trial is None else trial.metrics
    return [
        markup.metric_cell(name, found[name].value, found[name].half_width)
        if name in found
        else markup.metric_cell(name, None)
        for name in metrics
    ]


def _remark(view: StudyView, trial: TrialRecord | None) -> str:
    if trial is None:
        return "not measured yet"
    if trial.state is TrialState.FAILED:
        return f"failed: {trial.failure_kind}"
    if trial.state is not TrialState.COMPLETED:
        return trial.state.value
    values = trial.values
    broken = [c for c in view.goals.constraints if c.violation(values) > 0]
    return "breaks " + ", ".join(map(str, broken)) if broken else ""


def _configuration(config: Mapping[str, Any], default: Mapping[str, Any], label: str, number: int) -> None:
    """What to change: parameters that differ from the default first, the others after."""
    changed, same = parameters(config, default)
    st.subheader("What to change" if changed else "Configuration", anchor=False)
    if not changed:
        st.info("The default configuration is the best that was measured.")
    columns = [Cell("parameter"), Cell("default"), Cell(f"{label} (trial {number})")]
    rows = [_parameter(*row) for row in changed] + [_parameter(*row, kind="at-same") for row in same]
    st.html(markup.table("parameters", columns, rows))


def _parameter(name: str, before: Any, after: Any, kind: str = "") -> Row:
    scale = markup.common_scale(before, after)
    return Row([Cell(name, wraps=True), markup.value_cell(before, scale), markup.value_cell(after, scale)], kind=kind)


def _front(view: StudyView) -> None:
    if not view.pareto:
        return
    metrics = view.metric_names(view.pareto)
    order = sorted(view.pareto, key=lambda t: view.goals.first.sign * t.values[view.goals.first.metric])
    columns = [
        Cell("trial", numeric=True),
        *(Cell(name, numeric=True) for name in metrics),
        Cell("differs from the default in"),
    ]
    rows = []
    for trial in order[:_FRONT_ROWS]:
        changed, _ = parameters(trial.config, view.study.default_config)
        difference = ", ".join(f"{name} = {text.value_text(after)}" for name, _, after in changed)
        rows.append(
            Row(
                [
                    Cell(str(trial.number), numeric=True),
                    *_metric_cells(trial, metrics),
                    Cell(difference or "nothing", wraps=True),
                ]
            )
        )
    st.subheader("Pareto front", anchor=False)
    st.html(markup.table("front", columns, rows))
    if len(order) > _FRONT_ROWS:
        st.caption(f"The first {_FRONT_ROWS} of {len(order)}.")


def _pruned(view: StudyView) -> None:
    """Trials that were ended early, the newest first: how far each got, and why it was ended."""
    st.subheader("Pruned trials", anchor=False)
    columns = [Cell("trial", numeric=True), Cell("last step", numeric=True), Cell("why")]
    rows = [
        Row(
            [
                Cell(str(trial.number), numeric=True),
                Cell(text.NOTHING if trial.reported_step is None else str(trial.reported_step), numeric=True),
                Cell(trial.failure_message or text.NOTHING, wraps=True),
            ]
        )
        for trial in reversed(view.pruned[-_PRUNED_ROWS:])
    ]
    st.html(markup.table("pruned", columns, rows))
    if len(view.pruned) > _PRUNED_ROWS:
        st.caption(f"The newest {_PRUNED_ROWS} of {len(view.pruned)}.")


def _failures(view: StudyView) -> None:
    st.subheader("Failures", anchor=False)
    columns = [Cell("kind"), Cell("trials", numeric=True), Cell("last one", numeric=True), Cell("its message")]
    rows = [
        Row(
            [
                Cell(kind),
                Cell(str(len(trials)), numeric=True),
                Cell(f"trial {trials[-1].number}", numeric=True),
                Cell(trials[-1].failure_message or text.NOTHING, wraps=True),
            ]
        )
        for kind, trials in view.failures.items()
    ]
    st.html(markup.table("failures", columns, rows))

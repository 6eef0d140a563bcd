"""One trial: what was tried, what was measured in every sample, how near it was to the limits, and what went wrong."""

from __future__ import annotations

import json

import streamlit as st
from markupsafe import Markup

from autotune import text
from autotune.measurement import FailureKind
from autotune.objective import OutcomeConstraint
from autotune.store import TrialRecord, TrialState
from autotune.store.queries import environment_of
from autotune.study_view import StudyView
from dashboard import markup, tables
from dashboard.live import Kept, known_views
from dashboard.markup import Cell, Row
from dashboard.pictures import draw, drawable
from dashboard.visit import TRIAL, Visit

_NEAR = 0.1  # of a limit: what lies this near to it is said to
_EXPLAINED = {
    FailureKind.INVALID: "The configuration was refused: it breaks a rule that the search space does not know. "
    "Searches learn from it; a constraint that says so would spare such trials.",
    FailureKind.OOM: "It needed more memory than there was. A limit on the memory metric keeps a search away from such ones.",
    FailureKind.TIMEOUT: "It took longer than an evaluation may. Slow configurations count as bad ones, with no value.",
    FailureKind.CRASH: "The evaluation broke. The end of what it printed usually tells why.",
    FailureKind.NAN: "An objective was not a number: the run diverged, or measured nothing.",
    FailureKind.INFRA: "The machine failed, not the configuration. Nothing is learned from it, and it is tried again.",
}


def show(visit: Visit) -> None:
    """Draw the page of a trial."""
    kept = visit.chosen_study()
    if kept is None:
        return
    trial = _chosen(kept.view)
    if trial is not None:
        _trial(visit, kept, trial)
    visit.follow(kept.view.study)


def _chosen(view: StudyView) -> TrialRecord | None:
    if not view.trials:
        st.info("This study has no trial yet.")
        return None
    last = len(view.trials) - 1
    named = st.query_params.get(TRIAL, "")
    if named and not (named.isdecimal() and int(named) <= last):
        st.warning(f"The trial that the address names is not in this study, which has trials 0 to {last}.")
        st.code(named, language=None, wrap_lines=True)
    shown = int(named) if named.isdecimal() and int(named) <= last else view.best.number if view.best else last
    number = st.number_input("Trial", 0, last, value=shown, key=f"trial of {view.study.id} {named}")
    if str(number) != named:
        st.query_params[TRIAL] = str(number)
    return view.trials[number]


def _trial(visit: Visit, kept: Kept, trial: TrialRecord) -> None:
    view = kept.view
    st.html(
        Markup("<h1 class='at-name' id='at-trial'>Trial {} of {}</h1><div class='at-muted'>{}</div>").format(
            trial.number, view.study.name, _facts(view, trial)
        )
    )
    if trial.state in (TrialState.FAILED, TrialState.PRUNED) or trial.failure_kind is not None:
        _ended_early(trial)
    if trial.metrics:
        st.subheader("Measured", anchor=False)
        st.html(
            tables.comparison(view, [(f"trial {trial.number}", trial), ("default", view.default), ("best", view.best)])
        )
        _limits(view, trial)
    differs = (
        "What it changes of the default" if dict(trial.config) != dict(view.study.default_config) else "The default"
    )
    st.subheader(differs, anchor=False)
    st.html(tables.changes(trial.config, view.study.default_config, f"trial {trial.number}"))
    for name, picture in known_views(view.study).items():
        if picture.of_trial and drawable(kept, name, trial.number):
            st.subheader(picture.title, anchor=False)
            draw(kept, name, trial.number)
    _kept(visit, trial)


def _facts(view: StudyView, trial: TrialRecord) -> str:
    return text.listing(
        [
            trial.state.value,
            f"proposed by {trial.label or trial.proposer}",
            f"measured by {view.study.evaluator_of(trial)}" if view.study.evaluator_of(trial) else "",
            f"attempt {trial.attempt}" if trial.attempt > 1 else "",
            f"begun {trial.created_at:%Y-%m-%d %H:%M:%S} UTC" if trial.created_at else "",
            f"evaluated in {text.number(trial.evaluate_s)} s" if trial.evaluate_s is not None else "",
            f"proposed in {text.number(trial.suggest_s)} s",
            f"worker {trial.worker_id}" if trial.worker_id else "",
        ]
    )


def _ended_early(trial: TrialRecord) -> None:
    if trial.state is TrialState.PRUNED:
        st.info("It was ended early, as it could not become the best one:")
    else:
        known = None if trial.failure_kind is None else _EXPLAINED.get(trial.failure_kind)
        st.error(f"It failed ({trial.failure_kind}). {known or ''}")
    st.code(trial.failure_message or "no message", language=None, wrap_lines=True)


def _limits(view: StudyView, trial: TrialRecord) -> None:
    """How far every constrained metric is from its limit."""
    if not view.goals.constraints:
        return
    columns = [Cell("constraint"), Cell("measured", numeric=True), Cell("room", numeric=True), Cell("remark")]
    st.subheader("Constraints", anchor=False)
    st.html(markup.table("limits", columns, [_limit(constraint, trial) for constraint in view.goals.constraints]))


def _limit(constraint: OutcomeConstraint, trial: TrialRecord) -> Row:
    value = trial.values.get(constraint.metric)
    if value is None or value != value:  # noqa: PLR0124 - NaN
        room, told = None, "not measured"
    else:
        away = constraint.bound - value if constraint.operator.startswith("<") else value - constraint.bound
        room = away / abs(constraint.bound) if constraint.bound else None
        broken = constraint.violation(trial.values) > 0
        told = "broken" if broken else "near the limit" if room is not None and room <= _NEAR else "kept"
    return Row(
        [
            Cell(str(constraint), wraps=True),
            markup.metric_cell(constraint.metric, value),
            Cell(text.NOTHING if room is None else text.percent(room), numeric=True),
            Cell(told),
        ]
    )


def _kept(visit: Visit, trial: TrialRecord) -> None:
    """What else the store has of it: files, log, machine, notes."""
    artifacts = visit.store.artifacts(trial.id)
    if artifacts:
        st.subheader("Artifacts", anchor=False)
        rows = [Row([Cell(a.name, wraps=True), Cell(a.path, wraps=True), Cell(a.sha256[:16])]) for a in artifacts]
        st.html(markup.table("artifacts", [Cell("name"), Cell("file"), Cell("SHA-256")], rows))
    log = visit.store.log(trial.id)
    if log:
        st.subheader("What the evaluation printed", anchor=False)
        st.code(log, language=None, height=300)
    machine = environment_of(visit.store, trial.id)
    if machine is not None:
        with st.expander("The machine and the software that measured it"):
            st.code(json.dumps(dict(machine.details), indent=2), language="json")
    if trial.notes:
        with st.expander("Notes of the strategy and the evaluator"):
            st.code(json.dumps(dict(trial.notes), indent=2, default=str), language="json", height=300)

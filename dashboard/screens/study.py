"""One study: headline numbers, its best configuration beside the default, pictures, trials, failures, and what to take away."""

from __future__ import annotations

import datetime as dt
from functools import partial

import streamlit as st
from markupsafe import Markup

from autotune import text
from autotune.errors import UsageError
from autotune.explaining import explain_trials
from autotune.objective import Objective
from autotune.store import StudyRecord, TrialRecord, TrialState
from autotune.store.queries import trial_page
from autotune.study_view import SHOWN_STATES, StudyView
from dashboard import actions, markup, tables, takeaway, workers
from dashboard.live import Kept, known_views
from dashboard.markup import Cell, Row
from dashboard.pictures import draw, options
from dashboard.visit import Visit

SECTIONS = ("Overview", "Pictures", "Trials", "Failures", "Take away")
_FRONT_ROWS = 50
_PRUNED_ROWS = 20
_TRIAL_ROWS = 50
_METRICS = 4  # beside each other, so that what a trial changes is still in sight


def show(visit: Visit) -> None:
    """Draw the page of a study."""
    kept = visit.chosen_study()
    if kept is None:
        return
    view = kept.view
    _heading(view)
    _steer(visit, view.study)
    if not view.trials:
        st.info("This study has no trial yet. Start or resume its search; this page follows.")
        visit.follow(view.study)
        return
    several = len(view.goals.objectives) > 1
    st.html(markup.cards(_cards(view, several=several)))
    _notices(view)
    sections, live, refresh = st.columns([6, 1, 1], vertical_alignment="bottom")
    section = sections.segmented_control(
        "Show", SECTIONS, default=_first("section"), required=True, key="section", bind="query-params"
    )
    live.toggle("Live", value=True, key="live", help="Follow the study as it changes.")
    refresh.button("Refresh", key="refresh", help="Read the study again.")  # any click draws the page anew
    if section == "Pictures":
        _pictures(kept)
    elif section == "Trials":
        _trials(visit, view)
    elif section == "Failures":
        _failures(kept)
    elif section == "Take away":
        takeaway.show(view)
    else:
        _overview(kept, several=several)
    visit.follow(view.study)


def _first(key: str) -> str | None:
    """The default of a choice that the address may have made already."""
    return None if key in st.session_state else SECTIONS[0]


def _heading(view: StudyView) -> None:
    study, now = view.study, dt.datetime.now(dt.UTC)
    facts = text.listing(
        [
            study.domain or "",
            ", ".join(map(str, view.goals.objectives)),
            " and ".join(f"subject to {c}" for c in view.goals.constraints),
            f"strategy {study.strategy}",
            f"seed {study.seed}",
            f"by {study.owner}" if study.owner else "",
            f"created {text.age(study.created_at, now)}",
            f"last change {text.age(study.updated_at, now)}",
        ]
    )
    st.html(Markup("<h1 class='at-name' id='at-study'>{}</h1><div class='at-muted'>{}</div>").format(study.name, facts))


def _steer(visit: Visit, study: StudyRecord) -> None:
    if not visit.settings.allow_edit:
        return
    if study.state == "running":
        asked = bool(study.stop_requested)
        if st.button("Stopping …" if asked else "Stop", key="stop", disabled=asked, help="After the running trial."):
            actions.stop(visit, study)
            st.rerun()
    elif study.domain is not None and st.button("Resume", key="resume", help="Go on until its budget is spent."):
        workers.resume(visit.settings.storage, study.name, actions.owner(visit))
        st.toast("The search goes on in a process of its own.")


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
        st.error(f"Every trial failed ({len(view.failed)} of {len(view.counted)}). The messages are under Failures.")
    elif not view.completed:
        st.info("No trial has finished with a measurement yet.")
    elif not view.feasible and view.infeasible:
        st.warning("No measured trial keeps every outcome constraint, so there is no best configuration yet.")
    if view.cheaper:
        apart = text.plural(sum(map(len, view.cheaper.values())), "trial")
        st.info(f"{apart} of cheaper evaluators are kept, but neither ranked nor shown here.")
    if view.unusable:
        counted = text.plural(len(view.unusable), "completed trial")
        st.warning(f"{counted} without a number for every objective: counted above, but not in the chart.")


def _overview(kept: Kept, *, several: bool) -> None:
    view = kept.view
    draw(kept, "pareto" if several else "history")
    if several:
        _front(view)
    elif view.best is not None:
        named: list[tuple[str, TrialRecord | None]] = [("best", view.best), ("default", view.default)]
        named += view.baselines.items()
        st.subheader(
            "Best beside the default and the baselines" if view.baselines else "Best beside the default", anchor=False
        )
        st.html(tables.comparison(view, named))
        differs = dict(view.best.config) != dict(view.study.default_config)
        st.subheader("What to change" if differs else "Configuration", anchor=False)
        if not differs:
            st.info("The default configuration is the best that was measured.")
        label = f"best (trial {view.best.number})"
        st.html(tables.changes(view.best.config, view.study.default_config, label))
    _explained(view)


def _explained(view: StudyView) -> None:
    """What the domain tells of the result, in its own words."""
    try:
        sections = explain_trials(view.study, view.pareto, view.default)
    except UsageError as error:
        st.caption("The domain of this study tells nothing here:")
        st.code(str(error), language=None, wrap_lines=True)
        return
    for section in sections:
        st.subheader(section.title.replace("[", "\\["), anchor=False)
        st.code("\n".join(section.lines), language=None)


def _front(view: StudyView) -> None:
    if not view.pareto:
        return
    metrics = view.metric_names(view.pareto)
    order = sorted(view.pareto, key=lambda t: view.goals.first.sign * t.values[view.goals.first.metric])
    st.subheader("Pareto front", anchor=False)
    st.html(tables.trials(view.study, order[:_FRONT_ROWS], metrics, "front"))
    if len(order) > _FRONT_ROWS:
        st.caption(f"The first {_FRONT_ROWS} of {len(order)}.")


def _pictures(kept: Kept) -> None:
    views = known_views(kept.view.study)
    names = list(views)
    kind = st.selectbox(
        "Picture", names, format_func=lambda name: views[name].title, key="picture", bind="query-params"
    )
    draw(kept, kind, **options(kept.view, views[kind]))


def _trials(visit: Visit, view: StudyView) -> None:
    """Trials by pages, sorted and chosen in SQL."""
    metrics = view.metric_names(view.completed[:1] or view.counted[:1])
    state, proposer, order, descending = st.columns([2, 2, 2, 1], vertical_alignment="bottom")
    states = state.multiselect("State", [s.value for s in SHOWN_STATES], key="states", placeholder="all")
    proposers = proposer.multiselect(
        "Proposer", sorted({t.proposer for t in view.trials}), key="proposers", placeholder="all"
    )
    by = order.selectbox("Sort by", ["number", *metrics, "evaluate_s"], key="by", bind="query-params")
    falling = descending.toggle("Falling", key="falling", bind="query-params")
    some = partial(
        trial_page, visit.store, view.study.id,
        states=[TrialState(s) for s in states] or None, proposers=proposers or None, order_by=by,
    )  # fmt: skip
    page = 0
    _, total = some(limit=1)
    pages = max(1, -(-total // _TRIAL_ROWS))
    if pages > 1:
        page = st.number_input(f"Page of {pages}", 1, pages, key="trials page") - 1
    found, _ = some(descending=falling, offset=page * _TRIAL_ROWS, limit=_TRIAL_ROWS)
    told = [name for name in (*view.goals.metrics, *view.study.options.get("highlights", ())) if name in metrics]
    st.html(tables.trials(view.study, found, list(dict.fromkeys([*told[:_METRICS], *([by] if by in metrics else [])]))))
    st.caption(f"{len(found)} of {text.plural(total, 'trial')}.")


def _failures(kept: Kept) -> None:
    view = kept.view
    if not view.failed and not view.pruned:
        st.info("No trial failed, and none was ended early.")
        return
    if view.failed:
        draw(kept, "failures")
        columns = [Cell("kind"), Cell("trials", numeric=True), Cell("last one", numeric=True), Cell("its message")]
        rows = [
            Row(
                [
                    Cell(kind),
                    Cell(str(len(trials)), numeric=True),
                    Cell(markup.trial_link(view.study.name, trials[-1].number), numeric=True),
                    Cell(trials[-1].failure_message or text.NOTHING, wraps=True),
                ]
            )
            for kind, trials in view.failures.items()
        ]
        st.subheader("Failures by cause", anchor=False)
        st.html(markup.table("failures", columns, rows))
    if view.pruned:
        _pruned(view)


def _pruned(view: StudyView) -> None:
    """Trials that were ended early, the newest first: how far each got, and why it was ended."""
    st.subheader("Pruned trials", anchor=False)
    columns = [Cell("trial", numeric=True), Cell("last step", numeric=True), Cell("why")]
    rows = [
        Row(
            [
                Cell(markup.trial_link(view.study.name, trial.number), numeric=True),
                Cell(text.NOTHING if trial.reported_step is None else str(trial.reported_step), numeric=True),
                Cell(trial.failure_message or text.NOTHING, wraps=True),
            ]
        )
        for trial in reversed(view.pruned[-_PRUNED_ROWS:])
    ]
    st.html(markup.table("pruned", columns, rows))
    if len(view.pruned) > _PRUNED_ROWS:
        st.caption(f"The newest {_PRUNED_ROWS} of {len(view.pruned)}.")

"""The list of studies: how far each is, and how much better than its default."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from autotune import text
from autotune.store import Store, StudyRecord, StudySummary, TrialState
from autotune.store.queries import Standing, standing
from autotune.study_view import SHOWN_STATES
from dashboard import markup
from dashboard.markup import Cell, Row

_CACHED_STUDIES = 500


def show(store: Store, studies: Sequence[StudySummary]) -> None:
    """Draw the list."""
    now = dt.datetime.now(dt.UTC)
    apart = any(summary.cheaper for summary in studies)
    cheaper = [Cell("cheaper", numeric=True)] if apart else []
    # Of states that few studies know, a column of nothing but zeros would say nothing.
    ended = any(summary.trials.get(TrialState.PRUNED) for summary in studies)
    states = [state for state in SHOWN_STATES if ended or state is not TrialState.PRUNED]
    pruned = [Cell("pruned", numeric=True)] if ended else []
    columns = [
        Cell("study"), Cell("state"), Cell("domain"), Cell("measured", numeric=True), Cell("failed", numeric=True), *pruned,
        Cell("running", numeric=True), Cell("waiting", numeric=True), *cheaper, Cell("objective"), Cell("best", numeric=True),
        Cell("gain over default", numeric=True), Cell("last change", numeric=True), Cell("created", numeric=True),
    ]  # fmt: skip
    rows = [_row(summary, _standing(store, summary.study), now, states, apart=apart) for summary in studies]
    st.html(markup.table("studies", columns, rows))


def _row(
    summary: StudySummary, standing: Standing, now: dt.datetime, states: Sequence[TrialState], *, apart: bool
) -> Row:
    study, goals = summary.study, summary.study.goals
    counts = [summary.trials.get(state, 0) for state in states]
    several = len(goals.objectives) > 1
    best: Markup | str = markup.exact(standing.best, goals.first.unit)
    return Row(
        [
            Cell(markup.study_link(study.name), wraps=True),
            Cell(study.state),
            Cell(study.domain or text.NOTHING),
            *(Cell(str(count), numeric=True) for count in counts),
            *([Cell(str(summary.cheaper) if summary.cheaper else text.NOTHING, numeric=True)] if apart else []),
            Cell(", ".join(map(str, goals.objectives)), wraps=True),
            Cell(f"{standing.front} on the front" if several else best, numeric=True),
            Cell(text.NOTHING if several else markup.gain(standing.gain), numeric=True),
            Cell(text.age(study.updated_at, now), numeric=True),
            Cell(text.age(study.created_at, now), numeric=True),
        ]
    )


def _standing(store: Store, study: StudyRecord) -> Standing:
    return _cached_standing(store.url, study.id, str(study.created_at), str(study.updated_at), store, study)


@st.cache_data(max_entries=_CACHED_STUDIES, show_spinner=False)
def _cached_standing(
    url: str, study_id: int, created: str, updated: str, _store: Store, _study: StudyRecord
) -> Standing:
    """Every ask and tell moves `updated`, so that only studies that changed are read again."""
    return standing(_store, _study)

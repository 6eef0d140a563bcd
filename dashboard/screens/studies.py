"""The list of studies: how far each is, whose it is, and how much better than its default."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from markupsafe import Markup

from autotune import text
from autotune.store import Store, StudyRecord, StudySummary, TrialState
from autotune.store.queries import Standing, standing
from autotune.study_view import SHOWN_STATES
from dashboard import actions, markup
from dashboard.markup import Cell, Row
from dashboard.visit import Visit

_CACHED_STUDIES = 2_000
_ROWS = 100  # of one page of the list
_ORDERS = ("last change", "created", "name", "gain", "trials")


def show(visit: Visit) -> None:
    """Draw the list."""
    st.title("Studies", anchor=False)
    every = visit.store.studies()
    if not every:
        visit.chosen([])
        visit.follow()
        return
    sought, order, archived = _controls()
    found = [s for s in every if _is_sought(s, sought) and (archived or s.study.archived_at is None)]
    standings = {s.study.id: _standing(visit.store, s.study) for s in found}
    found.sort(key=_order(order, standings), reverse=order != "name")
    page = 0
    if len(found) > _ROWS:
        pages = -(-len(found) // _ROWS)
        page = st.number_input("Page", 1, pages, key="page", help=f"of {pages}") - 1
    shown = found[page * _ROWS : (page + 1) * _ROWS]
    st.html(_table(shown, standings))
    hidden = sum(s.study.archived_at is not None for s in every)
    apart = f", {hidden} archived" if hidden else ""
    st.caption(f"{len(shown)} of {len(every)} {'study' if len(every) == 1 else 'studies'}{apart}.")
    if visit.settings.allow_edit:
        actions.archive(visit, every)
    visit.follow()


def _controls() -> tuple[str, str, bool]:
    find, sort, which, live = st.columns([4, 2, 2, 1], vertical_alignment="bottom")
    sought = find.text_input("Find", key="find", placeholder="name, domain, state, owner", bind="query-params")
    order = sort.selectbox("Sort by", _ORDERS, key="order", bind="query-params")
    archived = which.toggle("Archived too", key="archived", bind="query-params")
    live.toggle("Live", value=True, key="live", help="Follow the store as it changes.")
    return sought.strip().lower(), order, archived


def _is_sought(summary: StudySummary, words: str) -> bool:
    study = summary.study
    told = " ".join([study.name, study.domain or "", study.state, study.owner or "", study.strategy]).lower()
    return all(word in told for word in words.split())


def _order(order: str, standings: dict[int, Standing]) -> Callable[[StudySummary], Any]:
    def key(summary: StudySummary) -> Any:
        study = summary.study
        if order == "gain":
            gain = standings[study.id].gain
            return -float("inf") if gain is None else gain
        return {
            "last change": study.updated_at,
            "created": study.created_at,
            "name": study.name.lower(),
            "trials": sum(summary.trials.values()),
        }[order]

    return key


def _table(studies: Sequence[StudySummary], standings: dict[int, Standing]) -> Markup:
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
        Cell("gain over default", numeric=True), Cell("owner"),
        Cell("last change", numeric=True), Cell("created", numeric=True),
    ]  # fmt: skip
    rows = [_row(summary, standings[summary.study.id], now, states, apart=apart) for summary in studies]
    return markup.table("studies", columns, rows)


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
            Cell(study.state + (", archived" if study.archived_at else "")),
            Cell(study.domain or text.NOTHING),
            *(Cell(str(count), numeric=True) for count in counts),
            *([Cell(str(summary.cheaper) if summary.cheaper else text.NOTHING, numeric=True)] if apart else []),
            Cell(", ".join(map(str, goals.objectives)), wraps=True),
            Cell(f"{standing.front} on the front" if several else best, numeric=True),
            Cell(text.NOTHING if several else markup.gain(standing.gain), numeric=True),
            Cell(study.owner or text.NOTHING),
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

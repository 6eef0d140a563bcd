"""Several studies side by side: what each found, how fast, and where their best configurations differ."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from autotune import text
from autotune.plots.compare import incumbents
from autotune.study_view import StudyView
from dashboard import markup, pictures
from dashboard.markup import Cell, Row
from dashboard.visit import Visit

_MOST = 8


def show(visit: Visit) -> None:
    """Draw the comparison."""
    st.title("Compare", anchor=False)
    studies = {study.name: study for study in visit.store.records()}
    if not studies:
        visit.chosen([])
        visit.follow()
        return
    names = st.multiselect(
        "Studies", list(studies), max_selections=_MOST, key="studies", bind="query-params", placeholder="Choose some"
    )
    views = [visit.kept(studies[name]).view for name in names]
    if len(views) < 2:
        st.info("Choose at least two studies.")
    else:
        st.html(markup.table("compared", _columns(), [_row(view) for view in views]))
        _pictures(views)
        _configurations(views)
    visit.follow()


def _columns() -> list[Cell]:
    return [
        Cell("study"), Cell("objective"), Cell("strategy"), Cell("trials", numeric=True), Cell("failed", numeric=True),
        Cell("best", numeric=True), Cell("gain over default", numeric=True), Cell("best after", numeric=True),
    ]  # fmt: skip


def _row(view: StudyView) -> Row:
    objective = view.goals.first
    best = view.best if len(view.goals.objectives) == 1 else None
    return Row(
        [
            Cell(markup.study_link(view.study.name), wraps=True),
            Cell(str(objective), wraps=True),
            Cell(view.study.strategy),
            Cell(str(len(view.counted)), numeric=True),
            Cell(str(len(view.failed)), numeric=True),
            Cell(markup.exact(None if best is None else best.values[objective.metric], objective.unit), numeric=True),
            Cell(markup.gain(view.goals.gain(best, view.default)) if best else text.NOTHING, numeric=True),
            Cell(text.NOTHING if best is None else f"trial {best.number}", numeric=True),
        ]
    )


def _pictures(views: list[StudyView]) -> None:
    metrics = {view.goals.first.metric for view in views}
    if len(metrics) > 1:
        st.info("These studies have different objectives, so that no picture can show them together.")
        return
    figure: go.Figure = incumbents(views)
    pictures.show(figure, "incumbents", "The best value so far of each study, by trial.")


def _configurations(views: list[StudyView]) -> None:
    found = [(view.study.name, view.best.config) for view in views if view.best is not None]
    names = list(dict.fromkeys(name for _, config in found for name in config))
    if not names:
        return
    st.subheader("Best configurations", anchor=False)
    columns = [Cell("parameter"), *(Cell(name, wraps=True) for name, _ in found)]
    rows = []
    for name in names:
        values = [config.get(name) for _, config in found]
        scale = markup.common_scale(*values)
        same = all(value == values[0] for value in values)
        cells = [Cell(name, wraps=True), *(markup.value_cell(value, scale) for value in values)]
        rows.append(Row(cells, kind="at-same" if same else ""))
    st.html(markup.table("configurations", columns, rows))

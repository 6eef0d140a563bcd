"""Pictures on pages: drawn, described, or the sentence that says why there is none."""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from autotune.errors import UsageError
from autotune.plots.catalogue import Picture
from autotune.study_view import StudyView
from autotune.viewing import NothingToShowError, View
from dashboard import forms
from dashboard.live import Kept, known_views

_CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
_TEXT = {"light": "#4b5563", "dark": "#c8cbd0"}
_COLOURING = Lock()
_PAINT_S = 0.4


def draw(kept: Kept, kind: str, trial: int | None = None, **chosen: Any) -> None:
    """A picture of the study, or of one trial of it."""
    view = known_views(kept.view.study)[kind]
    try:
        with st.spinner(f"Drawing: {view.title}", show_time=True):
            figure = kept.figure(kind, trial, **chosen)
    except UsageError as error:
        st.info("There is nothing to be drawn here yet:")
        st.code(str(error), language=None, wrap_lines=True)
        return
    show(figure, f"{kind} {trial} {chosen}", view.summary)
    st.caption(view.summary)


def show(figure: go.Figure, key: str, described: str) -> None:
    """A picture as it is, but for its text, which stands out from the page that the visitor sees."""
    if not st.session_state.get("painted"):
        # A browser that loads Plotly does nothing else for two seconds: what it was sent before shall be seen by then.
        time.sleep(_PAINT_S)
        st.session_state["painted"] = True
    text = _TEXT.get(st.context.theme.type or "")
    # Visitors with another theme are shown the same figure.
    with _COLOURING:
        if text is not None:
            figure.layout.font.color = text
        # The theme of the page would put its own colours in place of those that are told apart by everyone.
        st.plotly_chart(figure, theme=None, config=_CHART, key=key, alt=described)


def drawable(kept: Kept, kind: str, trial: int) -> bool:
    """Whether a trial has what a picture shows; many have not, and need no word about it."""
    try:
        kept.figure(kind, trial)
    except NothingToShowError:
        return False
    return True


def options(view: StudyView, picture: View) -> dict[str, Any]:
    """What a reader chose of a picture that has something to choose."""
    if not isinstance(picture, Picture) or not picture.options.model_fields:
        return {}
    parameters = [parameter["name"] for parameter in view.study.space.get("parameters", ())]
    metrics = view.metric_names(view.completed[:1])
    axes = parameters if "metric" in picture.options.model_fields else metrics
    among = {"metric": metrics, "x": axes, "y": axes}
    places = st.columns(len(picture.options.model_fields))
    chosen: dict[str, Any] = {}
    for place, (name, field) in zip(places, picture.options.model_fields.items(), strict=True):
        key = f"{picture.name} {name}"
        with place:
            if name in among:
                told = field.description
                chosen[name] = st.selectbox(name, among[name], index=None, placeholder="usual", key=key, help=told)
            else:
                chosen[name] = forms.field(name, field, key)
    return {name: value for name, value in chosen.items() if value}

"""The Streamlit script that `autotune dashboard` runs: reads one store, shows its studies or one of them."""

from __future__ import annotations

import os
from contextlib import closing

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from autotune.errors import AutotuneError
from autotune.store import Store, StudySummary
from autotune.study_view import StudyView
from dashboard import markup, overview, study_page

STORAGE_VARIABLE = "AUTOTUNE_STORAGE"


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="autotune", layout="wide")
    st.html(markup.STYLE)
    url = os.environ.get(STORAGE_VARIABLE, "")
    title, selector, button = st.columns([2, 5, 1], vertical_alignment="bottom")
    title.title("autotune", anchor=False)
    button.button("Refresh", key="refresh", help="Read the store again.")  # any click draws the page anew
    if not url:
        st.error("No store was named. Start this page with: autotune dashboard --storage URL")
        return
    try:
        # Opened anew for every drawing: a connection kept open would go on showing a database file that was deleted.
        with closing(Store(url, read_only=True)) as store:
            _show(store, selector)
    except AutotuneError as error:
        st.error("The store cannot be read. Put it right, then refresh.")
        st.code(str(error), language=None, wrap_lines=True)


def _show(store: Store, selector: DeltaGenerator) -> None:
    studies = store.studies()
    if not studies:
        st.info("There is no study in this store yet. Run a search with it, then refresh.")
        st.code(f"autotune search … --storage {store.url}", language=None, wrap_lines=True)
        return
    name = _chosen(studies, selector)
    if name is None:
        overview.show(store, studies)
        return
    study = next((s.study for s in studies if s.study.name == name), None)
    if study is None:
        st.warning("The study that the address names is not in this store. Choose one of these:")
        st.code(name, language=None, wrap_lines=True)
        overview.show(store, studies)
        return
    study_page.show(StudyView(study, tuple(store.trials(study.id))))


def _chosen(studies: list[StudySummary], selector: DeltaGenerator) -> str | None:
    """The study that the address names (``?study=NAME``), which the selector follows and changes."""
    asked = st.query_params.get("study")
    names = [s.study.name for s in studies]
    current = asked if asked in names else None
    if st.session_state.get("study") != current:
        st.session_state["study"] = current
    selector.selectbox("Study", names, index=None, placeholder="All studies", key="study", on_change=_follow)
    return asked


def _follow() -> None:
    name = st.session_state["study"]
    if name is None:
        st.query_params.clear()
    else:
        st.query_params["study"] = name


main()

"""One visit of one page: the store as it was opened for it, and the frame around what the page draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import streamlit as st

from autotune.errors import AutotuneError, UsageError
from autotune.store import Store, StudyRecord
from autotune.store.queries import study_watermark, watermark
from dashboard import live
from dashboard.settings import Settings

STUDY = "study"  # of addresses: ?study=NAME
TRIAL = "trial"
_LOOK_S = 2.0  # how often a page asks whether anything changed
_REST = 20.0  # times as long as a drawing took, at least, passes between two of them: workers may need the machine


@dataclass(frozen=True)
class Visit:
    """What a page draws from."""

    settings: Settings
    store: Store

    def chosen(self, studies: Sequence[str], label: str = "Study") -> str | None:
        """The study that the address names, which a box follows and changes; None where there is none."""
        if not studies:
            st.info("There is no study in this store yet. Run a search with it; this page follows.")
            st.code(f"autotune search … --storage {self.store.url}", language=None, wrap_lines=True)
            return None
        named = st.query_params.get(STUDY)
        if named is not None and named not in studies:
            st.warning("The study that the address names is not in this store. Choose another one.")
            st.code(named, language=None, wrap_lines=True)
        place = list(studies).index(named) if named is not None and named in studies else None
        if place is None and len(studies) == 1:
            place = 0
        found: str | None = st.selectbox(label, studies, index=place, placeholder="Choose a study", key=f"box {named}")
        if found is not None and found != named:
            st.query_params[STUDY] = found
            st.query_params.pop(TRIAL, None)
        return found

    def chosen_study(self) -> live.Kept | None:
        """The study that the address names, with its trials; None where there is none, and the page waits for one."""
        studies = {study.name: study for study in self.store.records()}
        name = self.chosen(list(studies))
        if name is None:
            self.follow()
            return None
        return self.kept(studies[name])

    def kept(self, study: StudyRecord) -> live.Kept:
        """The study with its trials."""
        return live.kept_study(self.store, study)

    def follow(self, study: StudyRecord | None = None) -> None:
        """Draw the page anew when the study, or with None anything in the store, has changed."""
        mark = _mark(self.store, study)
        took = time.perf_counter() - st.session_state.get("began", time.perf_counter())
        _ticker(self.settings.storage, study, mark, max(_LOOK_S, _REST * took))


def page(settings: Settings, show: Callable[[Visit], None]) -> Callable[[], None]:
    """What Streamlit runs for a page: the store is opened, and what is wrong with it is said in place."""

    def draw() -> None:
        st.session_state["began"] = time.perf_counter()
        if not settings.storage:
            st.error("No store was named. Start this page with: autotune dashboard --storage URL")
            return
        try:
            # Opened anew for every drawing: a connection kept open would go on showing a database file that was deleted.
            store = Store(settings.storage, read_only=True)
        except AutotuneError as error:
            _unreadable(settings, error)
            return
        with closing(store):
            try:
                show(Visit(settings, store))
            except UsageError as error:
                st.warning("This cannot be shown:")
                st.code(str(error), language=None, wrap_lines=True)
            except AutotuneError as error:
                _unreadable(settings, error)

    return draw


def _unreadable(settings: Settings, error: AutotuneError) -> None:
    st.error("The store cannot be read. Put it right; this page looks again by itself.")
    st.code(str(error), language=None, wrap_lines=True)
    _ticker(settings.storage, None, None, _LOOK_S)


def _mark(store: Store, study: StudyRecord | None) -> Any:
    return watermark(store) if study is None else study_watermark(store, study.id)


def _ticker(url: str, study: StudyRecord | None, drawn: Any, every_s: float) -> None:
    """Ask in intervals whether the store has changed since, which costs one small query, and only then draw anew."""
    drawing = True

    @st.fragment(run_every=every_s)
    def look() -> None:
        # In a store that many write to something has always changed by now; to begin anew already would never show a page.
        if drawing or not st.session_state.get("live", True):
            return
        try:
            with closing(Store(url, read_only=True)) as store:
                now = _mark(store, study)
        except AutotuneError:
            now = None
        if now != drawn:
            st.rerun()

    look()
    drawing = False

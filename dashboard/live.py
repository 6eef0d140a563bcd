"""Studies as pages see them: read from the store when they change, kept for all visitors of the server.

What changed is told by the revision of a study, so that a page of 10,000 trials reads a new trial instead of all of them. No
connection outlives a drawing: one kept open would go on showing a database file that was deleted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from autotune.errors import UsageError
from autotune.plots import VIEWS, figure, views_of
from autotune.store import Store, StudyRecord, TrialRecord
from autotune.study_view import StudyView
from autotune.viewing import View

_KEPT_STUDIES = 32
_KEPT_FIGURES = 64
_GROWTH = 1.1  # a figure that takes seconds is drawn anew when there are so many times the trials


def known_views(study: StudyRecord) -> Mapping[str, View]:
    """The pictures of a study; the engine's alone where its domain is not installed here."""
    try:
        return views_of(study)
    except UsageError:
        return VIEWS


class Details:
    """Samples and reports of single trials, each read over a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def samples(self, trial_id: int) -> dict[str, tuple[float, ...]]:
        """See `Store.samples`."""
        with closing(Store(self._url, read_only=True)) as store:
            return store.samples(trial_id)

    def reports_of(self, trial_ids: Sequence[int]) -> dict[int, list[tuple[int, str, float]]]:
        """See `Store.reports_of`."""
        with closing(Store(self._url, read_only=True)) as store:
            return store.reports_of(trial_ids)


@dataclass
class Kept:
    """One study: its view, and the pictures that were drawn of it."""

    view: StudyView
    revision: int
    used: float = field(default_factory=time.monotonic)
    figures: dict[Any, tuple[StudyView, go.Figure | Exception]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def figure(self, kind: str, trial: int | None = None, **options: Any) -> go.Figure:
        """A picture of the study as it is. Slow ones are drawn anew only when there is much more to be seen.

        Raises:
            UsageError: what the picture said when it could not be drawn.
        """
        key = (kind, trial, tuple(sorted(options.items())))
        found = self.figures.get(key)
        if found is None or not (found[0] is self.view or (self._slow(kind) and not self._grown(found[0]))):
            found = (self.view, _drawn(lambda: figure(self.view, kind, trial, **options)))
            if len(self.figures) >= _KEPT_FIGURES:
                self.figures.clear()
            self.figures[key] = found
        if isinstance(found[1], Exception):
            raise found[1]
        return found[1]

    def _slow(self, kind: str) -> bool:
        view = known_views(self.view.study).get(kind)
        return view is not None and view.slow

    def _grown(self, drawn: StudyView) -> bool:
        return len(self.view.trials) > _GROWTH * len(drawn.trials) or self.view.study.state != drawn.study.state


def _drawn(draw: Callable[[], go.Figure]) -> go.Figure | Exception:
    try:
        return draw()
    except UsageError as error:
        return error


@st.cache_resource
def _kept() -> tuple[dict[Any, Kept], threading.Lock]:
    return {}, threading.Lock()


def kept_study(store: Store, study: StudyRecord) -> Kept:
    """The study with all of its trials as the store has them now.

    Raises:
        StoreError: when the store cannot be read.
    """
    every, lock = _kept()
    # A study that was deleted and made anew has the name, and may have the id, of the old one.
    key = (store.url, study.id, study.created_at)
    with lock:
        kept = every.get(key)
        if kept is None:
            if len(every) >= _KEPT_STUDIES:
                del every[min(every, key=lambda old: every[old].used)]
            kept = every[key] = Kept(StudyView(study, (), Details(store.url)), -1)
    with kept.lock:
        kept.used = time.monotonic()
        changed = store.trials(study.id, since=kept.revision)
        if changed or study != kept.view.study:
            trials: dict[int, TrialRecord] = {t.number: t for t in kept.view.trials}
            trials.update((t.number, t) for t in changed)
            ordered = tuple(trials[number] for number in sorted(trials))
            kept.view = StudyView(study, ordered, Details(store.url))
            kept.revision = max([kept.revision, *(t.revision for t in changed)])
    return kept

"""What changes a store: only where the server was started with --allow-edit, and by connections of their own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import streamlit as st

from autotune.store import Store, StudyRecord, StudySummary
from dashboard.visit import Visit


def visitor(visit: Visit) -> str:
    """Who asks: whom the reverse proxy names, else the dashboard."""
    header = visit.settings.user_header
    named = st.context.headers.get(header) if header else None
    return named or "the dashboard"


def archive(visit: Visit, studies: Sequence[StudySummary]) -> None:
    """A form that puts studies away, or takes them out again."""
    with st.expander("Archive"):
        by_name = {s.study.name: s.study for s in studies}
        chosen = st.multiselect("Studies to put away, or to take out again", list(by_name), key="to archive")
        if st.button("Archive or take out", key="archive", disabled=not chosen):
            with closing(Store(visit.settings.storage)) as store:
                for name in chosen:
                    store.archive(by_name[name].id, by_name[name].archived_at is None)
            st.rerun()


def stop(visit: Visit, study: StudyRecord) -> None:
    """Ask every worker of a study to end after its running trial."""
    with closing(Store(visit.settings.storage)) as store:
        store.request_stop(study.id, visitor(visit))

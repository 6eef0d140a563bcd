"""What changes a store: only where the server was started with --allow-edit, and by connections of their own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import streamlit as st

from autotune.store import Store, StudyRecord, StudySummary
from dashboard.visit import Visit
from dashboard.workers import Worker


def owner(visit: Visit) -> str | None:
    """Whom the reverse proxy names, if there is one."""
    header = visit.settings.user_header
    return (st.context.headers.get(header) if header else None) or None


def visitor(visit: Visit) -> str:
    """Who asks: whom the reverse proxy names, else the dashboard."""
    return owner(visit) or "the dashboard"


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


def has_begun(visit: Visit, worker: Worker) -> bool:
    """Whether a search has begun on a worker's study since that was started."""
    return _begun(visit, worker) is not None


def stop_worker(visit: Visit, worker: Worker) -> None:
    """End a search that was started from the page: by a request once it has begun.

    Before that it would take the request for one to an earlier search, and there is nothing yet that ending it could lose.
    """
    study = _begun(visit, worker)
    if study is not None:
        stop(visit, study)
    elif (process := worker.process) is not None:
        process.terminate()


def _begun(visit: Visit, worker: Worker) -> StudyRecord | None:
    with closing(Store(visit.settings.storage, read_only=True)) as store:
        study = store.find_study(worker.study)
    if study is None or study.updated_at is None or study.state != "running":
        return None
    return study if study.updated_at.timestamp() > worker.asked else None

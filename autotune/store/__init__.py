"""Where results live: studies, trials, metrics and samples in SQL. Nothing else holds state."""

from autotune.store.records import (
    Artifact,
    Profile,
    Proposal,
    SourceRecord,
    StudyRecord,
    StudySummary,
    TrialRecord,
    TrialState,
)
from autotune.store.store import Store

__all__ = [
    "Artifact",
    "Profile",
    "Proposal",
    "SourceRecord",
    "Store",
    "StudyRecord",
    "StudySummary",
    "TrialRecord",
    "TrialState",
]

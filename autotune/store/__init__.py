"""Where results live: studies, trials, metrics and samples in SQL. Nothing else holds state."""

from autotune.store.records import Profile, Proposal, SourceRecord, StudyRecord, StudySummary, TrialRecord, TrialState
from autotune.store.store import Store

__all__ = ["Profile", "Proposal", "SourceRecord", "Store", "StudyRecord", "StudySummary", "TrialRecord", "TrialState"]

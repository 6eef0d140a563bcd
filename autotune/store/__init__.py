"""Where results live: studies, trials, metrics and samples in SQL. Nothing else holds state."""

from autotune.store.records import Profile, Proposal, StudyRecord, StudySummary, TrialRecord, TrialState
from autotune.store.store import Store

__all__ = ["Profile", "Proposal", "Store", "StudyRecord", "StudySummary", "TrialRecord", "TrialState"]

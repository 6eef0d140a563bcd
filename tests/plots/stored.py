"""Views of studies for tests of pictures: made of records, so that thousands of trials cost nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotune import SearchSpace
from autotune.measurement import FailureKind, Metric
from autotune.store import StudyRecord, TrialRecord, TrialState
from autotune.study_view import StudyView
from tests.shown_studies import SPACE

Values = Mapping[str, float]


class Details:
    """Samples and reports of trials, by their ids."""

    def __init__(
        self,
        samples: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
        reports: Mapping[int, Sequence[tuple[int, str, float]]] | None = None,
    ) -> None:
        self._samples, self._reports = samples or {}, reports or {}

    def samples(self, trial_id: int) -> Mapping[str, Sequence[float]]:
        return self._samples.get(trial_id, {})

    def reports_of(self, trial_ids: Sequence[int]) -> Mapping[int, Sequence[tuple[int, str, float]]]:
        return {i: self._reports[i] for i in trial_ids if i in self._reports}


def study(space: SearchSpace = SPACE, *objectives: str, **settings: Any) -> StudyRecord:
    known: dict[str, Any] = {
        "id": 1,
        "name": "a",
        "space": space.to_dict(),
        "space_hash": "",
        "objectives": objectives or ("minimize latency_ms",),
        "constraints": (),
        "default_config": space.default(),
        "strategy": "random",
        "seed": 0,
        "state": "finished",
    }
    return StudyRecord(**{**known, **settings})


def trial(number: int, config: Mapping[str, Any], outcome: Values | str | None, **settings: Any) -> TrialRecord:
    """A trial with these values, or one that failed by that kind, was ``pruned``, or is running (None)."""
    known: dict[str, Any] = {
        "id": number + 100,
        "number": number,
        "config": config,
        "config_hash": f"{number}",
        "state": TrialState.RUNNING,
        "proposer": "random",
        "attempt": 1,
        "revision": number,
    }
    if isinstance(outcome, Mapping):
        known |= {"state": TrialState.COMPLETED, "metrics": {k: Metric(v) for k, v in outcome.items()}}
    elif outcome == "pruned":
        known |= {"state": TrialState.PRUNED, "failure_message": "fell behind"}
    elif outcome is not None:
        known |= {"state": TrialState.FAILED, "failure_kind": FailureKind(outcome), "failure_message": f"its {outcome}"}
    return TrialRecord(**{**known, **settings})


def view(
    outcomes: Sequence[Values | str | None],
    record: StudyRecord | None = None,
    configs: Sequence[Mapping[str, Any]] | None = None,
    details: Details | None = None,
) -> StudyView:
    record = record or study()
    space = SearchSpace.from_dict(record.space)
    found = configs if configs is not None else [space.default(), *space.sample(max(0, len(outcomes) - 1), 0)]
    trials = tuple(trial(i, c, o) for i, (c, o) in enumerate(zip(found, outcomes, strict=False)))
    return StudyView(record, trials, details)

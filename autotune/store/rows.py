"""Between rows of the database and the immutable records that the engine works with."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.measurement import FailureKind, Metric
from autotune.objective import unit_of
from autotune.store.records import Proposal, SourceRecord, StudyRecord, TrialRecord, TrialState

_STATES = {state.value: state for state in TrialState}


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return str(value)


_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain).encode


def dumps(value: Any) -> str:
    """Compact JSON of anything that an evaluator may note; numbers that JSON lacks become texts."""
    try:
        return _ENCODE(value)
    except (ValueError, TypeError):
        return _ENCODE(_jsonable(value))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def clean(text: str | None) -> str | None:
    """Text that every database takes: what programs print may hold NUL or half of a character."""
    return None if text is None else text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def nullable(value: float) -> float | None:
    """NaN is NULL, which every database can hold."""
    return None if math.isnan(value) else float(value)


def artifact_rows(trial_id: int, artifacts: Mapping[str, str | Path]) -> list[dict[str, Any]]:
    """Where each file lies, and what it holds now.

    Raises:
        UsageError: for a file that cannot be read.
    """
    rows = []
    for name, path in artifacts.items():
        file = Path(path).absolute()
        try:
            with file.open("rb") as stream:
                held = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise UsageError(
                f"artifact {name!r} is {str(file)!r}, which cannot be read ({error.strerror}); write it before "
                "the trial is told"
            ) from error
        rows.append({"trial_id": trial_id, "name": name, "path": str(file), "sha256": held})
    return rows


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def metric_rows(trial_id: int, metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "name": name,
            "value": nullable(metric.value),
            "half_width": None if metric.half_width is None else nullable(metric.half_width),
            "unit": unit_of(name),
        }
        for name, metric in metrics.items()
    ]


def sample_rows(trial_id: int, metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    return [
        {"trial_id": trial_id, "metric": name, "index": index, "value": nullable(sample)}
        for name, metric in metrics.items()
        for index, sample in enumerate(metric.samples)
    ]


def metrics_by_trial(rows: Iterable[Any]) -> dict[int, dict[str, Metric]]:
    """Rows of (trial, name, value, half-width) by trial and name."""
    found: defaultdict[int, dict[str, Metric]] = defaultdict(dict)
    for trial_id, name, value, half_width in rows:
        found[trial_id][name] = Metric(math.nan if value is None else value, half_width)
    return found


def study_record(row: Any) -> StudyRecord:
    return StudyRecord(
        id=row.id,
        name=row.name,
        space=json.loads(row.space),
        space_hash=row.space_hash,
        objectives=tuple(json.loads(row.objectives)),
        constraints=tuple(json.loads(row.constraints)),
        default_config=json.loads(row.default_config),
        strategy=row.strategy,
        seed=row.seed,
        state=row.state,
        domain=row.domain,
        stop_reason=row.stop_reason,
        budget=json.loads(row.budget),
        options=json.loads(row.options),
        strategy_options=json.loads(row.strategy_options or "{}"),
        sources=tuple(SourceRecord(**source) for source in json.loads(row.sources or "[]")),
        profile_id=row.profile_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        owner=row.owner,
        archived_at=row.archived_at,
        stop_requested_at=row.stop_requested_at,
        stop_requested_by=row.stop_requested_by,
        store_s=row.store_s or 0.0,
    )


def begun_record(proposal: Proposal, trial_id: int, row: Mapping[str, Any]) -> TrialRecord:
    """The record of a proposal that was just written as `row`."""
    return TrialRecord(
        id=trial_id,
        number=row["number"],
        config=proposal.config,
        config_hash=proposal.config_hash,
        state=TrialState.RUNNING,
        proposer=proposal.proposer,
        attempt=1,
        revision=row["revision"],
        label=proposal.label,
        fidelity=proposal.fidelity,
        worker_id=row["worker_id"],
        suggest_s=proposal.suggest_s,
        notes=_stored(row["notes"]),
        created_at=row["created_at"],
        environment_id=row["environment_id"],
    )


def trial_records(rows: Sequence[Any], metrics: Mapping[int, Mapping[str, Metric]]) -> list[TrialRecord]:
    """Records of many rows of `statements.TRIALS`, with their metrics by key.

    Reading ten thousand is common, so their JSON is parsed as one document, and nothing is looked up by name.
    """
    configs = _parsed([row[2] for row in rows])
    notes = iter(_parsed([row[15] for row in rows if row[15]]))
    found = []
    for row, config in zip(rows, configs, strict=True):
        (
            key,
            number,
            _,
            config_hash,
            state,
            proposer,
            attempt,
            revision,
            label,
            fidelity,
            worker,
            kind,
            message,
            *rest,
        ) = row
        suggest_s, evaluate_s, noted, created_at, finished_at, environment = rest
        found.append(
            TrialRecord(
                key,
                number,
                config,
                config_hash,
                _STATES[state],
                proposer,
                attempt,
                revision,
                label,
                fidelity,
                worker,
                FailureKind(kind) if kind else None,
                message,
                metrics.get(key) or {},
                suggest_s,
                evaluate_s,
                next(notes) if noted else {},
                created_at,
                finished_at,
                environment,
            )
        )
    return found


def _parsed(texts: Sequence[str]) -> list[Any]:
    parsed: list[Any] = json.loads(f"[{','.join(texts)}]")
    return parsed


def trial_record(row: Mapping[str, Any], metrics: Mapping[str, Metric]) -> TrialRecord:
    return TrialRecord(
        id=row["id"],
        number=row["number"],
        config=json.loads(row["config"]),
        config_hash=row["config_hash"],
        state=TrialState(row["state"]),
        proposer=row["proposer"],
        attempt=row["attempt"],
        revision=row["revision"],
        label=row["label"],
        fidelity=row["fidelity"],
        worker_id=row["worker_id"],
        failure_kind=FailureKind(row["failure_kind"]) if row["failure_kind"] else None,
        failure_message=row["failure_message"],
        metrics=metrics,
        suggest_s=row["suggest_s"],
        evaluate_s=row["evaluate_s"],
        notes=_stored(row["notes"]),
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        environment_id=row["environment_id"],
    )


def finished_record(trial: TrialRecord, values: Mapping[str, Any], metrics: Mapping[str, Metric]) -> TrialRecord:
    """`trial` after the columns `values` were written: what reading it again would give, samples left out."""
    return TrialRecord(
        id=trial.id,
        number=trial.number,
        config=trial.config,
        config_hash=trial.config_hash,
        state=TrialState(values["state"]),
        proposer=trial.proposer,
        attempt=trial.attempt,
        revision=values["revision"],
        label=trial.label,
        fidelity=trial.fidelity,
        worker_id=trial.worker_id,
        failure_kind=FailureKind(values["failure_kind"]) if values["failure_kind"] else None,
        failure_message=values["failure_message"],
        metrics={name: Metric(metric.value, metric.half_width) for name, metric in metrics.items()},
        suggest_s=trial.suggest_s,
        evaluate_s=values["evaluate_s"],
        notes=_stored(values["notes"]),
        created_at=trial.created_at,
        finished_at=values["finished_at"],
        environment_id=trial.environment_id,
    )


def _stored(notes: str | None) -> dict[str, Any]:
    # Read back even where the object is at hand, so that whoever wrote a trial sees what everybody else does.
    return json.loads(notes) if notes else {}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(one) for key, one in value.items()}
    if isinstance(value, (np.generic, np.ndarray, set, frozenset)):
        return _jsonable(_plain(value))
    if isinstance(value, (list, tuple)):
        return [_jsonable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

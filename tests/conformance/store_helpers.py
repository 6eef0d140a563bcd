"""Short ways to fill a store, for suites and for the processes that they start."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from autotune.measurement import Measurement, Metric
from autotune.store import Proposal, Store, StudyRecord, TrialRecord

# Workers on another machine, of which nobody here can know whether they live.
WORKER = "elsewhere:1:1.00"
OTHER = "elsewhere:2:1.00"


def new_study(store: Store, name: str = "study", **fields: Any) -> StudyRecord:
    given: dict[str, Any] = {
        "space": {"format": 1, "parameters": [], "constraints": []},
        "space_hash": "0" * 64,
        "objectives": ["minimize latency_ms"],
        "constraints": [],
        "default_config": {},
        "strategy": "random",
        "seed": 7,
    }
    return store.create_study(name=name, **(given | fields))


def proposal(config: dict[str, Any], **fields: Any) -> Proposal:
    text = json.dumps(config, sort_keys=True)
    return Proposal(config, text, hashlib.sha256(text.encode()).hexdigest(), "random", **fields)


def begin(store: Store, study: StudyRecord, config: dict[str, Any], worker: str = WORKER, **fields: Any) -> TrialRecord:
    """One running trial."""
    begun = store.begin_trials(study.id, [proposal(config, **fields)], worker_id=worker, lease_s=600)
    assert begun is not None and begun[0] is not None
    return begun[0]


def measured(value: float) -> Measurement:
    """A measurement of one metric."""
    return Measurement({"latency_ms": Metric(value)})

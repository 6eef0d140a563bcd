"""Studies to show, made through the engine's own API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotune import Bool, Categorical, Failure, Float, Int, Measurement, Metric, SearchSpace, Study
from autotune.store import Store

Outcome = float | Mapping[str, float] | Measurement | Failure | None

SPACE = SearchSpace(
    [
        Float("budget", 0.0, 1.0, size=8, default=0.5),
        Categorical("policy", ["lru", "lfu", "fifo"], default="lru"),
        Bool("prefetch", default=False),
        Int("depth", 1, 4, when="prefetch", default=1),
        Int("threads", 1, 64, default=8),
    ]
)
BASELINES = {
    "uniform lfu": {**SPACE.default(), "policy": "lfu"},
    "<i>prefetch</i>": {**SPACE.default(), "prefetch": True, "depth": 2},
}


def make(storage: str | Store, outcomes: Sequence[Outcome], name: str = "a", **settings: Any) -> Study:
    """A study that was told these outcomes in order; None leaves that trial running."""
    settings = {"objectives": "minimize latency_ms", "strategy": "random", **settings}
    study = Study.create(SPACE, storage=storage, name=name, **settings)
    for outcome in outcomes:
        trial = study.ask()
        if outcome is not None:
            study.tell(trial, outcome)
    return study


def tell_unchecked(study: Study, values: Mapping[str, float]) -> None:
    """Write a measurement as a program that talks to the store alone could: `Study.tell` would refuse a NaN objective."""
    trial = study.ask()
    study.store.finish(study.record.id, trial.record, Measurement({k: Metric(v) for k, v in values.items()}))

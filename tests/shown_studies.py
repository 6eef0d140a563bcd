"""Studies to show, made through the engine's own API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import autotune
from autotune import Bool, Categorical, Failure, Float, Int, Measurement, Metric, Pruned, SearchSpace, Study
from autotune.store import Store
from tests.machine import write_profile

Outcome = float | Mapping[str, float] | Measurement | Failure | Pruned | None

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


DOMAINS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "moe-cache": (7, {}),
    "training-layout": (4, {"model": "llama3-8b", "gpus": "16", "kernels": "peak"}),
    "expert-placement": (4, {"program_seconds": "0.2"}),
    "compression": (6, {"task": "digits", "rounds": "8", "repeats": "1", "devices": "8", "target_accuracy": "0.5"}),
}
"""The quickest real search of every domain: how many trials, and under which options."""


def search_every_domain(storage: str, folder: Path) -> None:
    """A study of every domain, which has the domain's name, by a search of few trials on the machine made for tests."""
    for name, (trials, options) in DOMAINS.items():
        machine = {"hardware": str(write_profile(folder))} if name == "moe-cache" else {}
        strategy = "auto" if name == "moe-cache" else "random"  # whose fixed point has a picture
        autotune.search(
            name, options={**options, **machine}, trials=trials, strategy=strategy, storage=storage, study=name
        )

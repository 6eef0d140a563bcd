"""Where the time of a step and the memory of a GPU go, told from stored trials alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.explaining import Section
from autotune.store.records import TrialRecord
from autotune.text import bar, number
from evaluators.training_layout.profiled import MEMORY_PARTS, TIME_PARTS

_LABEL, _BAR = 39, 12  # columns

TIMES = {
    "products": "matrix products",
    "attention": "attention kernels",
    "elementwise": "kernels that memory bounds",
    "launching": "launching kernels",
    "recomputing": "computing activations again",
    "tensor": "tensor-parallel traffic, exposed",
    "context": "context-parallel traffic, exposed",
    "expert": "all-to-all of experts, exposed",
    "stages": "sends between pipeline stages",
    "offload": "activations to the host, exposed",
    "bubble": "pipeline bubble",
    "data": "gradients and weights, exposed",
    "optimizer": "optimizer",
}
MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "gathered": "gathered weights",
    "activations": "activations",
    "working": "working memory of a layer and the loss",
}


def explain(trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
    """The sections of `autotune show`: ``time`` and ``memory``; none of trials that were really run, whose parts nobody saw."""
    parts = {
        "time": ("time of a step, s", {f"{part}_s": TIMES[part] for part in TIME_PARTS}),
        "memory": ("memory of a GPU, GiB", {f"{part}_gib": MEMORY[part] for part in MEMORY_PARTS}),
    }
    return tuple(
        _section(name, title, trials, told, unicode)
        for name, (title, told) in parts.items()
        if any(part in trial.values for trial in trials.values() for part in told)
    )


def _section(
    name: str, title: str, trials: Mapping[str, TrialRecord], parts: Mapping[str, str], unicode: bool
) -> Section:
    data: dict[str, Any] = {}
    totals = {}
    for label, trial in trials.items():
        data[label] = {part: trial.values[part] for part in parts if part in trial.values}
        totals[label] = sum(data[label].values())
    columns = [f"{label:>{_BAR + 9}}" for label in trials]
    lines = ["".join([" " * _LABEL, *columns])]
    for part, told in parts.items():
        shown = [data[label].get(part, 0.0) for label in trials]
        if max(shown, default=0.0) <= 0.0:
            continue
        cells = []
        for label, value in zip(trials, shown, strict=True):
            cells.append(f"{bar(value, totals[label], _BAR, unicode=unicode)}{number(value):>9}")
        lines.append(f"{told:<{_LABEL}}" + "".join(cells))
    lines.append(f"{'in all':<{_LABEL}}" + "".join(f"{number(totals[label]):>{_BAR + 9}}" for label in trials))
    return Section(name, title, tuple(lines), data)

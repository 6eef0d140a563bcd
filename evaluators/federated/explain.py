"""Where traffic, time and energy go, and how accuracy grows with them, told from stored trials alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.explaining import Section
from autotune.store.records import TrialRecord
from autotune.text import number

_COLUMNS = (
    ("download_mib", "down MiB"),
    ("upload_mib", "up MiB"),
    ("computing_s", "train s"),
    ("sending_s", "link s"),
    ("waiting_s", "wait s"),
    ("energy_j", "J"),
)
_SPENT = (("round", "round"), ("traffic_mib", "MiB"), ("time_s", "s"))
_LABEL = 26  # columns of a line before its cells
_MILESTONES = (0.5, 0.7, 0.8, 0.9, 1.0)  # of the best accuracy that all trials reached


def explain(trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
    """The sections of `autotune show`: ``devices`` and ``accuracy``."""
    told = {label: trial for label, trial in trials.items() if "curve" in trial.notes and "devices" in trial.notes}
    return (_devices(told), _accuracy(told)) if told else ()


def _devices(trials: Mapping[str, TrialRecord]) -> Section:
    """Sums and means over all rounds, by class of device."""
    lines, data = [], {}
    for label, trial in trials.items():
        by_class: Mapping[str, Mapping[str, float]] = trial.notes["devices"]
        data[label] = by_class
        lines.append(_line(label, [told for _, told in _COLUMNS]))
        for name, row in by_class.items():
            lines.append(_line(f"  {int(row['devices'])} x {name}", [_cell(row[part]) for part, _ in _COLUMNS]))
    title = "all rounds by class of device: traffic and energy of all of them, seconds of one"
    return Section("devices", title, tuple(lines), data)


def _accuracy(trials: Mapping[str, TrialRecord]) -> Section:
    """What each share of the accuracy cost."""
    curves = {label: {k: np.array(v) for k, v in trial.notes["curve"].items()} for label, trial in trials.items()}
    top = min(float(curve["accuracy"].max()) for curve in curves.values())
    goals = [share * top for share in _MILESTONES]
    data: list[dict[str, Any]] = [{"accuracy": goal} for goal in goals]
    lines = []
    for label, curve in curves.items():
        lines.append(_line(label, [f"{goal:.1%}" for goal in goals]))
        firsts = [int(np.argmax(curve["accuracy"] >= goal)) for goal in goals]
        for row, first in zip(data, firsts, strict=True):
            row[label] = {part: float(curve[part][first]) for part, _ in _SPENT}
        lines += [_line(f"  {told}", [_cell(row[label][part]) for row in data]) for part, told in _SPENT]
    return Section("accuracy", "when accuracy was first reached, and what had been sent by then", tuple(lines), data)


def _line(label: str, cells: Sequence[str]) -> str:
    """At most 80 columns, with six cells."""
    short = label if len(label) <= _LABEL else f"{label[: _LABEL - 3]}..."
    return f"{short:<{_LABEL}}" + "".join(f"{cell:>9}" for cell in cells)


def _cell(value: float) -> str:
    """A number of at most eight characters."""
    text = number(value)
    return text if len(text) < 9 else f"{value:.2e}"

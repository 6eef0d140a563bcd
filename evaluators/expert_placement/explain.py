"""Where a placement's hops and load come from, layer by layer and GPU by GPU, told from stored trials alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.explaining import Section
from autotune.store.records import TrialRecord
from autotune.text import bar, number
from evaluators.expert_placement.cluster import Floats

_SHOWN = 3  # trials side by side
_LABEL, _COLUMN, _BAR = 34, 9, 8  # columns of text

_COSTS = {
    "dispatch_hops_per_token": "hops to the next layer's experts",
    "combine_hops_per_token": "hops back to the best expert",
    "hops_per_token": "hops per token",
    "train_hops_per_token": "  where the placement was made",
    "gpus_per_token": "GPUs per token and layer",
    "max_load": "load of the fullest GPU",
    "train_max_load": "  where the placement was made",
    "worst_load": "the same, at worst",
}


@dataclass(frozen=True, eq=False)
class _Layers:
    """The note `layers` of a trial: the fields of `LayerCosts`, nan for None."""

    hop_cost: Floats
    max_load: Floats
    gpu_load: Floats

    @classmethod
    def of(cls, trial: TrialRecord) -> _Layers | None:
        noted = trial.notes.get("layers")
        if noted is None:
            return None
        return cls(*(np.array(noted[name], dtype=float) for name in ("hop_cost", "max_load", "gpu_load")))


def explain(trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
    """The sections of `autotune show`: ``costs``, ``layers`` and ``gpus``, on the held-out tokens; none without trials.

    A trial of a version that did not note its layers is left out of the last two.
    """
    if not trials:
        return ()
    noted = {label: layers for label, trial in trials.items() if (layers := _Layers.of(trial)) is not None}
    found = [_costs(trials)]
    if noted:
        found += [_by_layer(trials, noted, unicode), _by_gpu(trials, noted, unicode)]
    return tuple(found)


def _costs(trials: Mapping[str, TrialRecord]) -> Section:
    shown = list(trials.values())[:_SHOWN]
    lines = [" " * _LABEL + _headings(shown)]
    for name, title in _COSTS.items():
        lines.append(f"{title:{_LABEL}}" + "".join(f"{number(t.values.get(name)):>{_COLUMN}}" for t in shown))
    lines += [f"trial {trial.number}: {label}" for label, trial in trials.items()]
    data = {
        label: {"trial": trial.number, **{name: trial.values.get(name) for name in _COSTS}}
        for label, trial in trials.items()
    }
    return Section("costs", "what a token pays, and how even the load is (1 is even)", tuple(lines), data)


def _by_layer(trials: Mapping[str, TrialRecord], noted: Mapping[str, _Layers], unicode: bool) -> Section:
    shown = [trials[label] for label in noted][:_SHOWN]
    wide = _COLUMN * len(shown) + 1 + _BAR
    lines = [
        f"{'':5}{'  hops per token':{wide}}  load of the fullest GPU",
        f"layer{_headings(shown):{wide}}{_headings(shown)}",
    ]
    columns = list(noted.values())[:_SHOWN]
    for layer in range(len(columns[0].hop_cost)):
        line = f"{layer:5}"
        for name in ("hop_cost", "max_load"):
            values = [float(getattr(one, name)[layer]) for one in columns]
            line += _row(values, float(np.nanmax([getattr(one, name) for one in columns])), unicode)
        lines.append(line.rstrip())
    data = {
        label: [
            {
                "layer": layer,
                "hop_cost": float(hops),
                "max_load": _or_none(load),
                "gpu_load": [_or_none(g) for g in gpus],
            }
            for layer, (hops, load, gpus) in enumerate(zip(one.hop_cost, one.max_load, one.gpu_load, strict=True))
        ]
        for label, one in noted.items()
    }
    title = "layers; a hop to another node counts 2; bars are the first trial's"
    return Section("layers", title, tuple(lines), data)


def _by_gpu(trials: Mapping[str, TrialRecord], noted: Mapping[str, _Layers], unicode: bool) -> Section:
    """Mean load of each GPU over the layers, and in how many layers it has the most."""
    data = {label: _gpus(one) for label, one in noted.items()}
    shown = [trials[label] for label in noted][:_SHOWN]
    rows = list(data.values())[:_SHOWN]
    wide = _COLUMN * len(shown) + 1 + _BAR
    lines = [
        f"{'':5}{'  mean load':{wide}}  layers where it is the fullest",
        f"  GPU{_headings(shown):{wide}}{_headings(shown)}",
    ]
    for gpu in range(len(rows[0])):
        line = f"{gpu:5}"
        for name in ("mean_load", "fullest_in_layers"):
            values = [one[gpu][name] for one in rows]
            line += _row(values, max(g[name] for one in rows for g in one), unicode)
        lines.append(line.rstrip())
    return Section("gpus", "GPUs, over all layers (a load of 1 is even)", tuple(lines), data)


def _gpus(layers: _Layers) -> list[dict[str, Any]]:
    counted = layers.gpu_load[~np.isnan(layers.max_load)]
    fullest = np.bincount(counted.argmax(axis=1), minlength=counted.shape[1])
    return [
        {"gpu": gpu, "mean_load": float(load), "fullest_in_layers": int(count)}
        for gpu, (load, count) in enumerate(zip(counted.mean(axis=0), fullest, strict=True))
    ]


def _headings(trials: list[TrialRecord]) -> str:
    return "".join(f"{f'trial {trial.number}':>{_COLUMN}}" for trial in trials)


def _row(values: list[float], most: float, unicode: bool) -> str:
    """Every trial's value, and a bar of the first one's."""
    told = "".join(f"{number(value):>{_COLUMN}}" for value in values)
    first = None if np.isnan(values[0]) else values[0]
    return f"{told} {bar(first, most, _BAR, unicode=unicode)}"


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

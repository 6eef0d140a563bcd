"""Pictures of the domain `compression`, drawn from stored trials and their reports alone. Needs the extra `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.style import BLUE, GOLD, GREEN, GREY, ORANGE, PALETTE, TEXT, VIOLET, laid_out, literal
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.viewing import NothingToShowError, View
from evaluators.pictures import TRIAL_COLOURS, exact, finite, heights, legend_below, numbers, of_older, shown

_PLOT_PX, _BAR_PX, _GAP_PX, _AXIS_PX = 360, 24, 56, 50
_ACCURACY, _DEFAULT = "accuracy", "default"
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star", "pentagon")


@dataclass(frozen=True)
class _Spent:
    """What accuracy is drawn against: a metric of the curves, its words, its unit, and whether its axis is logarithmic."""

    metric: str
    told: str
    unit: str
    log: bool


_TIME = _Spent("time_s", "time of the devices, simulated", "s", log=False)
_TRAFFIC = _Spent("traffic_mib", "traffic of all devices, both ways", "MiB", log=True)


@dataclass(frozen=True)
class _Curve:
    """Accuracy over what had been spent by then, by round; `reported` where a trial only said so on the way."""

    rounds: list[float]
    spent: list[float]
    accuracy: list[float]
    reported: bool = False


def accuracy_time(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Accuracy over the time of the devices."""
    return _accuracy(view, trial, _TIME)


def accuracy_traffic(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Accuracy over what was sent."""
    return _accuracy(view, trial, _TRAFFIC)


def _accuracy(view: StudyView, trial: TrialRecord | None, spent: _Spent) -> go.Figure:
    """A line for the trial, the default and each baseline; a star is where the target was reached."""
    trials = _compared(view, trial)
    curves = {label: found for label, one in trials.items() if (found := _curve(view, one, spent)) is not None}
    if trial is not None and next(iter(trials)) not in curves:
        raise NothingToShowError(
            f"trial {trial.number} kept neither a curve nor reports of its accuracy; name another trial, or measure it again"
        )
    if not curves:
        raise NothingToShowError(
            f"study {view.study.name!r} has no trial yet that kept how its accuracy grew; wait for the first one"
        )
    figure = go.Figure()
    for place, (label, curve) in enumerate(curves.items()):
        colour = _colour(place, label)
        how = "as it reported, smoothed" if curve.reported else "mean of its runs"
        figure.add_scatter(
            name=literal(label),
            x=curve.spent,
            y=curve.accuracy,
            mode="lines+markers",
            line={"color": colour, "width": 3 if place == 0 else 1.5, "dash": "dot" if curve.reported else "solid"},
            marker={"color": colour, "size": 5, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
            hovertext=[
                literal(label) + f"<br>round {r:g}: accuracy {exact(a)}, {how}<br>{spent.told}: {exact(s)} {spent.unit}"
                for r, s, a in zip(curve.rounds, curve.spent, curve.accuracy, strict=True)
            ],
            hoverinfo="text",
            showlegend=True,
        )
        _mark_target(figure, label, trials[label], curve, spent, colour)
    figure.update_xaxes(title_text=f"{spent.told} [{spent.unit}]", type="log" if spent.log else "linear")
    figure.update_yaxes(title_text="accuracy on the test data", tickformat=".0%")
    return legend_below(laid_out(figure, _PLOT_PX + _AXIS_PX), _PLOT_PX)


def _colour(place: int, label: str) -> str:
    """The trial and the default as in other pictures, baselines in what is left of the palette."""
    if place == 0:
        return TRIAL_COLOURS[0]
    others = [colour for colour in PALETTE if colour not in TRIAL_COLOURS]
    return TRIAL_COLOURS[1] if label.startswith(_DEFAULT) else others[place % len(others)]


def _compared(view: StudyView, trial: TrialRecord | None) -> dict[str, TrialRecord]:
    """The trial, the default and the baselines that were measured, each configuration once."""
    chosen = view.best if trial is None else trial
    named = {_DEFAULT: view.default, **view.baselines}
    found: dict[str, TrialRecord] = {}
    if chosen is not None:
        what = [name for name, one in named.items() if one is not None and one.config_hash == chosen.config_hash]
        best = view.best is not None and view.best.id == chosen.id
        told = ", ".join([*(["best"] if best else []), *what])
        found[f"trial {chosen.number}" + (f" ({told})" if told else "")] = chosen
    for name, one in named.items():
        if one is not None and one.config_hash not in {other.config_hash for other in found.values()}:
            found[f"{name} (trial {one.number})"] = one
    return found


def _curve(view: StudyView, trial: TrialRecord, spent: _Spent) -> _Curve | None:
    """As the trial noted it, means of its runs; of one that was ended early or failed, as it reported."""
    noted = trial.notes.get("curve")
    if isinstance(noted, Mapping):
        columns = [numbers(noted.get(name)) for name in ("round", spent.metric, _ACCURACY)]
        if all(columns) and len({len(column or ()) for column in columns}) == 1:
            rounds, cost, accuracy = (column or [] for column in columns)
            return _Curve(rounds, cost, accuracy)
    by_step: dict[int, dict[str, float]] = {}
    for step, metric, value in _reports(view, trial):
        by_step.setdefault(step, {})[metric] = value
    steps = [step for step, row in by_step.items() if {_ACCURACY, spent.metric} <= row.keys()]
    if not steps:
        return None
    return _Curve(
        [float(step) for step in steps],
        [by_step[step][spent.metric] for step in steps],
        [by_step[step][_ACCURACY] for step in steps],
        reported=True,
    )


def _reports(view: StudyView, trial: TrialRecord) -> Sequence[tuple[int, str, float]]:
    return () if view.store is None else view.store.reports_of([trial.id]).get(trial.id, ())


def _mark_target(figure: go.Figure, label: str, trial: TrialRecord, curve: _Curve, spent: _Spent, colour: str) -> None:
    """A star at what the target cost, on the curve."""
    cost = trial.values.get(spent.metric, math.nan)
    if not math.isfinite(cost):
        return
    figure.add_scatter(
        name=literal(label),
        x=[cost],
        y=[float(np.interp(cost, curve.spent, curve.accuracy))],
        mode="markers",
        marker={"color": colour, "size": 12, "symbol": "star", "line": {"color": TEXT, "width": 1}},
        hovertext=[literal(label) + f"<br>target reached after {exact(cost)} {spent.unit}"],
        hoverinfo="text",
        showlegend=False,
    )


_PANELS: tuple[tuple[str, str, tuple[tuple[str, str, dict[str, Any]], ...]], ...] = (
    (
        "traffic of the class [MiB]",
        "MiB",
        (("download_mib", "downloads", {"color": BLUE}), ("upload_mib", "uploads", {"color": ORANGE})),
    ),
    (
        "time of one device [s]",
        "s",
        (
            ("computing_s", "computing", {"color": GREEN}),
            ("sending_s", "on the link", {"color": VIOLET}),
            ("waiting_s", "waiting for others", {"color": GREY, "pattern": {"shape": "/", "size": 5}}),
        ),
    ),
    ("energy of the class [J]", "J", (("energy_j", "energy", {"color": GOLD}),)),
)


def devices(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Traffic, time and energy by class of device, over all rounds."""
    trials = shown(view, trial)
    told = {label: found for label, one in trials.items() if (found := _classes(one)) is not None}
    if next(iter(trials)) not in told:
        raise of_older(next(iter(trials.values())), "its costs by class of device")
    classes = list(dict.fromkeys(name for by_class in told.values() for name in by_class))
    bars = [(name, label) for name in classes for label in told if name in told[label]]
    rows = [
        [literal(f"{told[label][name]['devices']:g} x {name}") for name, label in bars],
        [literal(label) for _, label in bars],
    ]
    tall, spacing = heights([_BAR_PX * len(bars)] * len(_PANELS), _GAP_PX)
    figure = make_subplots(rows=len(_PANELS), cols=1, row_heights=tall, vertical_spacing=spacing)
    for row, (title, unit, parts) in enumerate(_PANELS, start=1):
        for part, words, look in parts:
            figure.add_bar(
                name=words,
                orientation="h",
                y=rows,
                x=[told[label][name][part] for name, label in bars],
                marker=look,
                hovertext=[
                    _told(told[label][name], part, [p for p, _, _ in parts], name, label, words, unit)
                    for name, label in bars
                ],
                hoverinfo="text",
                showlegend=True,
                row=row,
                col=1,
            )
        figure.update_xaxes(title_text=title, rangemode="tozero", row=row, col=1)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(barmode="stack", bargap=0.25)
    plot = sum(tall) + _GAP_PX * (len(tall) - 1)
    return legend_below(laid_out(figure, plot + _AXIS_PX), plot)


def _told(row: Mapping[str, float], part: str, parts: list[str], name: str, label: str, words: str, unit: str) -> str:
    whole = sum(row[other] for other in parts)
    share = f", {row[part] / whole:.1%}" if len(parts) > 1 and whole > 0.0 else ""
    return literal(f"{name}, {label}") + f"<br>{words}: {exact(row[part])} {unit}{share}"


def _classes(trial: TrialRecord) -> dict[str, dict[str, float]] | None:
    """The note `devices`; None where it is not there or is something else."""
    noted = trial.notes.get("devices")
    needed = ["devices", *(part for _, _, parts in _PANELS for part, _, _ in parts)]
    if not isinstance(noted, Mapping) or not noted:
        return None
    found: dict[str, dict[str, float]] = {}
    for name, row in noted.items():
        values = {part: finite(row.get(part)) if isinstance(row, Mapping) else None for part in needed}
        known = {part: value for part, value in values.items() if value is not None}
        if len(known) < len(needed):
            return None
        found[str(name)] = known
    return found


VIEWS = {
    view.name: view
    for view in (
        View(
            "accuracy-time",
            "Accuracy against time",
            "How accuracy grows with the time of the devices; a star is where the target was reached.",
            accuracy_time,
            of_trial=True,
        ),
        View(
            "accuracy-traffic",
            "Accuracy against traffic",
            "How accuracy grows with what is sent; a star is where the target was reached.",
            accuracy_traffic,
            of_trial=True,
        ),
        View(
            "devices",
            "Costs by class of device",
            "What each class of device sends, how long it computes, sends and waits, and its energy, over all rounds.",
            devices,
            of_trial=True,
        ),
    )
}

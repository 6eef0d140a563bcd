"""What trials said while they ran, and every sample of one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.errors import UsageError
from autotune.plots.style import (
    BLUE,
    GOLD,
    GREEN,
    GREY,
    ORANGE,
    VIOLET,
    laid_out,
    line,
    literal,
    metric_label,
    scatter,
    thinned,
)
from autotune.store.records import TrialRecord, TrialState
from autotune.study_view import Details, StudyView
from autotune.text import number
from autotune.viewing import NothingToShowError

_TRIALS = 200  # whose reports are read and drawn
_POINTS = 60_000  # of all of them together
_METRICS = 12
_COLUMNS = 3
_EVERY_TICK = 12  # samples, up to which each has its tick
_STYLES = {
    TrialState.COMPLETED: ("completed", BLUE),
    TrialState.PRUNED: ("pruned", VIOLET),
    TrialState.FAILED: ("failed", ORANGE),
    TrialState.RUNNING: ("running", GOLD),
    TrialState.WAITING: ("waiting", GREY),
}

Curves = dict[int, list[tuple[int, float]]]


def reports(view: StudyView, *, metric: str | None = None) -> go.Figure:
    """Intermediate reports of trials against their step, by how each trial ended; the best one is thicker.

    Args:
        metric: which one; the first objective when None, or what was reported most where that was not.

    Raises:
        UsageError: for a metric that was never reported.
    """
    store = _store(view, "reports")
    best = [view.best] if view.best is not None and len(view.goals.objectives) == 1 else []
    trials = thinned(view.trials, _TRIALS, [t for t in view.trials if any(t.id == b.id for b in best)])
    said = store.reports_of([t.id for t in trials])
    names = [name for found in said.values() for _, name, _ in found]
    if not names:
        raise NothingToShowError(f"study {view.study.name!r} has no intermediate reports; its evaluator reports none")
    name = _reported(view, metric, names)
    curves: Curves = {}
    for trial in trials:
        points = [(step, value) for step, one, value in said.get(trial.id, ()) if one == name and math.isfinite(value)]
        if points:
            curves[trial.number] = points
    if not curves:
        raise NothingToShowError(f"every report of {name} in study {view.study.name!r} is not a finite number")
    figure = go.Figure()
    each = max(2, _POINTS // len(curves))
    for state, (label, colour) in _STYLES.items():
        group = [t for t in trials if t.state is state and t.number in curves]
        if group:
            figure.add_trace(_curves(f"{label}: {len(group)}", group, curves, each, colour))
    for trial in best:
        points = thinned(curves.get(trial.number, []), each)
        if points:
            figure.add_trace(
                line(f"best, trial {trial.number}", [p[0] for p in points], [p[1] for p in points], GREEN, width=4)
            )
    figure.update_xaxes(title_text="step", tickformat="d")
    figure.update_yaxes(title_text=metric_label(name))
    note = "" if len(trials) == len(view.trials) else f"{len(trials)} of {len(view.trials)} trials"
    return laid_out(figure, 400, note)


def samples(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Every sample of one trial by metric, in the order of measuring, with the median and its confidence interval.

    Args:
        trial: which one; the best when None.
    """
    store = _store(view, "samples")
    chosen = trial if trial is not None else view.best
    if chosen is None:
        raise NothingToShowError(f"study {view.study.name!r} has no best trial yet; name a trial whose samples to show")
    stored = {
        name: values for name, values in store.samples(chosen.id).items() if any(math.isfinite(v) for v in values)
    }
    if not stored:
        raise NothingToShowError(f"trial {chosen.number} has no samples; its metrics were measured once, or are exact")
    names = [name for name in view.metric_names([chosen]) if name in stored] or list(stored)
    shown = names[:_METRICS]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.1, vertical_spacing=min(0.35 / rows, 0.2))
    for place, name in enumerate(shown):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        _add_samples(figure, chosen, name, stored[name], at, first=place == 0)
    hidden = f", {len(shown)} of {len(names)} metrics" if len(names) > len(shown) else ""
    return laid_out(figure, 250 * rows + 30, f"trial {chosen.number}{hidden}")


def _store(view: StudyView, what: str) -> Details:
    if view.store is None:
        raise NothingToShowError(
            f"{what} are read from the study's store, and this view of it has none; open it from there"
        )
    return view.store


def _reported(view: StudyView, metric: str | None, names: Sequence[str]) -> str:
    known = list(dict.fromkeys(names))
    if metric is not None:
        if metric not in known:
            close = difflib.get_close_matches(metric, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UsageError(f"option metric = {metric!r} was not reported{hint}; known are: {', '.join(known)}")
        return metric
    first = view.goals.first.metric
    return first if first in known else max(known, key=names.count)


def _curves(name: str, trials: Sequence[TrialRecord], curves: Curves, each: int, colour: str) -> Any:
    """All curves of one kind as one trace, with gaps between them."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        for step, value in thinned(curves[trial.number], each):
            xs.append(step)
            ys.append(value)
            numbers.append(trial.number)
        xs.append(None)
        ys.append(None)
        numbers.append(None)
    return scatter(len(xs))(
        name=name,
        x=xs,
        y=ys,
        customdata=numbers,
        mode="lines+markers",
        line={"color": colour, "width": 1.2},
        marker={"color": colour, "size": 4},
        opacity=0.8,
        hovertemplate="trial %{customdata}<br>step %{x}: %{y:.4g}<extra></extra>",
        showlegend=True,
    )


def _add_samples(
    figure: go.Figure, trial: TrialRecord, name: str, values: Sequence[float], at: Mapping[str, int], *, first: bool
) -> None:
    figure.add_trace(
        scatter(len(values))(
            name="samples",
            x=list(range(1, len(values) + 1)),
            y=list(values),
            mode="markers",
            marker={"color": BLUE, "size": 7, "opacity": 0.85},
            hovertemplate="sample %{x}: %{y:.6g}<extra></extra>",
            showlegend=first,
        ),
        **at,
    )
    metric = trial.metrics.get(name)
    ends = [0.5, len(values) + 0.5]
    if metric is not None and math.isfinite(metric.value):
        figure.add_trace(line("median", ends, [metric.value] * 2, GREEN, in_legend=first), **at)
        if metric.half_width is not None and math.isfinite(metric.half_width):
            low, high = metric.value - metric.half_width, metric.value + metric.half_width
            figure.add_trace(line("interval", ends, [low, low], GREEN, dash="dot", in_legend=first), **at)
            figure.add_trace(line("interval", ends, [high, high], GREEN, dash="dot", in_legend=False), **at)
    noise = f" ± {number(metric.half_width)}" if metric is not None and metric.half_width else ""
    told = f"{number(metric.value)}{noise}" if metric is not None else ""
    figure.update_xaxes(title_text=f"sample ({literal(told)})" if told else "sample", tickformat="d", range=ends, **at)
    figure.update_xaxes(dtick=1 if len(values) <= _EVERY_TICK else None, **at)
    figure.update_yaxes(title_text=metric_label(name), **at)

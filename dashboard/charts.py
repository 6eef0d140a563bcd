"""The charts, as Plotly figures. Each trial is one mark, so the marks can be counted against the store."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.objective import Objective
from autotune.store import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number, value_text

_BLUE, _GREEN, _AMBER, _GREY, _RED = "#3b82f6", "#16a34a", "#f59e0b", "#9ca3af", "#ef4444"
_SYMBOLS = {
    "invalid": "triangle-up",
    "oom": "square",
    "timeout": "hourglass",
    "crash": "x",
    "nan": "diamond",
    "infra": "cross",
}
_MESSAGE = 120  # characters of a failure's message that fit beside the pointer
_PARAMETERS = 12  # of a configuration, likewise
_EVERY_TICK = 20  # trials, below which each has its tick
_PLOT_PX, _KIND_PX, _FRAME_PX = 330, 24, 90
_SVG_LIMIT = 2000  # marks, above which a browser needs WebGL to stay responsive


def history(view: StudyView, *, log: bool = False) -> go.Figure:
    """Objective by trial number: feasible and infeasible trials, the incumbent, the default; failures in a strip below.

    A failure has no objective value, so it gets a row by its kind and no height of its own.
    """
    kinds = sorted(view.failures)
    measured = bool(view.feasible or view.infeasible)
    heights = [*([_PLOT_PX] if measured else []), *([_KIND_PX * (len(kinds) + 1)] if kinds else [])]
    figure = make_subplots(rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.03)
    last = max((t.number for t in (*view.completed, *view.failed)), default=0)
    if measured:
        _add_measured(figure, view)
        _add_lines(figure, view, last)
        title = _axis(view.goals.first)
        figure.update_yaxes(title_text=title, type="log" if log else "linear", row=1, col=1)
    for kind in kinds:
        figure.add_trace(_failure_marks(kind, view.failures[kind]), row=len(heights), col=1)
    if kinds:
        figure.update_yaxes(title_text="failed", row=len(heights), col=1)
    figure.update_xaxes(range=[-0.5, last + 0.5], tickformat="d", dtick=1 if last < _EVERY_TICK else None)
    figure.update_xaxes(title_text="trial", row=len(heights), col=1)
    return _laid_out(figure, sum(heights) + _FRAME_PX)


def pareto(view: StudyView, x: Objective, y: Objective) -> go.Figure:
    """Two objectives against each other, with the trials that no other dominates joined by a line."""
    figure = go.Figure()
    front = {t.number for t in view.pareto}
    groups = (
        ("dominated", [t for t in view.feasible if t.number not in front], _BLUE, "circle"),
        ("Pareto front", list(view.pareto), _GREEN, "circle"),
        ("infeasible", list(view.infeasible), _GREY, "circle-open"),
    )
    for name, trials, colour, symbol in groups:
        if trials:
            hover = [_measured_text(view, t) for t in trials]
            xs, ys = [t.values[x.metric] for t in trials], [t.values[y.metric] for t in trials]
            figure.add_trace(_marks(name, trials, xs, ys, colour, symbol, hover))
    if len(view.goals.objectives) == 2:  # with more, the front is a surface and a line through it would mislead
        points = sorted((t.values[x.metric], t.values[y.metric]) for t in view.pareto)
        figure.add_trace(_line("front", [p[0] for p in points], [p[1] for p in points], _GREEN, in_legend=False))
    if view.default is not None and view.goals.is_usable(view.default):
        for metric, add in ((x.metric, figure.add_vline), (y.metric, figure.add_hline)):
            add(view.default.values[metric], line={"color": _AMBER, "dash": "dash"})
        figure.add_trace(_line("default", [None], [None], _AMBER, dash="dash"))
    figure.update_xaxes(title_text=_axis(x))
    figure.update_yaxes(title_text=_axis(y))
    return _laid_out(figure, 460)


def _add_measured(figure: go.Figure, view: StudyView) -> None:
    metric = view.goals.first.metric
    named = {t.number: name for name, t in view.baselines.items() if t is not None}
    if view.default is not None:
        named[view.default.number] = "default"
    groups = (
        ("measured", [t for t in view.feasible if t.number not in named], _BLUE, "circle"),
        ("default and baselines", [t for t in view.feasible if t.number in named], _AMBER, "diamond"),
        ("infeasible", list(view.infeasible), _GREY, "circle-open"),
    )
    for group, trials, colour, symbol in groups:
        if trials:
            hover = [_measured_text(view, t, named.get(t.number)) for t in trials]
            ys = [t.values[metric] for t in trials]
            marks = _marks(group, trials, [t.number for t in trials], ys, colour, symbol, hover)
            figure.add_trace(marks, row=1, col=1)


def _add_lines(figure: go.Figure, view: StudyView, last: int) -> None:
    objective = view.goals.first
    if view.default is not None and view.goals.is_usable(view.default):
        value = view.default.values[objective.metric]
        name = f"default {number(value, objective.unit)}"
        figure.add_trace(_line(name, [-0.5, last + 0.5], [value, value], _AMBER, dash="dash"), row=1, col=1)
    if view.incumbents:
        xs = [float(t.number) for t in view.incumbents] + [last + 0.5]
        ys = [t.values[objective.metric] for t in view.incumbents]
        figure.add_trace(_line("incumbent", xs, [*ys, ys[-1]], _GREEN, shape="hv"), row=1, col=1)


def _failure_marks(kind: str, trials: Sequence[TrialRecord]) -> go.Scatter | go.Scattergl:
    numbers, hover = [t.number for t in trials], [_failure_text(t) for t in trials]
    return _marks(kind, trials, numbers, [kind] * len(trials), _RED, _SYMBOLS.get(kind, "x"), hover, in_legend=False)


def _marks(
    name: str,
    trials: Sequence[TrialRecord],
    x: Sequence[float],
    y: Sequence[float | str],
    colour: str,
    symbol: str,
    hover: Sequence[str],
    *,
    in_legend: bool = True,
) -> go.Scatter | go.Scattergl:
    kind = go.Scattergl if len(trials) > _SVG_LIMIT else go.Scatter
    return kind(
        name=name,
        x=list(x),
        y=list(y),
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.85},
        customdata=[t.number for t in trials],
        hovertext=list(hover),
        hoverinfo="text",
        showlegend=in_legend,
    )


def _line(
    name: str,
    x: Sequence[float | None],
    y: Sequence[float | None],
    colour: str,
    *,
    dash: str = "solid",
    shape: str = "linear",
    in_legend: bool = True,
) -> go.Scatter:
    style = {"color": colour, "dash": dash, "shape": shape, "width": 2}
    return go.Scatter(name=name, x=list(x), y=list(y), mode="lines", line=style, hoverinfo="skip", showlegend=in_legend)


def _laid_out(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0},
        hovermode="closest",
    )
    return figure


def _axis(objective: Objective) -> str:
    better = "lower" if objective.direction == "minimize" else "higher"
    unit = f" [{objective.unit}]" if objective.unit else ""
    return f"{_literal(objective.metric)}{unit}, {better} is better"


def _measured_text(view: StudyView, trial: TrialRecord, name: str | None = None) -> str:
    title = f"trial {trial.number}, {trial.proposer}" + (f" ({name})" if name and name != trial.proposer else "")
    lines = [title]
    for metric in view.goals.metrics:
        found = trial.metrics.get(metric)
        noise = f" ± {number(found.half_width)}" if found and found.half_width else ""
        lines.append(f"{metric} = {number(found.value if found else None)}{noise}")
    parameters = list(trial.config.items())
    lines += [f"{key}: {value_text(value)}" for key, value in parameters[:_PARAMETERS]]
    if len(parameters) > _PARAMETERS:
        lines.append(f"… and {len(parameters) - _PARAMETERS} more parameters")
    return "<br>".join(map(_literal, lines))


def _failure_text(trial: TrialRecord) -> str:
    message = trial.failure_message or "no message"
    short = message if len(message) <= _MESSAGE else message[: _MESSAGE - 1] + "…"
    return "<br>".join(map(_literal, (f"trial {trial.number}, {trial.proposer}", f"{trial.failure_kind}: {short}")))


def _literal(words: str) -> str:
    """Plotly reads a subset of HTML in its texts."""
    return html.escape(words, quote=False)

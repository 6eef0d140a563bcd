"""Two metrics against each other: the trade-off, its front, and where the outcome constraints are kept."""

from __future__ import annotations

import difflib
import math

import plotly.graph_objects as go

from autotune.errors import UsageError
from autotune.plots.marks import hovers, marks
from autotune.plots.style import (
    BLUE,
    GOLD,
    GREEN,
    GREY,
    SHADE,
    laid_out,
    line,
    literal,
    metric_label,
    objective_label,
)
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.viewing import NothingToShowError

_MARGIN = 0.06  # of the range, between the marks and the frame


def pareto(view: StudyView, *, x: str | None = None, y: str | None = None) -> go.Figure:
    """Two metrics of every measured trial, with the trials that no other dominates, and the region that keeps the constraints.

    A shaded region is drawn where a constraint is on one of the two metrics. The front is the study's: over all of its
    objectives, so that with more than two of them it is no line here.

    Args:
        x, y: metrics; the first two objectives when None, or the objective and a constrained metric.

    Raises:
        UsageError: for a metric that no trial has.
    """
    across, up = _metrics(view, x, y)
    usable = [t for t in (*view.feasible, *view.infeasible) if _has(t, across) and _has(t, up)]
    if not usable:
        raise NothingToShowError(f"study {view.study.name!r} has no trial with a number for both {across} and {up} yet")
    figure = go.Figure()
    front = {t.number for t in view.pareto}
    several = len(view.goals.objectives) > 1
    groups = (
        (
            "dominated" if several else "measured",
            [t for t in view.feasible if t.number not in front],
            BLUE,
            "circle",
        ),
        ("Pareto front" if several else "best", list(view.pareto), GREEN, "diamond"),
        ("infeasible", list(view.infeasible), GREY, "circle-open"),
    )
    for name, group, colour, symbol in groups:
        trials = [t for t in group if _has(t, across) and _has(t, up)]
        if trials:
            xs, ys = [t.values[across] for t in trials], [t.values[up] for t in trials]
            figure.add_trace(
                marks(name, trials, xs, ys, colour=colour, symbol=symbol, hover=hovers(view, trials), y_metric=up)
            )
    if len(view.goals.objectives) == 2 and {across, up} == {o.metric for o in view.goals.objectives}:
        # With more objectives the front is a surface, and a line through it would mislead.
        points = sorted((t.values[across], t.values[up]) for t in view.pareto)
        figure.add_trace(line("front", [p[0] for p in points], [p[1] for p in points], GREEN, in_legend=False))
    _add_default(figure, view, across, up)
    _add_region(figure, view, across, up, usable)
    figure.update_xaxes(title_text=_label(view, across))
    figure.update_yaxes(title_text=_label(view, up))
    return laid_out(figure, 430)


def _metrics(view: StudyView, x: str | None, y: str | None) -> tuple[str, str]:
    known = view.metric_names(view.completed)
    for option, given in (("x", x), ("y", y)):
        if given is not None and given not in known:
            close = difflib.get_close_matches(given, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UsageError(
                f"option {option} = {given!r} was not measured{hint}; known are: {', '.join(known) or 'none'}"
            )
    if x is not None and x == y:
        raise UsageError(f"options x and y are both {x!r}; choose two metrics")
    free = [name for name in view.goals.metrics if name not in (x, y)]
    across = x if x is not None else free.pop(0) if free else None
    up = y if y is not None else free.pop(0) if free else None
    if across is None or up is None:
        raise NothingToShowError(
            f"study {view.study.name!r} has one objective and no outcome constraint; choose two metrics by the options x and y"
        )
    return across, up


def _has(trial: TrialRecord, metric: str) -> bool:
    return math.isfinite(trial.values.get(metric, math.nan))


def _label(view: StudyView, metric: str) -> str:
    objective = next((o for o in view.goals.objectives if o.metric == metric), None)
    return metric_label(metric) if objective is None else objective_label(objective)


def _add_default(figure: go.Figure, view: StudyView, across: str, up: str) -> None:
    default = view.default
    if default is None or not (_has(default, across) and _has(default, up)):
        return
    figure.add_vline(default.values[across], line={"color": GOLD, "dash": "dash"})
    figure.add_hline(default.values[up], line={"color": GOLD, "dash": "dash"})
    figure.add_trace(line("default", [None], [None], GOLD, dash="dash"))


def _add_region(figure: go.Figure, view: StudyView, across: str, up: str, trials: list[TrialRecord]) -> None:
    """Shade where every constraint on the two metrics is kept, and keep the frame on the marks and the limits."""
    bounds = {}
    limited = []
    for metric in (across, up):
        limits = [c for c in view.goals.constraints if c.metric == metric]
        limited += limits
        values = [t.values[metric] for t in trials] + [c.bound for c in limits]
        low, high = min(values), max(values)
        room = (high - low) * _MARGIN or abs(high) * _MARGIN or 1.0
        frame = (low - room, high + room)
        kept_low = max([frame[0], *(c.bound for c in limits if c.operator == ">=")])
        kept_high = min([frame[1], *(c.bound for c in limits if c.operator == "<=")])
        bounds[metric] = (frame, kept_low, kept_high)
    if not limited:
        return
    (frame_x, x0, x1), (frame_y, y0, y1) = bounds[across], bounds[up]
    if x0 <= x1 and y0 <= y1:
        figure.add_shape(
            type="rect", x0=x0, x1=x1, y0=y0, y1=y1, fillcolor=SHADE, line={"width": 0}, layer="below", name="kept"
        )
    for limit in limited:
        add = figure.add_vline if limit.metric == across else figure.add_hline
        add(limit.bound, line={"color": GREEN, "dash": "dot", "width": 1.5})
    told = " and ".join(dict.fromkeys(str(c) for c in limited))
    mark = {"symbol": "square", "size": 12, "color": GREEN, "opacity": 0.35}
    figure.add_trace(go.Scatter(name=f"keeps {literal(told)}", x=[None], y=[None], mode="markers", marker=mark))
    if all(map(math.isfinite, (*frame_x, *frame_y))):
        figure.update_xaxes(range=list(frame_x))
        figure.update_yaxes(range=list(frame_y))

"""How a search went: the objective by trial, and what failed on the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.marks import SYMBOLS, ended_text, marks, trial_text
from autotune.plots.style import (
    BLUE,
    GOLD,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    SVG_LIMIT,
    VIOLET,
    laid_out,
    line,
    literal,
    objective_label,
)
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number, plural
from autotune.viewing import NothingToShowError

_EVERY_TICK = 20  # trials, below which each has its tick
_PLOT_PX, _KIND_PX, _FRAME_PX = 330, 24, 70
_BINS = 40
_PRUNED = "pruned"


def history(view: StudyView, *, log: bool = False, pruned: bool = True) -> go.Figure:
    """The first objective by trial number: feasible and infeasible trials with their half-widths, the incumbent, the default.

    What has no objective value gets a row by its kind in a strip below, and no height of its own.

    Args:
        log: whether the objective's axis is logarithmic; values of 0 and below are then not seen.
        pruned: whether pruned trials have a row in the strip.
    """
    rows: dict[str, Sequence[TrialRecord]] = {kind: view.failures[kind] for kind in sorted(view.failures)}
    if pruned and view.pruned:
        rows[_PRUNED] = view.pruned
    measured = bool(view.feasible or view.infeasible)
    if not (measured or rows):
        raise NothingToShowError(
            f"study {view.study.name!r} has no trial that ended with a measurement or a failure yet"
        )
    heights = [*([_PLOT_PX] if measured else []), *([_KIND_PX * (len(rows) + 1)] if rows else [])]
    figure = make_subplots(rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.03)
    last = max(t.number for t in (*view.feasible, *view.infeasible, *(t for found in rows.values() for t in found)))
    if measured:
        _add_measured(figure, view)
        _add_lines(figure, view, last)
        title = objective_label(view.goals.first)
        figure.update_yaxes(title_text=title, type="log" if log else "linear", row=1, col=1)
    _add_strip(figure, rows, len(heights))
    figure.update_xaxes(range=[-0.5, last + 0.5], tickformat="d", dtick=1 if last < _EVERY_TICK else None)
    figure.update_xaxes(title_text="trial", row=len(heights), col=1)
    return laid_out(figure, sum(heights) + _FRAME_PX)


def failures(view: StudyView) -> go.Figure:
    """How many trials failed by kind, over the search; below, each failure with its message."""
    found = view.failures
    if not found:
        raise NothingToShowError(f"study {view.study.name!r} has no failed trial, so there are no causes to show")
    last = max(t.number for t in view.counted)
    width = max(1, math.ceil((last + 1) / _BINS))
    edges = range(0, last + 1, width)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[3, 1 + 0.3 * len(found)], vertical_spacing=0.05
    )
    for place, (kind, trials) in enumerate(found.items()):
        counts = [0] * len(edges)
        for trial in trials:
            counts[trial.number // width] += 1
        share = f"{len(trials)} of {plural(len(view.counted), 'trial')}"
        figure.add_bar(
            name=literal(f"{kind}: {share}"),
            x=[edge + (width - 1) / 2 for edge in edges],
            y=counts,
            width=width * 0.9,
            marker_color=PALETTE[place % len(PALETTE)],
            hovertemplate=f"{literal(kind)}: %{{y}}<extra></extra>",
            showlegend=True,
            row=1,
            col=1,
        )
    _add_strip(figure, found, 2)
    per = "trial" if width == 1 else f"{width} trials"
    few = max(Counter(t.number // width for t in view.failed).values()) < _EVERY_TICK / 2
    figure.update_yaxes(title_text=f"failures per {per}", rangemode="tozero", tickformat="d", row=1, col=1)
    figure.update_yaxes(dtick=1 if few else None, row=1, col=1)
    figure.update_xaxes(range=[-0.5, last + 0.5], tickformat="d", dtick=1 if last < _EVERY_TICK else None)
    figure.update_xaxes(title_text="trial", row=2, col=1)
    figure.update_layout(barmode="stack")
    return laid_out(figure, 280 + _KIND_PX * len(found))


def _add_measured(figure: go.Figure, view: StudyView) -> None:
    metric = view.goals.first.metric
    named = {t.number: name for name, t in view.baselines.items() if t is not None}
    if view.default is not None:
        named[view.default.number] = "default"
    groups = (
        ("measured", [t for t in view.feasible if t.number not in named], BLUE, "circle"),
        ("default and baselines", [t for t in view.feasible if t.number in named], GOLD, "diamond"),
        ("infeasible", list(view.infeasible), GREY, "circle-open"),
    )
    for group, trials, colour, symbol in groups:
        if trials:
            hover = None
            if len(trials) <= SVG_LIMIT:
                hover = [trial_text(view, t, named.get(t.number)) for t in trials]
            mark = marks(
                group,
                trials,
                [t.number for t in trials],
                [t.values[metric] for t in trials],
                colour=colour,
                symbol=symbol,
                hover=hover,
                half_widths=[_half_width(t, metric) for t in trials],
                y_metric=metric,
            )
            figure.add_trace(mark, row=1, col=1)


def _half_width(trial: TrialRecord, metric: str) -> float:
    found = trial.metrics[metric].half_width
    return found if found is not None and math.isfinite(found) else 0.0


def _add_lines(figure: go.Figure, view: StudyView, last: int) -> None:
    objective = view.goals.first
    if view.default is not None and view.goals.is_usable(view.default):
        value = view.default.values[objective.metric]
        name = f"default {number(value, objective.unit)}"
        figure.add_trace(line(name, [-0.5, last + 0.5], [value, value], GOLD, dash="dash"), row=1, col=1)
    if view.incumbents:
        xs = [float(t.number) for t in view.incumbents] + [last + 0.5]
        ys = [t.values[objective.metric] for t in view.incumbents]
        figure.add_trace(line("incumbent", xs, [*ys, ys[-1]], GREEN, shape="hv"), row=1, col=1)


def _add_strip(figure: go.Figure, rows: Mapping[str, Sequence[TrialRecord]], row: int) -> None:
    for kind, trials in rows.items():
        mark = marks(
            kind,
            trials,
            [t.number for t in trials],
            [kind] * len(trials),
            colour=VIOLET if kind == _PRUNED else ORANGE,
            symbol=SYMBOLS.get(kind, "x"),
            hover=[ended_text(t) for t in trials] if len(trials) <= SVG_LIMIT else None,
            in_legend=False,
        )
        figure.add_trace(mark, row=row, col=1)
    if rows:
        told = "ended early" if set(rows) == {_PRUNED} else "failed" if _PRUNED not in rows else "no value"
        figure.update_yaxes(title_text=told, row=row, col=1)

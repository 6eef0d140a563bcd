"""Parameters and what they gave: all at once as parallel coordinates, and one by one as slices."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.coordinates import INACTIVE, Coordinate, Floats, chosen_metric, losses, measured, varied
from autotune.plots.importance import by_importance
from autotune.plots.marks import trial_text
from autotune.plots.style import BEST_TO_WORST, TEXT, laid_out, literal, metric_label, objective_label, thinned
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number
from autotune.viewing import NothingToShowError

SHOWN = 2000  # trials of a picture that draws each several times; the best are among them
_BEST_SHARE = 0.1
_COLUMNS = 3
_TICKS = 5
_INACTIVE_AT = -0.18  # of the axis, where trials pass in which the parameter is inactive


def parallel(view: StudyView, *, metric: str | None = None, top: int = 10) -> go.Figure:
    """Each measured trial as a line through its parameters to its metric, from the best (blue) to the worst (orange).

    Where a parameter is inactive, its line passes below the axis.

    Args:
        metric: which one; the first objective when None.
        top: how many axes to show, the most important by PED-ANOVA.
    """
    name = chosen_metric(view, metric)
    trials, note = shown_trials(view, name)
    target = losses(view, trials, name)
    axes = by_importance(varied(view.study, trials), target)
    values = np.array([t.values[name] for t in trials])
    dimensions = [_dimension(axis) for axis in axes[:top]]
    dimensions.append({"label": metric_label(name), "values": values})
    ranks = rank_shares(target)
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": ranks, "colorscale": BEST_TO_WORST, "cmin": 0.0, "cmax": 1.0, **rank_bar()},
            labelfont={"color": TEXT},
            tickfont={"color": TEXT, "shadow": "none"},
            rangefont={"color": "rgba(0,0,0,0)"},
            labelangle=-12,
            labelside="top",
        )
    )
    hidden = f"the {len(axes[:top])} most important of {len(axes)} axes" if len(axes) > top else ""
    made = laid_out(figure, 430, "; ".join(filter(None, (note, hidden))))
    return made.update_layout(margin={"l": 70, "r": 70, "t": 110, "b": 30}, height=520)


def slices(view: StudyView, *, metric: str | None = None, top: int = 12) -> go.Figure:
    """A metric over each parameter alone, every measured trial once in each panel, later trials in orange.

    Args:
        metric: which one; the first objective when None.
        top: how many panels to show, the most important by PED-ANOVA.
    """
    name = chosen_metric(view, metric)
    trials, note = shown_trials(view, name)
    axes = by_importance(varied(view.study, trials), losses(view, trials, name))
    shown = axes[:top]
    rows = -(-len(shown) // _COLUMNS)
    figure = make_subplots(
        rows=rows,
        cols=min(_COLUMNS, len(shown)),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=min(0.3 / rows, 0.12),
    )
    values = np.array([t.values[name] for t in trials])
    numbers = np.array([t.number for t in trials])
    hover = [trial_text(view, t) for t in trials] if len(trials) * len(shown) <= SHOWN else None
    kind = go.Scattergl if len(trials) * len(shown) > SHOWN else go.Scatter
    for place, axis in enumerate(shown):
        at = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        active = np.isfinite(axis.values)
        told = (
            {"hovertext": [hover[i] for i in np.flatnonzero(active)], "hoverinfo": "text"}
            if hover is not None
            else {"hovertemplate": "trial %{customdata}<br>%{y}<extra></extra>"}
        )
        figure.add_trace(
            kind(
                name=literal(axis.name),
                x=axis.values[active],
                y=values[active],
                customdata=numbers[active],
                mode="markers",
                marker={
                    "size": 6,
                    "opacity": 0.8,
                    "color": numbers[active],
                    "colorscale": BEST_TO_WORST,
                    "cmin": int(numbers[0]),
                    "cmax": int(numbers[-1]),
                    "showscale": place == 0,
                    "colorbar": {"title": {"text": "trial"}, "thickness": 10, "tickformat": "d"},
                },
                showlegend=False,
                **told,
            ),
            **at,
        )
        figure.update_xaxes(title_text=literal(axis.name), **at, **axis_ticks(axis))
    objective = next((o for o in view.goals.objectives if o.metric == name), None)
    for row in range(1, rows + 1):
        label = metric_label(name) if objective is None or rows > 1 else objective_label(objective)
        figure.update_yaxes(title_text=label, row=row, col=1)
    hidden = f"the {len(shown)} most important of {len(axes)} axes" if len(axes) > top else ""
    return laid_out(figure, 260 * rows + 20, "; ".join(filter(None, (note, hidden))))


def shown_trials(view: StudyView, metric: str) -> tuple[list[TrialRecord], str]:
    """The trials to draw, and a note where these are not all: the best tenth of what is drawn, the rest evenly spaced.

    Raises:
        NothingToShowError: where none has a number for the metric.
    """
    trials = measured(view, metric)
    if not trials:
        raise NothingToShowError(f"study {view.study.name!r} has no completed trial with a number for {metric} yet")
    best = np.argsort(losses(view, trials, metric), kind="stable")[: int(SHOWN * _BEST_SHARE)]
    shown = thinned(trials, SHOWN, [trials[i] for i in best])
    return shown, "" if len(shown) == len(trials) else f"{len(shown)} of {len(trials)} trials, the best among them"


def axis_ticks(axis: Coordinate) -> dict[str, object]:
    """How a Cartesian axis shows a coordinate."""
    if axis.ticks is None:
        return {"type": "log" if axis.log else "linear"}
    places = range(len(axis.ticks))
    return {
        "tickvals": list(places),
        "ticktext": [literal(tick) for tick in axis.ticks],
        "range": [-0.5, len(axis.ticks) - 0.5],
    }


def rank_bar(title: str = "rank") -> dict[str, object]:
    """A colour bar from the best to the worst."""
    return {
        "showscale": True,
        "colorbar": {
            "title": {"text": title},
            "tickvals": [0.0, 0.5, 1.0],
            "ticktext": ["best", "median", "worst"],
            "thickness": 10,
        },
    }


def rank_shares(target: Floats) -> Floats:
    """Ranks of numbers to minimise as shares: 0 for the best, 1 for the worst; equal ones share their mean rank."""
    _, places, counts = np.unique(target, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2.0)[places]
    return ranks / max(1.0, len(ranks) - 1.0)


def _dimension(axis: Coordinate) -> dict[str, object]:
    """An axis from 0 to 1 with ticks of our own: what is inactive passes below it."""
    where = axis.scaled() if axis.ticks is None else axis.values / max(1, len(axis.ticks) - 1)
    inactive = ~np.isfinite(where)
    places, texts = _tick_places(axis, where)
    if inactive.any():
        places, texts = [_INACTIVE_AT, *places], [INACTIVE, *texts]
    return {
        "label": literal(axis.name),
        "values": np.where(inactive, _INACTIVE_AT, where).astype(np.float32),
        "range": [_INACTIVE_AT - 0.04 if inactive.any() else -0.02, 1.02],
        "tickvals": places,
        "ticktext": texts,  # the one text of Plotly's that is no HTML
    }


def _tick_places(axis: Coordinate, where: Floats) -> tuple[list[float], list[str]]:
    if axis.ticks is not None:
        top = max(1, len(axis.ticks) - 1)
        return [place / top for place in range(len(axis.ticks))], list(axis.ticks)
    active = axis.values[np.isfinite(where)]
    low, high = float(active.min()), float(active.max())
    if low == high:
        return [0.5], [number(low)]
    shares = np.linspace(0.0, 1.0, _TICKS)
    values = np.exp(np.log(low) + shares * (np.log(high) - np.log(low))) if axis.log else low + shares * (high - low)
    return shares.tolist(), [number(float(v)) for v in values]

"""Two parameters at a time: where a metric is good, smoothed over what was measured, and the rank of each trial."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.errors import UsageError
from autotune.plots.coordinates import Coordinate, Floats, chosen_metric, losses, varied
from autotune.plots.importance import by_importance
from autotune.plots.marks import trial_text
from autotune.plots.parameters import SHOWN, axis_ticks, rank_bar, rank_shares, shown_trials
from autotune.plots.style import BEST_TO_WORST, TEXT, laid_out, literal, metric_label
from autotune.study_view import StudyView
from autotune.text import number
from autotune.viewing import NothingToShowError

_GRID = 40  # points of an axis of numbers
_BANDWIDTH = 0.08  # of the range, for the kernel that smooths
_NEAR = 0.05  # total weight of trials below which nothing is claimed
_PANELS = 4  # parameters whose pairs are shown by rank


def contour(view: StudyView, *, x: str | None = None, y: str | None = None, metric: str | None = None) -> go.Figure:
    """A metric over two parameters: the trials, over a mean of those near by (Gaussian kernel, Nadaraya 1964, Watson 1964).

    The other parameters are wherever the search had them, so this is no slice. Where no trial is near, nothing is shown.

    Args:
        x, y: parameters or axes such as ``budget (mean)``; the two most important by PED-ANOVA when None.
        metric: which one; the first objective when None.

    Raises:
        UsageError: for a parameter that the study does not have.
    """
    name = chosen_metric(view, metric)
    trials, note = shown_trials(view, name)
    target = losses(view, trials, name)
    across, up = _pair(by_importance(varied(view.study, trials), target), x, y)
    both = np.isfinite(across.values) & np.isfinite(up.values)
    if not both.any():
        raise NothingToShowError(f"no measured trial has both {across.name} and {up.name}; choose others by x and y")
    values = np.array([t.values[name] for t in trials])[both]
    across, up = across.at(both), up.at(both)
    figure = go.Figure()
    xs, ys, surface = _smoothed(across, up, values)
    better_first = any(o.metric == name and o.sign > 0 for o in view.goals.objectives) or name not in {
        o.metric for o in view.goals.objectives
    }
    scale = BEST_TO_WORST if better_first else [(1.0 - at, colour) for at, colour in reversed(BEST_TO_WORST)]
    if np.isfinite(surface).sum() > 1:
        figure.add_trace(
            go.Heatmap(
                x=xs,
                y=ys,
                z=surface,
                colorscale=scale,
                opacity=0.75,
                zsmooth="best" if across.ticks is None and up.ticks is None else False,
                colorbar={"title": {"text": metric_label(name), "side": "right"}, "thickness": 12},
                hovertemplate="mean near here %{z:.4g}<extra></extra>",
                name="smoothed",
            )
        )
    kept = [t for t, keep in zip(trials, both, strict=True) if keep]
    figure.add_trace(
        go.Scatter(
            name="trials",
            x=across.values,
            y=up.values,
            mode="markers",
            marker={"color": TEXT, "size": 6, "line": {"width": 1, "color": "#ffffff"}},
            customdata=[t.number for t in kept],
            hovertext=[trial_text(view, t) for t in kept],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.update_xaxes(title_text=literal(across.name), **axis_ticks(across))
    figure.update_yaxes(title_text=literal(up.name), **axis_ticks(up))
    return laid_out(figure, 460, "; ".join(filter(None, (note, f"{len(kept)} trials have both parameters"))))


def rank(view: StudyView, *, parameters: str | None = None, metric: str | None = None) -> go.Figure:
    """Each pair of up to four parameters, every measured trial in each panel, coloured by its rank from best to worst.

    Args:
        parameters: names with commas between; the most important by PED-ANOVA when None.
        metric: which one; the first objective when None.
    """
    name = chosen_metric(view, metric)
    trials, note = shown_trials(view, name)
    target = losses(view, trials, name)
    axes = by_importance(varied(view.study, trials), target)
    if parameters is not None:
        axes = [_named(axes, "parameters", one.strip()) for one in parameters.split(",") if one.strip()]
    if len(axes) < 2:
        raise NothingToShowError(
            "a picture of pairs needs two parameters in which measured trials differ; there is one"
        )
    pairs = list(itertools.combinations(axes[:_PANELS], 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.09, vertical_spacing=0.3 / rows)
    ranks, values = rank_shares(target), [t.values[name] for t in trials]
    kind = go.Scattergl if len(trials) * len(pairs) > SHOWN else go.Scatter
    for place, (across, up) in enumerate(pairs):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        both = np.isfinite(across.values) & np.isfinite(up.values)
        chosen = np.flatnonzero(both)
        figure.add_trace(
            kind(
                name=f"{literal(across.name)} and {literal(up.name)}",
                x=across.values[both],
                y=up.values[both],
                mode="markers",
                customdata=[trials[i].number for i in chosen],
                marker={
                    "size": 7,
                    "opacity": 0.85,
                    "color": ranks[both].astype(np.float32),
                    "colorscale": BEST_TO_WORST,
                    "cmin": 0.0,
                    "cmax": 1.0,
                    **(rank_bar() if place == 0 else {}),
                },
                hovertext=[f"trial {trials[i].number}<br>{metric_label(name)} = {number(values[i])}" for i in chosen],
                hoverinfo="text",
                showlegend=False,
            ),
            **at,
        )
        figure.update_xaxes(title_text=literal(across.name), **at, **axis_ticks(across))
        figure.update_yaxes(title_text=literal(up.name), **at, **axis_ticks(up))
    hidden = f"pairs of the {_PANELS} most important of {len(axes)} axes" if len(axes) > _PANELS else ""
    return laid_out(figure, 270 * rows + 30, "; ".join(filter(None, (note, hidden))))


def _pair(axes: Sequence[Coordinate], x: str | None, y: str | None) -> tuple[Coordinate, Coordinate]:
    across = None if x is None else _named(axes, "x", x)
    up = None if y is None else _named(axes, "y", y)
    if across is not None and across is up:
        raise UsageError(f"options x and y are both {x!r}; choose two parameters")
    free = [axis for axis in axes if axis is not across and axis is not up]
    missing = (across is None) + (up is None)
    if len(free) < missing:
        raise NothingToShowError("a contour needs two parameters in which measured trials differ; there is one")
    first = across if across is not None else free.pop(0)
    return first, up if up is not None else free.pop(0)


def _named(axes: Sequence[Coordinate], option: str, name: str) -> Coordinate:
    found = next((a for a in axes if a.name == name), None) or next((a for a in axes if a.parameter == name), None)
    if found is None:
        names = [a.name for a in axes]
        close = difflib.get_close_matches(name, [*names, *(a.parameter for a in axes)], n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(
            f"option {option} = {name!r} is no parameter in which measured trials differ{hint}; these are: {', '.join(names)}"
        )
    return found


def _smoothed(across: Coordinate, up: Coordinate, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Points of both axes, and means of the values near each pair of points, of shape ``(len(y), len(x))``."""
    xs, x_weights = _weights(across)
    ys, y_weights = _weights(up)
    total = y_weights @ x_weights.T
    middle = float(np.median(values))
    # Around the median, so that sums of large numbers keep the digits in which they differ.
    with np.errstate(all="ignore"):
        means = middle + (y_weights * (values - middle)) @ x_weights.T / total
    return xs, ys, np.where((total >= _NEAR) & np.isfinite(means), means, np.nan)


def _weights(axis: Coordinate) -> tuple[Floats, Floats]:
    """Points of an axis, and the weight of each trial at each of them; positions in a list weigh 1 or 0."""
    if axis.ticks is not None:
        points = np.arange(len(axis.ticks), dtype=np.float64)
        return points, (points[:, None] == axis.values[None, :]).astype(np.float64)
    low, high = float(axis.values.min()), float(axis.values.max())
    shares = np.linspace(0.0, 1.0, _GRID)
    points = low * (high / low) ** shares if axis.log else low + shares * (high - low)
    if low == high:
        points, shares = np.array([low]), np.array([0.5])
    return points, np.exp(-0.5 * ((shares[:, None] - axis.scaled()[None, :]) / _BANDWIDTH) ** 2)

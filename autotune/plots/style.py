"""One look for all pictures: colours and text that can be read on a light and on a dark page alike."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import plotly.graph_objects as go

from autotune.objective import Objective, unit_of

# Each has a contrast of at least 3:1 on white and on a dark page, and differs from the others for colour-blind readers in
# lightness or along blue and orange.
BLUE, ORANGE, GREEN, GOLD = "#1f77d0", "#d55e00", "#00916a", "#a97c00"
MAGENTA, VIOLET, TEAL, GREY = "#c2559d", "#8c6bd1", "#0094a8", "#7f7f7f"
PALETTE = (BLUE, ORANGE, GREEN, MAGENTA, GOLD, VIOLET, TEAL, GREY)
TEXT = "#757575"  # 4.5:1 on white and on black
GRID = "rgba(127,127,127,0.25)"
SHADE = "rgba(0,145,106,0.14)"
BEST_TO_WORST = ((0.0, BLUE), (0.5, "#8a8a8a"), (1.0, ORANGE))
"""A scale whose ends stay apart for colour-blind readers, and whose middle is seen on every background."""

SVG_LIMIT = 2000  # marks, above which a browser needs WebGL to stay responsive
_LAYOUT: dict[str, Any] = {
    "colorway": list(PALETTE),
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": TEXT, "size": 13, "family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"},
    "hovermode": "closest",
    "hoverlabel": {"align": "left"},
    "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0, "bgcolor": "rgba(0,0,0,0)"},
    "title": {"x": 0.0, "xanchor": "left", "xref": "paper", "yref": "container", "font": {"size": 15}},
    "xaxis": {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": TEXT, "automargin": True},
    "yaxis": {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": TEXT, "automargin": True},
}
TEMPLATE = go.layout.Template(layout=_LAYOUT)
_MARGIN = {"l": 10, "r": 10, "t": 10, "b": 10}
_TITLE_PX, _LEGEND_PX = 34, 26  # room above the plot

T = TypeVar("T")


def literal(words: object) -> str:
    """Any text as Plotly is to show it: Plotly reads a subset of HTML in titles, legends, ticks and hovers."""
    return html.escape(str(words), quote=False)


def clipped(words: object, length: int = 60) -> str:
    """A text that fits beside a pointer or under an axis."""
    text = " ".join(str(words).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def metric_label(metric: str) -> str:
    """A metric's name with its unit behind, as an axis shows it."""
    unit = unit_of(metric)
    return literal(metric) + (f" [{unit}]" if unit else "")


def objective_label(objective: Objective) -> str:
    """As `metric_label`, with the direction that is better."""
    return f"{metric_label(objective.metric)}, {'lower' if objective.direction == 'minimize' else 'higher'} is better"


def column(values: Sequence[float] | np.ndarray[Any, np.dtype[Any]]) -> Any:
    """Numbers for a trace: a list while they are few, above that an array, which Plotly writes at a fraction of the size."""
    return list(values) if len(values) <= SVG_LIMIT else np.asarray(values)


def scatter(count: int) -> Any:
    """The class of a trace of so many marks: WebGL above what a browser draws swiftly as SVG."""
    return go.Scattergl if count > SVG_LIMIT else go.Scatter


def line(
    name: str,
    x: Sequence[float | None],
    y: Sequence[float | None],
    colour: str,
    *,
    dash: str = "solid",
    shape: str = "linear",
    width: float = 2,
    in_legend: bool = True,
) -> go.Scatter:
    """A line without marks or hover; `name` is escaped here."""
    style = {"color": colour, "dash": dash, "shape": shape, "width": width}
    return go.Scatter(
        name=literal(name), x=list(x), y=list(y), mode="lines", line=style, hoverinfo="skip", showlegend=in_legend
    )


def laid_out(figure: go.Figure, height: float, title: str = "") -> go.Figure:
    """The figure with our template, `height` pixels of plot, and a title line (already escaped) where one is given."""
    legend = _LEGEND_PX if _has_legend(figure) else 0
    top = _MARGIN["t"] + legend + (_TITLE_PX if title else 0)
    figure.update_layout(template=TEMPLATE, height=round(height) + top, margin={**_MARGIN, "t": top})
    if title:
        figure.update_layout(title={"text": title, "y": 1.0, "yanchor": "top", "pad": {"t": 8}})
    return figure


def _has_legend(figure: go.Figure) -> bool:
    if figure.layout.showlegend is False:
        return False
    told = [getattr(trace, "showlegend", False) for trace in figure.data]
    return any(one is True for one in told) or sum(one is None for one in told) > 1


def thinned(items: Sequence[T], limit: int, keep: Iterable[T] = ()) -> list[T]:
    """At most `limit` of `items` and `keep`, evenly spaced, in their order. What is in `keep` comes first."""
    if len(items) <= limit:
        return list(items)
    kept = {id(item) for item in keep}
    wanted = max(0, limit - len(kept))
    others = [item for item in items if id(item) not in kept]
    step = len(others) / wanted if wanted else math.inf
    chosen = kept | {id(others[int(i * step)]) for i in range(wanted)}
    return [item for item in items if id(item) in chosen]

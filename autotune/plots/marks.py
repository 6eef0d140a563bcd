"""Trials as marks: one mark for each, so that marks can be counted against the store, with what is read beside the pointer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from autotune.plots.style import SVG_LIMIT, clipped, column, literal, metric_label, scatter
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number, value_text

SYMBOLS = {
    "invalid": "triangle-up",
    "oom": "square",
    "timeout": "hourglass",
    "crash": "x",
    "nan": "diamond",
    "infra": "cross",
    "pruned": "line-ns-open",
}
_MESSAGE = 120  # characters of a failure's message that fit beside the pointer
_VALUE = 80  # of a parameter's or a metric's value, likewise
_PARAMETERS = 12  # of a configuration, likewise


def trial_text(view: StudyView, trial: TrialRecord, name: str | None = None) -> str:
    """What is read beside a trial's mark: its goals with their half-widths, and its configuration. Escaped."""
    lines = [f"trial {trial.number}, {trial.proposer}" + (f" ({name})" if name and name != trial.proposer else "")]
    for metric in view.goals.metrics:
        found = trial.metrics.get(metric)
        noise = f" ± {number(found.half_width)}" if found and found.half_width else ""
        lines.append(f"{metric} = {number(found.value if found else None)}{noise}")
    parameters = list(trial.config.items())
    lines += [f"{key}: {clipped(value_text(value), _VALUE)}" for key, value in parameters[:_PARAMETERS]]
    if len(parameters) > _PARAMETERS:
        lines.append(f"… and {len(parameters) - _PARAMETERS} more parameters")
    return "<br>".join(map(literal, lines))


def ended_text(trial: TrialRecord) -> str:
    """What is read beside a failed or pruned trial: why. Escaped."""
    kind = trial.failure_kind.value if trial.failure_kind else trial.state.value
    message = clipped(trial.failure_message or "no message", _MESSAGE)
    return "<br>".join(map(literal, (f"trial {trial.number}, {trial.proposer}", f"{kind}: {message}")))


def marks(
    name: str,
    trials: Sequence[TrialRecord],
    x: Sequence[Any],
    y: Sequence[Any],
    *,
    colour: str,
    symbol: str,
    hover: Sequence[str] | None,
    in_legend: bool = True,
    half_widths: Sequence[float] | None = None,
    y_metric: str | None = None,
) -> go.Scatter | go.Scattergl:
    """One mark for each trial, which carries its number as `customdata`.

    Args:
        hover: escaped; above `SVG_LIMIT` trials a mark tells its number and its value alone, as texts for all would be
            longer than all else.
        half_widths: of `y`, drawn as error bars; 0 for none.
        y_metric: what `y` is, for the short text.
    """
    many = len(trials) > SVG_LIMIT
    told: dict[str, Any] = {"hovertext": list(hover or ()), "hoverinfo": "text"}
    if many or hover is None:
        value = f"<br>{metric_label(y_metric)} %{{y}}" if y_metric else "<br>%{y}"
        told = {"hovertemplate": f"trial %{{customdata}}{value}<extra></extra>"}
    if half_widths is not None and any(half_widths):
        told["error_y"] = {"type": "data", "array": column(half_widths), "thickness": 1.2, "width": 3}
    return scatter(len(trials))(
        name=literal(name),
        x=column(x),
        y=list(y) if y and isinstance(y[0], str) else column(y),
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 5 if many else 8, "opacity": 0.6 if many else 0.85},
        customdata=column([t.number for t in trials]),
        showlegend=in_legend,
        **told,
    )


def hovers(view: StudyView, trials: Sequence[TrialRecord]) -> list[str] | None:
    """`trial_text` of each, or None where there are too many of them."""
    return None if len(trials) > SVG_LIMIT else [trial_text(view, trial) for trial in trials]

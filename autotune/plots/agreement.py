"""Predictions beside measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from autotune.validation import ValidationReport

_COLUMNS = 3
_HEIGHT = 320  # pixels of a row


def agreement(report: ValidationReport) -> go.Figure:
    """One panel for each metric: what was predicted over what was measured, before and after correction."""
    metrics = list(report.metrics)
    rows = -(-len(metrics) // _COLUMNS)
    titles = [f"{m}<br>mape {report.metrics[m].mape:.1%}, spearman {report.metrics[m].spearman:.3f}" for m in metrics]
    figure = make_subplots(rows=rows, cols=_COLUMNS, subplot_titles=titles, vertical_spacing=0.25 / rows)
    series = [("predicted", "corrected", "#1f77b4")]
    if report.correction is not None:
        series.insert(0, ("before correction", "predicted", "#bbbbbb"))
    for number, metric in enumerate(metrics):
        at = {"row": number // _COLUMNS + 1, "col": number % _COLUMNS + 1}
        points = [one for one in report.compared if metric in one.measured and metric in one.predicted]
        x = [one.measured[metric] for one in points]
        for label, field, colour in series:
            y = [getattr(one, field)[metric] for one in points]
            names = [f"{one.name} (trial {one.trial})" for one in points]
            figure.add_scatter(
                x=x, y=y, text=names, name=label, mode="markers", marker_color=colour, legendgroup=label,
                showlegend=number == 0, **at,
            )  # fmt: skip
        ends = [min(x), max(x)]
        figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": "#888888", "dash": "dot"}, name="equal",
                           legendgroup="equal", showlegend=number == 0, **at)  # fmt: skip
        figure.update_xaxes(title_text="measured", **at)
        figure.update_yaxes(title_text="predicted", **at)
    figure.update_layout(
        title=f"{report.study.name}: {len(report.compared)} real runs",
        height=_HEIGHT * rows + 120,
        template="plotly_white",
    )
    return figure

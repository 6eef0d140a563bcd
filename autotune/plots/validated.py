"""A domain's predictions beside real runs, as `autotune validate --plot` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.style import BLUE, GREY, laid_out, literal, metric_label

if TYPE_CHECKING:
    from autotune.validation import ValidationReport

_COLUMNS = 3
_HEIGHT = 320  # pixels of a row


def agreement(report: ValidationReport) -> go.Figure:
    """One panel for each metric: what was predicted over what was measured, before and after correction."""
    metrics = list(report.metrics)
    rows = -(-len(metrics) // _COLUMNS)
    titles = [
        f"{metric_label(m)}<br>mape {report.metrics[m].mape:.1%}, spearman {report.metrics[m].spearman:.3f}"
        for m in metrics
    ]
    figure = make_subplots(rows=rows, cols=_COLUMNS, subplot_titles=titles, vertical_spacing=0.25 / rows)
    series = [("predicted", "corrected", BLUE)]
    if report.correction is not None:
        series.insert(0, ("before correction", "predicted", GREY))
    for number, metric in enumerate(metrics):
        at = {"row": number // _COLUMNS + 1, "col": number % _COLUMNS + 1}
        points = [one for one in report.compared if metric in one.measured and metric in one.predicted]
        x = [one.measured[metric] for one in points]
        for label, field, colour in series:
            y = [getattr(one, field)[metric] for one in points]
            names = [literal(f"{one.name} (trial {one.trial})") for one in points]
            figure.add_scatter(
                x=x, y=y, text=names, name=label, mode="markers", marker_color=colour, legendgroup=label,
                showlegend=number == 0, **at,
            )  # fmt: skip
        ends = [min(x), max(x)]
        figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, name="equal",
                           legendgroup="equal", showlegend=number == 0, **at)  # fmt: skip
        figure.update_xaxes(title_text="measured", **at)
        figure.update_yaxes(title_text="predicted", **at)
    made = laid_out(figure, _HEIGHT * rows + 120, literal(f"{report.study.name}: {len(report.compared)} real runs"))
    return made.update_layout(margin_t=110)

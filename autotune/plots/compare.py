"""Several studies in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from autotune.plots.style import PALETTE, laid_out, line, objective_label
from autotune.study_view import StudyView
from autotune.viewing import NothingToShowError

_PLOT_PX = 360
_DASHES = ("solid", "dash", "dot", "dashdot")


def incumbents(views: Sequence[StudyView]) -> go.Figure:
    """The best value so far of each study, by trial; the studies have the same first objective.

    Raises:
        NothingToShowError: where no study has a feasible trial, or they have different objectives.
    """
    objectives = list(dict.fromkeys(view.goals.first for view in views))
    if len(objectives) > 1:
        named = ", ".join(map(str, objectives))
        raise NothingToShowError(f"the studies have different objectives ({named}); compare those of one objective")
    figure = go.Figure()
    for place, view in enumerate(views):
        if not view.incumbents:
            continue
        metric = view.goals.first.metric
        last = max(t.number for t in view.counted)
        xs = [float(t.number) for t in view.incumbents] + [last + 0.5]
        ys = [t.values[metric] for t in view.incumbents]
        dash = _DASHES[place // len(PALETTE) % len(_DASHES)]
        figure.add_trace(
            line(
                view.study.name, xs, [*ys, ys[-1]], PALETTE[place % len(PALETTE)], dash=dash, shape="hv", in_legend=True
            )
        )
    if not figure.data:
        raise NothingToShowError("no study has a feasible measurement yet")
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(title_text=objective_label(objectives[0]))
    return laid_out(figure, _PLOT_PX)

"""Pictures of the domain `expert-placement`, drawn from stored trials alone. Needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.style import BEST_TO_WORST, TEXT, laid_out, literal
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number
from autotune.viewing import View
from evaluators.expert_placement.cluster import Floats
from evaluators.pictures import STANDOFF_PX, TRIAL_COLOURS, exact, heights, numbers, of_older, shown

_PANEL_PX, _GAP_PX, _AXIS_PX = 210, 70, 60
_LAYER_PX, _LEAST_MAP_PX = 14, 160


@dataclass(frozen=True, eq=False)
class _Layers:
    """The note `layers` of a trial, as `measure.LayerCosts`: ``(L,)``, ``(L,)`` and ``(L, G)``."""

    hop_cost: Floats
    max_load: Floats
    gpu_load: Floats

    @property
    def mean_load(self) -> Floats:
        """``(G,)`` over the layers with batches that count."""
        counted: Floats = self.gpu_load[~np.isnan(self.max_load)]
        return np.asarray(counted.mean(axis=0)) if len(counted) else np.full(self.gpu_load.shape[1], np.nan)


def _noted(view: StudyView, trial: TrialRecord | None) -> dict[str, _Layers]:
    trials = shown(view, trial)
    found = {label: layers for label, one in trials.items() if (layers := _layers_of(one)) is not None}
    first = next(iter(trials))
    if first not in found:
        raise of_older(trials[first], "its costs layer by layer")
    return found


def _layers_of(trial: TrialRecord) -> _Layers | None:
    noted = trial.notes.get("layers")
    if not isinstance(noted, Mapping):
        return None
    hops = numbers(noted.get("hop_cost"))
    loads = numbers(noted.get("max_load"), len(hops or ()))
    by_gpu = noted.get("gpu_load")
    if not hops or loads is None or not isinstance(by_gpu, list) or len(by_gpu) != len(hops):
        return None
    rows = [numbers(row) for row in by_gpu]
    if any(not row or len(row) != len(rows[0] or ()) for row in rows):
        return None
    return _Layers(np.array(hops), np.array(loads), np.array(rows, dtype=np.float64))


def loads(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Mean load of every GPU, and the load of the fullest one in every layer; 1 is an even share."""
    noted = _noted(view, trial)
    tall, spacing = heights([_PANEL_PX, _PANEL_PX], _GAP_PX)
    figure = make_subplots(rows=2, cols=1, row_heights=tall, vertical_spacing=spacing)
    _add_bars(figure, {label: one.mean_load for label, one in noted.items()}, "GPU", "mean load", 1)
    _add_bars(figure, {label: one.max_load for label, one in noted.items()}, "layer", "load of the fullest GPU", 2)
    for row, title in ((1, "mean load of a GPU"), (2, "load of the fullest")):
        figure.add_hline(y=1.0, line={"color": TEXT, "dash": "dot", "width": 1}, row=row, col=1)
        figure.update_yaxes(title_text=f"{title}<br>[even share = 1]", row=row, col=1)
    figure.update_xaxes(title_standoff=STANDOFF_PX)
    figure.update_xaxes(title_text="GPU", tickformat="d", row=1, col=1)
    figure.update_xaxes(title_text="mixture-of-experts layer", tickformat="d", row=2, col=1)
    figure.update_layout(barmode="group")
    return laid_out(figure, sum(tall) + _GAP_PX + _AXIS_PX)


def hops(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Cost of the hops that a token makes in every layer; they add up to the hop cost per token."""
    noted = _noted(view, trial)
    figure = make_subplots(rows=1, cols=1)
    totals = {f"{label}: {number(float(one.hop_cost.sum()))} in all": one.hop_cost for label, one in noted.items()}
    _add_bars(figure, totals, "layer", "hop cost per token", 1)
    figure.update_xaxes(title_text="mixture-of-experts layer", tickformat="d")
    figure.update_yaxes(title_text="hops per token<br>[1 in a node, 2 beyond]")
    figure.update_layout(barmode="group")
    return laid_out(figure, _PANEL_PX + _AXIS_PX)


def _add_bars(figure: go.Figure, columns: Mapping[str, Sequence[float] | Floats], of: str, told: str, row: int) -> None:
    for (label, values), colour in zip(columns.items(), TRIAL_COLOURS, strict=False):
        figure.add_bar(
            name=literal(label),
            legendgroup=label,
            showlegend=row == 1,
            x=list(range(len(values))),
            y=[float(value) for value in values],
            marker_color=colour,
            hovertext=[
                literal(f"{label}, {of} {place}") + f"<br>{told}: {exact(float(value))}"
                for place, value in enumerate(values)
            ],
            hoverinfo="text",
            row=row,
            col=1,
        )


def load_map(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Load of every GPU in every layer, of both trials on one scale."""
    noted = _noted(view, trial)
    figure = make_subplots(
        rows=1, cols=len(noted), subplot_titles=[literal(label) for label in noted], shared_yaxes=True
    )
    for place, (label, one) in enumerate(noted.items(), start=1):
        figure.add_heatmap(
            z=one.gpu_load.tolist(),
            coloraxis="coloraxis",
            hovertext=[
                [
                    literal(f"{label}, layer {layer}, GPU {gpu}") + f"<br>load: {exact(float(load))}"
                    for gpu, load in enumerate(row)
                ]
                for layer, row in enumerate(one.gpu_load)
            ],
            hoverinfo="text",
            row=1,
            col=place,
        )
        figure.update_xaxes(title_text="GPU", tickformat="d", row=1, col=place)
    layers = max(len(one.gpu_load) for one in noted.values())
    figure.update_yaxes(autorange="reversed", tickformat="d")
    figure.update_yaxes(title_text="mixture-of-experts layer", row=1, col=1)
    figure.update_layout(
        coloraxis={
            "colorscale": BEST_TO_WORST,
            "cmid": 1.0,
            "colorbar": {"title": {"text": "load [even share = 1]", "side": "right"}},
        }
    )
    laid_out(figure, max(_LEAST_MAP_PX, _LAYER_PX * layers) + _AXIS_PX)
    figure.update_annotations(font={"size": 13})
    figure.update_layout(margin_t=40, height=figure.layout.height + 30)
    return figure


VIEWS = {
    view.name: view
    for view in (
        View(
            "loads",
            "Load of GPUs",
            "How even the GPUs share the work: by GPU in the mean of the layers, and the fullest one of every layer.",
            loads,
            of_trial=True,
        ),
        View(
            "load-map",
            "Load by layer and GPU",
            "Where a placement is uneven: the share of every GPU in every layer.",
            load_map,
            of_trial=True,
        ),
        View("hops", "Hops by layer", "What a token's hops between GPUs cost in every layer.", hops, of_trial=True),
    )
}

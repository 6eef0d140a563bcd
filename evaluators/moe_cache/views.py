"""Pictures of the domain `moe-cache`, drawn from stored trials alone. Needs the extra `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.style import GREY, PALETTE, laid_out, literal
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number
from autotune.viewing import NothingToShowError, View
from evaluators.moe_cache import kernels
from evaluators.moe_cache.explain import PARTS, LayerPicture, breakdown, layers_of
from evaluators.moe_cache.spans import PassPicture, pass_of
from evaluators.pictures import (
    TRIAL_COLOURS,
    exact,
    finite,
    heights,
    numbers,
    of_older,
    remark,
    shown,
    stacked,
)

_EVERY_TICK = 20  # iterations, up to which each has its tick
_PANEL_PX, _LANE_PX, _GAP_PX, _AXIS_PX = 120, 34, 44, 50

_LANES = ("compute", "link", "slow tier's processor")
_KINDS: Mapping[int, tuple[str, str, dict[str, Any]]] = {
    kernels.DENSE: ("compute", "dense part (attention, router)", {"color": PALETTE[0]}),
    kernels.EXPERTS: ("compute", "experts", {"color": PALETTE[2]}),
    kernels.WAIT: ("compute", "waiting for the link", {"color": GREY, "pattern": {"shape": "/", "size": 5}}),
    kernels.DEMAND: ("link", "experts that are needed now", {"color": PALETTE[1]}),
    kernels.PREFETCH: ("link", "prefetched experts", {"color": PALETTE[5]}),
    kernels.CPU: ("slow tier's processor", "experts that are not moved", {"color": PALETTE[3]}),
}


@dataclass(frozen=True)
class _Row:
    """One panel of `layers`: an attribute of `LayerPicture` over the layers."""

    field: str
    title: str
    told: str
    unit: str = ""
    bars: bool = True


_ROWS = (
    _Row("budget_mib", "budget [MiB]", "budget", " MiB"),
    _Row("theta", "share of an expert<br>in a slot", "share of an expert in a slot", bars=False),
    _Row("hit_rate", "hit rate", "hit rate", bars=False),
    _Row("exposed_ms", "waiting for<br>the link [ms]", "waiting for the link, per pass", " ms"),
)


def layers(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Budget, split, hit rate and exposed time of every layer; what no trial noted has no panel."""
    pictures = {label: _checked(one) for label, one in shown(view, trial).items()}
    rows = [row for row in _ROWS if any(getattr(p, row.field) is not None for one in pictures.values() for p in one)]
    tall, spacing = heights([_PANEL_PX] * len(rows), 18)
    figure = make_subplots(rows=len(rows), cols=1, shared_xaxes=True, row_heights=tall, vertical_spacing=spacing)
    for place, row in enumerate(rows, start=1):
        for (label, one), colour, symbol in zip(pictures.items(), TRIAL_COLOURS, ("circle", "diamond"), strict=False):
            values = [math.nan if (v := getattr(p, row.field)) is None else float(v) for p in one]
            look: dict[str, Any] = {"marker": {"color": colour}}
            if not row.bars:
                look = {
                    "mode": "lines+markers",
                    "marker": {"color": colour, "symbol": symbol},
                    "line": {"color": colour},
                }
            (figure.add_bar if row.bars else figure.add_scatter)(
                name=literal(label),
                legendgroup=label,
                showlegend=place == 1,
                x=[p.layer for p in one],
                y=values,
                hovertext=[
                    literal(f"{label}, layer {p.layer}") + f"<br>{row.told}: {exact(value)}{row.unit}{_slots(row, p)}"
                    for p, value in zip(one, values, strict=True)
                ],
                hoverinfo="text",
                row=place,
                col=1,
                **look,
            )
        top = 1.02 if row.field in ("theta", "hit_rate") else None
        figure.update_yaxes(title_text=row.title, range=None if top is None else [0.0, top], row=place, col=1)
    figure.update_layout(barmode="group")
    figure.update_xaxes(title_text="mixture-of-experts layer", tickformat="d", row=len(rows), col=1)
    return laid_out(figure, sum(tall) + 18 * (len(rows) - 1) + _AXIS_PX)


def _checked(trial: TrialRecord) -> list[LayerPicture]:
    """As `layers_of`, without what another program noted as something else than numbers."""
    return [
        LayerPicture(p.layer, p.budget_mib, p.theta, p.slots, p.experts, finite(p.hit_rate), finite(p.exposed_ms))
        for p in layers_of(trial)
    ]


def _slots(row: _Row, picture: LayerPicture) -> str:
    slots, experts = finite(picture.slots), finite(picture.experts)
    if row.field != "budget_mib" or slots is None:
        return ""
    return f"<br>slots for {slots:g} experts" + ("" if experts is None else f" of {experts:g}")


def time(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Parts of the token latency, which add up to it."""
    trials = shown(view, trial)
    parts = {label: found for label, one in trials.items() if (found := breakdown(one)) and _known(found)}
    if next(iter(trials)) not in parts:
        raise of_older(next(iter(trials.values())), "the parts of its latency")
    return stacked(parts, PARTS, "ms", "time of a decode pass")


def _known(parts: Mapping[str, float]) -> bool:
    return all(map(math.isfinite, parts.values()))


def timeline(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """What compute, link and slow tier did in one decode pass, the same one for both trials."""
    trials = shown(view, trial)
    passes = {label: found for label, one in trials.items() if (found := pass_of(one.notes)) is not None}
    if next(iter(trials)) not in passes:
        raise of_older(next(iter(trials.values())), "what its link and compute did")
    kinds = {span.kind for one in passes.values() for span in one.spans}
    lanes = [lane for lane in _LANES if any(_KINDS[kind][0] == lane for kind in kinds)]
    tall, spacing = heights([_LANE_PX * len(lanes)] * len(passes), _GAP_PX)
    figure = make_subplots(
        rows=len(passes),
        cols=1,
        shared_xaxes=True,
        row_heights=tall,
        vertical_spacing=spacing,
        subplot_titles=[
            literal(f"{label}: {number(one.latency_ms, 'ms')}, in the mean of all passes {_mean(trials[label])}")
            for label, one in passes.items()
        ],
    )
    for row, one in enumerate(passes.values(), start=1):
        for kind in (kind for kind in _KINDS if kind in kinds):
            _add_spans(figure, one, kind, row, in_legend=row == 1)
        figure.update_yaxes(categoryorder="array", categoryarray=lanes[::-1], row=row, col=1)
    whole = max(one.latency_ms for one in passes.values())
    figure.update_xaxes(range=[0.0, 1.01 * max(one.shown_ms for one in passes.values())])
    figure.update_xaxes(title_text="time since the pass began [ms]", row=len(passes), col=1)
    figure.update_layout(barmode="overlay", bargap=0.2)
    figure.update_annotations(xanchor="left", x=0.0, font={"size": 13})
    cut = min((one for one in passes.values()), key=lambda p: p.shown_ms / p.latency_ms if p.latency_ms else 1.0)
    plot = sum(tall) + _GAP_PX * (len(passes) - 1)
    laid_out(figure, plot + _AXIS_PX + _GAP_PX)
    figure.update_layout(margin_t=_GAP_PX + 34 + 52, legend={"y": 1.0 + (_GAP_PX - 8) / plot, "yanchor": "bottom"})
    first = next(iter(passes.values()))
    words = f"decode pass {first.number + 1} of {first.passes}"
    if cut.shown_ms < cut.latency_ms:
        words += f"; the first {number(cut.shown_ms)} of {number(whole, 'ms')} are kept with a trial"
    remark(figure, words)
    figure.update_layout(height=plot + _AXIS_PX + _GAP_PX + 34 + 52)
    return figure


def _mean(trial: TrialRecord) -> str:
    return number(trial.values.get("token_latency_ms"), "ms")


def _add_spans(figure: go.Figure, one: PassPicture, kind: int, row: int, *, in_legend: bool) -> None:
    lane, told, look = _KINDS[kind]
    spans = [span for span in one.spans if span.kind == kind]
    if not (spans or in_legend):
        return
    figure.add_bar(
        name=literal(f"{lane}: {told}"),
        legendgroup=str(kind),
        showlegend=in_legend,
        orientation="h",
        y=[lane] * len(spans),
        base=[span.begin_ms for span in spans],
        x=[span.end_ms - span.begin_ms for span in spans],
        marker=look,
        hovertext=[
            f"{told}, layer {span.layer}<br>{number(span.end_ms - span.begin_ms, 'ms')}, from {number(span.begin_ms)} "
            f"to {number(span.end_ms, 'ms')}"
            for span in spans
        ],
        hoverinfo="text",
        row=row,
        col=1,
    )


@dataclass(frozen=True)
class _Run:
    """One start of the fixed-point iteration as its trial noted it: residuals and predicted losses by iteration."""

    label: str
    trial: TrialRecord
    residuals: Sequence[float]
    losses: Sequence[float]
    chosen: int
    predicted: float | None


def fixed_point(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Residual and predicted objective of every start of the fixed-point iteration, by iteration; below, what was measured."""
    del trial  # a picture of the study
    metric = view.goals.first.metric
    runs = [run for one in view.counted if (run := _run_of(one, metric)) is not None]
    if not runs:
        raise NothingToShowError(
            f"study {view.study.name!r} has no trial that strategy fixed-point proposed, so there is no iteration to show; "
            "search with --strategy fixed-point"
        )
    tall, spacing = heights([200, 200], 30)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=tall, vertical_spacing=spacing)
    positive = [value for run in runs for value in run.residuals if 0.0 < value < math.inf]
    # The axis is logarithmic; what has wholly converged lies at its bottom.
    least = min(positive, default=1.0) / 10
    symbols = ("circle", "diamond", "square", "triangle-up", "x")
    for place, run in enumerate(runs):
        turn, colour = divmod(place, len(PALETTE))
        look = {"color": PALETTE[colour]}
        common: dict[str, Any] = {
            "name": literal(run.label), "legendgroup": str(place), "hoverinfo": "text", "marker": look, "col": 1,
        }  # fmt: skip
        steps = list(range(len(run.residuals)))
        figure.add_scatter(
            x=steps,
            y=[max(value, least) if math.isfinite(value) else None for value in run.residuals],
            mode="lines+markers",
            marker_symbol=symbols[turn % len(symbols)],
            line=look,
            hovertext=[
                literal(run.label) + f"<br>iteration {step}: residual {exact(value)}"
                for step, value in enumerate(run.residuals)
            ],
            showlegend=True,
            row=1,
            **common,
        )
        _add_losses(figure, run, metric, common)
    figure.update_yaxes(title_text="residual<br>(0 at the bottom)", type="log", exponentformat="power", row=1, col=1)
    figure.update_yaxes(title_text=f"predicted<br>{literal(metric)}", row=2, col=1)
    figure.update_xaxes(title_text="iteration", tickformat="d", row=2, col=1)
    if max(len(run.residuals) for run in runs) <= _EVERY_TICK:
        figure.update_xaxes(dtick=1)
    return laid_out(figure, 430 + _AXIS_PX)


def _add_losses(figure: go.Figure, run: _Run, metric: str, common: Mapping[str, Any]) -> None:
    measured = run.trial.values.get(metric)
    told = literal(run.label) + f"<br>measured: {exact(math.nan if measured is None else measured)}"
    if run.losses:
        figure.add_scatter(
            x=list(range(len(run.losses))),
            y=list(run.losses),
            mode="lines+markers",
            line=common["marker"],
            hovertext=[f"{told}<br>iteration {step}: predicted {exact(v)}" for step, v in enumerate(run.losses)],
            showlegend=False,
            row=2,
            **common,
        )
    if run.predicted is not None:
        figure.add_scatter(
            x=[run.chosen],
            y=[run.predicted],
            mode="markers",
            marker_symbol="star",
            marker_size=12,
            hovertext=[f"{told}<br>proposed after iteration {run.chosen}: predicted {exact(run.predicted)}"],
            showlegend=False,
            row=2,
            **common,
        )


def _run_of(trial: TrialRecord, metric: str) -> _Run | None:
    notes = trial.notes
    residuals = numbers(notes.get("residuals"))
    if not residuals:
        return None
    chosen = finite(notes.get("iteration"))
    predicted = notes.get("predicted")
    if isinstance(predicted, Mapping):  # of a search with a predictor, which tells metrics by name
        predicted = predicted.get(metric)
    return _Run(
        f"{notes.get('start', '')} (trial {trial.number})",
        trial,
        residuals,
        numbers(notes.get("losses"), len(residuals)) or (),
        0 if chosen is None else int(chosen),
        finite(predicted),
    )


VIEWS = {
    view.name: view
    for view in (
        View(
            "layers",
            "Layers",
            "What every layer does with its budget: slots, split, hit rate, and how long compute waits for the link.",
            layers,
            of_trial=True,
        ),
        View(
            "token-time",
            "Time by part",
            "Where the time of a decode pass goes, in the mean of all passes.",
            time,
            of_trial=True,
        ),
        View(
            "timeline",
            "Timeline of link and compute",
            "One decode pass: what compute does and waits for, and what the link brings meanwhile.",
            timeline,
            of_trial=True,
        ),
        View(
            "fixed-point",
            "Convergence of the fixed point",
            "Residual and predicted objective by iteration, for every start; a star is what was proposed.",
            fixed_point,
        ),
    )
}

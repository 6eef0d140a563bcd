"""Where a search spent its time, and on whose proposals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.marks import ended_text, hovers, marks
from autotune.plots.style import (
    BLUE,
    GOLD,
    GREY,
    ORANGE,
    PALETTE,
    SVG_LIMIT,
    TEAL,
    column,
    laid_out,
    literal,
    scatter,
)
from autotune.store.records import TrialRecord, TrialState
from autotune.study_view import StudyView
from autotune.text import number, percent, plural
from autotune.viewing import NothingToShowError

_FIRST_ROW = 0.5
_ROW_PX = 30
_PROPOSERS = 20


def time(view: StudyView) -> go.Figure:
    """Seconds that proposing and evaluating took, each trial alone and summed; what the store took, as far as it is known.

    All trials are in it, those of cheaper evaluators too. The store's time is kept for the study as a whole.
    """
    trials = [t for t in view.trials if t.evaluate_s is not None or t.suggest_s > 0.0]
    if not trials:
        raise NothingToShowError(f"study {view.study.name!r} has no trial whose time is known yet")
    numbers = [t.number for t in trials]
    parts = (
        ("suggest", [t.suggest_s for t in trials], ORANGE),
        ("evaluate", [t.evaluate_s or 0.0 for t in trials], BLUE),
    )
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[_FIRST_ROW, 1.0 - _FIRST_ROW], vertical_spacing=0.06
    )
    kind = scatter(len(trials))
    for name, seconds, colour in parts:
        sums = list(accumulate(seconds))
        shown = f"{name} {number(sums[-1], 's')}"
        figure.add_trace(
            kind(
                name=shown,
                x=column(numbers),
                y=column(sums),
                mode="lines",
                line={"color": colour, "width": 2, "shape": "hv"},
                customdata=column(numbers),
                hovertemplate=f"up to trial %{{customdata}}<br>{name} %{{y:.4g}} s<extra></extra>",
                showlegend=True,
            ),
            row=1,
            col=1,
        )
        # A logarithmic axis shows milliseconds beside hours; it has no place for what took no time.
        figure.add_trace(
            kind(
                name=f"{name}, each trial",
                x=column(numbers),
                y=column([value if value > 0.0 else float("nan") for value in seconds]),
                mode="markers",
                marker={"color": colour, "size": 5, "symbol": "circle" if name == "evaluate" else "diamond"},
                customdata=column(numbers),
                hovertemplate=f"trial %{{customdata}}<br>{name} %{{y:.4g}} s<extra></extra>",
                showlegend=False,
            ),
            row=2,
            col=1,
        )
    store_s = getattr(view.study, "store_s", None)
    if store_s:
        figure.add_trace(
            go.Scatter(
                name=f"store {number(store_s, 's')}",
                x=[numbers[-1]],
                y=[store_s],
                mode="markers",
                marker={"color": TEAL, "symbol": "square", "size": 9},
                hovertemplate="store, all trials together %{y:.4g} s<extra></extra>",
                showlegend=True,
            ),
            row=1,
            col=1,
        )
    figure.update_yaxes(title_text="seconds in all [s]", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="seconds of a trial [s]", type="log", row=2, col=1)
    figure.update_xaxes(title_text="trial", tickformat="d", row=2, col=1)
    return laid_out(figure, 460)


def portfolio(view: StudyView) -> go.Figure:
    """Who proposed which trial, when, and how often that was the best so far; stars are the trials that were."""
    if not view.counted:
        raise NothingToShowError(f"study {view.study.name!r} has no trial yet, so nobody has proposed one")
    groups: dict[str, list[TrialRecord]] = {}
    for trial in view.counted:
        groups.setdefault(trial.proposer, []).append(trial)
    names = sorted(groups, key=lambda name: groups[name][0].number)
    if len(names) > _PROPOSERS:
        most = sorted(names, key=lambda name: -len(groups[name]))[:_PROPOSERS]
        names = [name for name in names if name in most]
    wins = {t.number for t in (view.incumbents if len(view.goals.objectives) == 1 else view.pareto)}
    what = "was the best so far" if len(view.goals.objectives) == 1 else "is on the Pareto front"
    rows = {name: _row(name, groups[name], wins, len(view.counted)) for name in names}
    figure = go.Figure()
    for place, name in enumerate(names):
        _add_proposer(figure, view, rows[name], groups[name], PALETTE[place % len(PALETTE)])
    winners = [t for name in names for t in groups[name] if t.number in wins]
    if winners:
        figure.add_trace(
            marks(
                what,
                winners,
                [t.number for t in winners],
                [rows[t.proposer] for t in winners],
                colour=GOLD,
                symbol="star",
                hover=hovers(view, winners),
            ).update(marker_size=13)
        )
    figure.update_yaxes(
        categoryorder="array", categoryarray=[rows[name] for name in reversed(names)], title_text="proposer"
    )
    figure.update_xaxes(title_text="trial", tickformat="d", range=[-0.5, view.counted[-1].number + 0.5])
    return laid_out(figure, 110 + _ROW_PX * len(names))


def _row(name: str, trials: Sequence[TrialRecord], wins: set[int], total: int) -> str:
    share = percent(len(trials) / total).lstrip("+")
    won = sum(t.number in wins for t in trials)
    return f"{literal(name)}<br>{plural(len(trials), 'trial')}, {share}, {won} ★"


def _add_proposer(figure: go.Figure, view: StudyView, row: str, trials: Sequence[TrialRecord], colour: str) -> None:
    ended = (TrialState.FAILED, TrialState.PRUNED)
    good = [t for t in trials if t.state not in ended]
    bad = [t for t in trials if t.state in ended]
    if good:
        figure.add_trace(
            marks(
                "proposed",
                good,
                [t.number for t in good],
                [row] * len(good),
                colour=colour,
                symbol="line-ns-open",
                hover=hovers(view, good),
                in_legend=False,
            )
        )
    if bad:
        hover = None if len(bad) > SVG_LIMIT else [ended_text(t) for t in bad]
        figure.add_trace(
            marks(
                "failed or ended early",
                bad,
                [t.number for t in bad],
                [row] * len(bad),
                colour=GREY,
                symbol="x-thin-open",
                hover=hover,
                in_legend=False,
            )
        )

"""What the domains' pictures share: which trials they show, numbers read from notes, stacked bars.

Needs the extra `plots`, so that domains import their pictures when somebody asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from autotune.measurement import as_number
from autotune.plots.style import BLUE, GOLD, PALETTE, TEXT, laid_out, literal
from autotune.store.records import TrialRecord, TrialState
from autotune.study_view import StudyView
from autotune.text import number
from autotune.viewing import NothingToShowError

TRIAL_COLOURS = (BLUE, GOLD)  # of the trial that is shown, and of the default beside it
STANDOFF_PX = 8  # of an axis' title from its ticks
ROW_PX = 54  # height of one horizontal bar with its frame
_AXIS_PX = 60  # of an axis with its title
_PATTERNS = ("", "/", ".", "x")  # of parts beyond the palette's colours
_STATES = {
    TrialState.FAILED: "failed",
    TrialState.PRUNED: "was ended early",
    TrialState.RUNNING: "is running",
    TrialState.WAITING: "has not been begun",
}


def shown(view: StudyView, trial: TrialRecord | None) -> dict[str, TrialRecord]:
    """The trial of a picture, the best one if None, and the default beside it where that is another; by their labels.

    Raises:
        NothingToShowError: where the trial has not completed, or there is no best one.
    """
    chosen = view.best if trial is None else trial
    if chosen is None:
        raise NothingToShowError(
            f"study {view.study.name!r} has no best trial yet; wait for one that completes within the constraints, or name a "
            "trial"
        )
    if chosen.state is not TrialState.COMPLETED:
        raise NothingToShowError(
            f"trial {chosen.number} {_STATES[chosen.state]}, so it has no measurement to be drawn; name a trial that completed"
        )
    best = view.best is not None and view.best.id == chosen.id
    default = view.default
    same = default is not None and (default.config_hash, default.fidelity) == (chosen.config_hash, chosen.fidelity)
    found = {_label(chosen, *(["best"] if best else []), *(["default"] if same else [])): chosen}
    if default is not None and not same and default.state is TrialState.COMPLETED:
        found[_label(default, "default")] = default
    return found


def _label(trial: TrialRecord, *what: str) -> str:
    return f"trial {trial.number}" + (f" ({', '.join(what)})" if what else "")


def of_older(trial: TrialRecord, what: str) -> NothingToShowError:
    """A trial that does not have what a picture shows."""
    return NothingToShowError(
        f"trial {trial.number} did not store {what}, which only predictions of this version do; name another trial, or measure "
        "it again"
    )


def numbers(values: object, length: int | None = None) -> list[float] | None:
    """A noted list of numbers, NaN for what is none; None where it is no list, or not of that length."""
    if not isinstance(values, (list, tuple)) or (length is not None and len(values) != length):
        return None
    return [math.nan if (found := as_number(value)) is None else found for value in values]


def finite(value: object) -> float | None:
    """A noted number; None for anything else."""
    found = None if isinstance(value, bool) else as_number(value)
    return found if found is not None and math.isfinite(found) else None


def exact(value: float) -> str:
    """A number as a pointer's text tells it."""
    return "unknown" if math.isnan(value) else f"{value:.8g}"


def part_style(place: int) -> dict[str, Any]:
    """The look of the n-th part of a whole: the palette's colours, then the same with patterns."""
    turn, colour = divmod(place, len(PALETTE))
    pattern = {"shape": _PATTERNS[turn % len(_PATTERNS)], "fgcolor": TEXT, "size": 7}
    return {"color": PALETTE[colour], **({"pattern": pattern} if turn else {})}


def stacked(
    shares: Mapping[str, Mapping[str, float]], told: Mapping[str, str], unit: str, axis: str, limit: float | None = None
) -> go.Figure:
    """A horizontal bar for each trial, of parts that add up to a whole.

    Args:
        shares: by label of the trial, then by part. What is 0 in all trials is left out.
        told: what each part is, in the order of the bars.
        limit: of the whole, drawn as a line.
    """
    totals = {label: sum(parts.values()) for label, parts in shares.items()}
    figure = go.Figure()
    rows = [literal(label) for label in shares]
    present = [part for part in told if any(parts.get(part, 0.0) != 0.0 for parts in shares.values())]
    for place, part in enumerate(present):
        values = [parts.get(part, 0.0) for parts in shares.values()]
        figure.add_bar(
            name=literal(told[part]),
            y=rows,
            x=values,
            orientation="h",
            marker=part_style(place),
            hovertext=[
                literal(f"{told[part]}: {exact(value)} {unit}, {value / totals[label] if totals[label] else 0.0:.1%}")
                + f"<br>{literal(label)}: {exact(totals[label])} {literal(unit)} in all"
                for label, value in zip(shares, values, strict=True)
            ],
            hoverinfo="text",
            showlegend=True,
        )
    if limit is not None:
        figure.add_vline(x=limit, line={"color": TEXT, "dash": "dash"})
        figure.add_annotation(
            x=limit, y=1.0, yref="paper", yanchor="bottom", xanchor="right", showarrow=False,
            text=literal(f"limit {number(limit)} {unit}"),
        )  # fmt: skip
    most = max([*totals.values(), limit or 0.0])
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(title_text=literal(f"{axis} [{unit}]"), range=[0.0, 1.04 * most if most > 0.0 else 1.0])
    figure.update_yaxes(autorange="reversed")
    return legend_below(laid_out(figure, ROW_PX * len(shares) + _AXIS_PX), ROW_PX * len(shares))


def legend_below(figure: go.Figure, plot_px: float) -> go.Figure:
    """Put the legend under the horizontal axis: for many entries, which would not fit above the plot.

    Args:
        plot_px: height of the plot without its axis.
    """
    entries = sum(trace.showlegend is not False for trace in figure.data)
    figure.update_xaxes(title_standoff=STANDOFF_PX)
    below = 24 * math.ceil(entries / 3)
    figure.update_layout(
        height=figure.layout.height + below,
        legend={"y": -_AXIS_PX / plot_px, "yanchor": "top", "x": 0.0, "traceorder": "normal"},
        margin={**figure.layout.margin.to_plotly_json(), "b": below + _AXIS_PX},
    )
    return figure


def remark(figure: go.Figure, words: str) -> None:
    """A sentence under the title, for what a picture leaves out; one line."""
    figure.update_layout(
        title={"text": literal(words), "y": 1.0, "yanchor": "top", "pad": {"t": 8}, "font": {"size": 13}}
    )


def heights(rows: Sequence[float], spacing_px: float) -> tuple[list[float], float]:
    """Row heights for `make_subplots`, and its `vertical_spacing`, for rows of so many pixels."""
    whole = sum(rows) + spacing_px * (len(rows) - 1)
    return list(rows), spacing_px / whole if len(rows) > 1 else 0.0

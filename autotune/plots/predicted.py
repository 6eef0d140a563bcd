"""What was foretold beside what was measured: predictions, and cheaper evaluators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autotune.plots.marks import marks, trial_text
from autotune.plots.style import BLUE, GREY, MAGENTA, SVG_LIMIT, laid_out, line, literal, metric_label
from autotune.predictors.agreement import PREDICTED, Agreement
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number, plural
from autotune.viewing import NothingToShowError

_COLUMNS = 2
_HEIGHT = 320
_PANELS = 8

Pairs = list[tuple[TrialRecord, float, float]]


def agreement(view: StudyView) -> go.Figure:
    """A panel for each metric that was foretold: what was measured over what the predictor, or a cheaper evaluator, said.

    Marks on the dotted line were foretold exactly. Titles give Kendall's tau-b and the median relative error.
    """
    panels = _panels(view)
    if not panels:
        raise NothingToShowError(
            f"study {view.study.name!r} has no measurement with a prediction beside it: it had no predictor, and no "
            "configuration was measured by two evaluators"
        )
    shown = list(panels.items())[:_PANELS]
    rows = -(-len(shown) // _COLUMNS)
    titles = [_title(metric, source, pairs) for (metric, source), pairs in shown]
    figure = make_subplots(
        rows=rows,
        cols=min(_COLUMNS, len(shown)),
        subplot_titles=titles,
        vertical_spacing=min(0.45 / rows, 0.25),
        horizontal_spacing=0.12,
    )
    for place, ((metric, source), pairs) in enumerate(shown):
        at = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        trials, said, found = (list(column) for column in zip(*pairs, strict=True))
        colour = BLUE if source is None else MAGENTA
        hover = None
        if len(trials) <= SVG_LIMIT:
            hover = [_pair_text(view, *pair) for pair in pairs]
        figure.add_trace(
            marks(metric, trials, said, found, colour=colour, symbol="circle", hover=hover, in_legend=False), **at
        )
        ends = [min(*said, *found), max(*said, *found)]
        figure.add_trace(line("equal", ends, ends, GREY, dash="dot", in_legend=False), **at)
        unit = metric_label(metric)
        figure.update_xaxes(title_text=f"{'predicted' if source is None else literal(source)}: {unit}", **at)
        figure.update_yaxes(title_text=f"measured: {unit}", **at)
    made = laid_out(figure, _HEIGHT * rows + 40)
    made.update_annotations(font_size=13)
    return made.update_layout(margin_t=60, height=made.layout.height + 50)


def _panels(view: StudyView) -> Mapping[tuple[str, str | None], Pairs]:
    """Trials with what was said and what was measured, by metric and by who said it: the predictor is None."""
    found: dict[tuple[str, str | None], Pairs] = {}
    metrics = view.metric_names(view.completed)
    for trial in view.completed:
        for metric, value in _foretold(trial.notes.get(PREDICTED)).items():
            _add(found, (metric, None), trial, value)
    counted = {trial.config_hash: trial for trial in view.merged}
    for fidelity, trials in view.cheaper.items():
        for cheap in trials:
            same = counted.get(cheap.config_hash)
            if same is not None:
                for metric, value in cheap.values.items():
                    _add(found, (metric, fidelity), same, value)
    order = {metric: place for place, metric in enumerate(metrics)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0][1] or "")))


def _add(
    found: dict[tuple[str, str | None], Pairs], key: tuple[str, str | None], trial: TrialRecord, said: float
) -> None:
    value = trial.values.get(key[0], math.nan)
    if math.isfinite(said) and math.isfinite(value):
        found.setdefault(key, []).append((trial, said, value))


def _foretold(note: Any) -> dict[str, float]:
    """An evaluator may have written another note of that name."""
    if not isinstance(note, Mapping):
        return {}
    return {str(k): float(v) for k, v in note.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _title(metric: str, source: str | None, pairs: Pairs) -> str:
    said, found = np.array([p[1] for p in pairs]), np.array([p[2] for p in pairs])
    known = Agreement.of(said, found)
    facts = [plural(known.pairs, "pair")]
    if math.isfinite(known.rank):
        facts.append(f"tau {number(known.rank)}")
    if math.isfinite(known.median_error):
        facts.append(f"median error {number(100.0 * known.median_error)} %")
    by = "" if source is None else f" by {literal(source)}"
    return f"{literal(metric)}{by}<br>{', '.join(facts)}"


def _pair_text(view: StudyView, trial: TrialRecord, said: float, found: float) -> str:
    return f"foretold {number(said)}, measured {number(found)}<br>{trial_text(view, trial)}"

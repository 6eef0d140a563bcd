"""What to use: the best configuration beside the default and the baselines, and the trials behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from autotune.html_report.markup import Cell, Column, cards, paragraph, section, table
from autotune.objective import unit_of
from autotune.store.records import TrialRecord, TrialState
from autotune.study_view import StudyView, parameters
from autotune.text import NOTHING, listing, number, percent, plural, value_text

_TRIALS = 50  # in the table of trials
_FRONT = 30
_METRICS = 8
_NUMERIC = "num"


def result(view: StudyView) -> Markup:
    """The section on the best configuration, or on the Pareto front."""
    several = len(view.goals.objectives) > 1
    parts = [cards(_cards(view, several=several))]
    if view.study.stop_reason:
        parts.append(paragraph(f"The search ended: {view.study.stop_reason}."))
    if several:
        parts.append(_front(view))
    elif view.best is None:
        parts.append(paragraph(_why_none(view)))
    else:
        parts += [_comparison(view, view.best), _changes(view, view.best)]
    return section("result", "Result", *parts)


def trials(view: StudyView) -> Markup:
    """The section with trials, the best first; what cannot be ranked follows by number."""
    ranked = sorted(filter(view.goals.is_usable, view.completed), key=view.goals.rank)
    known = {t.id for t in ranked}
    order = [*ranked, *(t for t in view.trials if t.id not in known)]
    if not order:
        return section("trials", "Trials", paragraph("There is no trial yet."))
    metrics = _metrics(view, ranked or order)
    columns = [Column("trial", _NUMERIC), Column("state"), Column("proposer"), *_metric_columns(metrics)]
    columns += [Column("seconds", _NUMERIC), Column("configuration, or why there is no measurement", "wrap")]
    rows = [
        [
            str(t.number),
            _state(view, t),
            t.label or t.proposer,
            *(metric_text(t, m) for m in metrics),
            number(t.evaluate_s),
            t.failure_message or _config_text(view, t),
        ]
        for t in order[:_TRIALS]
    ]
    rest = len(order) - len(rows)
    told = f"The first {len(rows)} of {len(order)} trials, the best first" if rest > 0 else "All trials, the best first"
    return section("trials", "Trials", table(told, columns, rows))


def failures(view: StudyView) -> Markup:
    """The section on what failed, by cause, with what the failures said."""
    if not view.failed:
        told = "No trial failed." if view.counted else "There is no trial yet."
        return section("failures", "Failures", paragraph(told))
    columns = [
        Column("cause"),
        Column("trials", _NUMERIC),
        Column("share", _NUMERIC),
        Column("messages, newest first", "wrap"),
    ]
    rows = []
    for kind, found in view.failures.items():
        messages = dict.fromkeys(t.failure_message or "no message" for t in reversed(found))
        shown = list(messages)[:3]
        more = f" … and {len(messages) - len(shown)} more" if len(messages) > len(shown) else ""
        share = percent(len(found) / len(view.counted)).lstrip("+")
        rows.append([kind, str(len(found)), share, Markup("<br>").join(shown) + more])
    return section("failures", "Failures", table("Failed trials by cause", columns, rows))


def metric_text(trial: TrialRecord | None, metric: str) -> str:
    """A metric's value with the half-width of its interval, where it is known."""
    found = None if trial is None else trial.metrics.get(metric)
    if found is None:
        return NOTHING
    return number(found.value) + (f" ± {number(found.half_width)}" if found.half_width else "")


def gain_text(gain: float | None) -> Cell:
    """A relative gain, coloured by whether it is one."""
    kind = "" if not gain else "good" if gain > 0 else "bad"
    return Markup("<span class='{}'>{}</span>").format(kind, percent(gain))


def _cards(view: StudyView, *, several: bool) -> list[tuple[str, Cell, str]]:
    finished = [view.states[s] for s in (TrialState.COMPLETED, TrialState.FAILED, TrialState.PRUNED)]
    names = ("completed", "failed", "pruned")
    counts = listing([f"{count} {name}" for count, name in zip(finished, names, strict=True) if count])
    counts = listing([counts, *(f"{len(found)} {name}, not ranked" for name, found in view.cheaper.items())])
    counted = ("trials finished", str(sum(finished)), counts)
    if several:
        return [("Pareto front", str(len(view.pareto)), f"of {plural(len(view.feasible), 'feasible trial')}"), counted]
    objective = view.goals.first
    better = "lower is better" if objective.direction == "minimize" else "higher is better"

    def value(trial: TrialRecord | None) -> str:
        return number(None if trial is None else trial.values.get(objective.metric), objective.unit)

    return [
        (
            "best",
            value(view.best),
            f"{objective.metric}, trial {view.best.number}" if view.best else "none is feasible",
        ),
        ("default", value(view.default), f"{objective.metric}, what is used today"),
        ("gain over the default", gain_text(view.gain), better),
        counted,
    ]


def _why_none(view: StudyView) -> str:
    if view.infeasible:
        limits = " and ".join(map(str, view.goals.constraints))
        return f"No measured trial keeps {limits}, so there is no best configuration yet."
    if view.failed and len(view.failed) == len(view.counted):
        return "Every trial failed; the causes are below."
    return "No trial has a measurement yet, so there is no best configuration."


def _comparison(view: StudyView, best: TrialRecord) -> Markup:
    """Best, default and baselines with what they measured, and what the best gains over each."""
    named: list[tuple[str, TrialRecord | None]] = [("best", best), ("default", view.default), *view.baselines.items()]
    metrics = _metrics(view, [t for _, t in named if t is not None])
    columns = [Column("configuration", "wrap"), Column("trial", _NUMERIC), *_metric_columns(metrics)]
    columns += [Column("gain of the best over it", _NUMERIC), Column("remark", "wrap")]
    rows: list[list[Cell]] = []
    for label, trial in named:
        same = trial is not None and trial.number == best.number
        rows.append(
            [
                label,
                NOTHING if trial is None else str(trial.number),
                *(metric_text(trial, m) for m in metrics),
                NOTHING if same else gain_text(view.goals.gain(best, trial)),
                view.remark(trial),
            ]
        )
    return table("The best configuration beside what is used today", columns, rows, strong=0)


def _changes(view: StudyView, best: TrialRecord) -> Markup:
    changed, same = parameters(best.config, view.study.default_config)
    columns = [Column("parameter"), Column("default", "wrap"), Column("best", "wrap")]
    rows = [[name, _value(before), _value(after)] for name, before, after in [*changed, *same]]
    if not changed:
        return paragraph("The default configuration is the best that was measured.") + table("It is", columns, rows)
    told = (
        f"What to change: {plural(len(changed), 'parameter')} of {len(rows)}; the first rows differ, the others do not"
    )
    return table(told, columns, rows)


def _front(view: StudyView) -> Markup:
    if not view.pareto:
        return paragraph(_why_none(view))
    first = view.goals.first
    order = sorted(view.pareto, key=lambda t: first.sign * t.values[first.metric])
    metrics = _metrics(view, order)
    columns = [Column("trial", _NUMERIC), *_metric_columns(metrics), Column("differs from the default in", "wrap")]
    rows = [
        [str(t.number), *(metric_text(t, m) for m in metrics), _config_text(view, t) or "nothing"]
        for t in order[:_FRONT]
    ]
    shown = f"The first {_FRONT} of {len(order)} trials" if len(order) > _FRONT else plural(len(order), "trial")
    verb = "is" if len(order) == 1 else "are"
    return table(f"{shown} that nothing beats in every objective {verb} the Pareto front", columns, rows)


def _metrics(view: StudyView, of: Sequence[TrialRecord]) -> list[str]:
    return view.metric_names(of)[:_METRICS]


def _metric_columns(metrics: Sequence[str]) -> list[Column]:
    return [Column(m + (f" [{unit_of(m)}]" if unit_of(m) else ""), _NUMERIC) for m in metrics]


def _state(view: StudyView, trial: TrialRecord) -> str:
    if trial.failure_kind is not None:
        return f"failed: {trial.failure_kind.value}"
    apart = "" if trial.counts else f" ({view.study.evaluator_of(trial)})"
    feasible = trial.state is not TrialState.COMPLETED or not trial.counts or view.goals.is_feasible(trial)
    return trial.state.value + apart + ("" if feasible else ", infeasible")


def _config_text(view: StudyView, trial: TrialRecord) -> str:
    changed, _ = parameters(trial.config, view.study.default_config)
    return ", ".join(f"{name} = {_value(after)}" for name, _, after in changed) or "the default"


def _value(value: Any) -> str:
    return "inactive" if value is None else value_text(value)

"""Results and studies where Python shows a value: HTML for notebooks, one line of plain text elsewhere.

The HTML has neither script nor colours of its own, so that it reads on a light and on a dark page. Every text in it is escaped
where it becomes HTML, by `element`, and nowhere else.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError
from autotune.objective import unit_of
from autotune.store.records import DEFAULT_LABEL
from autotune.study_view import parameters
from autotune.text import NOTHING, is_numeric_vector, listing, number, percent, plural, value_text

if TYPE_CHECKING:
    from autotune.result import Outcome, Result
    from autotune.study import Study

_ROWS = 20  # parameters, or members of a Pareto front, before the rest is only counted
_BARS = "▁▂▃▄▅▆▇█"
_MOST_BARS = 64

_LINE = "border-bottom:1px solid rgba(128,128,128,.35)"
_TABLE = "border-collapse:collapse;font-size:inherit;margin:.4em 0;background:transparent;color:inherit"
_CELL = f"{_LINE};padding:.15em .8em .15em 0;text-align:left;vertical-align:top;background:transparent;color:inherit"
_NUMBER = f"{_CELL};font-variant-numeric:tabular-nums"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *parts: str | None, **attributes: str) -> Markup:
    """An HTML element of these parts: text is escaped, unless it is an element itself; None is left out."""
    given = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    inside = "".join(part if isinstance(part, Markup) else html.escape(part) for part in parts if part is not None)
    return Markup(f"<{tag}{given}>{inside}</{tag}>")


# ---------------------------------------------------------------------- as HTML


def study_html(study: Study) -> str:
    """A study as its store has it now; what went wrong where that cannot be read."""
    from autotune.result import Result  # noqa: PLC0415 - it is made of studies

    try:
        return result_html(Result.of(study))
    except AutotuneError as error:
        return element("p", element("strong", f"study {study.name}"), f": {error}")


def result_html(result: Result) -> str:
    """A result: the best configuration beside the default, or the Pareto front; counts; why it stopped."""
    study = result.study
    goals = ", ".join(map(str, study.objectives))
    limits = ", ".join(map(str, study.constraints))
    several = len(study.objectives) > 1
    return element(
        "div",
        element(
            "div", element("strong", f"study {study.name}"), f": {goals}", f", subject to {limits}" if limits else ""
        ),
        _front(result) if several else _difference(result),
        element("div", _counts(result)),
        element("div", listing([_times(result), result.stop_reason or ""])),
    )


def _difference(result: Result) -> Markup:
    best, default = result.best, result.default
    if best is None:
        return element("p", "Nothing feasible was measured yet.")
    record = result.study.record
    goals = {o.metric: o for o in result.study.objectives}
    heads = ["", f"default{_numbered(default)}", f"best{_numbered(best)}", "gain"]
    rows: list[list[str]] = []
    for metric in record.goals.metrics:
        old = default.metrics.get(metric) if default is not None else None
        new = best.metrics.get(metric)
        gain = None if metric not in goals or old is None or new is None else goals[metric].gain(new, old)
        shown = [number(value, unit_of(metric)) for value in (old, new)]
        rows.append([metric, *shown, percent(gain) if metric in goals else ""])
    changed, same = parameters(best.config, record.default_config)
    rows += [[name, _value(old), _value(new), ""] for name, old, new in changed[:_ROWS]]
    more = len(changed) - _ROWS
    notes: list[str] = []
    if default is None:
        notes.append("The default configuration has no measurement.")
    if more > 0:
        notes.append(f"{plural(more, 'more parameter')} differ; result.best.config holds them all.")
    if not changed:
        notes.append("The default is the best configuration that was measured.")
    over = [f"{name} {percent(gain)}" for name, gain in result.gains.items() if name != DEFAULT_LABEL]
    if over:
        notes.append(f"Gain over {', '.join(over)}.")
    return element("div", _table(heads, rows), *(element("div", note) for note in notes), _unchanged(same))


def _unchanged(same: Sequence[tuple[str, Any, Any]]) -> Markup | None:
    if not same:
        return None
    listed = ", ".join(f"{name} = {_value(value)}" for name, value, _ in same)
    return element("details", element("summary", f"{plural(len(same), 'parameter')} as in the default"), listed)


def _front(result: Result) -> Markup:
    members = result.pareto
    if not members:
        return element("p", "Nothing feasible was measured yet.")
    metrics = [o.metric for o in result.study.objectives]
    named = [*([(DEFAULT_LABEL, result.default)] if result.default else []), *_front_rows(members)]
    rows = [[name, *(number(o.metrics.get(m), unit_of(m)) for m in metrics)] for name, o in named]
    more = len(members) - _ROWS
    note = element("div", f"{more} more; result.pareto holds them all.") if more > 0 else None
    return element("div", _table(["Pareto front", *metrics], rows), note)


def _front_rows(members: Sequence[Outcome]) -> Iterable[tuple[str, Outcome]]:
    return ((f"trial {one.number}", one) for one in members[:_ROWS])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    head = element("tr", *(element("th", text, scope="col", style=_CELL) for text in heads))
    body = (
        element(
            "tr",
            element("th", row[0], scope="row", style=f"{_CELL};font-weight:normal"),
            *(element("td", text, style=_NUMBER) for text in row[1:]),
        )
        for row in rows
    )
    return element("table", element("thead", head), element("tbody", *body), style=_TABLE)


def _numbered(outcome: Outcome | None) -> str:
    return "" if outcome is None else f" (trial {outcome.number})"


def _value(value: Any) -> str:
    if value is None:
        return NOTHING
    if not is_numeric_vector(value) or len(value) > _MOST_BARS:
        return value_text(value)
    low, high = min(value), max(value)
    if low == high:
        return value_text(value)
    steps = (round((one - low) / (high - low) * (len(_BARS) - 1)) for one in value)
    return f"{''.join(_BARS[step] for step in steps)}  {value_text(value)}"


# ------------------------------------------------------------------ plain texts


def study_text(study: Study) -> str:
    """What a study is for and where it lives. Nothing is read, so that a lost database does not matter."""
    goals = [*map(str, study.objectives), *map(str, study.constraints)]
    return f"Study({study.name!r} in {study.store.url}: {', '.join(goals)})"


def result_text(result: Result) -> str:
    """A result in one line."""
    return f"Result({result.study.name!r}: {listing([_answer(result), _counts(result), result.stop_reason or ''])})"


def _answer(result: Result) -> str:
    objectives = result.study.objectives
    if len(objectives) > 1:
        return (
            plural(len(result.pareto), "configuration") + " on the Pareto front"
            if result.pareto
            else "nothing feasible"
        )
    if result.best is None:
        return "nothing feasible"
    metric = objectives[0].metric
    value = number(result.best.metrics[metric], unit_of(metric))
    gain = "" if result.gain is None else f", {percent(result.gain)} over the default"
    return f"best trial {result.best.number}, {metric} {value}{gain}"


def _counts(result: Result) -> str:
    counts: Mapping[str, Any] = result.trials
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts["failures"].items()))
    parts = [f"{counts[state]} {state}" for state in ("completed", "pruned", "running", "waiting") if counts[state]]
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed ({kinds})")
    return plural(counts["total"], "trial") + (f": {', '.join(parts)}" if parts else "")


def _times(result: Result) -> str:
    return ", ".join(f"{name} {number(value, 's')}" for name, value in result.seconds.items() if value)

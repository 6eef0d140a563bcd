"""A finished search as text: what to use, what it gains, and the configurations measured beside it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from autotune.cli.common import command_line, differences, heading, table
from autotune.errors import UsageError
from autotune.explaining import Section
from autotune.objective import Objective
from autotune.predictors import Agreement, Calibration
from autotune.result import Outcome, Result
from autotune.study import Study
from autotune.text import NOTHING, listing, number, percent, plural, value_text

_METRICS_SHOWN = 5


def told(result: Result, sections: Sequence[Section]) -> dict[str, Any]:
    """A result as JSON-able values: with what it rests on, what its domain tells of it, and the commands that export it."""
    study = result.study
    return {
        **result.to_dict(),
        "facts": study.record.options.get("facts") or None,
        "explanation": {part.name: part.data for part in sections} or None,
        "exports": {name: _export_command(study, name) for name in _formats(study)} or None,
    }


def explained(study: Study, console: Console) -> tuple[Section, ...]:
    """What the domain tells of the result. A study whose domain is not installed is shown without it."""
    from autotune.explaining import explain  # noqa: PLC0415 - these verbs should start fast

    try:
        return explain(study, unicode=console.encoding.lower().startswith("utf"))
    except UsageError as error:
        print(f"autotune: the result is not explained: {error}", file=sys.stderr)
        return ()


def print_all(result: Result, sections: Sequence[Section], console: Console) -> None:
    """Print a result, what its domain tells of it, and how to take its configuration away."""
    print_result(result, console)
    for part in sections:
        console.print(Text.assemble("\n", (part.title, "bold")))
        for line in part.lines:
            console.print(Text(line), soft_wrap=True)
    formats = _formats(result.study) if result.best is not None else []
    if formats:
        also = f"  (or {', '.join(formats[1:])})" if len(formats) > 1 else ""
        console.print(f"\nto run it: {_export_command(result.study, formats[0])}{also}", soft_wrap=True)


def _formats(study: Study) -> list[str]:
    """The domain's formats for one configuration; none where it is not installed."""
    from autotune.exporting import exporters_of  # noqa: PLC0415

    try:
        return list(exporters_of(study.record))
    except UsageError:
        return []


def _export_command(study: Study, format_: str) -> str:
    return f"{command_line('export', study.name, storage=study.store.url)} --format {format_}"


def print_result(result: Result, console: Console) -> None:
    """Print the best configuration beside the default and the baselines."""
    study = result.study
    counts = result.trials
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts["failures"].items()))
    told = f": {counts['completed']} trials measured" + (f", {counts['pruned']} pruned" if counts["pruned"] else "")
    told += f", {counts['failed']} failed ({failed})" if failed else ""
    ended = f" · {result.stop_reason}" if result.stop_reason else ""
    console.print(Text.assemble("\nstudy ", (study.name, "bold"), told, ended))
    for name, fact in study.record.options.get("facts", {}).items():
        if isinstance(fact, list):
            console.print(f"  {name}:", soft_wrap=True)
            for line in fact:
                console.print(f"    {line}", soft_wrap=True)
        else:
            console.print(f"  {name}: {fact}", soft_wrap=True)
    _print_settings(study, console)
    if result.predictor is not None:
        _print_predictor(result.predictor, console)
    if result.fidelities:
        spent = [
            f"{name} {plural(one.trials, 'trial')}, {number(one.seconds)} s" for name, one in result.fidelities.items()
        ]
        console.print(f"  evaluators: {listing(spent)}, whose results count", soft_wrap=True)
    if len(study.objectives) > 1:
        _print_front(result, console)
        return
    if result.best is None:
        console.print("no feasible configuration was measured")
        return
    _print_comparison(result, console)
    if result.default is not None and result.best.number != result.default.number:
        rows = [row for row in differences(study.space, result.best.config, result.default.config) if row[1] != row[2]]
        console.print()
        console.print(table("what to change", ["parameter", "default", "best"], rows))
        console.print(f"all values: {command_line('best', study.name, storage=study.store.url)}", soft_wrap=True)
    elif result.default is not None:
        console.print("\nthe default configuration is the best that was measured")


def _print_settings(study: Study, console: Console) -> None:
    """What the search was set to, and what it learns from."""
    options = study.record.strategy_options
    if options:
        chosen = ", ".join(f"{name} {value_text(value)}" for name, value in options.items())
        console.print(f"  strategy: {study.record.strategy} ({chosen})", soft_wrap=True)
    if study.referee.pruning.rules:
        console.print(f"  pruner: {study.referee.pruning}", soft_wrap=True)
    for source in study.record.sources:
        console.print(f"  learns from: {source} ({plural(source.trials, 'trial')})", soft_wrap=True)


def _print_predictor(borne_out: Mapping[str, Agreement], console: Console) -> None:
    if not borne_out:
        console.print("  predictor: no measurement has a prediction beside it yet", soft_wrap=True)
    for metric, found in borne_out.items():
        parts = [
            plural(found.pairs, "pair"),
            f"rank agreement {number(found.rank)}",
            f"measured ≈ {_line(found.calibration)}",
            f"median error {_share(found.median_error)}",
        ]
        console.print(f"  predictor of {metric}: {listing(parts)}", soft_wrap=True)


def _line(found: Calibration) -> str:
    """What is measured, by what is predicted."""
    if found.log:
        with np.errstate(over="ignore"):
            return f"{number(float(np.exp(found.offset)))} × predicted^{number(found.scale)}"
    sign = "-" if found.offset < 0 else "+"
    return f"{number(found.scale)} × predicted {sign} {number(abs(found.offset))}"


def _share(value: float) -> str:
    return f"{number(100.0 * value)} %" if math.isfinite(value) else NOTHING


def _shown_metrics(result: Result) -> list[str]:
    study = result.study
    first = [o.metric for o in study.objectives] + [c.metric for c in study.constraints]
    first += study.record.options.get("highlights", [])
    measured = [name for outcome in (result.best, *result.pareto[:1]) if outcome for name in outcome.metrics]
    return list(dict.fromkeys(first + measured))[:_METRICS_SHOWN]


def _print_comparison(result: Result, console: Console) -> None:
    metrics = _shown_metrics(result)
    objective = result.study.objectives[0]
    named: list[tuple[str, Outcome]] = [("best", result.best)] if result.best else []
    if result.default is not None:
        named.append(("default", result.default))
    named += sorted(result.baselines.items(), key=lambda item: objective.sign * item[1].metrics[objective.metric])
    rows = []
    for label, outcome in named:
        gain = _gain(objective, outcome, result.default)
        values = [number(outcome.metrics.get(metric)) for metric in metrics]
        rows.append([label, _number(outcome), *values, percent(gain)])
    columns = ["configuration", "trial", *map(heading, metrics), "gain over default"]
    console.print()
    console.print(table(None, columns, rows, right=columns[1:]))
    if result.baselines:
        gains = sorted(result.gains.items(), key=lambda item: item[1])
        console.print(
            f"the best over each: {', '.join(f'{name} {percent(gain)}' for name, gain in gains)}", soft_wrap=True
        )


def _print_front(result: Result, console: Console) -> None:
    """The front by the first objective, and below it the default and the baselines that are dominated."""
    metrics, objective = _shown_metrics(result), result.study.objectives[0]
    known = {"default": result.default, **result.baselines}
    names = {outcome.number: name for name, outcome in known.items() if outcome is not None}
    front = sorted(result.pareto, key=lambda o: objective.sign * o.metrics[objective.metric])
    on_front = {o.number for o in front}
    beside = [o for o in known.values() if o is not None and o.number not in on_front]

    def row(outcome: Outcome) -> list[str]:
        values = [number(outcome.metrics.get(metric)) for metric in metrics]
        config = "  ".join(f"{k}={value_text(v)}" for k, v in outcome.config.items())
        return [_number(outcome), *values, names.get(outcome.number, ""), config]

    columns = ["trial", *map(heading, metrics), "name", "configuration"]
    for title, outcomes in (("Pareto front", front), ("Dominated: what people use today", beside)):
        if outcomes:
            console.print()
            console.print(table(title, columns, [row(o) for o in outcomes], right=columns[:-2]))


def _number(outcome: Outcome) -> str:
    return f"{outcome.number}" + (f" (×{outcome.replicates})" if outcome.replicates > 1 else "")


def _gain(objective: Objective, outcome: Outcome, default: Outcome | None) -> float | None:
    if default is None or outcome.number == default.number:
        return None
    return objective.gain(outcome.metrics[objective.metric], default.metrics[objective.metric])

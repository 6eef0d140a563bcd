"""The page as a whole: sections in the order in which they are read, and the pictures among them."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from autotune.errors import UsageError
from autotune.explaining import explain
from autotune.exporting import exporters_of
from autotune.html_report.markup import (
    Column,
    bullets,
    document,
    paragraph,
    preformatted,
    section,
    table,
)
from autotune.html_report.result import failures, result, trials
from autotune.plots.catalogue import VIEWS, views_of
from autotune.plots.embedding import embedded, scripts
from autotune.pruning.plan import Pruning
from autotune.store.queries import environment_of
from autotune.study_view import StudyView
from autotune.text import listing, value_text
from autotune.viewing import View

if TYPE_CHECKING:
    from autotune.study import Study

Command = Callable[..., str]
_VALUE = 300  # characters of a fact


@dataclass(frozen=True)
class Report:
    """A written page.

    Attributes:
        html: all of it.
        pictures: names of those that it shows.
        left_out: why a picture could not be drawn, by its name.
    """

    html: str
    pictures: tuple[str, ...]
    left_out: Mapping[str, str]


def write_report(study: Study, command: Command) -> Report:
    """The page about a study as its store has it now.

    Args:
        study: to look at; its domain need not be installed, and is then told of as missing.
        command: turns words into the command line of ours that a reader would type, on the study's storage.
    """
    view = StudyView.read(study.store, study.name)
    drawn, left_out, figures = _evidence(view)
    parts = [
        ("result", "Result", result(view)),
        ("evidence", "Evidence", section("evidence", "Evidence", *drawn, _left_out(left_out))),
        ("failures", "Failures", failures(view)),
        ("explanation", "Explanation", _explanation(study)),
        ("trials", "Trials", trials(view)),
        ("environment", "Environment", _environment(view, study)),
        ("repeat", "How to repeat it", _repeat(view, command)),
    ]
    record = view.study
    facts = listing(
        [
            record.domain or "a space of its own",
            ", ".join(map(str, view.goals.objectives)),
            " and ".join(f"subject to {c}" for c in view.goals.constraints),
            f"strategy {record.strategy}",
            f"seed {record.seed}",
            f"last change {record.updated_at:%Y-%m-%d %H:%M} UTC" if record.updated_at else "",
        ]
    )
    header = Markup("<h1>{}</h1>{}").format(record.name, paragraph(facts, "soft"))
    html = document(f"{record.name}: report of a search", header, parts, scripts() if figures else "")
    return Report(html, tuple(figures), left_out)


def _evidence(view: StudyView) -> tuple[list[Markup], dict[str, str], list[str]]:
    drawn: list[Markup] = []
    names: list[str] = []
    left_out: dict[str, str] = {}
    try:
        views = views_of(view.study)
    except UsageError as error:
        left_out["of the domain"] = str(error)
        views = VIEWS
    for name, one in views.items():
        try:
            figure = one.draw(view, None)
        except UsageError as error:
            left_out[name] = str(error)
        except Exception as error:  # a report is not lost for a picture that another package cannot draw
            if name in VIEWS and one is VIEWS[name]:
                raise
            left_out[name] = f"the domain could not draw it: {type(error).__name__}: {error}"
        else:
            names.append(name)
            drawn.append(_picture(one, embedded(figure, f"picture-{len(names)}", f"{one.title}. {one.summary}")))
    return drawn, left_out, names


def _picture(view: View, figure: str) -> Markup:
    return Markup("<figure><figcaption><h3>{}</h3><p>{}</p></figcaption>{}</figure>").format(
        view.title, view.summary, Markup(figure)
    )


def _left_out(reasons: Mapping[str, str]) -> Markup:
    if not reasons:
        return Markup("")
    items = [Markup("<strong>{}</strong>: {}").format(name, why) for name, why in reasons.items()]
    return Markup("<h3>Pictures that cannot be drawn</h3>{}").format(bullets(items))


def _explanation(study: Study) -> Markup:
    try:
        sections = explain(study)
    except UsageError as error:
        return section("explanation", "Explanation", paragraph(f"The result is not explained: {error}"))
    parts = [Markup("<h3>{}</h3>{}").format(s.title, preformatted("\n".join(s.lines), s.title)) for s in sections]
    told = parts or [paragraph("The study's domain explains nothing of its results.")]
    return section("explanation", "Explanation", *told)


def _environment(view: StudyView, study: Study) -> Markup:
    """The machine of the best trial (of the first that knows its own where there is none), and who wrote the page."""
    told = [view.best, view.default, *view.trials[:1]]
    found = next((e for t in told if t is not None and (e := environment_of(study.store, t.id)) is not None), None)
    facts = dict(_flat("", view.study.options.get("facts", {})))
    here = {"autotune": importlib.metadata.version("autotune"), "Python": platform.python_version()}
    parts = [_facts("What was searched", facts)] if facts else []
    if found is None:
        parts.append(paragraph("The study does not tell which machine measured it."))
    else:
        parts.append(_facts(f"Machine {found.fingerprint}, which measured it", dict(_flat("", found.details))))
    if view.study.owner:
        parts.append(paragraph(f"The study was made by {view.study.owner}."))
    parts.append(paragraph(f"This page was written by {', '.join(f'{k} {v}' for k, v in here.items())}.", "soft"))
    return section("environment", "Environment", *parts)


def _facts(caption: str, facts: Mapping[str, str]) -> Markup:
    return table(caption, [Column("fact"), Column("value", "wrap")], list(facts.items()))


def _flat(prefix: str, facts: Any) -> Iterator[tuple[str, str]]:
    """Nested facts as lines, ``hardware.memory_gib``."""
    for name, fact in facts.items() if isinstance(facts, Mapping) else ():
        if isinstance(fact, Mapping):
            yield from _flat(f"{prefix}{name}.", fact)
            continue
        words = ", ".join(map(str, fact)) if isinstance(fact, (list, tuple)) else value_text(fact)
        yield f"{prefix}{name}", words if len(words) <= _VALUE else words[: _VALUE - 1] + "…"


def _repeat(view: StudyView, command: Command) -> Markup:
    record = view.study
    parts = []
    if record.domain is not None:
        parts.append(paragraph("The same search, into a database of its own:"))
        parts.append(preformatted(repeated(view), "Command that repeats the search"))
    else:
        told = f"autotune.search(..., seed={record.seed}, strategy={record.strategy!r}"
        told += f", trials={record.budget['trials']})" if "trials" in record.budget else ")"
        parts.append(paragraph("The study has no domain, so the program that made it repeats it, with these settings:"))
        parts.append(preformatted(told, "Settings of the search"))
    parts.append(paragraph("To look at it again, and to take its configuration away:"))
    lines = [command("show", record.name), command("best", record.name), command("plot", record.name)]
    try:
        formats = list(exporters_of(record)) if view.feasible else []
    except UsageError:
        formats = []
    lines += [f"{command('export', record.name)} --format {shlex.quote(name)}" for name in formats]
    parts.append(preformatted("\n".join(lines), "Commands on the study"))
    return section("repeat", "How to repeat it", *parts)


def repeated(view: StudyView) -> str:
    """The command that does a domain's search again, with its options, goals, strategy, seed and budget."""
    record = view.study
    words = ["autotune", "search", str(record.domain), "--study", record.name, "--storage", "sqlite:///again.db"]
    for name, value in record.options.get("domain_options", {}).items():
        words += ["--set", f"{name}={_option(value)}"]
    evaluators = record.fidelities or tuple(filter(None, [record.options.get("evaluator")]))
    if evaluators:
        words += ["--evaluator", ",".join(evaluators)]
    for objective in view.goals.objectives:
        words += ["--objective", str(objective)]
    for constraint in view.goals.constraints:
        words += ["--constraint", str(constraint)]
    words += ["--strategy", record.strategy]
    for name, value in record.strategy_options.items():
        words += ["--strategy-option", f"{name}={_option(value)}"]
    pruning = Pruning.of(record)
    if pruning.rules:
        words += ["--pruner", pruning.pruner]
        for name, value in pruning.settings.model_dump(mode="json", exclude_unset=True).items():
            words += ["--pruner-option", f"{name}={_option(value)}"]
    limits = (("trials", "--trials"), ("target", "--target"), ("min_gain", "--min-gain"))
    for name, flag in (*limits, ("min_gain_per_hour", "--min-gain-per-hour")):
        given = record.budget.get(name)
        for value in given if isinstance(given, list) else [] if given is None else [given]:
            words += [flag, str(value)]
    for source in record.sources:
        words += ["--transfer-from", str(source)]
    return shlex.join([*words, "--seed", str(record.seed)])


def _option(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_option, value))
    return str(value).lower() if isinstance(value, bool) else str(value)

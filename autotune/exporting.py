"""Configurations for the programs that run them: what an exporter of a domain is, and what it hands back.

A domain may have a method ``exporters(options)``, which gives its exporters by name without measuring any hardware.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from autotune.domain import load_domain
from autotune.errors import SearchFailedError, UsageError
from autotune.options import parse_options
from autotune.store.records import StudyRecord, TrialRecord

if TYPE_CHECKING:
    from autotune.study import Study


class NoOptions(BaseModel):
    """The options of an exporter that has none; others derive theirs from pydantic's `BaseModel` likewise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Exported:
    """One configuration in the format of another program.

    Attributes:
        text: of the file.
        suffix: that such a file usually has, with its dot.
        cannot: what the program cannot express of this configuration and what became of it, a sentence each. Where the
            format has comments, they are in `text` too.
        attachments: further files that `text` refers to, by the name that they must have beside it.
    """

    text: str
    suffix: str
    cannot: tuple[str, ...] = ()
    attachments: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Exporter:
    """Writes configurations of one domain for one program.

    Attributes:
        name: by which a user asks for it.
        summary: what it writes, for whom, in a few words.
        write: takes the trial whose configuration it is, with what the evaluator noted of it if it completed; the exporter's
            options; and the stem of the file's name, from which attachments take theirs. Raises `UsageError`, in one sentence,
            where nothing of a configuration can be expressed.
        options: the pydantic model of what a user may, or must, say of the target.
    """

    name: str
    summary: str
    write: Callable[[TrialRecord, Any, str], Exported]
    options: type[BaseModel] = NoOptions


@runtime_checkable
class Exporting(Protocol):
    """A domain that has exporters."""

    def exporters(self, options: Any) -> Mapping[str, Exporter]: ...


def exporters_of(study: StudyRecord) -> Mapping[str, Exporter]:
    """The exporters of a study's domain under the options that it was searched with; empty where there are none.

    Raises:
        UsageError: when the domain is not installed, or its options no longer hold.
    """
    if study.domain is None:
        return {}
    domain = load_domain(study.domain)
    if not isinstance(domain, Exporting):
        return {}
    return domain.exporters(parse_options(domain.options, study.options.get("domain_options", {})))


def export_config(
    study: StudyRecord,
    format_: str,
    trial: TrialRecord,
    options: Mapping[str, Any] | None = None,
    stem: str = "autotune",
) -> Exported:
    """Write a trial's configuration by the exporter of that name.

    Raises:
        UsageError: for a format that the study's domain does not have, for options that cannot be used, and where nothing of
            the configuration can be expressed.
    """
    known = exporters_of(study)
    if format_ not in known:
        close = difflib.get_close_matches(format_, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        whose = f"the domain {study.domain}" if study.domain else "a study without a domain"
        raise UsageError(f"format {format_!r} is unknown{hint}; {whose} has: {', '.join(known) or 'none'}")
    exporter = known[format_]
    return exporter.write(trial, parse_options(exporter.options, options or {}, f"format {format_!r}"), stem)


def chosen(study: Study, trial: int | None = None) -> TrialRecord:
    """The trial of that number; where none is named, the best one of a study with one objective.

    Raises:
        UsageError: when there is no such trial, or several are best.
        SearchFailedError: when nothing feasible was measured.
    """
    if trial is not None:
        trials = study.trials
        if not 0 <= trial < len(trials):
            has = f"it has trials 0 to {len(trials) - 1}" if trials else "it has none yet"
            raise UsageError(f"study {study.name!r} has no trial {trial}; {has}")
        return trials[trial]
    front = study.pareto()
    if not front:
        raise SearchFailedError(f"study {study.name!r} has no feasible measurement yet")
    if len(study.objectives) > 1:
        numbers = ", ".join(str(t.number) for t in front)
        raise UsageError(
            f"study {study.name!r} has {len(study.objectives)} objectives; name a trial, for example of its Pareto front: "
            f"{numbers}"
        )
    return front[0]

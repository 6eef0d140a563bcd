"""Why a configuration is good or bad: what a domain tells of it from what its trials stored.

A domain may have a method ``explain(trials, unicode)``. It sees stored trials alone, so that a result can be explained
anywhere: neither a trace nor hardware is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autotune.domain import load_domain
from autotune.objective import Objective
from autotune.store.records import DEFAULT_LABEL, StudyRecord, TrialRecord, TrialState

if TYPE_CHECKING:
    from autotune.study import Study

BEST_LABEL = "best"


@dataclass(frozen=True)
class Section:
    """One part of an explanation.

    Attributes:
        name: of the part in JSON.
        title: one line for people.
        lines: text of at most 80 columns.
        data: the same as JSON-able values.
    """

    name: str
    title: str
    lines: tuple[str, ...]
    data: Any


@runtime_checkable
class Explaining(Protocol):
    """A domain that explains its results."""

    def explain(self, trials: Mapping[str, TrialRecord], *, unicode: bool) -> Sequence[Section]:
        """Explain completed trials by what they stored.

        Args:
            trials: by what they are, the best first: ``best`` (``best in METRIC`` with several objectives), ``default``.
            unicode: whether block characters can be shown.
        """
        ...


def explain(study: Study, *, unicode: bool = True) -> tuple[Section, ...]:
    """What the study's domain tells of the best configuration beside the default; empty where it tells nothing.

    Raises:
        UsageError: when the domain is not installed.
    """
    if study.record.domain is None:
        return ()
    return explain_trials(study.record, study.pareto(), study.default, unicode=unicode)


def explain_trials(
    study: StudyRecord, front: Sequence[TrialRecord], default: TrialRecord | None, *, unicode: bool = True
) -> tuple[Section, ...]:
    """As `explain`, of trials that were read already: the Pareto front (the best alone with one objective), the default.

    Raises:
        UsageError: when the domain is not installed.
    """
    trials = _telling(study.goals.objectives, front, default)
    if study.domain is None or not trials:
        return ()
    domain = load_domain(study.domain)
    return tuple(domain.explain(trials, unicode=unicode)) if isinstance(domain, Explaining) else ()


def _telling(
    objectives: Sequence[Objective], front: Sequence[TrialRecord], default: TrialRecord | None
) -> dict[str, TrialRecord]:
    found: dict[str, TrialRecord] = {}
    for objective in objectives if front else ():
        best = min(front, key=lambda t: objective.sign * t.values[objective.metric])
        found[BEST_LABEL if len(objectives) == 1 else f"{BEST_LABEL} in {objective.metric}"] = best
    if default is not None and default.state is TrialState.COMPLETED:
        found[DEFAULT_LABEL] = default
    return found

"""Pictures of a study: what one is, and those that a domain brings beside the engine's own.

A domain may have a method ``views()``. Its pictures are drawn from stored trials alone, so that they can be drawn anywhere, by
a page, by ``autotune plot`` and by a report alike: neither a trace nor hardware is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from autotune.domain import load_domain
from autotune.errors import UsageError
from autotune.store.records import StudyRecord, TrialRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.study_view import StudyView


class NothingToShowError(UsageError):
    """A picture that needs what a study does not have; the sentence says what, and when it will be there."""


@dataclass(frozen=True)
class View:
    """A picture of a study.

    Attributes:
        name: by which a user asks for it, ``history``.
        title: one line above it.
        summary: one sentence on how it is read.
        draw: takes the study, and the trial to be shown, beside the default where that makes sense; the best one where it is
            None. Pictures of a study as a whole take no notice of it. Raises `NothingToShowError`.
        of_trial: whether the picture is one of a trial.
        slow: whether drawing it takes seconds where there are thousands of trials.
    """

    name: str
    title: str
    summary: str
    draw: Callable[[StudyView, TrialRecord | None], go.Figure]
    of_trial: bool = False
    slow: bool = False


@runtime_checkable
class Viewing(Protocol):
    """A domain that has pictures of its own."""

    def views(self) -> Mapping[str, View]: ...


def domain_views(study: StudyRecord) -> Mapping[str, View]:
    """The pictures of a study's domain by name; empty where it has none.

    Raises:
        UsageError: when the domain is not installed.
    """
    if study.domain is None:
        return {}
    domain = load_domain(study.domain)
    return domain.views() if isinstance(domain, Viewing) else {}

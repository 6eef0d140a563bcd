"""What a running evaluation says of itself: intermediate values, and the signal that ends it early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from autotune.checks import whole
from autotune.errors import UsageError
from autotune.measurement import as_number

NAME_LENGTH = 255  # of a metric: what every database can index
LAST_STEP = 2**31 - 1  # what every database has integers for


class Report(Protocol):
    """Given to an evaluator that takes a keyword of the name `report`."""

    def __call__(self, step: int, **metrics: float) -> None:
        """Say how far the evaluation is.

        Args:
            step: of 0 or more, above that of the report before.
            metrics: numbers by name; one that is not finite is kept, and never ends an evaluation by itself.

        Raises:
            Pruned: when the evaluation shall end here. There is nothing to do but to let it pass.
            UsageError: for a step that does not count up, or a metric that is no number.
        """


class Pruned(BaseException):
    """An evaluation that was ended early, as it promised nothing any more.

    It is no `Exception`, so that an evaluator's ``except Exception`` lets it pass. Raise it from an evaluator, or pass it to
    `Study.tell`, to end a trial by a rule of one's own.

    Args:
        reason: one sentence for the person who reads the study.
        facts: what the trial had reported by then, stored as its note `pruned`; made by the study where it is empty.
        log: what the evaluation printed.
    """

    def __init__(self, reason: str = "", facts: Mapping[str, Any] | None = None, log: str | None = None) -> None:
        self.reason = reason
        self.log = log
        self.facts = dict(facts or {})
        super().__init__(reason)


TOO_LATE = "the evaluation has ended already"
"""What a report is told that comes after its evaluation has returned, from a thread that was left behind."""


def ignored(step: int, **metrics: float) -> None:
    """A `Report` of a run whose reports nobody keeps: one that warms up, or repeats what has reported before."""
    checked(step, metrics, before=-1)


def checked(step: object, metrics: Mapping[str, object], before: int) -> tuple[int, dict[str, float]]:
    """A report that can be kept.

    Args:
        before: the step of the report before, -1 without one.

    Raises:
        UsageError: naming what cannot be used.
    """
    number = whole("the step of a report", step, 0, LAST_STEP)
    if number <= before:
        raise UsageError(f"the step of a report is {number} after {before}; count steps up")
    found: dict[str, float] = {}
    for name, value in metrics.items():
        read = as_number(value)
        if read is None:
            raise UsageError(f"the reported metric {name!r} is a {type(value).__name__}; report a number")
        if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
            raise UsageError(
                f"the reported metric {name!r} cannot be used; give 1 to {NAME_LENGTH} printable characters"
            )
        found[name] = read
    return number, found

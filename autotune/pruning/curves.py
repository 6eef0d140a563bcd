"""Reports of trials as curves: progress over a resource, worked out once for every report."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from autotune.objective import Objective


@dataclass
class Trace:
    """Progress of one trial, as losses to be minimised; the lists have one entry for each report that has both.

    Attributes:
        resource: what was spent, never falling.
        losses: as reported.
        best: the least of the losses so far.
        mean: of the losses so far.
    """

    resource: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)

    def add(self, resource: float, loss: float) -> None:
        """One more report."""
        count = len(self.losses)
        self.resource.append(max(resource, self.resource[-1]) if count else resource)
        self.losses.append(loss)
        self.best.append(min(loss, self.best[-1]) if count else loss)
        before = self.mean[-1] if count else 0.0
        # Both parts are divided first, so that losses near the largest float do not overflow.
        self.mean.append(before * (count / (count + 1)) + loss / (count + 1))

    def place(self, resource: float) -> int | None:
        """Of the last report at or before that much was spent; None where there is none."""
        after = bisect.bisect_right(self.resource, resource)
        return after - 1 if after else None

    def reaching(self, resource: float) -> int | None:
        """Place of the first report at which so much was spent; None where there is none."""
        first = bisect.bisect_left(self.resource, resource)
        return first if first < len(self.resource) else None


class Curve:
    """All that one trial has reported, by step; a trial that runs adds to it.

    Args:
        number: of the trial.
        completed: whether it ended by itself with a measurement, so that what it had last is what it reached.
    """

    def __init__(self, number: int, *, completed: bool = False) -> None:
        self.number, self.completed = number, completed
        self.step: int | None = None
        self._rows: list[tuple[int, dict[str, float]]] = []
        self._last: dict[str, float] = {}
        self._traces: dict[tuple[Objective, str | None], _Reader] = {}

    @classmethod
    def of(cls, number: int, rows: Iterable[tuple[int, str, float]], *, completed: bool = False) -> Curve:
        """A curve of stored reports ``(step, metric, value)``, the steps of which do not fall."""
        curve = cls(number, completed=completed)
        steps: dict[int, dict[str, float]] = {}
        for step, metric, value in rows:
            steps.setdefault(step, {})[metric] = value
        for step, values in steps.items():
            curve.add(step, values)
        return curve

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One more report."""
        self.step = step
        self._rows.append((step, dict(values)))
        self._last.update({name: value for name, value in values.items() if math.isfinite(value)})

    @property
    def last(self) -> Mapping[str, float]:
        """The last finite value of every metric that was reported."""
        return self._last

    def trace(self, progress: Objective, resource: str | None) -> Trace:
        """Progress over a resource, which is the step where it is None.

        A report without a finite progress says nothing; one without the resource has what was spent at the one before.
        """
        reader = self._traces.setdefault((progress, resource), _Reader(Trace()))
        for step, values in self._rows[reader.read :]:
            spent = float(step) if resource is None else values.get(resource, math.nan)
            reader.spent = spent if math.isfinite(spent) else reader.spent
            loss = progress.sign * values.get(progress.metric, math.nan)
            if math.isfinite(loss) and reader.spent is not None:
                reader.trace.add(reader.spent, loss)
        reader.read = len(self._rows)
        return reader.trace


@dataclass
class _Reader:
    """How far the reports of a curve were made a trace of, and what was spent at the last of them."""

    trace: Trace
    read: int = 0
    spent: float | None = None

"""Cheaper evaluators of the same metrics: what they say of a candidate, and when one is asked first.

What a cheaper evaluator measured is modelled by itself, and the model guides that of the evaluator whose results count: the
auto-regressive scheme of Kennedy and O'Hagan, Predicting the Output from a Complex Computer Code When Fast Approximations Are
Available, Biometrika 87, 2000 (eq. 1), with the scale learned and the difference a Gaussian process. A gate picks: the
candidate that the acquisition wants most goes to the cheapest evaluator that is worth asking and has not seen it. What it
says changes the belief, and if the candidate is still the most wanted, it is measured for good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.strategies.base import History
from autotune.strategies.bo.evidence import Evidence, Metrics, Reader
from autotune.strategies.bo.surrogate import Points, Shape, Surrogate

Floats = npt.NDArray[np.float64]

DESIGN = 16  # configurations that the cheapest evaluator measures before models are asked
WORTH = 0.5  # of the cost of the evaluator that counts: what costs more is not asked first
IN_A_ROW = 4  # cheaper trials between two that count
_FEW = 3  # measurements; fewer are not modelled


@dataclass(frozen=True)
class _Column:
    metric: str
    model: Surrogate


class Cheaper:
    """What the cheaper evaluators of a study have said so far.

    Args:
        history: of the study.
        reader: of its space.
        points: of encoded configurations, without these columns.
        shape, seed: for the models.
    """

    def __init__(
        self, history: History, reader: Reader, points: Callable[[Floats], Points], shape: Shape, seed: int
    ) -> None:
        self._history = history
        self._seen: dict[str, set[bytes]] = {}
        self._rows: dict[str, Floats] = {}
        self._columns: list[_Column] = []
        self._known: dict[int, tuple[Points, Points]] = {}  # by identity of the points, which are kept for that
        task = history.task
        for name in task.fidelities[:-1]:
            evidence = reader.read(history.at(name))
            rows = np.concatenate([evidence.measured, evidence.failed, evidence.pending, evidence.censored.units])
            self._rows[name] = rows
            self._seen[name] = {row.tobytes() for row in rows}
            at = points(evidence.measured)
            for metric, values in _named(history, evidence):
                there = np.flatnonzero(np.isfinite(values.values))
                if len(there) >= _FEW:
                    model = Surrogate(at.take(there), values.values[there], shape, seed)
                    self._columns.append(_Column(metric, model))

    @property
    def speaks(self) -> bool:
        """Whether any of them has been modelled."""
        return bool(self._columns)

    def rows(self, fidelity: str) -> Floats:
        """Encoded configurations that an evaluator has been asked for, shape ``(n, d)``."""
        return self._rows[fidelity]

    def guided(self, points: Points) -> Points:
        """The points with a column more for each model, shape ``(m, k + columns)``; predicted once for the same points."""
        if not self._columns:
            return points
        if id(points) not in self._known:
            said = [column.model.predict(points).mean for column in self._columns]
            guides = np.column_stack([points.guides, *said])
            self._known[id(points)] = (points, Points(points.features, points.interactions, guides))
        return self._known[id(points)][1]

    def of(self, metric: str, before: int) -> tuple[int, ...]:
        """The columns that predict a metric, where so many guides stand before them."""
        return tuple(before + i for i, column in enumerate(self._columns) if column.metric == metric)

    @property
    def design(self) -> str | None:
        """The cheapest evaluator while it has not measured its initial design, if it is worth asking."""
        name = next(iter(self._seen), None)
        return name if name is not None and len(self._seen[name]) < DESIGN and self._worth(name) else None

    def first(self, units: Floats, *, trusted: bool) -> str | None:
        """The evaluator to ask of a candidate; None for the one whose results count.

        Args:
            units: the candidate, encoded, shape ``(d,)``.
            trusted: whether measurements have borne out what cheaper evaluators said.
        """
        lately = [trial.fidelity in self._seen for trial in self._history.trials[-IN_A_ROW:]]
        if not trusted or (len(lately) == IN_A_ROW and all(lately)):
            return None
        return next(
            (name for name, seen in self._seen.items() if units.tobytes() not in seen and self._worth(name)), None
        )

    def _worth(self, name: str) -> bool:
        cost = self._history.cost(name)
        return cost is None or cost <= WORTH


def _named(history: History, evidence: Evidence) -> list[tuple[str, Metrics]]:
    task = history.task
    names = [o.metric for o in task.objectives] + [c.metric for c in task.constraints]
    return list(zip(names, (*evidence.objectives, *evidence.constraints), strict=True))

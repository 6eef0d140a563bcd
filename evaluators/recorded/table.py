"""`RecordedTable`: a search space of which every feasible configuration was measured, and its replay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from autotune.measurement import Failure, FailureKind
from autotune.objective import Objective, parse_objectives
from autotune.space import Bool, Categorical, Config, Constraint, FeasibleTable, Ordinal, Parameter, SearchSpace

Floats = npt.NDArray[np.float64]

# Kernel Tuner's words for what happened; our own names of failures mean themselves.
_KINDS = {
    "CompilationFailedConfig": FailureKind.CRASH,
    "RuntimeFailedConfig": FailureKind.CRASH,
    "InvalidConfig": FailureKind.INVALID,
}


@dataclass(frozen=True, eq=False)
class RecordedTable:
    """Every feasible configuration of a space with what was measured. Call it with a configuration to replay.

    Attributes:
        name: of the recorded space.
        family: what was measured (the kernel, the model), shared by spaces that differ in device only.
        device: where.
        space: parameters, and a table constraint where the rows are not all combinations.
        objectives: in order.
        metrics: by name, shape ``(n,)`` in the order of ``space.enumerate()``; NaN where the run failed.
        failures: by place in that order, the kind and the recorder's own word.
    """

    name: str
    family: str
    device: str
    space: SearchSpace
    objectives: tuple[Objective, ...]
    metrics: Mapping[str, Floats]
    failures: Mapping[int, tuple[FailureKind, str]] = field(default_factory=dict)

    def __call__(self, config: Config) -> dict[str, float]:
        """What was measured.

        Raises:
            Failure: as recorded.
            UsageError: for a configuration outside of the recorded space.
        """
        place = self._table.index_of(config)
        if place in self.failures:
            kind, word = self.failures[place]
            raise Failure(kind, f"recorded as {word!r}")
        return {name: float(column[place]) for name, column in self.metrics.items()}

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def _table(self) -> FeasibleTable:
        table = self.space.enumerate()
        assert table is not None  # `record` built the space from rows
        return table

    @cached_property
    def losses(self) -> Floats:
        """The objectives as numbers to minimise, shape ``(n, m)``; NaN where the run failed."""
        return np.stack([o.sign * self.metrics[o.metric] for o in self.objectives], axis=1)

    def measuring(self, objectives: str | Iterable[str | Objective]) -> RecordedTable:
        """The same records searched for other objectives.

        Raises:
            UsageError: for a metric that was not recorded.
        """
        goals = parse_objectives(objectives)
        _check_recorded(self.name, goals, self.metrics)
        return RecordedTable(self.name, self.family, self.device, self.space, goals, self.metrics, self.failures)


def record(
    name: str,
    values: Mapping[str, Sequence[Any]],
    rows: Sequence[Sequence[Any]],
    metrics: Mapping[str, npt.ArrayLike],
    objectives: str | Iterable[str | Objective],
    *,
    family: str = "",
    device: str = "",
    failures: Mapping[int, str] | None = None,
) -> RecordedTable:
    """Build a recorded table.

    Args:
        name: of the space.
        values: by parameter; numbers make an `Ordinal` (in the given order), text a `Categorical`.
        rows: the configurations that were measured, values in the order of `values`.
        metrics: by name, one number for each row; one that is not finite in an objective is a failure of kind `nan`.
        objectives: text or `Objective`.
        family, device: see `RecordedTable`; the family is the name by default.
        failures: the recorder's word for what went wrong, by row.

    Raises:
        UsageError: for rows that occur twice, values that are not declared, columns of other lengths, unknown objectives.
    """
    goals = parse_objectives(objectives)
    columns = {metric: np.asarray(column, dtype=float) for metric, column in metrics.items()}
    _check_recorded(name, goals, columns)
    wrong = next((metric for metric, column in columns.items() if column.shape != (len(rows),)), None)
    if wrong is not None:
        raise UsageError(
            f"recorded space {name!r}: metric {wrong!r} has the shape {columns[wrong].shape} for {len(rows)} rows; "
            "give one number a row"
        )
    parameters = [_parameter(parameter, listed) for parameter, listed in values.items()]
    everything = len(rows) == math.prod(len(listed) for listed in values.values())
    constraints = [] if everything else [Constraint.table(values, rows, name=f"recorded in {name}")]
    space = SearchSpace(parameters, constraints)
    table = space.enumerate()
    if table is None or len(table) != len(rows):
        found = "more than can be listed" if table is None else f"{len(table)} different ones"
        raise UsageError(f"recorded space {name!r} has {len(rows)} rows, but {found}; list each configuration once")
    places = np.array([table.index_of(dict(zip(values, row, strict=True))) for row in rows], dtype=np.int64)
    order = np.empty(len(rows), dtype=np.int64)
    order[places] = np.arange(len(rows))
    failed = {int(places[i]): (_KINDS.get(word, _kind(word)), word) for i, word in (failures or {}).items()}
    sorted_columns = {metric: column[order] for metric, column in columns.items()}
    for goal in goals:
        for place in np.flatnonzero(~np.isfinite(sorted_columns[goal.metric])).tolist():
            failed.setdefault(place, (FailureKind.NAN, f"no finite {goal.metric}"))
    for place in failed:
        for column in sorted_columns.values():
            column[place] = np.nan
    return RecordedTable(name, family or name, device, space, goals, sorted_columns, failed)


def _check_recorded(name: str, goals: Sequence[Objective], columns: Mapping[str, Any]) -> None:
    unknown = next((goal.metric for goal in goals if goal.metric not in columns), None)
    if unknown is not None:
        raise UsageError(f"recorded space {name!r} lacks the metric {unknown!r}; it has: {', '.join(columns)}")


def _parameter(name: str, values: Sequence[Any]) -> Parameter:
    if all(isinstance(value, bool) for value in values) and len(values) == 2:
        return Bool(name)
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return Ordinal(name, list(values))
    return Categorical(name, list(values))


def _kind(word: str) -> FailureKind:
    known = {kind.value: kind for kind in FailureKind if kind is not FailureKind.INFRA}
    return known.get(word, FailureKind.CRASH)

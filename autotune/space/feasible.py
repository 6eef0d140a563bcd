"""The feasible set of a space: a product of components, each a sorted table, a free dimension, or left open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import EmptySpaceError, UsageError
from autotune.space.constraints import Rule
from autotune.space.enumeration import enumerate_component, index_type
from autotune.space.parameters import Config
from autotune.space.propagation import Component, components
from autotune.space.system import Rows, System

Indices = npt.NDArray[Any]


class IndexTable:
    """Distinct rows of value indices in lexicographic order, with look-up. -1 (inactive) sorts first.

    Args:
        rows: shape ``(n, d)``.
        n_values: the number of values by dimension, shape ``(d,)``.
    """

    def __init__(self, rows: Indices, n_values: Sequence[int]) -> None:
        radix = [n + 1 for n in n_values]
        # Python integers, as the product may leave 64 bits.
        self._weights = [math.prod(radix[i + 1 :]) for i in range(len(radix))]
        self._keyed = math.prod(radix) < 2**63
        if self._keyed:
            keys = self._keys(rows)
            order = np.argsort(keys, kind="stable")
            self._sorted = keys[order]
        else:
            order = np.lexsort(rows.T[::-1])
        self.rows = rows[order]
        self.rows.setflags(write=False)

    def __len__(self) -> int:
        return len(self.rows)

    def _keys(self, rows: Indices) -> Indices:
        keys = np.zeros(len(rows), dtype=np.int64)
        for j, weight in enumerate(self._weights):
            keys += (rows[:, j].astype(np.int64) + 1) * weight
        return keys

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(self.rows)}

    def find(self, row: Sequence[int]) -> int | None:
        """The place of a row; None where it is not in the table."""
        if not self._keyed:
            return self._places.get(np.array(row, dtype=self.rows.dtype).tobytes())
        key = sum((int(i) + 1) * weight for i, weight in zip(row, self._weights, strict=True))
        place = int(np.searchsorted(self._sorted, key))
        return place if place < len(self._sorted) and self._sorted[place] == key else None


@dataclass(frozen=True, eq=False)
class Part:
    """One component and what is known of its feasible set: `table` where it could be enumerated."""

    component: Component
    free: bool
    table: IndexTable | None
    n_values: int | None

    @property
    def count(self) -> int | None:
        """How many feasible assignments there are; None where infinite or not counted."""
        return self.n_values if self.free else None if self.table is None else len(self.table)

    @property
    def dims(self) -> tuple[int, ...]:
        return self.component.dims


class FeasibleSet:
    """All components of a space, enumerated when first asked for."""

    def __init__(self, system: System, max_rows: int) -> None:
        self.system, self.max_rows = system, max_rows

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        parts = []
        for component in components(self.system, self.system.rules):
            if component.is_free(self.system):
                parts.append(Part(component, True, None, self.system.dims[component.dims[0]].n_values))
                continue
            rows = enumerate_component(self.system, component, self.max_rows)
            n_values = [self.system.dims[d].n_values or 0 for d in component.dims]
            parts.append(Part(component, False, None if rows is None else IndexTable(rows, n_values), None))
        return tuple(parts)

    @cached_property
    def broken_constants(self) -> tuple[Rule, ...]:
        """Constraints without any parameter that are false: they empty the space."""
        return tuple(rule for rule in self.system.rules if not rule.dims and not bool(np.all(rule.mask({}))))

    @cached_property
    def size(self) -> int | None:
        """Exact number of feasible configurations, also where they are too many to list; None where infinite or unknown."""
        counts = [part.count for part in self.parts]
        if self.broken_constants or 0 in counts:
            return 0
        known = [c for c in counts if c is not None]
        return math.prod(known) if len(known) == len(counts) else None

    def check_not_empty(self) -> None:
        """Raises: EmptySpaceError naming a smallest set of constraints that cannot hold together."""
        if self.broken_constants:
            raise EmptySpaceError(
                f"no configuration is feasible: constraint {self.broken_constants[0].label!r} is never true; correct it"
            )
        for part in self.parts:
            if part.count == 0:
                raise self._emptiness(part.component)

    def _emptiness(self, component: Component) -> EmptySpaceError:
        for rule in component.rules:
            if self._is_empty((rule,)):
                return EmptySpaceError(
                    f"no configuration is feasible: constraint {rule.label!r} cannot hold for any values of "
                    f"{', '.join(rule.names)}; loosen it or widen those parameters"
                )
        guilty = list(component.rules)
        for rule in component.rules:
            fewer = tuple(r for r in guilty if r is not rule)
            if self._is_empty(fewer):
                guilty = list(fewer)
        return EmptySpaceError(
            f"no configuration is feasible: constraints {' and '.join(repr(r.label) for r in guilty)} cannot hold "
            "together; loosen one of them or widen their parameters"
        )

    def _is_empty(self, rules: Sequence[Rule]) -> bool:
        """Whether these rules alone leave some component without a row; False where that is not found cheaply."""
        for component in components(self.system, rules):
            if component.rules:
                rows = enumerate_component(self.system, component, self.max_rows, enough=1)
                if rows is not None and len(rows) == 0:
                    return True
        return False

    def table(self) -> FeasibleTable | None:
        """Every feasible configuration; None beyond `max_rows` or where there are infinitely many."""
        if self.size is None or self.size > self.max_rows:
            return None
        system, total = self.system, self.size
        n_values = [d.n_values or 0 for d in system.dims]
        indices = np.zeros((total, len(system.dims)), dtype=index_type(n_values))
        repeat = 1
        for part in self.parts if total else ():
            rows = part.table.rows if part.table is not None else np.arange(part.count or 0)[:, None]
            picked = (np.arange(total) // repeat) % len(rows)
            indices[:, list(part.dims)] = rows[picked]
            repeat *= len(rows)
        return FeasibleTable(system, IndexTable(indices, n_values))


class FeasibleTable:
    """All feasible configurations in lexicographic order of their value indices.

    Attributes:
        indices: shape ``(n, d)``, the index of the value by dimension, -1 where inactive; read-only.
    """

    def __init__(self, system: System, table: IndexTable) -> None:
        self._system, self._table = system, table
        self.indices = table.rows

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Config]:
        return (self.config(i) for i in range(len(self)))

    def config(self, i: int) -> Config:
        """The i-th configuration."""
        if not -len(self) <= i < len(self):
            raise UsageError(f"configuration {i} is beyond the {len(self)} of the table")
        grids = self._grids
        return self._system.config([None if j < 0 else grids[d][j] for d, j in enumerate(self.indices[i].tolist())])

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The values of every parameter, ``(n,)`` each, ``(n, size)`` for vectors; None where inactive."""
        found: dict[str, list[npt.NDArray[Any]]] = {}
        for d, dim in enumerate(self._system.dims):
            at = self.indices[:, d]
            values = dim.decoded(dim.grid())
            column = values[at] if (at >= 0).all() else np.array([*values.tolist(), None], dtype=object)[at]
            found.setdefault(dim.parameter.name, []).append(column)
        vectors = {dim.parameter.name for dim in self._system.dims if dim.index is not None}
        return {name: np.stack(parts, axis=-1) if name in vectors else parts[0] for name, parts in found.items()}

    def encoded(self, places: npt.NDArray[np.intp] | None = None) -> npt.NDArray[np.float64]:
        """What `SearchSpace.encode` gives for all configurations, or for those at some places; shape ``(n, d)``."""
        indices = self.indices if places is None else self.indices[places]
        units = np.empty(indices.shape)
        for d, dim in enumerate(self._system.dims):
            # Inactive is -1, which picks the NaN at the end.
            units[:, d] = np.append(dim.to_unit(dim.grid()), np.nan)[indices[:, d]]
        return units

    def index_of(self, config: Config) -> int:
        """The place of a configuration.

        Raises:
            UsageError: where it is not a feasible configuration of the space.
        """
        row = self._system.row(config)
        indices = [-1 if code is None else self._index[d][code] for d, code in enumerate(row)]
        place = self._table.find(indices)
        if place is None:
            raise UsageError(f"configuration is infeasible: {'; '.join(self._system.explain(config))}")
        return place

    @cached_property
    def _grids(self) -> list[list[Any]]:
        return [d.grid().tolist() for d in self._system.dims]

    @cached_property
    def _index(self) -> list[dict[Any, int]]:
        return [{code: j for j, code in enumerate(grid)} for grid in self._grids]


def codes_of(system: System, dims: Sequence[int], indices: Indices) -> Rows:
    """Codes of a matrix of value indices of some dimensions, NaN where inactive; shape as given."""
    codes = np.empty(indices.shape, dtype=np.float64)
    for j, d in enumerate(dims):
        column = indices[:, j]
        codes[:, j] = np.where(column < 0, np.nan, system.dims[d].grid()[column])
    return codes

"""Table constraints: the allowed combinations of some parameters, listed row by row.

A table is how a space is given that somebody measured in full, or whose rules are known only by their result. Membership
is decided on whole columns, and a partial assignment by its projection: a value that no row continues is dropped at once
(generalised arc consistency on a prefix; Rossi, van Beek and Walsh, Handbook of Constraint Programming, 2006, chapter 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from autotune.space.dimensions import Array, Dimension
from autotune.space.nodes import Number

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TableConstraint:
    """A known constraint that lists what it allows: some parameters take the values of one of the rows.

    Args:
        parameters: names of parameters with finitely many values; none of them a vector.
        rows: the allowed values in the order of `parameters`; a row that is given twice counts once.
        name: how messages call it; made up from the parameters by default.
    """

    parameters: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    name: str = ""

    def __post_init__(self) -> None:
        names = tuple(self.parameters)
        rows = tuple(tuple(row) for row in self.rows)
        label = self.name or f"table of {len(rows)} rows over {', '.join(names)}"
        if not names:
            raise UsageError("table constraint: parameters is empty; name at least one parameter")
        if len(set(names)) != len(names):
            raise UsageError(f"constraint {label!r}: parameters names one twice: {', '.join(names)}; name each once")
        if not rows:
            raise UsageError(f"constraint {label!r}: rows is empty; list at least one allowed combination")
        wrong = next((row for row in rows if len(row) != len(names)), None)
        if wrong is not None:
            raise UsageError(
                f"constraint {label!r}: row {wrong!r} has {len(wrong)} values; give {len(names)}, one a name"
            )
        object.__setattr__(self, "parameters", names)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "name", label)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "table": {
                "name": self.name,
                "parameters": list(self.parameters),
                "rows": [[_plain(value) for value in row] for row in self.rows],
            }
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> TableConstraint:
        """Read what stands under ``table`` in `to_dict`'s form."""
        return cls(tuple(given["parameters"]), tuple(tuple(row) for row in given["rows"]), given.get("name", ""))


class Relation:
    """The rows of a table constraint, bound to the dimensions of a space.

    Args:
        constraint: what was given.
        dimensions: of its parameters, in their order.

    Raises:
        UsageError: for a vector, a parameter with a continuum of values, and a value outside of its domain.
    """

    def __init__(self, constraint: TableConstraint, dimensions: Sequence[Dimension]) -> None:
        self.dims = tuple(d.position for d in dimensions)
        self._dimension = {d.position: d for d in dimensions}
        columns = []
        for place, dimension in enumerate(dimensions):
            name = dimension.parameter.name
            if dimension.index is not None:
                raise UsageError(
                    f"constraint {constraint.name!r}: parameter {name!r} is a vector; list plain ones only"
                )
            if dimension.n_values is None:
                raise UsageError(
                    f"constraint {constraint.name!r}: parameter {name!r} has a continuum of values; make it an Ordinal"
                )
            columns.append(_codes(constraint, dimension, [row[place] for row in constraint.rows]))
        self._codes = dict(zip(self.dims, columns, strict=True))
        self._rows = frozenset(zip(*(self._codes[d] for d in sorted(self.dims)), strict=True))
        self._projections: dict[tuple[int, ...], _Projection] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def holds(self, row: Sequence[Number | None]) -> bool:
        """Whether a row of codes, in which all of `dims` have a value, is listed."""
        return tuple(row[d] for d in sorted(self.dims)) in self._rows

    def mask(self, columns: Mapping[int, Array], dims: Iterable[int] | None = None) -> Any:
        """Where some row agrees with the columns of `dims` (all by default), for mutually broadcastable shapes."""
        # What is computed once for many candidates comes first: assigned columns are small, candidates make them wide.
        order = tuple(sorted(self.dims if dims is None else dims, key=lambda d: (np.size(columns[d]), d)))
        if order not in self._projections:
            self._projections[order] = _Projection([self._dimension[d] for d in order], [self._codes[d] for d in order])
        return self._projections[order].contains([columns[d] for d in order])

    def may_hold(self, box: Mapping[int, tuple[Any, Any]]) -> Any:
        """Where some row agrees with what a box fixes (an interval whose ends are one object); intervals are open."""
        fixed = [d for d in self.dims if box[d][0] is box[d][1]]
        return self.mask({d: box[d][0] for d in fixed}, fixed) if fixed else np.True_


class _Projection:
    """The distinct rows of a table on some of its dimensions in a given order, as a trie of sorted keys.

    Level j holds the distinct prefixes of length j, numbered in sorted order; a key is the number of a prefix and the
    index of the next value, so that it stays below rows x values, whatever the number of dimensions.
    """

    def __init__(self, dimensions: Sequence[Dimension], codes: Sequence[Sequence[Number]]) -> None:
        self._dimensions = dimensions
        self._grids = [d.grid() for d in dimensions]
        self._keys: list[Indices] = []
        state = np.zeros(len(codes[0]), dtype=np.int64)
        for dimension, grid, column in zip(dimensions, self._grids, codes, strict=True):
            keys, state = np.unique(state * len(grid) + dimension.rank(np.array(column)), return_inverse=True)
            self._keys.append(keys)

    def contains(self, columns: Sequence[Array]) -> Any:
        state: Any = np.int64(0)
        alive: Any = np.True_
        for dimension, grid, keys, column in zip(self._dimensions, self._grids, self._keys, columns, strict=True):
            index = dimension.rank(column).clip(0, len(grid) - 1)
            wanted = state * len(grid) + index
            state = np.searchsorted(keys, wanted).clip(0, len(keys) - 1)
            alive = alive & (keys[state] == wanted) & (grid[index] == column)
        return alive


def _codes(constraint: TableConstraint, dimension: Dimension, values: Sequence[Any]) -> list[Number]:
    known: dict[tuple[bool, Any], Number] = {}
    for value in set(values):
        plain = _plain(value)
        try:
            known[isinstance(plain, bool), value] = dimension.code(dimension.parameter.check(plain))
        except ValueError as error:
            raise UsageError(
                f"constraint {constraint.name!r}: value {value!r} of parameter {dimension.parameter.name!r} {error}"
            ) from None
    return [known[isinstance(_plain(value), bool), value] for value in values]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

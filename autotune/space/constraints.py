"""Known constraints, given as text or as a callable, and bound to the dimensions of a space."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.space import columns, intervals
from autotune.space.columns import Columns
from autotune.space.dimensions import Codes, Dimension
from autotune.space.expressions import Symbols, parse
from autotune.space.nodes import Compare, Node, Number
from autotune.space.parameters import Config
from autotune.space.relation import Relation, TableConstraint


class CannotBeEvaluatedError(Exception):
    """A constraint has no value on a configuration (division by zero, say), which makes that configuration infeasible."""


class _Mistake(Exception):
    """A callable constraint raised what no configuration explains."""


# Other exceptions (TypeError, NameError) are mistakes in the constraint and are told.
_NO_VALUE = (ArithmeticError, ValueError)


@dataclass(frozen=True)
class Constraint:
    """A known constraint as a Python function that returns whether a configuration is feasible.

    Args:
        function: called with parameters by keyword, or with the whole configuration when its only parameter is `config`.
        name: how messages and `SearchSpace.to_dict` call it; the function's own name by default.
        parameters: which parameters it is called with; read from the signature by default.
        columns: whether it judges many configurations at once: it is given an array ``(n,)`` for every parameter (``(n,
            size)`` for a vector; None where inactive) and returns booleans ``(n,)``. Enumerating a large space takes as long
            as its slowest constraint.
    """

    function: Callable[..., Any]
    name: str = ""
    parameters: tuple[str, ...] | None = None
    columns: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(f"constraint {self.name or self.function!r} is not callable; give a function, or text")
        object.__setattr__(self, "name", self.name or getattr(self.function, "__name__", type(self.function).__name__))
        if self.parameters is not None:
            object.__setattr__(self, "parameters", tuple(self.parameters))

    @staticmethod
    def table(parameters: Iterable[str], rows: Iterable[Iterable[Any]], name: str = "") -> TableConstraint:
        """A constraint that lists the allowed combinations of some parameters, such as a table of all valid ones."""
        if isinstance(parameters, str):
            raise UsageError(f"table constraint: parameters is the text {parameters!r}; give a list of names")
        return TableConstraint(tuple(parameters), tuple(tuple(row) for row in rows), name)

    def arguments(self, known: Sequence[str]) -> tuple[str, ...] | None:
        """The parameters that it is called with, or None where it takes the whole configuration.

        Raises:
            UsageError: for names that the space does not have and for signatures that cannot be called by name.
        """
        if self.parameters is not None:
            wanted = list(self.parameters)
            required = set(wanted)
        else:
            try:
                signature = inspect.signature(self.function)
            except (TypeError, ValueError):
                raise UsageError(
                    f"constraint {self.name}: has no readable signature; give Constraint(..., parameters=(...))"
                ) from None
            fields = list(signature.parameters.values())
            if [f.name for f in fields] == ["config"] and "config" not in known:
                return None
            loose = [f.name for f in fields if f.kind not in (f.POSITIONAL_OR_KEYWORD, f.KEYWORD_ONLY)]
            if loose:
                raise UsageError(
                    f"constraint {self.name}: parameter {loose[0]!r} cannot be given by name; name the parameters of the "
                    "space, or give Constraint(..., parameters=(...))"
                )
            required = {f.name for f in fields if f.default is f.empty}
            wanted = [f.name for f in fields if f.name in required or f.name in known]
        unknown = [name for name in wanted if name in required and name not in known]
        if unknown:
            raise UsageError(
                f"constraint {self.name}: parameter {unknown[0]!r} is not in the space; known are: "
                f"{', '.join(known) or 'none'} "
                "(a function takes parameters by name, or all of them as 'config')"
            )
        if not wanted:
            raise UsageError(f"constraint {self.name}: takes no parameter of the space; name at least one")
        return tuple(wanted)


@dataclass(frozen=True, eq=False)
class Rule:
    """A constraint (or a condition) bound to dimensions.

    Attributes:
        label: its text or name.
        names: the parameters that it refers to, in order; it holds vacuously where one of them is inactive.
        dims: the dimensions that it needs.
        node: its tree; None for a table and for a callable, which is opaque to propagation.
        exact: whether columns of 64-bit numbers give the same result as Python's own arithmetic.
    """

    label: str
    names: tuple[str, ...]
    dims: tuple[int, ...]
    space: tuple[Dimension, ...]
    node: Node | None = None
    function: Callable[..., Any] | None = None
    whole: bool = False
    columns: bool = False
    exact: bool = False
    relation: Relation | None = None
    _layout: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def propagates(self) -> bool:
        """Whether partial assignments can be judged by it."""
        return self.relation is not None or (self.node is not None and self.exact)

    def holds(self, row: Sequence[Number | None]) -> bool:
        """Whether it is true for one row of codes in which all of `dims` have a value.

        Raises:
            CannotBeEvaluatedError: where it has no value.
        """
        try:
            if self.node is not None:
                return bool(self.node.value(row))  # type: ignore[arg-type]
            if self.relation is not None:
                return self.relation.holds(row)
            return self._call(row)
        except _NO_VALUE as error:
            raise CannotBeEvaluatedError(str(error)) from error
        except _Mistake as mistake:
            raise UsageError(str(mistake)) from mistake.__cause__

    def _call(self, row: Sequence[Number | None]) -> bool:
        assert self.function is not None
        arguments = self.arguments(row)
        try:
            if self.columns:
                several = {name: np.array([arguments.get(name)]) for name in self.names}
                return bool(self._judged(several, 1)[0])
            return bool(self.function(dict(arguments)) if self.whole else self.function(**arguments))
        except _NO_VALUE:
            raise
        except Exception as error:
            # Not a UsageError yet: that is a ValueError, which has another meaning on the way up.
            raise _Mistake(
                f"constraint {self.label}: raised {type(error).__name__}: {error} for {arguments}; correct the function"
            ) from error

    def _judged(self, several: Mapping[str, Any], n: int) -> Any:
        """What a function of columns says of ``n`` configurations."""
        assert self.function is not None
        found = np.asarray(self.function(dict(several)) if self.whole else self.function(**several))
        if found.shape != (n,):
            raise TypeError(f"returned an array of shape {found.shape} for {n} configurations, and not ({n},)")
        return found.astype(bool)

    def _columns(self, given: Columns) -> Any:
        shape = np.broadcast_shapes(*(np.shape(given[d]) for d in self.dims))
        several = {}
        for name in self.names:
            parts = [self.space[p].decoded(np.broadcast_to(given[p], shape).ravel()) for p in self._layout[name]]
            several[name] = parts[0] if self.space[self._layout[name][0]].index is None else np.stack(parts, axis=-1)
        try:
            return self._judged(several, math_size(shape)).reshape(shape)
        except Exception as error:
            raise UsageError(
                f"constraint {self.label}: raised {type(error).__name__}: {error} for columns of "
                f"{math_size(shape)} configurations; correct the function"
            ) from error

    def arguments(self, row: Sequence[Number | None]) -> Config:
        """The values of the parameters that it refers to, inactive ones left out."""
        config: Config = {}
        for name in self.names:
            places = self._layout[name]
            codes = [row[p] for p in places]
            if codes[0] is None or math.isnan(codes[0]):
                continue
            values = [self.space[p].value(c) for p, c in zip(places, codes, strict=True) if c is not None]
            config[name] = values[0] if self.space[places[0]].index is None else values
        return config

    def mask(self, given: Columns) -> Any:
        """Where it is true, for columns by dimension of mutually broadcastable shapes; failures count as false."""
        if self.node is not None and self.exact:
            return columns.holds(self.node, given)
        if self.relation is not None:
            return self.relation.mask(given)
        if self.columns:
            return self._columns(given)
        shape = np.broadcast_shapes(*(np.shape(given[d]) for d in self.dims))
        flat = [np.broadcast_to(given[d], shape).ravel().tolist() for d in self.dims]
        result = np.empty(math_size(shape), dtype=bool)
        row: list[Number | None] = [None] * len(self.space)
        for i, codes in enumerate(zip(*flat, strict=True)):
            for d, code in zip(self.dims, codes, strict=True):
                row[d] = int(code) if self.space[d].integral and not math.isnan(code) else code
            try:
                result[i] = self.holds(row)
            except CannotBeEvaluatedError:
                result[i] = False
        return result.reshape(shape)

    def may_hold(self, box: intervals.Box) -> tuple[Any, Any]:
        """``(must, may)`` over the completions of a box; nothing is known of a callable or of unsafe arithmetic."""
        if self.relation is not None:
            return np.False_, self.relation.may_hold(box)
        if self.node is None or not self.exact:
            return np.False_, np.True_
        return intervals.truth(self.node, box)

    def describe(self, row: Sequence[Number | None]) -> str:
        """One sentence on why the constraint is broken at this row."""
        try:
            self.holds(row)
        except CannotBeEvaluatedError as error:
            return f"constraint {self.label!r} cannot be evaluated: {error} ({self._values(row)})"
        shown = self._values(row)
        if isinstance(self.node, Compare) and self.node.left.children():
            left, right = self.node.left.value(row), self.node.right.value(row)  # type: ignore[arg-type]
            shown += f", so that {left:.10g} {self.node.op} {right:.10g} is false"
        return f"constraint {self.label!r} is broken: {shown}"

    def _values(self, row: Sequence[Number | None]) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments(row).items())


def math_size(shape: tuple[int, ...]) -> int:
    """The number of elements of a shape."""
    return int(np.prod(shape, dtype=np.int64)) if shape else 1


def full_box(dimensions: Sequence[Dimension]) -> dict[int, tuple[Any, Any]]:
    """Every dimension known only by its range."""
    return {d.position: (_scalar(d.low, d), _scalar(d.high, d)) for d in dimensions}


def _scalar(code: Number, dimension: Dimension) -> Any:
    return np.int64(code) if dimension.integral else np.float64(code)


def bind_text(
    text: str, table: Symbols, codes: Codes, dimensions: tuple[Dimension, ...], what: str = "constraint"
) -> Rule:
    """Parse a constraint and bind it. Raises `UsageError` as `expressions.parse` does."""
    parsed = parse(text, table, codes, what)
    layout = layout_of(dimensions)
    used = {part.dim for part in parsed.node.walk() if hasattr(part, "dim")}
    # A parameter may be named without any element being used, as in len(b): its first element stands for it, so that
    # the constraint still waits for (and is vacuous without) that parameter.
    for name in parsed.names:
        if not used.intersection(layout[name]):
            used.add(layout[name][0])
    exact = intervals.fits_double(parsed.node, full_box(dimensions))
    return Rule(text.strip(), parsed.names, tuple(sorted(used)), dimensions, parsed.node, exact=exact, _layout=layout)


def bind_callable(constraint: Constraint, known: Sequence[str], dimensions: tuple[Dimension, ...]) -> Rule:
    """Bind a callable by the names of its parameters. Raises `UsageError` as `Constraint.arguments` does."""
    arguments = constraint.arguments(known)
    layout = layout_of(dimensions)
    names = tuple(known) if arguments is None else arguments
    dims = tuple(sorted(d for name in names for d in layout[name]))
    whole = arguments is None
    return Rule(
        constraint.name, names, dims, dimensions, None, constraint.function, whole, constraint.columns, _layout=layout
    )


def bind_table(constraint: TableConstraint, dimensions: tuple[Dimension, ...]) -> Rule:
    """Bind a table by the names of its parameters. Raises `UsageError` as `Relation` does, and for unknown names."""
    layout = layout_of(dimensions)
    unknown = [name for name in constraint.parameters if name not in layout]
    if unknown:
        raise UsageError(
            f"constraint {constraint.name!r}: parameter {unknown[0]!r} is not in the space; known are: {', '.join(layout)}"
        )
    relation = Relation(constraint, [dimensions[layout[name][0]] for name in constraint.parameters])
    dims = tuple(sorted(relation.dims))
    return Rule(constraint.name, constraint.parameters, dims, dimensions, relation=relation, _layout=layout)


def layout_of(dimensions: Sequence[Dimension]) -> dict[str, tuple[int, ...]]:
    """The dimensions of each parameter by name."""
    layout: dict[str, tuple[int, ...]] = {}
    for d in dimensions:
        layout[d.parameter.name] = (*layout.get(d.parameter.name, ()), d.position)
    return layout

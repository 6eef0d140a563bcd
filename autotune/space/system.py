"""A compiled search space: dimensions, rules and conditions, the row form of a configuration, and exact feasibility.

A *row* holds one code per dimension, None (in lists) or NaN (in matrices) where the dimension is inactive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from autotune.space.constraints import (
    CannotBeEvaluatedError,
    Constraint,
    Rule,
    bind_callable,
    bind_table,
    bind_text,
    full_box,
    layout_of,
)
from autotune.space.dimensions import Codes, Dimension, flatten
from autotune.space.expressions import symbols
from autotune.space.nodes import Number
from autotune.space.parameters import Config, Parameter
from autotune.space.relation import TableConstraint

Rows = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Row = list[Number | None]


class System:
    """Parameters and constraints bound to each other. Immutable after construction."""

    def __init__(
        self, parameters: Sequence[Parameter], constraints: Iterable[str | Constraint | TableConstraint]
    ) -> None:
        self.parameters = tuple(parameters)
        names = [p.name for p in self.parameters]
        codes = Codes()
        self.dims: tuple[Dimension, ...] = flatten(self.parameters, codes)
        self.layout = layout_of(self.dims)
        self.by_name = {p.name: p for p in self.parameters}
        table = symbols(self.dims)
        self.conditions: dict[str, Rule] = {}
        for i, parameter in enumerate(self.parameters):
            if parameter.when is not None:
                earlier = {name: table[name] for name in names[:i]}
                what = f"condition of parameter {parameter.name}"
                self.conditions[parameter.name] = bind_text(parameter.when, earlier, codes, self.dims, what)
        self.rules: tuple[Rule, ...] = tuple(
            bind_text(c, table, codes, self.dims)
            if isinstance(c, str)
            else bind_table(c, self.dims)
            if isinstance(c, TableConstraint)
            else bind_callable(c, names, self.dims)
            for c in constraints
        )
        self.box = full_box(self.dims)
        self.parents = {d for rule in self.conditions.values() for d in rule.dims}

    def condition(self, dim: int) -> Rule | None:
        """The condition under which a dimension is active."""
        return self.conditions.get(self.dims[dim].parameter.name)

    # One configuration

    def is_active(self, name: str, row: Sequence[Number | None]) -> bool:
        """Whether a parameter exists, given the row of what comes before it."""
        rule = self.conditions.get(name)
        if rule is None:
            return True
        if any(row[d] is None for d in rule.dims):
            return False
        try:
            return rule.holds(row)
        except CannotBeEvaluatedError:
            return False

    def read(self, config: Config, first_only: bool = False) -> tuple[Row, list[str]]:
        """The row of a configuration, and a sentence for everything that is wrong with its keys and values."""
        row: Row = [None] * len(self.dims)
        given: object = config  # whatever a caller has
        if not isinstance(given, Mapping):
            return row, [f"a configuration is a mapping of parameter names to values, and not a {type(given).__name__}"]
        problems = [
            f"parameter {name!r} is not in the space; known are: {', '.join(self.by_name)}"
            for name in config
            if name not in self.by_name
        ]
        broken: set[str] = set()
        for parameter in self.parameters:
            if first_only and problems:
                break
            name, rule = parameter.name, self.conditions.get(parameter.name)
            if rule is not None and broken.intersection(rule.names):
                broken.add(name)
                continue
            if not self.is_active(name, row):
                if name in config:
                    problems.append(
                        f"parameter {name!r} is inactive, as {parameter.when!r} does not hold; leave it out"
                    )
                continue
            if name not in config:
                problems.append(f"parameter {name!r} is missing")
                broken.add(name)
                continue
            try:
                value = parameter.check_all(config[name])
            except ValueError as error:
                problems.append(f"parameter {name!r} = {config[name]!r} {error}")
                broken.add(name)
                continue
            places = self.layout[name]
            for place, element in zip(places, value if parameter.size is not None else [value], strict=True):
                row[place] = self.dims[place].code(element)
        return row, problems

    def explain(self, config: Config, first_only: bool = False) -> list[str]:
        """A sentence for everything that makes a configuration infeasible."""
        row, problems = self.read(config, first_only)
        for rule in self.rules:
            if first_only and problems:
                break
            if self.vacuous(rule, row) or (problems and any(row[d] is None for d in rule.dims)):
                continue
            try:
                holds = rule.holds(row)
            except CannotBeEvaluatedError:
                holds = False
            if not holds:
                problems.append(rule.describe(row))
        return problems

    def vacuous(self, rule: Rule, row: Sequence[Number | None]) -> bool:
        """Whether a rule says nothing because a parameter that it names is inactive (never for a whole-config callable)."""
        return not rule.whole and any(row[d] is None for d in rule.dims)

    def config(self, row: Sequence[Any] | Rows) -> Config:
        """The configuration of one row of codes."""
        config: Config = {}
        values = row.tolist() if isinstance(row, np.ndarray) else row
        for name, places in self.layout.items():
            first = values[places[0]]
            if first is None or math.isnan(first):
                continue
            if self.by_name[name].size is None:
                config[name] = self.dims[places[0]].value(first)
            else:
                config[name] = [self.dims[p].value(values[p]) for p in places]
        return config

    def row(self, config: Config) -> Row:
        """The row of a configuration whose keys and values are right.

        Raises:
            UsageError: with everything that is wrong with it.
        """
        row, problems = self.read(config)
        if problems:
            raise UsageError(f"configuration cannot be used: {'; '.join(problems)}")
        return row

    # Many rows

    def matrix(self, rows: Sequence[Sequence[Number | None]]) -> Rows:
        """Rows as a matrix with NaN where inactive, shape ``(n, d)``."""
        return np.array([[np.nan if c is None else c for c in row] for row in rows], dtype=np.float64).reshape(
            len(rows), len(self.dims)
        )

    def settle(self, rows: Rows, fill: Rows | None = None) -> Rows:
        """A copy with inactive dimensions set to NaN, and active ones that lack a value to `fill` (the defaults).

        Args:
            rows: shape ``(n, d)``.
            fill: shape ``(d,)``.
        """
        rows = rows.copy()
        fill = self.default_codes if fill is None else fill
        for parameter in self.parameters:
            active = self.active(parameter.name, rows)
            for d in self.layout[parameter.name]:
                column = rows[:, d]
                rows[:, d] = np.where(active, np.where(np.isnan(column), fill[d], column), np.nan)
        return rows

    def active(self, name: str, rows: Rows) -> Mask:
        """Where a parameter is active, shape ``(n,)``."""
        rule = self.conditions.get(name)
        if rule is None:
            return np.ones(len(rows), dtype=bool)
        known = ~np.isnan(rows[:, list(rule.dims)]).any(axis=1)
        result = np.zeros(len(rows), dtype=bool)
        if known.any():
            given = {d: rows[known, d] for d in rule.dims}
            result[known] = np.broadcast_to(rule.mask(given), int(known.sum()))
        return result

    @cached_property
    def default_codes(self) -> Rows:
        """The code of every dimension's default, whether active or not, shape ``(d,)``."""
        return np.array([d.code(d.parameter.default_at(d.index)) for d in self.dims], dtype=np.float64)

    def feasible(self, rows: Rows, rules: Iterable[Rule] | None = None) -> Mask:
        """Which rows (settled, with admissible values) break none of the rules; shape ``(n,)``."""
        keep = np.ones(len(rows), dtype=bool)
        for rule in self.rules if rules is None else rules:
            dims = list(rule.dims)
            applies = keep.copy() if rule.whole else keep & ~np.isnan(rows[:, dims]).any(axis=1)
            if applies.all():
                keep &= np.broadcast_to(rule.mask({d: rows[:, d] for d in dims}), len(rows))
            elif applies.any():
                sub = rows[applies]
                keep[applies] = np.broadcast_to(rule.mask({d: sub[:, d] for d in dims}), len(sub))
        return keep

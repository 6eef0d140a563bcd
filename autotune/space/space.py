"""`SearchSpace`: the parameters of a search, what is known to be infeasible, and everything a strategy asks of them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from autotune.space.canonical import Canonical
from autotune.space.constraints import Constraint
from autotune.space.dimensions import Dimension, Floats
from autotune.space.feasible import FeasibleSet, FeasibleTable
from autotune.space.neighbourhood import neighbours
from autotune.space.parameters import Config, Parameter, parameter_from_dict
from autotune.space.relation import TableConstraint
from autotune.space.repair import nearest, squared_differences
from autotune.space.sampling import Sampler
from autotune.space.system import Rows, System

MAX_ROWS = 2_000_000
_FORMAT = 1


class SearchSpace:
    """A set of configurations, given by parameters and known constraints. Immutable.

    A configuration maps parameter names to values (a list for a vector); parameters whose condition does not hold are
    absent from it. A constraint that refers to an inactive parameter holds vacuously, and so does a callable, unless it
    takes the whole configuration. A constraint that cannot be evaluated (division by zero) counts as broken.

    Args:
        parameters: in an order in which conditions refer to earlier ones.
        constraints: text (see `autotune.space.expressions`), functions of parameters by name, `Constraint`, or
            `Constraint.table`.
        anchors: configurations known to be feasible, which help where feasible ones are hard to find.
        max_rows: enumerate no component, and no table, beyond so many rows.

    Raises:
        UsageError: naming the parameter or the constraint that is wrong. An empty feasible set is not an error here;
            `size` is then 0, and what needs a configuration raises `EmptySpaceError`.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        constraints: Iterable[str | Callable[..., Any] | Constraint | TableConstraint] = (),
        anchors: Iterable[Config] = (),
        *,
        max_rows: int = MAX_ROWS,
    ) -> None:
        if not isinstance(parameters, Iterable):
            raise UsageError(f"parameters is {parameters!r}; give a list of Float, Int, Ordinal, Categorical and Bool")
        self.parameters: tuple[Parameter, ...] = tuple(parameters)
        for parameter in self.parameters:
            if not isinstance(parameter, Parameter):
                raise UsageError(f"parameters holds {parameter!r}; use Float, Int, Ordinal, Categorical or Bool")
        names = [p.name for p in self.parameters]
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise UsageError(f"parameter name {twice[0]!r} is used twice; give each parameter its own name")
        if max_rows < 1:
            raise UsageError(f"max_rows is {max_rows}; give at least 1")
        if isinstance(constraints, str):
            constraints = [constraints]
        self.constraints: tuple[str | Constraint | TableConstraint, ...] = tuple(_as_constraint(c) for c in constraints)
        self.max_rows = max_rows
        self._system = System(self.parameters, self.constraints)
        self._canonical = Canonical(self.parameters)
        self._feasible = FeasibleSet(self._system, max_rows)
        self._by_name = {p.name: p for p in self.parameters}
        self.anchors: tuple[Config, ...] = tuple(self._checked_anchor(a) for a in anchors)
        self._sampler = Sampler(self._feasible, self._matrix(self.anchors))

    def __repr__(self) -> str:
        return f"SearchSpace({len(self.parameters)} parameters, {len(self.constraints)} constraints)"

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        """The parameter of a name."""
        if name not in self._by_name:
            raise UsageError(f"parameter {name!r} is not in the space; known are: {', '.join(self._by_name)}")
        return self._by_name[name]

    # What the space is

    @property
    def dims(self) -> tuple[Dimension, ...]:
        """The scalar dimensions in the order of `encode`'s columns; a vector has one for each element."""
        return self._system.dims

    @property
    def size(self) -> int | None:
        """How many feasible configurations there are; None where infinitely many or too many to count."""
        return self._feasible.size

    @property
    def is_finite(self) -> bool:
        """Whether the parameters leave finitely many configurations, few enough to count or not."""
        return all(dim.n_values is not None for dim in self.dims)

    def enumerate(self) -> FeasibleTable | None:
        """All feasible configurations; None where there are infinitely many, or more than `max_rows`."""
        return self._table

    @cached_property
    def _table(self) -> FeasibleTable | None:
        return self._feasible.table()

    def with_anchors(self, configs: Iterable[Config]) -> SearchSpace:
        """The same space that knows of further feasible configurations."""
        space = copy.copy(self)  # shares what has been enumerated
        space.anchors = (*self.anchors, *(self._checked_anchor(config) for config in configs))
        space._sampler = Sampler(self._feasible, self._matrix(space.anchors))
        return space

    # One configuration

    def contains(self, config: Config) -> bool:
        """Whether a configuration is feasible."""
        return not self._system.explain(config, first_only=True)

    def explain(self, config: Config) -> list[str]:
        """A sentence for each reason why a configuration is infeasible; empty where it is feasible."""
        return self._system.explain(config)

    def validate(self, config: Config) -> Config:
        """The configuration in canonical types and order; constraints are not looked at.

        Raises:
            UsageError: for unknown, missing or inactive parameters, and for values outside of their domain.
        """
        return self._system.config(self._system.row(config))

    def default(self) -> Config:
        """What people use today: declared defaults, else middles and first choices, repaired where infeasible.

        Raises:
            EmptySpaceError: where nothing is feasible.
        """
        return self.repair({})

    def repair(self, config: Config, seed: int = 0) -> Config:
        """The feasible configuration nearest to any given one (see `distance`); deterministic.

        Values are first moved into their domain, missing parameters take their default, and superfluous ones are
        dropped. Where components are enumerated the result is the nearest one, among equals the first in the order of
        `enumerate`; elsewhere it is the best of a projection, followed by coordinate-wise improvement.

        Raises:
            EmptySpaceError: where nothing is feasible, or nothing was found.
        """
        settled = self._loosely(config)
        if bool(self._system.feasible(settled[None])[0]):
            return self._system.config(settled)
        return self._system.config(nearest(self._sampler, settled, np.random.default_rng(seed)))

    def loosely_encoded(self, config: Config) -> Floats:
        """Any values of some parameters in the encoding, shape ``(d,)``: the nearest admissible ones, defaults for the rest.

        Constraints are not looked at; a configuration of a similar space can be read this way.
        """
        encoded: Floats = self._encoded(self._loosely(config)[None])[0]
        return encoded

    def _loosely(self, config: Config) -> Rows:
        row = self._system.default_codes.copy()
        for parameter in self.parameters:
            if parameter.name in config:
                for place, value in zip(
                    self._system.layout[parameter.name], _elements(parameter, config[parameter.name]), strict=True
                ):
                    row[place] = self.dims[place].code(parameter.nearest(value))
        settled: Rows = self._system.settle(row[None])[0]
        return settled

    def neighbours(self, config: Config, limit: int | None = None, seed: int = 0) -> list[Config]:
        """Feasible configurations one move away: near moves first, each once; deterministic.

        A move changes one dimension (all values of short ones; small and large steps of others), and with it what its
        conditions switch on or off. Numbers that share a constraint also exchange an amount, one up and one down.

        Args:
            config: a configuration with admissible values.
            limit: return at most so many, chosen at random (by `seed`) among moves of equal reach.
            seed: of that choice.
        """
        row = self._matrix([config])[0]
        rows = neighbours(self._feasible, row, limit, np.random.default_rng(seed))
        return [self._system.config(found) for found in rows]

    # Many configurations

    def sample(self, n: int, seed: int | np.random.Generator) -> list[Config]:
        """n random feasible configurations, distinct where there are that many.

        Uniform where the feasible set is enumerated (component by component); elsewhere approximately uniform on the
        encoded scale.

        Raises:
            EmptySpaceError: naming the constraints, where nothing is feasible or nothing was found.
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise UsageError(f"n is {n!r}; ask for at least 0 configurations")
        if not isinstance(seed, np.random.Generator) and (not isinstance(seed, (int, np.integer)) or seed < 0):
            raise UsageError(f"seed is {seed!r}; give a whole number of at least 0, or a numpy Generator")
        rows = self._sampler.sample(n, np.random.default_rng(seed))
        return [self._system.config(row) for row in rows]

    def encode(self, configs: Sequence[Config]) -> Floats:
        """Configurations as numbers in ``[0, 1]``, shape ``(n, d)`` with a column per dimension; NaN where inactive.

        `Float` and `Int` by value on their declared scale, others by ``index / (n - 1)``.
        """
        return self._encoded(self._matrix(configs))

    def decode(self, row: Floats) -> Config:
        """The configuration nearest to an encoded row of shape ``(d,)``, not necessarily feasible.

        Where a parameter is active and the row has NaN, it takes its default; conditions decide what is active.
        """
        row = np.asarray(row, dtype=float)
        if row.shape != (len(self.dims),):
            raise UsageError(f"the encoded row has the shape {row.shape}; expected ({len(self.dims)},)")
        codes = np.array([float(dim.from_unit(row[dim.position])) for dim in self.dims])
        return self._system.config(self._system.settle(codes[None])[0])

    def sample_encoded(self, n: int, rng: np.random.Generator) -> Floats:
        """`sample` in the encoding: shape ``(n, d)``, fewer rows where there are not that many."""
        return self._encoded(self._sampler.sample(n, rng))

    def snap(self, units: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The admissible encoded rows nearest to any numbers of shape ``(n, d)``, and which of them are feasible.

        Values go to their nearest in the domain, conditions decide what is active; constraints are checked, not repaired.
        """
        codes = np.empty(np.shape(units))
        for dim in self.dims:
            codes[:, dim.position] = dim.from_unit(units[:, dim.position])
        rows = self._system.settle(codes)
        return self._encoded(rows), self._system.feasible(rows)

    def around(self, units: Floats, limit: int, rng: np.random.Generator) -> Floats:
        """`neighbours` in the encoding: of one feasible row of shape ``(d,)``, shape ``(n, d)`` with n up to `limit`."""
        codes = np.array([float(dim.from_unit(units[dim.position])) for dim in self.dims])
        return self._encoded(neighbours(self._feasible, codes, limit, rng))

    def _encoded(self, rows: Rows) -> Floats:
        encoded = np.empty(rows.shape)
        for dim in self.dims:
            encoded[:, dim.position] = dim.to_unit(rows[:, dim.position])
        return encoded

    def distance(self, a: Config, b: Config) -> float:
        """Euclidean distance of encoded configurations; unequal categories, and active beside inactive, count 1."""
        rows = self._matrix([a, b])
        return float(np.sqrt(squared_differences(self._system, rows[:1], rows[1:]).sum()))

    # Identity

    def canonical_json(self, config: Config) -> str:
        """One text per configuration: sorted keys, no spaces, numbers in the type of their parameter."""
        return self._canonical.json(config)

    def config_hash(self, config: Config) -> str:
        """SHA-256 of `canonical_json`, hexadecimal."""
        return self._canonical.hash(config)

    def to_dict(self) -> dict[str, Any]:
        """JSON form. Callable constraints are kept by name; `from_dict` needs them back."""
        return {
            "format": _FORMAT,
            "parameters": [p.to_dict() for p in self.parameters],
            "constraints": [_constraint_dict(c) for c in self.constraints],
            "anchors": [dict(a) for a in self.anchors],
            "max_rows": self.max_rows,
        }

    @classmethod
    def from_dict(
        cls, given: Mapping[str, Any], callables: Mapping[str, Callable[..., Any]] | None = None
    ) -> SearchSpace:
        """Read `to_dict`'s form.

        Args:
            given: what `to_dict` returned, perhaps by way of JSON.
            callables: the functions of callable constraints by name.

        Raises:
            UsageError: for another format, wrong fields, or a callable that is not given.
        """
        if given.get("format") != _FORMAT:
            raise UsageError(f"search space has format {given.get('format')!r}; this version reads format {_FORMAT}")
        constraints: list[str | Constraint | TableConstraint] = []
        for one in given.get("constraints", []):
            if isinstance(one, str):
                constraints.append(one)
                continue
            if isinstance(one, Mapping) and "table" in one:
                constraints.append(TableConstraint.from_dict(one["table"]))
                continue
            name = one.get("callable") if isinstance(one, Mapping) else None
            if name is None:
                raise UsageError(f"constraint {one!r} is neither text nor the name of a callable")
            if callables is None or name not in callables:
                raise UsageError(
                    f"constraint {name!r} is a function that is not stored; give callables={{{name!r}: function}}"
                )
            names = one.get("parameters")
            wanted = None if names is None else tuple(names)
            constraints.append(Constraint(callables[name], name, wanted, columns=bool(one.get("columns", False))))
        parameters = [parameter_from_dict(p) for p in given.get("parameters", [])]
        return cls(parameters, constraints, given.get("anchors", []), max_rows=given.get("max_rows", MAX_ROWS))

    def definition_hash(self) -> str:
        """SHA-256 of parameters and constraints (not of anchors and limits); equal for equal definitions on every machine."""
        definition = {name: part for name, part in self.to_dict().items() if name not in ("anchors", "max_rows")}
        text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _matrix(self, configs: Iterable[Config]) -> Rows:
        return self._system.matrix([self._system.row(config) for config in configs])

    def _checked_anchor(self, config: Config) -> Config:
        reasons = self.explain(config)
        if reasons:
            raise UsageError(f"anchor {config!r} is infeasible: {'; '.join(reasons)}")
        return self.validate(config)


def _as_constraint(
    given: str | Callable[..., Any] | Constraint | TableConstraint,
) -> str | Constraint | TableConstraint:
    if isinstance(given, (str, Constraint, TableConstraint)):
        return given
    if callable(given):
        return Constraint(given)
    raise UsageError(f"constraint {given!r} is neither text nor callable")


def _constraint_dict(constraint: str | Constraint | TableConstraint) -> str | dict[str, Any]:
    if isinstance(constraint, str):
        return constraint
    if isinstance(constraint, TableConstraint):
        return constraint.to_dict()
    names = constraint.parameters
    kept: dict[str, Any] = {"callable": constraint.name, "parameters": None if names is None else list(names)}
    return {**kept, "columns": True} if constraint.columns else kept


def _elements(parameter: Parameter, value: Any) -> list[Any]:
    """The elements of a value of any shape, as many as the parameter has; what lacks becomes the default."""
    if parameter.size is None:
        return [value]
    given = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * parameter.size
    return [given[i] if i < len(given) else parameter.default_at(i) for i in range(parameter.size)]

"""The five kinds of parameter: what values one may take, and how a given value is read into its canonical type."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from autotune.errors import UsageError

Config = dict[str, Any]
"""One configuration: a value by parameter name, a list for a vector parameter; inactive parameters are absent."""

# Doubles hold every integer up to here, so that columns of numbers compare exactly as Python integers do.
_EXACT = 2**53
MAX_SIZE = 100_000  # elements of a vector: far more than a model has layers, and still laid out within a second
_RESERVED = frozenset([
    "and", "or", "not", "in", "is", "if", "else", "True", "False", "None",
    "min", "max", "abs", "sum", "len", "all", "any", "log2", "sqrt", "ceil", "floor",
])  # fmt: skip


@dataclass(frozen=True)
class Parameter(ABC):
    """One knob of a search space.

    Args:
        name: an identifier; constraints refer to it.
        when: text over earlier parameters; the parameter exists only where it is true (and those are active).
        size: makes a vector of that many independent values, a list in the configuration. None is one plain value.
        default: the value that people use today; for a vector one value for all elements, or a list.
    """

    name: str
    when: str | None = field(default=None, kw_only=True)
    size: int | None = field(default=None, kw_only=True)
    default: Any = field(default=None, kw_only=True)

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name.startswith("__"):
            raise UsageError(f"parameter name {self.name!r} is not an identifier; use letters, digits and underscores")
        if self.name in _RESERVED:
            raise UsageError(f"parameter name {self.name!r} is a word of the constraint language; choose another name")
        whole = isinstance(self.size, int) and not isinstance(self.size, bool)
        if self.size is not None and not (whole and 1 <= self.size <= MAX_SIZE):
            raise UsageError(
                f"parameter {self.name}: size is {self.size!r}; give a whole number from 1 to {MAX_SIZE}, or None"
            )
        if self.when is not None and (not isinstance(self.when, str) or not self.when.strip()):
            raise UsageError(f"parameter {self.name}: when is {self.when!r}; give a condition as text, or None")
        self._check_domain()
        if self.default is not None:
            object.__setattr__(self, "default", self._read_default(self.default))

    @abstractmethod
    def _check_domain(self) -> None:
        """Raise `UsageError` where the declared domain makes no sense."""

    @property
    @abstractmethod
    def n_values(self) -> int | None:
        """How many values one element may take; None where there is a continuum."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """The canonical form of one element.

        Raises:
            ValueError: with the rest of a sentence that starts with the parameter's name and value.
        """

    @abstractmethod
    def nearest(self, value: Any) -> Any:
        """The admissible element nearest to any given value; the default where no distance is defined."""

    @abstractmethod
    def domain(self) -> dict[str, Any]:
        """The fields that this kind adds, for `to_dict`."""

    @abstractmethod
    def _middle(self) -> Any:
        """What stands in where no default was given."""

    def default_at(self, index: int | None) -> Any:
        """The default of one element: the declared one, else the middle of numbers and the first of choices."""
        if self.default is None:
            return self._middle()
        return self.default if index is None or not isinstance(self.default, tuple) else self.default[index]

    def check_all(self, value: Any) -> Any:
        """The canonical form of the whole value: one element, or a list of `size` elements.

        Raises:
            ValueError: as `check`.
        """
        if self.size is None:
            return self.check(value)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, (list, tuple)) or len(value) != self.size:
            raise ValueError(f"must be a list of {self.size} values")
        checked = []
        for i, element in enumerate(value):
            try:
                checked.append(self.check(element))
            except ValueError as error:
                raise ValueError(f"has the element [{i}] = {element!r}, which {error}") from None
        return checked

    def to_dict(self) -> dict[str, Any]:
        """JSON form; fields that keep their default are left out."""
        out: dict[str, Any] = {"kind": self.kind, "name": self.name, **self.domain()}
        if self.when is not None:
            out["when"] = self.when
        if self.size is not None:
            out["size"] = self.size
        if self.default is not None:
            out["default"] = list(self.default) if isinstance(self.default, tuple) else self.default
        return out

    def _read_default(self, default: Any) -> Any:
        try:
            if self.size is not None and isinstance(default, (list, tuple, np.ndarray)):
                return tuple(self.check_all(default))
            return self.check(default)
        except ValueError as error:
            raise UsageError(f"parameter {self.name}: default {default!r} {error}") from None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> int | float:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"is not a number but {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is not finite")
    return value


def _bounds(parameter: Float | Int) -> tuple[Any, Any]:
    try:
        low, high = _number(parameter.low), _number(parameter.high)
    except ValueError as error:
        raise UsageError(
            f"parameter {parameter.name}: bounds are [{parameter.low!r}, {parameter.high!r}], of which one {error}"
        ) from None
    if low > high:
        raise UsageError(f"parameter {parameter.name}: low={low} is above high={high}; swap them")
    if parameter.log and low <= 0:
        raise UsageError(f"parameter {parameter.name}: log=True needs low > 0, but low={low}")
    return low, high


@dataclass(frozen=True)
class Float(Parameter):
    """A real number in ``[low, high]``; `log` searches it on a logarithmic scale."""

    low: float
    high: float
    log: bool = False
    kind: ClassVar[str] = "float"

    def _check_domain(self) -> None:
        low, high = _bounds(self)
        if not math.isfinite(float(high) - float(low)):
            raise UsageError(f"parameter {self.name}: the width of [{low}, {high}] is not a finite number; narrow it")
        object.__setattr__(self, "low", float(low))
        object.__setattr__(self, "high", float(high))

    @property
    def n_values(self) -> int | None:
        return 1 if self.low == self.high else None

    def check(self, value: Any) -> float:
        number = float(_number(value)) + 0.0  # -0.0 becomes 0.0
        if not self.low <= number <= self.high:
            raise ValueError(f"is outside [{self.low}, {self.high}]")
        return number

    def nearest(self, value: Any) -> float:
        value = _plain(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            return float(self._middle() if self.default is None or isinstance(self.default, tuple) else self.default)
        return float(min(max(value, self.low), self.high)) + 0.0

    def _middle(self) -> float:
        middle = math.sqrt(self.low) * math.sqrt(self.high) if self.log else self.low + (self.high - self.low) / 2
        return min(max(middle, self.low), self.high)

    def domain(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Int(Parameter):
    """A whole number ``low, low + step, ...`` up to `high`; `log` searches it on a logarithmic scale."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    kind: ClassVar[str] = "int"

    def _check_domain(self) -> None:
        for name, bound in (("low", self.low), ("high", self.high), ("step", self.step)):
            if isinstance(bound, bool) or not isinstance(_plain(bound), int):
                raise UsageError(f"parameter {self.name}: {name}={bound!r} is not a whole number; use Float for others")
            if abs(bound) > _EXACT:
                raise UsageError(f"parameter {self.name}: {name}={bound} is beyond 2**53; use a smaller unit")
            object.__setattr__(self, name, int(bound))
        if self.step < 1:
            raise UsageError(f"parameter {self.name}: step={self.step}; give a whole number of at least 1")
        _bounds(self)

    @property
    def n_values(self) -> int:
        return (self.high - self.low) // self.step + 1

    @property
    def top(self) -> int:
        """The largest value that the steps from `low` reach."""
        return self.low + (self.n_values - 1) * self.step

    def check(self, value: Any) -> int:
        number = _number(value)
        if number != int(number):
            raise ValueError("is not a whole number")
        number = int(number)
        if not self.low <= number <= self.high:
            raise ValueError(f"is outside [{self.low}, {self.high}]")
        if (number - self.low) % self.step:
            raise ValueError(f"is not {self.low} plus a multiple of {self.step}")
        return number

    def nearest(self, value: Any) -> int:
        value = _plain(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            return int(self._middle() if self.default is None or isinstance(self.default, tuple) else self.default)
        clipped = min(max(value, self.low), self.top)
        return min(self.low + round((clipped - self.low) / self.step) * self.step, self.top)

    def _middle(self) -> int:
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return min(self.low + int((middle - self.low) / self.step) * self.step, self.top)

    def domain(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"log": True} if self.log else {}
        return {"low": self.low, "high": self.high, **extra, **({"step": self.step} if self.step != 1 else {})}


@dataclass(frozen=True)
class _Listed(Parameter):
    """A parameter whose values are listed one by one."""

    def _listed(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def _read_list(self, what: str, given: Iterable[Any]) -> None:
        if isinstance(given, (str, bytes, Mapping, Set)) or not isinstance(given, Iterable):
            raise UsageError(f"parameter {self.name}: {what} is {given!r}; give a list, which has an order")
        values = tuple(_plain(value) for value in given)
        if not values:
            raise UsageError(f"parameter {self.name}: {what} is empty; give at least one value")
        for value in values:
            if not isinstance(value, (bool, int, float, str, type(None))):
                raise UsageError(f"parameter {self.name}: {what} holds {value!r}; use numbers, text, booleans or None")
            if isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) <= 1e300):
                raise UsageError(f"parameter {self.name}: {what} holds {value!r}, which is not a usable number")
            if isinstance(value, int) and abs(value) > _EXACT:
                raise UsageError(f"parameter {self.name}: {what} holds {value}, beyond 2**53; use a smaller unit")
        twice = [v for i, v in enumerate(values) if v in values[:i]]
        if twice:
            raise UsageError(f"parameter {self.name}: {what} holds {twice[0]!r} twice; name each value once")
        object.__setattr__(self, what, values)
        # True equals 1 in Python but is not the same value in a configuration, hence the flag in the key.
        object.__setattr__(self, "_by_value", {(isinstance(v, bool), v): v for v in values})

    @property
    def n_values(self) -> int:
        return len(self._listed())

    def check(self, value: Any) -> Any:
        value = _plain(value)
        try:
            return self.__dict__["_by_value"][(isinstance(value, bool), value)]
        except (KeyError, TypeError):
            values = self._listed()
            shown = ", ".join(repr(v) for v in values[:12]) + (", ..." if len(values) > 12 else "")
            raise ValueError(f"is not one of: {shown}") from None

    def nearest(self, value: Any) -> Any:
        try:
            return self.check(value)
        except ValueError:
            return self._substitute(_plain(value))

    def _substitute(self, value: Any) -> Any:
        return self._middle() if self.default is None or isinstance(self.default, tuple) else self.default

    def _middle(self) -> Any:
        return self._listed()[0]


@dataclass(frozen=True)
class Ordinal(_Listed):
    """Any values that have an order, which is the order in which they are given: ``[1, 2, 4, 8]`` or texts."""

    values: tuple[Any, ...]
    kind: ClassVar[str] = "ordinal"

    def __init__(
        self, name: str, values: Iterable[Any], *, when: str | None = None, size: int | None = None, default: Any = None
    ) -> None:
        _assign(self, name=name, values=values, when=when, size=size, default=default)
        self.__post_init__()

    def _check_domain(self) -> None:
        self._read_list("values", self.values)

    def _listed(self) -> tuple[Any, ...]:
        return self.values

    def _substitute(self, value: Any) -> Any:
        numbers = all(isinstance(v, (int, float)) for v in self.values)
        if numbers and isinstance(value, (int, float)) and not math.isnan(value):
            return min(self.values, key=lambda v: abs(v - value))
        return super()._substitute(value)

    def _middle(self) -> Any:
        return self.values[(len(self.values) - 1) // 2]

    def domain(self) -> dict[str, Any]:
        return {"values": list(self.values)}


@dataclass(frozen=True)
class Categorical(_Listed):
    """One of several choices without an order."""

    choices: tuple[Any, ...]
    kind: ClassVar[str] = "categorical"

    def __init__(
        self,
        name: str,
        choices: Iterable[Any],
        *,
        when: str | None = None,
        size: int | None = None,
        default: Any = None,
    ) -> None:
        _assign(self, name=name, choices=choices, when=when, size=size, default=default)
        self.__post_init__()

    def _check_domain(self) -> None:
        self._read_list("choices", self.choices)

    def _listed(self) -> tuple[Any, ...]:
        return self.choices

    def domain(self) -> dict[str, Any]:
        return {"choices": list(self.choices)}


@dataclass(frozen=True)
class Bool(_Listed):
    """True or False."""

    kind: ClassVar[str] = "bool"

    def _check_domain(self) -> None:
        self._read_list("_values", (False, True))

    def _listed(self) -> tuple[Any, ...]:
        return (False, True)

    def domain(self) -> dict[str, Any]:
        return {}


def _assign(parameter: Parameter, **fields: Any) -> None:
    for name, value in fields.items():
        object.__setattr__(parameter, name, value)


_KINDS: dict[str, type[Parameter]] = {c.kind: c for c in (Float, Int, Ordinal, Categorical, Bool)}


def parameter_from_dict(given: Mapping[str, Any]) -> Parameter:
    """Read one parameter from its JSON form.

    Raises:
        UsageError: naming the kind or the field that is wrong.
    """
    fields = dict(given)
    kind = fields.pop("kind", None)
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise UsageError(f"parameter {fields.get('name')!r}: kind is {kind!r}; use one of: {', '.join(_KINDS)}")
    try:
        return cls(**fields)
    except TypeError as error:
        raise UsageError(f"parameter {fields.get('name')!r} of kind {kind}: {error}") from None

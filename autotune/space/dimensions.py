"""Scalar dimensions: every element of every parameter, with its values as numbers and their place in ``[0, 1]``.

The *code* of a value is the number that columns hold: numbers (and booleans) stand for themselves; texts, None and
values of lists that mix kinds get a whole number each, the same one throughout a space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autotune.space.nodes import Number
from autotune.space.parameters import Bool, Categorical, Float, Int, Ordinal, Parameter

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
ValueType = Literal["number", "text", "mixed"]


class Codes:
    """Numbers for values that are not numbers; equal values (in Python's sense) share one."""

    def __init__(self) -> None:
        self._by_value: dict[Any, int] = {}

    def of(self, value: Any) -> int:
        return self._by_value.setdefault(value, len(self._by_value))


def value_type(parameter: Parameter) -> ValueType:
    """What the values of a parameter are, for the type rules of the constraint language."""
    if isinstance(parameter, (Ordinal, Categorical)):
        values = parameter._listed()
        if all(isinstance(v, str) for v in values):
            return "text"
        if not all(isinstance(v, (bool, int, float)) for v in values):
            return "mixed"
    return "number"


@dataclass(frozen=True, eq=False)
class Dimension:
    """One scalar dimension of a space.

    Attributes:
        name: ``tp`` or, for an element of a vector, ``budget[3]``.
        parameter: the parameter that it belongs to.
        index: the place in the vector; None for a plain parameter.
        position: the column of this dimension in every matrix of the space.
        n_values: the number of values; None for a continuum.
    """

    name: str
    parameter: Parameter
    index: int | None
    position: int
    n_values: int | None
    codes: tuple[Number, ...] | None  # of listed values, in their order
    values: tuple[Any, ...] | None

    @property
    def kind(self) -> str:
        """``float``, ``int``, ``ordinal``, ``categorical`` or ``bool``."""
        return self.parameter.kind

    @property
    def log(self) -> bool:
        """Whether the dimension is searched on a logarithmic scale."""
        return isinstance(self.parameter, (Float, Int)) and self.parameter.log

    @property
    def ordered(self) -> bool:
        """Whether a step up or down means something."""
        return not isinstance(self.parameter, (Categorical, Bool))

    @property
    def numeric(self) -> bool:
        """Whether codes are amounts, so that one may be taken here and given there."""
        return self.ordered and value_type(self.parameter) == "number"

    @property
    def low(self) -> Number:
        """The smallest code."""
        return min(self.codes) if self.codes is not None else self.parameter.low  # type: ignore[attr-defined]

    @property
    def high(self) -> Number:
        """The largest code."""
        if self.codes is not None:
            return max(self.codes)
        return self.parameter.top if isinstance(self.parameter, Int) else self.parameter.high  # type: ignore[attr-defined]

    @property
    def integral(self) -> bool:
        """Whether all codes are whole numbers."""
        if self.codes is not None:
            return all(isinstance(c, int) for c in self.codes)
        return isinstance(self.parameter, Int)

    def grid(self) -> Array:
        """All codes in the order of the values, shape ``(n_values,)``; only for finite dimensions."""
        if self.codes is not None:
            return np.array([int(c) if self.integral else float(c) for c in self.codes])
        if isinstance(self.parameter, Int):
            return self.parameter.low + self.parameter.step * np.arange(self.parameter.n_values, dtype=np.int64)
        return np.array([self.parameter.low])  # type: ignore[attr-defined]

    def code(self, value: Any) -> Number:
        """The code of a canonical value."""
        if self.codes is None or self.values is None:
            return value  # type: ignore[no-any-return]
        return self.codes[_position(self.values, value)]

    def value(self, code: float) -> Any:
        """The canonical value of a code."""
        if self.codes is not None and self.values is not None:
            return self.values[self.codes.index(code)]
        return int(code) if isinstance(self.parameter, Int) else float(code)

    def decoded(self, codes: Array) -> Array:
        """The values of codes, of the same shape: numbers as numbers, texts and mixed values as objects. With inactive
        ones among them (NaN) all are objects, and these are None."""
        codes = np.asarray(codes)
        if np.isnan(codes).any():
            some = np.empty(codes.shape, dtype=object)
            active = ~np.isnan(codes)
            some[active] = self.decoded(codes[active])
            return some
        if self.codes is None or self.values is None or value_type(self.parameter) == "number":
            return codes.astype(np.int64 if self.integral else np.float64)
        values = np.empty(len(self.values), dtype=object)
        values[:] = self.values
        found: Array = values[self.rank(codes)]
        return found

    def rank(self, codes: Array) -> Array:
        """The place of each code among the values, shape as given; only for finite dimensions."""
        if isinstance(self.parameter, Int):
            return ((np.asarray(codes) - self.parameter.low) // self.parameter.step).astype(np.int64)
        grid = self.grid()
        order = np.argsort(grid, kind="stable")
        places: Array = order[np.searchsorted(grid[order], codes).clip(0, len(grid) - 1)]
        return places

    def to_unit(self, codes: Any) -> Floats:
        """Codes as numbers in ``[0, 1]``: by value on the declared scale for `Float` and `Int`, by place for lists."""
        codes = np.asarray(codes, dtype=float)
        if self.codes is not None:
            known = ~np.isnan(codes)
            places = self.rank(np.where(known, codes, self.codes[0])) / max(len(self.codes) - 1, 1)
            return np.where(known, places, np.nan)
        low, high = float(self.low), float(self.high)
        if low == high:
            return np.where(np.isnan(codes), np.nan, 0.0)
        scaled = np.log(codes / low) / math.log(high / low) if self.log else (codes - low) / (high - low)
        units: Floats = np.clip(scaled, 0.0, 1.0)
        return units

    def from_unit(self, units: Any) -> Floats:
        """The nearest code to each number in ``[0, 1]``; NaN stays NaN."""
        units = np.clip(np.asarray(units, dtype=float), 0.0, 1.0)
        if self.codes is not None:
            places = np.rint(np.nan_to_num(units) * (len(self.codes) - 1)).astype(np.int64)
            return np.where(np.isnan(units), np.nan, np.array(self.codes, dtype=float)[places])
        low, high = float(self.low), float(self.high)
        raw = low * np.exp(units * math.log(high / low)) if self.log else low + units * (high - low)
        if isinstance(self.parameter, Int):
            raw = low + np.rint((raw - low) / self.parameter.step) * self.parameter.step
        codes: Floats = np.clip(raw, low, high)
        return codes


def _position(values: Sequence[Any], value: Any) -> int:
    return next(i for i, v in enumerate(values) if v == value and isinstance(v, bool) == isinstance(value, bool))


def flatten(parameters: Sequence[Parameter], codes: Codes) -> tuple[Dimension, ...]:
    """The dimensions of some parameters, in their order; element by element for vectors."""
    dimensions: list[Dimension] = []
    for parameter in parameters:
        values: tuple[Any, ...] | None = None
        coded: tuple[Number, ...] | None = None
        if isinstance(parameter, (Ordinal, Categorical, Bool)):
            values = parameter._listed()
            plain = value_type(parameter) == "number"
            coded = tuple((int(v) if isinstance(v, bool) else v) if plain else codes.of(v) for v in values)
        for index in [None] if parameter.size is None else range(parameter.size):
            name = parameter.name if index is None else f"{parameter.name}[{index}]"
            position = len(dimensions)
            dimensions.append(Dimension(name, parameter, index, position, parameter.n_values, coded, values))
    return tuple(dimensions)

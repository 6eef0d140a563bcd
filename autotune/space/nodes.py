"""The constraint language after parsing: a tree of allow-listed scalar nodes, and its exact value on one configuration.

Vectors are gone at this stage: ``sum(budget)`` has become a `Fold` over one `Var` per element. All values are numbers;
text choices have been replaced by codes (`autotune.space.dimensions`). Truth values are 0 and 1.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

Number = int | float

# 1e1233 is the largest power that is computed; above it the power is an error rather than a memory bomb.
_MAX_POWER_BITS = 4096


class Node:
    """One node. `integral` says that its value is a whole number for every configuration on which it has a value."""

    __slots__ = ()
    integral: bool

    def value(self, row: Sequence[Number]) -> Number:
        """The value for one configuration, `row` holding one number per dimension of the space.

        Raises:
            ArithmeticError, ValueError: where it has none (division by zero, logarithm of a negative number).
        """
        raise NotImplementedError

    def children(self) -> tuple[Node, ...]:
        return ()

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children():
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Const(Node):
    """A number."""

    number: Number

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return isinstance(self.number, int)

    def value(self, row: Sequence[Number]) -> Number:
        return self.number


@dataclass(frozen=True, slots=True)
class Var(Node):
    """The value of one dimension."""

    dim: int
    integral: bool

    def value(self, row: Sequence[Number]) -> Number:
        return row[self.dim]


def power(base: Number, exponent: Number) -> Number:
    """``base ** exponent`` in real numbers, refusing results too large to be meant.

    Raises:
        OverflowError, ValueError, ZeroDivisionError: too large, a root of a negative number, a power of zero.
    """
    if isinstance(base, int) and isinstance(exponent, int) and exponent * base.bit_length() > _MAX_POWER_BITS:
        raise OverflowError("the power is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError("the root of a negative number")
    return cast(Number, result)


_UNARY: dict[str, Callable[[Number], Number]] = {
    "neg": operator.neg, "abs": abs, "log2": math.log2, "sqrt": math.sqrt, "ceil": math.ceil, "floor": math.floor,
}  # fmt: skip
UNARY_FUNCTIONS = frozenset(_UNARY) - {"neg"}


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """One of `_UNARY` of one argument."""

    op: str
    arg: Node

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return self.op in ("ceil", "floor") or (self.op in ("neg", "abs") and self.arg.integral)

    def value(self, row: Sequence[Number]) -> Number:
        return _UNARY[self.op](self.arg.value(row))

    def children(self) -> tuple[Node, ...]:
        return (self.arg,)


_BINARY: dict[str, Callable[[Number, Number], Number]] = {
    "/": operator.truediv, "//": operator.floordiv, "%": operator.mod, "**": power,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Division, floor division, remainder or power."""

    op: str
    left: Node
    right: Node

    @property
    def integral(self) -> bool:  # type: ignore[override]
        both = self.left.integral and self.right.integral
        if self.op == "**":
            return both and isinstance(self.right, Const) and self.right.number >= 0
        return both and self.op != "/"

    def value(self, row: Sequence[Number]) -> Number:
        return _BINARY[self.op](self.left.value(row), self.right.value(row))

    def children(self) -> tuple[Node, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, slots=True)
class Fold(Node):
    """``sum``, ``prod``, ``min`` or ``max`` of at least one item, taken from left to right (the order matters to floats)."""

    op: str
    items: tuple[Node, ...]
    STEP: ClassVar[dict[str, Callable[[Number, Number], Number]]] = {
        "sum": operator.add, "prod": operator.mul, "min": min, "max": max,
    }  # fmt: skip

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return all(item.integral for item in self.items)

    def value(self, row: Sequence[Number]) -> Number:
        step = self.STEP[self.op]
        result = self.items[0].value(row)
        for item in self.items[1:]:
            result = step(result, item.value(row))
        return result

    def children(self) -> tuple[Node, ...]:
        return self.items


COMPARISONS: dict[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """One comparison; chains have become conjunctions."""

    op: str
    left: Node
    right: Node

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return True

    def value(self, row: Sequence[Number]) -> Number:
        return COMPARISONS[self.op](self.left.value(row), self.right.value(row))

    def children(self) -> tuple[Node, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, slots=True)
class Member(Node):
    """Whether the argument is one of some numbers."""

    arg: Node
    numbers: tuple[Number, ...]

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return True

    def value(self, row: Sequence[Number]) -> Number:
        return self.arg.value(row) in self.numbers

    def children(self) -> tuple[Node, ...]:
        return (self.arg,)


@dataclass(frozen=True, slots=True)
class Not(Node):
    """Negation."""

    arg: Node

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return True

    def value(self, row: Sequence[Number]) -> Number:
        return not self.arg.value(row)

    def children(self) -> tuple[Node, ...]:
        return (self.arg,)


@dataclass(frozen=True, slots=True)
class Junction(Node):
    """``and`` or ``or`` as a truth value; what follows the deciding item is not evaluated and so cannot fail."""

    op: str
    items: tuple[Node, ...]

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return True

    def value(self, row: Sequence[Number]) -> Number:
        decided_by = self.op == "or"
        return next((decided_by for item in self.items if bool(item.value(row)) is decided_by), not decided_by)

    def children(self) -> tuple[Node, ...]:
        return self.items


@dataclass(frozen=True, slots=True)
class Choice(Node):
    """``then if condition else other``."""

    condition: Node
    then: Node
    other: Node

    @property
    def integral(self) -> bool:  # type: ignore[override]
        return self.then.integral and self.other.integral

    def value(self, row: Sequence[Number]) -> Number:
        return (self.then if self.condition.value(row) else self.other).value(row)

    def children(self) -> tuple[Node, ...]:
        return (self.condition, self.then, self.other)

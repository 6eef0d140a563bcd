"""Exact evaluation of a constraint tree on whole columns of configurations at once.

Columns are arrays of any mutually broadcastable shapes: an enumeration passes ``(n, 1)`` for what is assigned and
``(1, k)`` for the candidates of the next dimension, so that what depends on one of the two is computed once.
The result equals `Node.value` row by row as long as no whole number exceeds 2**53 (`intervals.fits_double`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autotune.space.nodes import Binary, Choice, Compare, Const, Fold, Junction, Member, Node, Not, Unary, Var, power

Array = npt.NDArray[Any]
Columns = Mapping[int, Array]


class Column(NamedTuple):
    """Values, and where there are none (None where there are values everywhere)."""

    values: Any
    failed: Any


def evaluate(node: Node, columns: Columns) -> Column:
    """Values of `node`; call under ``numpy.errstate(all="ignore")``."""
    return _EVALUATE[type(node)](node, columns)


def holds(node: Node, columns: Columns) -> Any:
    """Where the constraint is true and can be evaluated: a Boolean array or scalar."""
    with np.errstate(all="ignore"):
        values, failed = evaluate(node, columns)
        truth = as_bool(values)
        return truth if failed is None else truth & ~failed


def as_bool(values: Any) -> Any:
    return values if values.dtype == np.bool_ else values != 0


def as_number(values: Any) -> Any:
    return values.astype(np.int64) if values.dtype == np.bool_ else values


def either(a: Any, b: Any) -> Any:
    """Union of two masks of which each may be None."""
    if a is None:
        return b
    return a if b is None else a | b


def order_items(values: list[Any], commutative: bool) -> list[Any]:
    """Small shapes first where the order is free, so that large intermediate results are few."""
    return sorted(values, key=np.size) if commutative else values


def _const(node: Node, _: Columns) -> Column:
    assert isinstance(node, Const)
    number = node.number
    # Beyond int64 only an unsafe tree can go, and those are evaluated row by row.
    return Column(np.int64(number) if isinstance(number, int) else np.float64(number), None)


def _var(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Var)
    return Column(columns[node.dim], None)


def _by_value(function: Callable[[float], float], values: Any) -> Any:
    # The C library's functions and numpy's vector units differ in the last bit; a table of the distinct values keeps
    # both ways of evaluating identical, and columns hold few distinct values.
    distinct, where = np.unique(values, return_inverse=True)
    table = np.array([function(v) for v in distinct.tolist()], dtype=float)
    return table[where].reshape(np.shape(values))


def _unary(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Unary)
    values, failed = evaluate(node.arg, columns)
    values = as_number(values)
    if node.op == "neg":
        return Column(-values, failed)
    if node.op == "abs":
        return Column(np.abs(values), failed)
    if node.op in ("ceil", "floor"):
        if np.issubdtype(values.dtype, np.integer):
            return Column(values, failed)
        endless = ~np.isfinite(values)
        rounded = np.ceil(values) if node.op == "ceil" else np.floor(values)
        return Column(np.where(endless, 0.0, rounded), either(failed, endless))
    bad = values < 0 if node.op == "sqrt" else values <= 0
    safe = np.where(bad, 1, values)
    return Column(np.sqrt(safe) if node.op == "sqrt" else _by_value(math.log2, safe), either(failed, bad))


def _real_power(base: float, exponent: float) -> float:
    try:
        return float(power(base, exponent))
    except (ArithmeticError, ValueError):
        return math.nan


_POWER = np.frompyfunc(_real_power, 2, 1)


def _binary(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Binary)
    left, failed_left = evaluate(node.left, columns)
    right, failed_right = evaluate(node.right, columns)
    left, right, failed = as_number(left), as_number(right), either(failed_left, failed_right)
    if node.op == "**":
        if node.integral:
            return Column(left**right, failed)
        values = np.asarray(_POWER(left, right)).astype(float)
        return Column(values, either(failed, np.isnan(values)))
    zero = right == 0
    if zero.any():
        right, failed = np.where(zero, 1, right), either(failed, zero)
    if node.op == "/":
        return Column(left / right, failed)
    return Column(left // right if node.op == "//" else left % right, failed)


_STEP: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal,
}  # fmt: skip


def _fold(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Fold)
    values, failed = [], None
    for item in node.items:
        if type(item) is Var:  # long sums over a vector are the hottest loop of sampling and repair
            values.append(columns[item.dim])
            continue
        one, bad = evaluate(item, columns)
        values.append(as_number(one))
        failed = either(failed, bad)
    values = order_items(values, node.op in ("min", "max") or node.integral)
    result = values[0]
    for one in values[1:]:
        result = _STEP[node.op](result, one)
    return Column(result, failed)


def _compare(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Compare)
    left, failed_left = evaluate(node.left, columns)
    right, failed_right = evaluate(node.right, columns)
    return Column(_COMPARE[node.op](left, right), either(failed_left, failed_right))


def _member(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Member)
    values, failed = evaluate(node.arg, columns)
    return Column(np.isin(values, np.array(node.numbers)), failed)


def _not(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Not)
    values, failed = evaluate(node.arg, columns)
    return Column(~as_bool(values), failed)


def _junction(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Junction)
    values, failed = evaluate(node.items[0], columns)
    result = as_bool(values)
    for item in node.items[1:]:
        values, bad = evaluate(item, columns)
        if bad is not None:
            failed = either(failed, bad & (result if node.op == "and" else ~result))
        result = result & as_bool(values) if node.op == "and" else result | as_bool(values)
    return Column(result, failed)


def _choice(node: Node, columns: Columns) -> Column:
    assert isinstance(node, Choice)
    condition, failed = evaluate(node.condition, columns)
    condition = as_bool(condition)
    then, failed_then = evaluate(node.then, columns)
    other, failed_other = evaluate(node.other, columns)
    if failed_then is not None:
        failed = either(failed, failed_then & condition)
    if failed_other is not None:
        failed = either(failed, failed_other & ~condition)
    return Column(np.where(condition, as_number(then), as_number(other)), failed)


_EVALUATE: dict[type[Node], Callable[[Node, Columns], Column]] = {
    Const: _const, Var: _var, Unary: _unary, Binary: _binary, Fold: _fold, Compare: _compare, Member: _member,
    Not: _not, Junction: _junction, Choice: _choice,
}  # fmt: skip

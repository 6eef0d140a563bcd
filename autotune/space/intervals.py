"""Abstract evaluation of a constraint tree: some dimensions are known per row, the others only by their range.

Bounds are computed with the same operations in the same order as the exact values, and rounding to nearest is monotone,
so the bounds hold for the rounded values (R. E. Moore, Interval Analysis, 1966, chapter 3, without outward rounding;
only library functions that need not be monotone are widened). NaN in a bound means that nothing is known: every
decision below is a comparison that NaN makes false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from autotune.space.columns import _COMPARE, _STEP, as_number, order_items
from autotune.space.nodes import Binary, Choice, Compare, Const, Fold, Junction, Member, Node, Not, Unary, Var

# A point is held as the same object twice, which saves every second operation on assigned dimensions.
Box = Mapping[int, tuple[Any, Any]]

_SLACK = 1e-12  # relative; log2 and pow of common C libraries err by less than two units in the last place
_EXACT = 2.0**53


class Bounds(NamedTuple):
    """Bounds over all completions on which there is a value, and whether there may be one on which there is none.

    For a truth value, `low` is "must be true" and `high` is "may be true".
    """

    low: Any
    high: Any
    may_fail: Any


def bounds(node: Node, box: Box) -> Bounds:
    """Bounds of `node`; call under ``numpy.errstate(all="ignore")``."""
    return _BOUNDS[type(node)](node, box)


def truth(node: Node, box: Box) -> tuple[Any, Any]:
    """``(must, may)``: whether the constraint is true for all completions, and whether it may be for some."""
    with np.errstate(all="ignore"):
        must, may, may_fail = _truth(bounds(node, box))
        return must & ~np.asarray(may_fail), may


def fits_double(node: Node, box: Box) -> bool:
    """Whether no whole number in the tree can leave the range in which doubles and 64-bit integers are exact."""
    with np.errstate(all="ignore"):
        for part in node.walk():
            if isinstance(part, Const) and isinstance(part.number, int) and abs(part.number) > _EXACT:
                return False
        for part in node.walk():
            if part.integral and not isinstance(part, (Compare, Member, Not, Junction)):
                low, high, _ = bounds(part, box)
                if not (np.all(as_number(low) >= -_EXACT) and np.all(as_number(high) <= _EXACT)):
                    return False
    return True


def _is_point(b: Bounds) -> bool:
    return b.low is b.high


def _truth(b: Bounds) -> Bounds:
    if b.low.dtype == np.bool_:
        return b
    must = (b.low > 0) | (b.high < 0)
    return Bounds(must, must if _is_point(b) else ~((b.low == 0) & (b.high == 0)), b.may_fail)


def _number(b: Bounds) -> Bounds:
    if b.low.dtype != np.bool_:
        return b
    low = as_number(b.low)
    return Bounds(low, low if _is_point(b) else as_number(b.high), b.may_fail)


def _hull(corners: list[Any]) -> tuple[Any, Any]:
    low = high = corners[0]
    for corner in corners[1:]:
        low, high = np.minimum(low, corner), np.maximum(high, corner)
    return low, high


def _const(node: Node, _: Box) -> Bounds:
    assert isinstance(node, Const)
    number = np.int64(node.number) if isinstance(node.number, int) else np.float64(node.number)
    return Bounds(number, number, False)


def _var(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Var)
    low, high = box[node.dim]
    return Bounds(low, high, False)


def _widen(low: Any, high: Any) -> tuple[Any, Any]:
    return low - np.abs(low) * _SLACK - 1e-300, high + np.abs(high) * _SLACK + 1e-300


def _unary(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Unary)
    arg = _number(bounds(node.arg, box))
    low, high, may_fail = arg
    if node.op == "neg":
        negative = -high
        return Bounds(negative, negative if _is_point(arg) else -low, may_fail)
    if node.op == "abs":
        sizes = np.abs(low), np.abs(high)
        across = (low <= 0) & (high >= 0)
        return Bounds(np.where(across, 0, np.minimum(*sizes)), np.maximum(*sizes), may_fail)
    if node.op in ("ceil", "floor"):
        step = np.ceil if node.op == "ceil" else np.floor
        return Bounds(step(low), step(high), may_fail | ~np.isfinite(low) | ~np.isfinite(high))
    if node.op == "sqrt":
        return Bounds(np.sqrt(np.maximum(low, 0)), np.sqrt(np.maximum(high, 0)), may_fail | ~(low >= 0))
    logs = _widen(np.log2(np.maximum(low, 0)), np.log2(np.maximum(high, 0)))
    return Bounds(*logs, may_fail | ~(low > 0))


def _binary(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Binary)
    left, right = _number(bounds(node.left, box)), _number(bounds(node.right, box))
    may_fail = left.may_fail | right.may_fail
    if node.op == "**":
        return _power(left, right, may_fail)
    has_zero = ~((right.low > 0) | (right.high < 0))
    may_fail = may_fail | has_zero
    low_divisor = np.where(has_zero, 1, right.low)
    high_divisor = low_divisor if _is_point(right) else np.where(has_zero, 1, right.high)
    if node.op == "%":
        return _remainder(left, right, low_divisor, high_divisor, has_zero, node.integral, may_fail)
    divide = np.divide if node.op == "/" else np.floor_divide
    low, high = _hull([divide(a, b) for a in (left.low, left.high) for b in (low_divisor, high_divisor)])
    return Bounds(np.where(has_zero, np.nan, low), np.where(has_zero, np.nan, high), may_fail)


def _remainder(
    left: Bounds, right: Bounds, low_divisor: Any, high_divisor: Any, has_zero: Any, integral: bool, may_fail: Any
) -> Bounds:
    """The remainder has the divisor's sign and is smaller; it is monotone while the quotient stays the same."""
    margin = 1 if integral else 0
    positive = right.low > 0
    low = np.where(positive, 0, right.low + margin)
    high = np.where(positive, right.high - margin, 0)
    # A dividend that is not negative cannot grow by dividing it.
    high = np.where(positive & (left.low >= 0), np.minimum(high, left.high), high)
    one_divisor = low_divisor == high_divisor
    same = one_divisor & (np.floor_divide(left.low, low_divisor) == np.floor_divide(left.high, low_divisor))
    low = np.where(same, np.remainder(left.low, low_divisor), low)
    high = np.where(same, np.remainder(left.high, low_divisor), high)
    return Bounds(np.where(has_zero, np.nan, low), np.where(has_zero, np.nan, high), may_fail)


def _power(left: Bounds, right: Bounds, may_fail: Any) -> Bounds:
    """Corners of the box: for a positive base a power is monotone in either argument."""
    corners = [np.power(np.asarray(a, dtype=float), b) for a in (left.low, left.high) for b in (right.low, right.high)]
    low, high = _widen(*_hull(corners))
    # A whole exponent that is known keeps its meaning for negative bases; only the point case is worth having there.
    known = (left.low > 0) | ((left.low >= 0) & (right.low >= 0))
    point = (left.low == left.high) & (right.low == right.high)
    sound = known | point
    may_fail = may_fail | ~known | ~(np.abs(high) < 1e300)
    return Bounds(np.where(sound, low, np.nan), np.where(sound, high, np.nan), may_fail)


def _fold(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Fold)
    items = [_number(bounds(item, box)) for item in node.items]
    may_fail: Any = False
    for item in items:
        may_fail = may_fail | item.may_fail
    if node.op == "prod":
        result = items[0]
        for item in items[1:]:
            result = _product(result, item)
        return Bounds(result.low, result.high, may_fail)
    step, free = _STEP[node.op], node.op != "sum" or node.integral
    low = _reduce(step, order_items([item.low for item in items], free))
    if all(_is_point(item) for item in items):
        return Bounds(low, low, may_fail)
    return Bounds(low, _reduce(step, order_items([item.high for item in items], free)), may_fail)


def _reduce(step: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = step(result, value)
    return result


def _product(a: Bounds, b: Bounds) -> Bounds:
    if _is_point(a) and _is_point(b):
        value = a.low * b.low
        return Bounds(value, value, False)
    if np.all(a.low >= 0) and np.all(b.low >= 0):
        return Bounds(a.low * b.low, a.high * b.high, False)
    return Bounds(*_hull([x * y for x in (a.low, a.high) for y in (b.low, b.high)]), False)


def _compare(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Compare)
    a, b = _number(bounds(node.left, box)), _number(bounds(node.right, box))
    may_fail = a.may_fail | b.may_fail
    if _is_point(a) and _is_point(b):
        known = _COMPARE[node.op](a.low, b.low)
        return Bounds(known, known, may_fail)
    if node.op in ("==", "!="):
        apart = (a.low > b.high) | (b.low > a.high)
        equal = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
        return Bounds(equal, ~apart, may_fail) if node.op == "==" else Bounds(apart, ~equal, may_fail)
    if node.op in (">", ">="):
        a, b = b, a
    if node.op in ("<", ">"):
        return Bounds(a.high < b.low, ~(a.low >= b.high), may_fail)
    return Bounds(a.high <= b.low, ~(a.low > b.high), may_fail)


def _member(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Member)
    low, high, may_fail = _number(bounds(node.arg, box))
    numbers = np.sort(np.array(node.numbers))
    # The smallest admissible number that is not below the lower bound must not be above the upper one.
    place = np.minimum(np.searchsorted(numbers, low), len(numbers) - 1)
    inside = (numbers[place] >= low) & (numbers[place] <= high)
    unknown = np.isnan(low) | np.isnan(high)
    return Bounds(inside & (low == high), inside | unknown, may_fail)


def _not(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Not)
    must, may, may_fail = _truth(bounds(node.arg, box))
    return Bounds(~may, ~must, may_fail)


def _junction(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Junction)
    step = np.logical_and if node.op == "and" else np.logical_or
    must, may, may_fail = _truth(bounds(node.items[0], box))
    for item in node.items[1:]:
        other = _truth(bounds(item, box))
        must, may, may_fail = step(must, other.low), step(may, other.high), may_fail | other.may_fail
    return Bounds(must, may, may_fail)


def _choice(node: Node, box: Box) -> Bounds:
    assert isinstance(node, Choice)
    must, may, may_fail = _truth(bounds(node.condition, box))
    then, other = _number(bounds(node.then, box)), _number(bounds(node.other, box))
    low, high = _hull([then.low, other.low])[0], _hull([then.high, other.high])[1]
    low = np.where(must, then.low, np.where(may, low, other.low))
    high = np.where(must, then.high, np.where(may, high, other.high))
    return Bounds(low, high, may_fail | then.may_fail | other.may_fail)


_BOUNDS: dict[type[Node], Callable[[Node, Box], Bounds]] = {
    Const: _const, Var: _var, Unary: _unary, Binary: _binary, Fold: _fold, Compare: _compare, Member: _member,
    Not: _not, Junction: _junction, Choice: _choice,
}  # fmt: skip

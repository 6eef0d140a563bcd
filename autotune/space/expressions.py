"""Constraint text to a tree of allow-listed nodes: parsed by `ast`, checked for types, never compiled or evaluated.

The language: numbers, texts, True, False, None, parameter names, ``b[0]``, ``+ - * / // % **``, comparisons (chained),
``in`` and ``not in`` with literal lists or vectors, ``and or not``, ``a if c else b``, and calls of `FUNCTIONS`.
``and``/``or`` give truth values. Arithmetic and comparisons with a vector are taken element by element, so that
``all(budget <= 4)`` and ``sum(budget * ratio)`` mean what they say. Comparing an `Ordinal` of texts uses its order.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from autotune.errors import UsageError
from autotune.space.dimensions import Codes, Dimension, ValueType, value_type
from autotune.space.nodes import (
    COMPARISONS,
    UNARY_FUNCTIONS,
    Binary,
    Choice,
    Compare,
    Const,
    Fold,
    Junction,
    Member,
    Node,
    Not,
    Unary,
    Var,
)
from autotune.space.parameters import Ordinal

FUNCTIONS = ("min", "max", "abs", "sum", "len", "all", "any", "log2", "sqrt", "ceil", "floor")
MAX_TEXT = 10_000
MAX_DEPTH = 60  # of nesting; long sums and products are flat and do not count

_ALLOWED = (
    "allowed are numbers, texts, parameter names, + - * / // % **, comparisons, in, and, or, not, 'a if c else b', "
    f"b[0] and calls of {' '.join(FUNCTIONS)}"
)
_BINARY = {ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


@dataclass(frozen=True)
class Term:
    """One scalar expression with its type; `order` holds the values of an `Ordinal` of texts, `literal` a constant."""

    node: Node
    type: ValueType = "number"
    order: tuple[Any, ...] | None = None
    literal: Any = None


Value = Term | tuple[Term, ...]
Symbols = Mapping[str, Value]


def symbols(dimensions: tuple[Dimension, ...]) -> dict[str, Value]:
    """What each parameter name means: one term, or a tuple of terms for a vector."""
    table: dict[str, Value] = {}
    for d in dimensions:
        kind = value_type(d.parameter)
        order = d.values if isinstance(d.parameter, Ordinal) and kind == "text" else None
        term = Term(Var(d.position, d.integral), kind, order)
        if d.index is None:
            table[d.parameter.name] = term
        else:
            so_far = table.get(d.parameter.name, ())
            assert isinstance(so_far, tuple)
            table[d.parameter.name] = (*so_far, term)
    return table


@dataclass
class Parsed:
    """A truth-valued tree and the names of the parameters in its text, in order of appearance."""

    node: Node
    names: tuple[str, ...]


def parse(text: str, table: Symbols, codes: Codes, what: str = "constraint") -> Parsed:
    """Read one constraint or condition.

    Args:
        text: the expression.
        table: what the names mean.
        codes: the numbers that stand for texts in this space.
        what: how error messages call the text.

    Raises:
        UsageError: naming the text, the part that is not understood, and what is allowed.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"{what} {text[:60]!r}... has {len(text)} characters; at most {MAX_TEXT} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise UsageError(f"{what} {text!r} is not an expression: {error.msg}; {_ALLOWED}") from None
    except (ValueError, RecursionError, MemoryError):
        raise UsageError(
            f"{what} {text[:60]!r} cannot be parsed; it is nested too deeply or holds odd characters"
        ) from None
    return _Reader(text, table, codes, what).read(tree.body)


@dataclass
class _Reader:
    text: str
    table: Symbols
    codes: Codes
    what: str
    names: dict[str, None] = field(default_factory=dict)
    depth: int = 0

    def read(self, tree: ast.expr) -> Parsed:
        value = self.value(tree)
        if isinstance(value, tuple):
            self.fail(tree, "gives one value per element", "wrap it in all(...) or any(...)")
        return Parsed(self.truth(value, tree), tuple(self.names))

    def fail(self, part: ast.AST, problem: str, way_out: str = _ALLOWED) -> NoReturn:
        segment = ast.get_source_segment(self.text.strip(), part) or type(part).__name__
        shown = segment if len(segment) <= 80 else segment[:77] + "..."
        raise UsageError(f"{self.what} {self.text!r}: {shown!r} {problem}; {way_out}") from None

    def value(self, part: ast.expr) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(part, f"is nested deeper than {MAX_DEPTH} levels", "split it into several constraints")
        reader = _READERS.get(type(part))
        if reader is None:
            self.fail(part, "is not allowed")
        result = reader(self, part)
        self.depth -= 1
        return result

    def scalar(self, part: ast.expr) -> Term:
        value = self.value(part)
        if isinstance(value, tuple):
            self.fail(
                part, "is a vector where one value is needed", "use an element such as b[0], or sum, min, max, all, any"
            )
        return value

    def number(self, term: Term, part: ast.AST) -> Node:
        if term.type != "number":
            self.fail(part, "is not a number", "texts and None can only be compared with == != in")
        return term.node

    def truth(self, term: Term, part: ast.AST) -> Node:
        if term.type != "number":
            self.fail(part, "is not a truth value", "compare it with == or in")
        return term.node

    # Leaves

    def constant(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.Constant)
        value = part.value
        if isinstance(value, bool):
            return Term(Const(int(value)), literal=value)
        if isinstance(value, (int, float)):
            if isinstance(value, float) and not math.isfinite(value):
                self.fail(part, "is not a finite number", "use a smaller one")
            return Term(Const(value), literal=value)
        if isinstance(value, str):
            return Term(Const(self.codes.of(value)), "text", literal=value)
        if value is not None:
            self.fail(part, "is not allowed")
        return Term(Const(self.codes.of(None)), "mixed")

    def name(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.Name)
        if part.id not in self.table:
            close = difflib.get_close_matches(part.id, self.table, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            known = ", ".join(self.table) or "none"
            if part.id in FUNCTIONS:
                self.fail(part, "is a function and must be called", _ALLOWED)
            self.fail(part, "is not a known parameter", f"{hint}known are: {known}")
        self.names[part.id] = None
        return self.table[part.id]

    def index(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.Subscript)
        vector, at = self.value(part.value), part.slice
        negative = isinstance(at, ast.UnaryOp) and isinstance(at.op, ast.USub)
        literal = at.operand if isinstance(at, ast.UnaryOp) and negative else at
        if not isinstance(vector, tuple):
            self.fail(part, "indexes something that is not a vector", "only parameters with size= have elements")
        if not isinstance(literal, ast.Constant) or type(literal.value) is not int:
            self.fail(part, "has an index that is not a whole number", "write it out, as in b[0]")
        place = -literal.value if negative else literal.value
        if not -len(vector) <= place < len(vector):
            self.fail(part, f"is beyond the {len(vector)} elements", f"use 0 to {len(vector) - 1}")
        return vector[place]

    def sequence(self, part: ast.expr) -> Value:
        assert isinstance(part, (ast.Tuple, ast.List))
        return tuple(self.scalar(element) for element in part.elts)

    # Arithmetic

    def broadcast(self, part: ast.AST, values: list[Value], apply: Callable[[list[Term]], Term]) -> Value:
        sizes = {len(v) for v in values if isinstance(v, tuple)}
        if not sizes:
            return apply([v for v in values if isinstance(v, Term)])
        if len(sizes) > 1:
            self.fail(part, f"combines vectors of {' and '.join(map(str, sorted(sizes)))} elements", "use equal sizes")
        return tuple(apply([v[i] if isinstance(v, tuple) else v for v in values]) for i in range(sizes.pop()))

    def arithmetic(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.BinOp)
        if isinstance(part.op, (ast.Add, ast.Sub, ast.Mult)):
            return self.chain(part)
        op = _BINARY.get(type(part.op))
        if op is None:
            self.fail(part, "uses an operator that is not allowed")
        left, right = self.value(part.left), self.value(part.right)
        return self.broadcast(
            part, [left, right], lambda ab: Term(Binary(op, self.number(ab[0], part), self.number(ab[1], part)))
        )

    def chain(self, part: ast.BinOp) -> Value:
        """``a + b - c`` (or a product) as one flat fold, which keeps the order of evaluation and stays shallow."""
        product = isinstance(part.op, ast.Mult)
        kinds = (ast.Mult,) if product else (ast.Add, ast.Sub)
        reversed_items: list[tuple[ast.expr, bool]] = []
        first: ast.expr = part
        while isinstance(first, ast.BinOp) and isinstance(first.op, kinds):
            reversed_items.append((first.right, isinstance(first.op, ast.Sub)))
            first = first.left
        items = [(first, False), *reversed(reversed_items)]
        values = [self.value(item) for item, _ in items]

        def fold(terms: list[Term]) -> Term:
            nodes = [self.number(t, item) for t, (item, _) in zip(terms, items, strict=True)]
            signed = (Unary("neg", n) if minus else n for n, (_, minus) in zip(nodes, items, strict=True))
            return Term(Fold("prod" if product else "sum", tuple(signed)))

        return self.broadcast(part, values, fold)

    def unary(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.UnaryOp)
        value = self.value(part.operand)
        if isinstance(part.op, ast.Not):
            return self.broadcast(part, [value], lambda a: Term(Not(self.truth(a[0], part.operand))))
        if isinstance(part.op, ast.UAdd):
            return self.broadcast(part, [value], lambda a: Term(self.number(a[0], part.operand)))
        if not isinstance(part.op, ast.USub):
            self.fail(part, "uses an operator that is not allowed")

        def negate(terms: list[Term]) -> Term:
            node = self.number(terms[0], part.operand)
            if isinstance(node, Const):
                return Term(Const(-node.number), literal=-node.number)
            return Term(Unary("neg", node))

        return self.broadcast(part, [value], negate)

    # Truth

    def compare(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.Compare)
        operands = [part.left, *part.comparators]
        values = [self.value(o) for o in operands]
        links: list[Value] = []
        for i, op in enumerate(part.ops):
            if isinstance(op, (ast.In, ast.NotIn)):
                links.append(self.membership(part, values[i], values[i + 1], isinstance(op, ast.NotIn)))
            elif type(op) in _COMPARE:
                sign = _COMPARE[type(op)]
                links.append(
                    self.broadcast(part, values[i : i + 2], lambda ab, s=sign: self.comparison(s, ab[0], ab[1], part))  # type: ignore[misc]
                )
            else:
                self.fail(part, "uses 'is'", "use == instead")
        if len(links) == 1:
            return links[0]
        return self.broadcast(part, links, lambda terms: Term(Junction("and", tuple(t.node for t in terms))))

    def comparison(self, op: str, left: Term, right: Term, part: ast.AST) -> Term:
        if left.type == right.type == "number":
            return Term(Compare(op, left.node, right.node))
        if op not in ("==", "!="):
            return Term(self.ordered_texts(op, left, right, part))
        if "number" in (left.type, right.type):
            plain, other = (left, right) if left.type == "number" else (right, left)
            if other.type == "text":
                self.fail(part, "compares a number with text", "compare values of one kind")
            if plain.literal is None:
                self.fail(part, "compares mixed values with a computed number", "compare with a literal")
            left, right = other, Term(Const(self.codes.of(plain.literal)))
        return Term(Compare(op, left.node, right.node))

    def ordered_texts(self, op: str, left: Term, right: Term, part: ast.AST) -> Node:
        """Order among texts is that of an `Ordinal`; spelled out as alternatives, as codes carry no order."""
        order = left.order or right.order
        if order is None or (left.order and right.order and left.order != right.order):
            self.fail(part, "orders values that have no common order", "only an Ordinal of texts has one")
        for term in (left, right):
            if term.order is None and term.literal not in order:
                self.fail(part, f"compares with what is not one of {', '.join(map(repr, order))}", "use one of them")
        test = COMPARISONS[op]
        code = [self.codes.of(v) for v in order]
        lefts, rights = ([order.index(t.literal)] if t.order is None else range(len(order)) for t in (left, right))
        pairs = tuple(
            Junction("and", (Compare("==", left.node, Const(code[i])), Compare("==", right.node, Const(code[j]))))
            for i in lefts
            for j in rights
            if test(i, j)
        )
        return Junction("or", pairs) if pairs else Const(0)

    def membership(self, part: ast.AST, item: Value, group: Value, negated: bool) -> Value:
        if not isinstance(group, tuple):
            self.fail(part, "looks for a value in something that is not a list", "write a list such as [1, 2, 4]")
        members = group

        def test(terms: list[Term]) -> Term:
            node: Node
            term = terms[0]
            literals = [m.node.number for m in members if isinstance(m.node, Const)]
            if len(literals) == len(members) and all(m.type == term.type for m in members):
                node = Member(term.node, tuple(literals)) if literals else Const(0)
            else:
                # A number among texts is simply not the text, unlike in ==, where it is a slip.
                same = [
                    m
                    for m in members
                    if (m.type == "number") == (term.type == "number") or "mixed" in (m.type, term.type)
                ]
                equal = tuple(self.comparison("==", term, m, part).node for m in same)
                node = Junction("or", equal) if equal else Const(0)
            return Term(Not(node) if negated else node)

        return self.broadcast(part, [item], test)

    def junction(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.BoolOp)
        op = "and" if isinstance(part.op, ast.And) else "or"
        values = [self.value(v) for v in part.values]
        return self.broadcast(part, values, lambda ts: Term(Junction(op, tuple(self.truth(t, part) for t in ts))))

    def choice(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.IfExp)
        values = [self.value(part.test), self.value(part.body), self.value(part.orelse)]

        def choose(terms: list[Term]) -> Term:
            condition, then, other = terms
            if then.type != other.type:
                self.fail(part, "chooses between values of different kinds", "use one kind on both sides")
            return Term(Choice(self.truth(condition, part.test), then.node, other.node), then.type)

        return self.broadcast(part, values, choose)

    def call(self, part: ast.expr) -> Value:
        assert isinstance(part, ast.Call)
        if not isinstance(part.func, ast.Name) or part.func.id not in FUNCTIONS:
            self.fail(part.func, "cannot be called")
        name = part.func.id
        if part.keywords or any(isinstance(a, ast.Starred) for a in part.args):
            self.fail(part, "uses keyword or starred arguments", "give plain arguments")
        arguments = [self.value(a) for a in part.args]
        several = name in ("min", "max") and len(arguments) > 1
        if len(arguments) != 1 and not several:
            self.fail(part, f"gives {name} {len(arguments)} arguments", f"{name} takes one")
        if name in UNARY_FUNCTIONS:
            return self.broadcast(part, arguments, lambda a: Term(Unary(name, self.number(a[0], part))))
        if several:
            return self.broadcast(part, arguments, lambda ts: Term(Fold(name, tuple(self.number(t, part) for t in ts))))
        return Term(self.reduction(part, name, arguments[0]))

    def reduction(self, part: ast.AST, name: str, vector: Value) -> Node:
        if not isinstance(vector, tuple):
            self.fail(part, f"gives {name} a single value", "give a vector (a parameter with size=) or a list")
        if name == "len":
            return Const(len(vector))
        if not vector:
            if name in ("min", "max"):
                self.fail(part, f"takes the {name} of an empty list", "give at least one value")
            return Const(1 if name == "all" else 0)
        if name in ("all", "any"):
            return Junction("and" if name == "all" else "or", tuple(self.truth(t, part) for t in vector))
        return Fold(name, tuple(self.number(t, part) for t in vector))


_READERS: dict[type[ast.expr], Callable[[_Reader, ast.expr], Value]] = {
    ast.Constant: _Reader.constant, ast.Name: _Reader.name, ast.Subscript: _Reader.index, ast.Tuple: _Reader.sequence,
    ast.List: _Reader.sequence, ast.BinOp: _Reader.arithmetic, ast.UnaryOp: _Reader.unary, ast.Compare: _Reader.compare,
    ast.BoolOp: _Reader.junction, ast.IfExp: _Reader.choice, ast.Call: _Reader.call,
}  # fmt: skip

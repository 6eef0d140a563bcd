"""The constraint language: what is refused, what texts mean, and agreement of the three ways of evaluating."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.space import Bool, Categorical, Float, Int, Ordinal, SearchSpace
from autotune.space.constraints import CannotBeEvaluatedError, bind_text, full_box
from autotune.space.dimensions import Codes, Dimension, flatten
from autotune.space.expressions import symbols

PARAMETERS = [
    Int("a", -2, 3), Int("b", 0, 4), Float("x", -1.5, 2), Ordinal("o", [1, 2, 8]), Bool("f"), Categorical("k", ["p", "q"]),
    Ordinal("s", ["low", "mid", "high"]), Int("v", 0, 3, size=3),
]  # fmt: skip


def holds(text: str, **values: object) -> bool:
    """Whether a constraint holds, by the whole path of a user."""
    full = {"a": 1, "b": 2, "x": 0.5, "o": 2, "f": True, "k": "p", "s": "mid", "v": [1, 2, 3], **values}
    return SearchSpace(PARAMETERS, [text]).contains(full)


@pytest.mark.parametrize(
    "text",
    [
        "a.real > 1", "a.__class__", "__import__('os')", "().__class__.__bases__", "lambda: a", "(z := a) > 1",
        "[i for i in v] == v", "{a: 1}", "{a}", "f'{a}'", "open('x')", "eval('a')", "print(a)", "max(v, key=abs)",
        "sum(*v)", "v[a]", "v[0:2]", "v[True]", "a @ b", "a << b", "a & b", "~a", "a is b", "await a", "yield a",
        "a if b", "a >", "", "a; b", "a = 1", "import os", "b'x' == k", "1j > a", "...", "a\nb", "(i for i in v)",
        "a[0]", "v > 1", "v", "sum(a)", "len(a)", "max(a)", "min(v, a, )[0].x", "abs(a, b)", "max([])", "k + 1 > 2",
        "k", "not k", "k > 'a'", "k == 1", "s > 'huge'", "s < k", "a in b", "v[3] > 1", "v[-4] > 1", "abs", "1e999 > a",
        "v + [1, 2] == a",
    ],
)  # fmt: skip
def test_whatever_is_not_allowed_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        SearchSpace(PARAMETERS, [text])
    assert repr(text) in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    ["(" * 150 + "a" + ")" * 150 + " and " + "not " * 150 + "a", "-" * 9000 + "a > 1", "a+" * 6000 + "a > 1",
     "[" * 5000, "abs(" * 80 + "a" + ")" * 80 + " > 1"],
)  # fmt: skip
def test_texts_made_to_exhaust_the_parser_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        SearchSpace(PARAMETERS, [text])


def test_huge_powers_are_not_computed() -> None:
    space = SearchSpace([Int("a", 1, 9)], ["9 ** 9 ** 9 ** a > 1"])
    assert "cannot be evaluated: the power is too large" in space.explain({"a": 2})[0]
    assert space.size == 0


def test_an_unknown_name_suggests_the_one_that_was_meant() -> None:
    with pytest.raises(
        UsageError, match=r"'widnow' is not a known parameter; did you mean 'window'\? known are: tp, window"
    ):
        SearchSpace([Int("tp", 1, 2), Int("window", 1, 9)], ["widnow > tp"])


def test_a_condition_may_only_name_earlier_parameters() -> None:
    with pytest.raises(UsageError, match="condition of parameter a"):
        SearchSpace([Int("a", 1, 2, when="b > 1"), Int("b", 1, 2)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * 2 == 5", True), ("-a ** 2 == -1", True), ("2 ** -a == 0.5", True), ("7 // -2 == -4", True),
        ("-7 % 3 == 2", True), ("1 < b <= 2 < 3", True), ("1 < b > 5", False), ("b in (1, 2)", True),
        ("b not in [1, 2]", False), ("b in []", False), ("k in ('q', 'r')", False), ("k != 'p' or f", True),
        ("a if f else b - 2", True), ("min(v) == 1 and max(v) == 3", True), ("max(a, b, 7) == 7", True),
        ("sum(v) == 6", True), ("sum([a, b, 3]) == 6", True), ("len(v) == 3", True), ("all(v > 0)", True),
        ("any(v == 4)", False), ("sum(v * 2) == 12", True), ("sum(v * v) == 14", True), ("v[0] == 1 and v[-1] == 3", True),
        ("3 in v", True), ("s >= 'mid'", True), ("s < 'mid'", False), ("'low' < s", True), ("log2(o) == a", True),
        ("sqrt(o * 2) == 2", True), ("ceil(x) == 1 and floor(x) == 0", True), ("abs(-x) == x", True), ("f == True", True),
        ("(a > 0) + (b > 0) == 2", True), ("not (a > 0 and b > 5)", True), ("a - b - 1 == -2", True), ("True", True),
        ("a == 1.0", True), ("8 / 4 / 2 == 1", True), ("all(v >= a if f else v > 9)", True), ("a or 1 / (b - 2) > 0", True),
        ("sum(v) <= 5 or v[2] < v[0]", False),
    ],
)  # fmt: skip
def test_meaning_of_texts(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 / (b - 2) > 0", "division"), ("log2(a - 1) > 0", "math domain error"), ("sqrt(-a) > 0", "math domain error"),
     ("(-a) ** 0.5 > 0", "root of a negative number"), ("b % (a - 1) == 0", "modulo")],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_broken_and_says_why(text: str, message: str) -> None:
    config = {"a": 1, "b": 2}
    (reason,) = SearchSpace(PARAMETERS[:2], [text]).explain(config)
    assert "cannot be evaluated" in reason and message in reason and repr(text) in reason


def test_whole_numbers_beyond_doubles_stay_exact() -> None:
    # 3**40 and 3**40 + 1 are the same double.
    space = SearchSpace([Int("a", 38, 41), Int("c", 0, 1)], ["3 ** a + c == 3 ** 40 + 1"])
    table = space.enumerate()
    assert table is not None and list(table) == [{"a": 40, "c": 1}]


# Random trees

NUMBERS = st.sampled_from(
    ["a", "b", "x", "o", "f", "v[0]", "v[2]", "0", "1", "2", "3", "0.5", "sum(v)", "max(v)", "min(a, x)"]
)


def _numeric(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner)
    unary = st.builds("{}({})".format, st.sampled_from(["-", "abs", "ceil", "floor", "sqrt", "log2"]), inner)
    choice = st.builds("({} if {} < {} else {})".format, inner, inner, inner, inner)
    fold = st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), inner, inner)
    return st.one_of(binary, unary, choice, fold)


TERMS = st.recursive(NUMBERS, _numeric, max_leaves=6)
ATOMS = st.one_of(
    st.builds("{} {} {}".format, TERMS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), TERMS),
    st.builds("{} in (0, 1, 2.5)".format, TERMS),
    st.sampled_from(["k == 'p'", "s >= 'mid'", "s != 'low'", "k in ('q', 'z')", "all(v > a)", "any(v == b)", "2 in v"]),
)
TRUTHS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=4,
)


def _random_rows(dims: tuple[Dimension, ...], n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([d.from_unit(rng.choice([0.0, 0.5, 1.0, rng.random()], size=n)) for d in dims])


@settings(max_examples=300, deadline=None)
@given(text=TRUTHS, seed=st.integers(0, 2**16), known=st.integers(0, 2**10 - 1))
def test_columns_and_intervals_agree_with_one_configuration_at_a_time(text: str, seed: int, known: int) -> None:
    codes = Codes()
    dims = flatten(PARAMETERS, codes)
    rule = bind_text(text, symbols(dims), codes, dims)
    rows = _random_rows(dims, 24, seed)
    exact = []
    for row in rows.tolist():
        numbers = [int(c) if d.integral else c for c, d in zip(row, dims, strict=True)]
        try:
            exact.append(rule.holds(numbers))
        except CannotBeEvaluatedError:
            exact.append(False)
    columns = {d.position: rows[:, d.position, None] for d in dims}
    assert np.broadcast_to(rule.mask(columns), (24, 1))[:, 0].tolist() == exact

    full = full_box(dims)
    box = {d: (columns[d], columns[d]) if known >> d & 1 else full[d] for d in columns}
    must, may = (np.broadcast_to(np.asarray(one), (24, 1))[:, 0] for one in rule.may_hold(box))
    assert not np.any(np.array(exact) & ~may), "a feasible row was called impossible"
    assert not np.any(~np.array(exact) & must), "an infeasible row was called certain"


def test_intervals_prune_what_they_should() -> None:
    codes = Codes()
    dims = flatten([Int("a", 1, 8), Int("b", 1, 8), Int("c", 1, 8)], codes)
    table = symbols(dims)
    for text, impossible in [
        ("a * b * c <= 20", [21, 30]), ("a + b + c == 5", [4, 8]), ("a - c > 2 and b > 0", [1, 2, 3]),
        ("max(a, b) < 4", [4, 9]), ("(b if a > 3 else 9) < 9", [1, 2, 3]), ("a % 4 == 3 and b > 0 * c", []),
        ("a in (2, 5) and c > 0", [1, 3, 4, 6]), ("a / c > 4", [1, 2, 3, 4]), ("a ** 2 <= 10 * c / 8", [4, 5]),
    ]:  # fmt: skip
        rule = bind_text(text, table, codes, dims)
        values = np.array(impossible or [3]).reshape(-1, 1)
        box = {**full_box(dims), 0: (values, values)}
        _, may = rule.may_hold(box)
        assert not np.any(may) if impossible else np.all(may), text


def test_evaluation_order_of_float_sums_is_the_same_everywhere() -> None:
    values = [0.1, 0.2, 0.3, 1e16, -1e16, 0.7]
    space = SearchSpace(
        [Ordinal(f"p{i}", [v]) for i, v in enumerate(values)], [f"p0+p1+p2+p3+p4+p5 == {sum(values)!r}"]
    )
    naive = 0.0
    for value in values:
        naive += value
    assert space.size == int(naive == sum(values))
    for order in itertools.permutations(range(4)):
        text = " + ".join(f"p{i}" for i in order)
        total = 0.0
        for i in order:
            total += values[i]
        assert SearchSpace(space.parameters[:4], [f"{text} == {total!r}"]).size == 1

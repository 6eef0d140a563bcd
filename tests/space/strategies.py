"""Hypothesis strategies: small random spaces with conditions, vectors and constraints, and their brute-force answer."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st

from autotune.space import Bool, Categorical, Config, Int, Ordinal, Parameter, SearchSpace

CONSTRAINTS = [
    "a + b <= 5", "a * b == 4", "a % b == 0", "a / (b - 1) > 1", "a <= b < 4", "a in (1, 3) or f", "not f or a > 1",
    "v[0] <= v[1]", "sum(v) <= 3", "max(v) - min(v) <= 1", "all(v >= a - 2)", "c * 2 <= a + 3", "k == 'x' or b > 1",
    "k != 'z' if f else True", "k not in ['y']", "len(v) == 2", "a ** b < 9", "2 ** (a - b) >= 1", "abs(a - b) <= 1",
    "log2(a) == floor(log2(a))", "sqrt(a - 2) >= 0", "s >= 'mid'", "a // b + c < 4", "-a + b - c < 1", "sum(v * a) % 2 == 0",
    "any(v == b)", "b != 1 and a / (b - 1) < 3", "min(a, b, c) == 1", "ceil(a / b) >= 2", "a", "e + a > 2.25", "m in (None, 2)",
    "m == 2 or a < 3", "s == 'low' or k in ('x', 'y')", "1 in v", "a - a == 0", "(a > 1) + (b > 1) + f >= 2",
]  # fmt: skip
CONDITIONS = [None, "f", "k == 'x'", "a > 1", "a > 1 and k != 'z'", "a / (b - 1) > 1"]


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """A space of at most a few thousand raw combinations in which every constraint of the list makes sense."""
    parameters: list[Parameter] = [
        Int("a", 1, draw(st.integers(1, 4))),
        Ordinal("b", draw(st.sampled_from([[1, 2, 4], [4, 2, 1], [1], [3, 1]]))),
        Bool("f"),
        Categorical("k", draw(st.sampled_from([["x", "y"], ["x", "y", "z"]])), when=draw(st.sampled_from([None, "f"]))),
        Int("c", 0, 4, step=2, when=draw(st.sampled_from(CONDITIONS))),
        Int("v", 0, draw(st.integers(1, 2)), size=2, when=draw(st.sampled_from(CONDITIONS))),
        Ordinal("s", ["low", "mid", "high"], when=draw(st.sampled_from([None, "len(v) == 2", "c == 2"]))),
        Ordinal("e", [0.5, 1.25], when=draw(st.sampled_from([None, "s > 'low'"]))),
        Categorical("m", [None, 2, "two"]),
    ]
    constraints: list[Any] = draw(st.lists(st.sampled_from(CONSTRAINTS), max_size=4, unique=True))
    if draw(st.booleans()):
        constraints.append(lambda a, b: (a + b) % 3 != 0)
    if draw(st.booleans()):
        constraints.append(lambda v, c: sum(v) != c)
    if draw(st.integers(0, 5)) == 0:
        constraints.append(lambda config: config["f"] or "c" in config)
    used = [p for p in parameters if p.name in "abfkcvs" or draw(st.integers(0, 3)) == 0]
    names = {p.name for p in used}
    wanted = [c for c in constraints if callable(c) or not ({"e", "m"} - names) or not _mentions(c, {"e", "m"} - names)]
    return SearchSpace(used, wanted)


def _mentions(text: str, names: set[str]) -> bool:
    return any(
        name in text.replace("len", "").replace("ceil", "").replace("min", "").replace("mid", "") for name in names
    )


def every_feasible(space: SearchSpace) -> list[Config]:
    """By trying every combination, active or not, with the scalar check of one configuration."""
    options: list[list[Any]] = []
    for parameter in space.parameters:
        values = list(_values(parameter))
        if parameter.size is not None:
            values = [list(v) for v in itertools.product(values, repeat=parameter.size)]
        options.append(values if parameter.when is None else [..., *values])
    found = []
    for combination in itertools.product(*options):
        config = {p.name: v for p, v in zip(space.parameters, combination, strict=True) if v is not ...}
        if not space.explain(config):
            found.append(config)
    return found


def _values(parameter: Parameter) -> list[Any]:
    if isinstance(parameter, Int):
        return list(range(parameter.low, parameter.high + 1, parameter.step))
    if isinstance(parameter, Ordinal):
        return list(parameter.values)
    return list(parameter.choices) if isinstance(parameter, Categorical) else [False, True]

"""The feasible set: enumeration against brute force, products of components, and empty sets."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from autotune.errors import EmptySpaceError, UsageError
from autotune.space import Bool, Categorical, Constraint, Float, Int, Ordinal, SearchSpace

from .strategies import every_feasible, spaces

SLOW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SLOW
@given(space=spaces())
def test_enumeration_equals_brute_force(space: SearchSpace) -> None:
    table = space.enumerate()
    assert table is not None
    expected = {space.canonical_json(c) for c in every_feasible(space)}
    listed = [space.canonical_json(c) for c in table]
    assert len(listed) == len(set(listed)) == space.size
    assert set(listed) == expected
    order = table.indices.tolist()
    assert order == sorted(order)
    for i in range(0, len(table), 7):
        assert table.index_of(table.config(i)) == i


def test_counts_of_a_space_with_known_answer() -> None:
    # tp * pp <= 8 has 10 solutions on powers of two up to 8; window only exists for lru.
    space = SearchSpace(
        [Ordinal("tp", [1, 2, 4, 8]), Ordinal("pp", [1, 2, 4, 8]), Categorical("cache", ["lru", "lfu"]),
         Int("window", 1, 64, when="cache == 'lru'")],
        ["tp * pp <= 8", "window % tp == 0"],
    )  # fmt: skip
    # By tp: 4, 3, 2, 1 values of pp, times the multiples of tp up to 64, plus one for lfu.
    assert space.size == 4 * (64 + 1) + 3 * (32 + 1) + 2 * (16 + 1) + 1 * (8 + 1)


def test_one_constraint_over_ten_parameters() -> None:
    space = SearchSpace([Int(name, 1, 5) for name in "abcdefghij"], ["a+b+c+d+e+f+g+h+i+j == 15"])
    # Compositions of 5 extra over 10 places with at most 4 each: C(14, 5) minus the 10 that put all five in one.
    assert space.size == math.comb(14, 5) - 10


def test_size_of_a_huge_product_is_exact() -> None:
    space = SearchSpace([Int("x", 1, 10, size=48), Int("big", 0, 10**9), Int("p", 1, 4), Int("q", 1, 4)], ["p < q"])
    assert space.size == 10**48 * (10**9 + 1) * 6
    assert space.enumerate() is None
    assert len({space.canonical_json(c) for c in space.sample(50, 0)}) == 50


def test_infinite_and_uncountable_spaces_have_no_size() -> None:
    assert SearchSpace([Float("x", 0, 1)]).size is None
    too_many = SearchSpace([Int("x", 0, 64, size=16)], ["sum(x) == 64"])
    assert too_many.size is None and too_many.enumerate() is None and too_many.is_finite


def test_a_continuum_of_one_point_is_finite() -> None:
    space = SearchSpace([Float("x", 0.5, 0.5), Int("n", 3, 3), Bool("b")], ["n * x > 1"])
    table = space.enumerate()
    assert table is not None and list(table) == [{"x": 0.5, "n": 3, "b": False}, {"x": 0.5, "n": 3, "b": True}]


def test_space_without_parameters_has_one_empty_configuration() -> None:
    space = SearchSpace([])
    table = space.enumerate()
    assert space.size == 1 and table is not None and list(table) == [{}]
    assert space.default() == {} and space.sample(2, 0) == [{}, {}] and space.neighbours({}) == []
    assert space.encode([{}]).shape == (1, 0)


def test_max_rows_bounds_the_table_but_not_the_count() -> None:
    space = SearchSpace([Int("a", 1, 30), Int("b", 1, 30)], max_rows=100)
    assert space.size == 900 and space.enumerate() is None
    joined = SearchSpace([Int("a", 1, 30), Int("b", 1, 30)], ["a <= b"], max_rows=100)
    assert joined.size is None
    assert all(joined.contains(c) for c in joined.sample(20, 0))


@pytest.mark.parametrize(
    ("constraints", "named", "spared"),
    [
        (["a <= 3", "a * b > 100"], ["'a * b > 100'"], ["'a <= 3'"]),
        (["a < b", "b < c", "c < a", "d > 1"], ["'a < b'", "'b < c'", "'c < a'"], ["d > 1"]),
        (["2 < 1", "a > 1"], ["'2 < 1'"], ["a > 1"]),
        (["a / (b - b) > 0"], ["'a / (b - b) > 0'"], []),
    ],
)
def test_an_empty_space_names_the_guilty(constraints: list[str], named: list[str], spared: list[str]) -> None:
    space = SearchSpace([Int(name, 1, 4) for name in "abcd"], constraints)
    assert space.size == 0
    table = space.enumerate()
    assert table is not None and len(table) == 0
    for ask in (lambda: space.sample(1, 0), space.default):
        with pytest.raises(EmptySpaceError) as caught:
            ask()
        assert all(text in str(caught.value) for text in named)
        assert not any(text in str(caught.value) for text in spared)


def test_an_empty_infinite_space_names_the_guilty() -> None:
    space = SearchSpace([Float("x", 0, 1, size=4)], ["x[0] > 0.1", "sum(x) > 5"])
    with pytest.raises(EmptySpaceError, match=r"'sum\(x\) > 5'"):
        space.sample(1, 0)


def test_callables_by_name_by_object_and_for_the_whole_configuration() -> None:
    def fits(tp: int, pp: int, limit: int = 8) -> bool:
        return tp * pp <= limit

    powers = [1, 2, 4, 8]
    space = SearchSpace([Ordinal("tp", powers), Ordinal("pp", powers)], [fits])
    assert space.size == 10
    assert SearchSpace(space.parameters, [Constraint(lambda pp: pp > 1, name="deep")]).size == 12
    assert SearchSpace(space.parameters, [lambda config: config["tp"] == config["pp"]]).size == 4
    assert "fits" in space.explain({"tp": 8, "pp": 8})[0] and "tp=8" in space.explain({"tp": 8, "pp": 8})[0]


def test_a_callable_that_fails_by_mistake_is_told() -> None:
    space = SearchSpace([Int("a", 1, 3)], [Constraint(lambda a: a.missing, name="broken")])
    with pytest.raises(UsageError, match="constraint broken: raised AttributeError"):
        space.sample(1, 0)
    undefined_at_two = SearchSpace([Int("a", 1, 3)], [lambda a: 1 / (a - 2) != 0])
    assert undefined_at_two.size == 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: True, "parameter 'x' is not in the space"),
        (lambda *args: True, "cannot be given by name"),
        (lambda: True, "takes no parameter"),
    ],
)
def test_callables_with_unusable_signatures(function: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchSpace([Int("a", 1, 3)], [function])  # type: ignore[list-item]


def test_order_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import json; from autotune.space import *\n"
        "s = SearchSpace([Categorical('k', ['x', 'y', 'z']), Categorical('m', ['x', 'q']), Int('n', 0, 9, size=4)],"
        " ['k != m', 'sum(n) <= 12', 'n[0] < n[1] or k == \"z\"'])\n"
        "print(json.dumps([s.enumerate().indices.tolist()[::97], s.sample(5, 3), s.definition_hash()]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(json.loads(runs[0])[0]) > 10


def test_index_of_explains_an_infeasible_configuration() -> None:
    table = SearchSpace([Int("a", 1, 3), Int("b", 1, 3)], ["a < b"]).enumerate()
    assert table is not None
    with pytest.raises(UsageError, match="'a < b' is broken: a=3, b=1"):
        table.index_of({"a": 3, "b": 1})
    with pytest.raises(UsageError, match="beyond the 3"):
        table.config(3)


def test_rows_wider_than_sixty_four_bits_are_found_again() -> None:
    space = SearchSpace([Int("x", 0, 9, size=24)], ["sum(x) <= 2"])
    table = space.enumerate()
    assert table is not None and len(table) == 1 + 24 + 24 + math.comb(24, 2)
    assert [table.index_of(c) for c in table] == list(range(len(table)))
    assert not table.indices.flags.writeable and table.indices.dtype == np.int8

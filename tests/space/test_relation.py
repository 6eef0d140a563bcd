from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import Bool, Categorical, Constraint, Float, Int, Ordinal, SearchSpace, UsageError

ROWS = [(1, "a"), (4, "b"), (2, "a"), (1, "b")]


def small() -> SearchSpace:
    parameters = [Ordinal("x", [1, 2, 4]), Categorical("y", ["a", "b"]), Bool("z")]
    return SearchSpace(parameters, [Constraint.table(["x", "y"], ROWS, name="measured")])


def test_the_feasible_set_is_the_table_times_what_it_does_not_name() -> None:
    space = small()
    table = space.enumerate()
    assert table is not None and space.size == 8
    assert {(c["x"], c["y"], c["z"]) for c in table} == {(*row, z) for row in ROWS for z in (False, True)}
    assert space.contains({"x": 4, "y": "b", "z": True}) and not space.contains({"x": 4, "y": "a", "z": True})
    assert space.explain({"x": 4, "y": "a", "z": True}) == ["constraint 'measured' is broken: x=4, y='a'"]
    assert space.repair({"x": 4, "y": "a", "z": False}) in (
        {"x": 4, "y": "b", "z": False},
        {"x": 2, "y": "a", "z": False},
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_is_the_conjunction_of_membership_and_the_other_constraints(data: st.DataObject) -> None:
    values = [list(range(1, data.draw(st.integers(1, 5)) + 1)) for _ in range(4)]
    every = list(itertools.product(*values))
    rows = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=40))
    names = data.draw(st.permutations("abcd"))
    listed = [tuple(row["abcd".index(n)] for n in names) for row in rows]
    parameters = [Int(n, 1, len(v)) for n, v in zip("abcd", values, strict=True)]
    space = SearchSpace(parameters, [Constraint.table(names, listed), "a + b <= 6"])
    expected = {row for row in rows if row[0] + row[1] <= 6}
    table = space.enumerate()
    assert table is not None
    assert {tuple(c[n] for n in "abcd") for c in table} == expected
    assert all(space.contains(dict(zip("abcd", row, strict=True))) == (row in expected) for row in every)


def test_ten_thousand_rows_of_a_hundred_million_combinations() -> None:
    parameters = [Int(f"p{i}", 0, 9) for i in range(8)]
    rows = [tuple(int(digit) for digit in f"{(k * 7919) % 10**8:08d}") for k in range(10_000)]
    space = SearchSpace(parameters, [Constraint.table([p.name for p in parameters], rows)])
    assert space.size == len(set(rows))
    around = space.sample(200, seed=0)
    assert all(space.contains(c) for c in around) and len({space.config_hash(c) for c in around}) == 200


def test_a_table_over_a_conditional_parameter_holds_where_that_is_absent() -> None:
    parameters = [Bool("on"), Ordinal("depth", [1, 2, 3], when="on"), Ordinal("width", [1, 2])]
    space = SearchSpace(parameters, [Constraint.table(["depth", "width"], [(1, 1), (3, 2)])])
    table = space.enumerate()
    assert table is not None
    assert [c for c in table if c["on"]] == [{"on": True, "depth": 1, "width": 1}, {"on": True, "depth": 3, "width": 2}]
    assert sum(not c["on"] for c in table) == 2


def test_where_nothing_is_enumerated_samples_and_repairs_still_keep_to_the_table() -> None:
    space = SearchSpace(
        [Float("lr", 0.0, 1.0), Ordinal("a", [1, 2, 3]), Ordinal("b", [1, 2, 3])],
        [Constraint.table(["b", "a"], [(3, 1), (1, 2)]), "lr * a <= 1.5"],
    )
    assert space.size is None
    assert all((c["b"], c["a"]) in {(3, 1), (1, 2)} and c["lr"] * c["a"] <= 1.5 for c in space.sample(50, seed=1))
    assert space.contains(space.repair({"lr": 1.0, "a": 3, "b": 3}))


def test_it_survives_json_and_defines_the_space() -> None:
    space = small()
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again.definition_hash() == space.definition_hash() and again.size == space.size
    fewer = SearchSpace(space.parameters, [Constraint.table(["x", "y"], ROWS[:3], name="measured")])
    assert fewer.definition_hash() != space.definition_hash()


@pytest.mark.parametrize(
    ("parameters", "rows", "said"),
    [
        (["x", "nope"], [(1, 2)], "parameter 'nope' is not in the space"),
        (["x", "y"], [(1,)], r"row \(1,\) has 1 values; give 2"),
        (["x", "y"], [], "rows is empty"),
        ([], [()], "parameters is empty"),
        (["x", "x"], [(1, 1)], "names one twice"),
        (["x"], [(3,)], "value 3 of parameter 'x' is not one of: 1, 2, 4"),
        (["z"], [(1,)], "value 1 of parameter 'z'"),
        (["f"], [(0.5,)], "'f' has a continuum of values; make it an Ordinal"),
        (["v"], [(1,)], "'v' is a vector"),
        ("xy", [(1, "a")], "parameters is the text 'xy'"),
    ],
)
def test_bad_tables_are_refused_by_name(parameters: list[str], rows: list[tuple[object, ...]], said: str) -> None:
    known = [Ordinal("x", [1, 2, 4]), Categorical("y", ["a", "b"]), Bool("z"), Float("f", 0, 1), Int("v", 0, 3, size=2)]
    with pytest.raises(UsageError, match=said):
        SearchSpace(known, [Constraint.table(parameters, rows)])

"""Constraints that judge columns of configurations, and the feasible set as columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from autotune import UsageError
from autotune.space import Categorical, Constraint, Int, Ordinal, SearchSpace


def space(rule: Constraint | str) -> SearchSpace:
    return SearchSpace(
        [Int("a", 1, 6), Ordinal("b", [1, 2, 4]), Categorical("c", ["x", "y"], when="a > 3"), Int("v", 0, 1, size=2)],
        [rule],
    )


def test_columns_and_single_configurations_are_judged_alike() -> None:
    calls = []

    def fits(a: Any, b: Any) -> Any:
        calls.append(len(a))
        return a * b <= 8

    several, one_by_one = space(Constraint(fits, columns=True)), space("a * b <= 8")
    table, expected = several.enumerate(), one_by_one.enumerate()
    assert table is not None
    assert expected is not None
    configs = [table.config(i) for i in range(len(table))]
    assert configs == [expected.config(i) for i in range(len(expected))]
    assert max(calls) > 1
    assert several.contains(configs[0])
    refused = {**configs[0], "a": 6, "b": 4, "c": "x"}
    assert not several.contains(refused)
    assert any("fits" in reason for reason in several.explain(refused))


def test_a_function_of_the_whole_configuration_sees_none_where_a_parameter_is_inactive() -> None:
    def allowed(config: Mapping[str, Any]) -> Any:
        assert set(config) == {"a", "b", "c", "v"}
        assert config["v"].shape == (len(config["a"]), 2)
        return np.array([c is None or c == "y" for c in config["c"]])

    table = space(Constraint(allowed, columns=True)).enumerate()
    assert table is not None
    found = table.columns()
    assert set(found["c"]) == {None, "y"}
    assert all((c is None) == (a <= 3) for a, c in zip(found["a"], found["c"], strict=True))
    assert found["v"].shape == (len(table), 2)
    for i in range(len(table)):
        config = table.config(i)
        assert config == {
            name: column[i].tolist() if name == "v" else column[i]
            for name, column in found.items()
            if column[i] is not None
        }


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a: True, r"returned an array of shape \(\) for \d+ configurations"),
        (lambda a: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_a_function_that_does_not_answer_for_each_is_told(function: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        space(Constraint(function, "wrong", columns=True)).enumerate()


def test_a_space_is_read_back_with_its_columns() -> None:
    def fits(a: Any) -> Any:
        return a < 3

    stored = space(Constraint(fits, columns=True)).to_dict()
    again = SearchSpace.from_dict(stored, callables={"fits": fits})
    assert again.to_dict() == stored
    assert again.enumerate() is not None
    assert len(again.enumerate() or ()) == len(space("a < 3").enumerate() or ())

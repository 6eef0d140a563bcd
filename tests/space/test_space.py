"""What a strategy asks of a space: explain, sample, repair, neighbours, encode, identity, round trip."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.space import Bool, Categorical, Config, Constraint, Float, Int, Ordinal, SearchSpace
from autotune.space.repair import squared_differences

from .strategies import spaces

SLOW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def serving_space() -> SearchSpace:
    return SearchSpace(
        [Ordinal("tp", [1, 2, 4, 8]), Ordinal("pp", [1, 2, 4, 8]), Float("lr", 1e-4, 1e-1, log=True),
         Categorical("cache", ["lru", "lfu"]), Int("window", 1, 64, when="cache == 'lru'")],
        ["tp * pp <= 8", "window % tp == 0"],
    )  # fmt: skip


GOOD: Config = {"tp": 2, "pp": 4, "lr": 0.01, "cache": "lru", "window": 6}

# Spaces in which plain rejection never succeeds, or nothing can be enumerated.
HARD = {
    "budget": SearchSpace([Float("budget", 0, 100, size=48)], ["sum(budget) <= 100"]),
    "tight": SearchSpace([Int("x", 0, 16, size=16)], ["sum(x) == 64"]),
    "hundred": SearchSpace([Float("x", -5, 5, size=100)], ["sum(x) <= 1", "max(x) - min(x) <= 9.5"]),
    "simplex": SearchSpace([Float("x", 0, 1, size=3)], ["sum(x) == 1"]),
    "log": SearchSpace([Float("a", 1e-6, 1, log=True), Float("b", 1e-6, 1, log=True)], ["a * b <= 1e-10", "a <= b / 2"]),
    "conditional": SearchSpace(
        [Categorical("mode", ["off", "on"]), Int("w", 1, 100, size=10, when="mode == 'on'"),
         Float("z", 0, 1, when="w[0] > 3"), Int("n", 0, 10**7)],
        ["sum(w) <= 60", "z * w[1] <= 4", "n % 1000 == 7 or mode == 'off'"],
    ),
    "callable": SearchSpace([Float("a", 0, 1), Float("b", 0, 1)], [lambda a, b: a * a + b * b <= 0.5]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tp": 4, "window": 8}, "'tp * pp <= 8' is broken: tp=4, pp=4, so that 16 <= 8 is false"),
        ({"window": 7}, "'window % tp == 0' is broken: window=7, tp=2"),
        ({"tp": 3}, "'tp' = 3 is not one of: 1, 2, 4, 8"),
        ({"lr": 5}, "'lr' = 5 is outside [0.0001, 0.1]"),
        ({"lr": float("nan")}, "is not finite"),
        ({"lr": True}, "is not a number but bool"),
        ({"window": 6.5}, "is not a whole number"),
        ({"window": "6"}, "is not a number but str"),
        ({"cache": "lfu"}, "'window' is inactive, as \"cache == 'lru'\" does not hold"),
        ({"wndow": 1}, "'wndow' is not in the space; known are: tp, pp, lr, cache, window"),
        ({"cache": ["lru"]}, "is not one of: 'lru', 'lfu'"),
    ],
)
def test_explain_names_what_is_wrong(changes: dict[str, Any], reason: str) -> None:
    space = serving_space()
    config = {**GOOD, **changes}
    reasons = space.explain(config)
    assert any(reason in r for r in reasons), reasons
    assert not space.contains(config)


def test_explain_names_missing_parameters_and_every_broken_constraint() -> None:
    space = serving_space()
    assert space.explain({k: v for k, v in GOOD.items() if k != "window"}) == ["parameter 'window' is missing"]
    assert len(space.explain({**GOOD, "tp": 4, "window": 7, "lr": 0})) == 3
    assert space.explain(GOOD) == [] and space.contains(GOOD)


def test_vectors_are_checked_element_by_element() -> None:
    space = SearchSpace([Float("b", 0, 1, size=3)])
    assert "[1] = 2, which is outside [0.0, 1.0]" in space.explain({"b": [0, 2, 1]})[0]
    assert "must be a list of 3 values" in space.explain({"b": [0, 1]})[0]
    assert "must be a list of 3 values" in space.explain({"b": 1})[0]


def test_a_condition_on_an_inactive_parameter_does_not_hold() -> None:
    space = SearchSpace([Bool("a"), Bool("b", when="a"), Int("c", 1, 2, when="not b")])
    assert space.contains({"a": False})  # b is inactive, so c is too, although "not b" has no b to be true
    assert not space.contains({"a": False, "c": 1})
    assert space.size == 1 + 1 + 2


def test_validate_gives_canonical_types_in_the_order_of_the_space() -> None:
    space = SearchSpace([Int("n", 0, 9), Float("x", -1, 9), Bool("f"), Ordinal("o", [1.0, 2]), Int("v", 0, 3, size=2)])
    given = {"v": np.array([1, 2]), "o": np.int64(1), "f": np.bool_(True), "x": np.float32(-0.0), "n": np.int32(4)}
    valid = space.validate(given)
    assert list(valid) == ["n", "x", "f", "o", "v"]
    assert [type(v) for v in valid.values()] == [int, float, bool, float, list]
    assert math.copysign(1, valid["x"]) == 1 and valid["v"] == [1, 2] and type(valid["v"][0]) is int
    with pytest.raises(UsageError, match="'n' = True is not a number"):
        space.validate({**given, "n": True})
    with pytest.raises(UsageError, match="'z' is not in the space"):
        space.validate({**given, "z": 1})


# Sampling


@SLOW
@given(space=spaces(), seed=st.integers(0, 99))
def test_samples_of_finite_spaces_are_feasible_and_distinct(space: SearchSpace, seed: int) -> None:
    if not space.size:
        return
    configs = space.sample(30, seed)
    assert len(configs) == 30 and all(space.contains(c) for c in configs)
    assert len({space.canonical_json(c) for c in configs}) == min(30, space.size)
    assert configs == space.sample(30, seed)


@pytest.mark.parametrize("name", HARD)
def test_samples_where_rejection_fails(name: str) -> None:
    space = HARD[name]
    assert space.size is None
    configs = space.sample(12, seed=1)
    assert len(configs) == 12 and all(space.contains(c) for c in configs)
    assert len({space.canonical_json(c) for c in configs}) == 12
    assert configs == space.sample(12, seed=1) != space.sample(12, seed=2)


def test_sampling_an_enumerated_space_is_uniform() -> None:
    # Half of the feasible pairs have a == 4; choosing `a` first would give it a quarter.
    space = SearchSpace([Int("a", 1, 4), Int("b", 1, 300)], ["b <= a * 30 or a == 4", "b <= 180"])
    assert space.size == 30 + 60 + 90 + 180
    drawn = [c["a"] for seed in range(40) for c in space.sample(50, seed)]
    assert abs(drawn.count(4) / len(drawn) - 0.5) < 0.04


def test_samples_on_a_shared_budget_are_spread_evenly() -> None:
    space = HARD["budget"]
    budgets = np.array([c["budget"] for c in space.sample(400, seed=0)])
    # A uniform point of that simplex has mean 100 / 49 in each coordinate.
    assert np.all(np.abs(budgets.mean(axis=0) - 100 / 49) < 1.2)
    assert 85 < budgets.sum(axis=1).mean() <= 100


def test_samples_reach_both_sides_of_a_condition() -> None:
    modes = [c["mode"] for c in HARD["conditional"].sample(60, seed=0)]
    assert 0 < modes.count("on") < 60


def test_anchors_make_an_opaque_needle_findable() -> None:
    def needle(x: list[float]) -> bool:
        return all(abs(v - 0.3) < 1e-3 for v in x)

    space = SearchSpace([Float("x", 0, 1, size=6)], [needle])
    with pytest.raises(UsageError, match=r"satisfies 'needle'.*anchor"):
        space.sample(3, 0)
    known = space.with_anchors([{"x": [0.3] * 6}])
    configs = known.sample(8, 0)
    assert all(known.contains(c) for c in configs) and len({str(c) for c in configs}) == 8
    with pytest.raises(UsageError, match=r"anchor .* is infeasible: constraint 'needle' is broken"):
        space.with_anchors([{"x": [0.4] * 6}])


# Repair


@SLOW
@given(space=spaces(), data=st.data())
def test_repair_is_the_nearest_feasible_configuration(space: SearchSpace, data: st.DataObject) -> None:
    table = space.enumerate()
    assert table is not None
    if not len(table):
        return
    asked = space.decode(
        np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(space.dims), max_size=len(space.dims))))
    )
    repaired = space.repair(asked)
    assert space.contains(repaired)
    configs = list(table)
    apart = squared_differences(space._system, space._matrix(configs), space._matrix([asked])).sum(axis=1)
    assert math.sqrt(apart[0]) == pytest.approx(space.distance(asked, configs[0]), abs=1e-9)
    assert space.distance(asked, repaired) == pytest.approx(math.sqrt(apart.min()), abs=1e-9)
    assert not space.contains(asked) or repaired == asked


def test_repair_takes_anything() -> None:
    space = serving_space()
    odd = {"tp": 7, "pp": -3, "lr": 40, "cache": "arc", "window": "many", "extra": 1}
    repaired = space.repair(odd)
    assert repaired["tp"] == 8 and repaired["pp"] == 1 and repaired["lr"] == 0.1 and repaired["cache"] == "lru"
    assert space.contains(repaired) and space.repair(odd) == repaired
    assert space.repair(GOOD) == GOOD
    assert "window" not in space.repair({**GOOD, "cache": "lfu"})
    assert space.contains(space.repair({"tp": float("nan"), "lr": float("inf"), "window": None}))


def test_repair_on_a_budget_is_close_to_the_euclidean_projection() -> None:
    space = HARD["budget"]
    asked = [2.0 + (i % 3) for i in range(48)]  # 44 too much in all; the projection takes 44/48 from each
    repaired = space.repair({"budget": asked})
    assert space.contains(repaired)
    exact = 44 / math.sqrt(48) / 100
    assert exact - 1e-9 <= space.distance({"budget": asked}, repaired) <= 1.15 * exact


@pytest.mark.parametrize("name", HARD)
def test_repair_and_default_where_nothing_is_enumerated(name: str) -> None:
    space = HARD[name]
    default = space.default()
    assert space.contains(default) and space.default() == default
    anything = space.decode(np.full(len(space.dims), 0.9))
    assert space.contains(space.repair(anything, seed=3))


def test_default_uses_declared_defaults_then_middles() -> None:
    space = SearchSpace(
        [Int("a", 1, 9, default=2), Int("b", 1, 9), Ordinal("c", [1, 2, 4]), Categorical("k", ["x", "y"]), Bool("f"),
         Float("l", 1, 100, log=True), Int("v", 0, 9, size=3, default=[1, 2, 3]), Int("w", 0, 9, size=2, default=7)],
    )  # fmt: skip
    assert space.default() == {"a": 2, "b": 5, "c": 2, "k": "x", "f": False, "l": 10.0, "v": [1, 2, 3], "w": [7, 7]}
    assert (
        SearchSpace(space.parameters, ["a > b"]).default()["a"]
        > SearchSpace(space.parameters, ["a > b"]).default()["b"]
    )


# Neighbours


def _changed_parameters(a: Config, b: Config) -> set[str]:
    return {name for name in {*a, *b} if a.get(name) != b.get(name)}


@SLOW
@given(space=spaces(), seed=st.integers(0, 99))
def test_neighbours_are_feasible_distinct_and_local(space: SearchSpace, seed: int) -> None:
    if not space.size:
        return
    config = space.sample(1, seed)[0]
    around = space.neighbours(config)
    texts = [space.canonical_json(c) for c in around]
    assert len(set(texts)) == len(texts) and space.canonical_json(config) not in texts
    assert all(space.contains(c) for c in around)
    # A move in one dimension of an enumerated space is complete: what differs in one dimension only is listed.
    table = space.enumerate()
    assert table is not None
    here = table.indices[table.index_of(config)]
    one_away = np.flatnonzero(
        ((table.indices != here).sum(axis=1) == 1) & ((table.indices < 0) == (here < 0)).all(axis=1)
    )
    assert {space.canonical_json(table.config(int(i))) for i in one_away} <= set(texts)
    assert space.neighbours(config, limit=3, seed=seed) == space.neighbours(config, limit=3, seed=seed)
    assert len(space.neighbours(config, limit=3)) == min(3, len(around))


def test_neighbours_begin_with_adjacent_steps() -> None:
    space = SearchSpace([Ordinal("a", [1, 2, 4, 8, 16]), Categorical("k", ["x", "y", "z"])])
    around = space.neighbours({"a": 4, "k": "x"})
    assert [c["a"] for c in around if c["k"] == "x"] == [2, 8, 1, 16]
    assert {(c["a"], c["k"]) for c in around[:4]} == {(2, "x"), (8, "x"), (4, "y"), (4, "z")}


def test_neighbours_move_along_a_tight_sum() -> None:
    space = HARD["tight"]
    around = space.neighbours({"x": [4] * 16})
    assert len(around) == 16 * 15
    assert all(sum(c["x"]) == 64 and sorted(np.array(c["x"]) - 4)[::15] == [-1, 1] for c in around)
    full = {"budget": [100 / 48] * 47 + [100 - 100 / 48 * 47 - 1e-9]}
    assert any(max(c["budget"]) > 3 and sum(c["budget"]) > 99.9 for c in HARD["budget"].neighbours(full, limit=500))


def test_a_switched_on_parameter_gets_its_default_or_what_is_feasible() -> None:
    space = SearchSpace([Bool("f"), Int("n", 1, 9, default=3, when="f"), Int("m", 4, 9)], ["n >= m"])
    assert {"f": True, "m": 5, "n": 5} in space.neighbours({"f": False, "m": 5})
    easy = SearchSpace([Bool("f"), Int("n", 1, 9, default=3, when="f")])
    assert easy.neighbours({"f": False}) == [{"f": True, "n": 3}]
    assert {"f": False} in easy.neighbours({"f": True, "n": 9})


# Encoding and identity


def test_encoding_uses_declared_scales() -> None:
    space = SearchSpace(
        [Float("l", 1, 100, log=True), Int("i", 0, 10), Ordinal("o", [1, 2, 64]), Categorical("k", ["x", "y", "z"]), Bool("f"),
         Int("w", 5, 5, when="f"), Int("v", 1, 4, log=True, size=2)],
    )  # fmt: skip
    config = {"l": 10.0, "i": 4, "o": 2, "k": "z", "f": False, "v": [2, 4]}
    row = space.encode([config])
    assert row == pytest.approx(np.array([[0.5, 0.4, 0.5, 1.0, 0.0, np.nan, 0.5, 1.0]]), nan_ok=True)
    decoded = space.decode(row[0])
    assert decoded.pop("l") == pytest.approx(10.0) and decoded == {k: v for k, v in config.items() if k != "l"}
    assert space.encode([{**config, "f": True, "w": 5}])[0, 5] == 0.0
    assert [(d.name, d.kind, d.n_values) for d in space.dims][-2:] == [("v[0]", "int", 4), ("v[1]", "int", 4)]
    assert space.dims[-1].parameter is space["v"] and space.dims[-1].index == 1
    with pytest.raises(UsageError, match=r"shape \(2,\); expected \(8,\)"):
        space.decode(np.zeros(2))


@SLOW
@given(space=spaces(), seed=st.integers(0, 99))
def test_decode_inverts_encode(space: SearchSpace, seed: int) -> None:
    if space.size:
        configs = space.sample(5, seed)
        assert [space.decode(row) for row in space.encode(configs)] == configs


def test_distance_counts_categories_and_activity_as_one() -> None:
    space = SearchSpace([Categorical("k", ["x", "y", "z"]), Int("i", 0, 10), Bool("f"), Int("w", 0, 9, when="f")])
    a = {"k": "x", "i": 0, "f": False}
    assert space.distance(a, {**a, "k": "y"}) == space.distance(a, {**a, "k": "z"}) == 1
    assert space.distance(a, {**a, "i": 3}) == pytest.approx(0.3)
    assert space.distance(a, {**a, "f": True, "w": 4}) == pytest.approx(math.sqrt(2))


def test_hash_is_one_for_equal_configurations() -> None:
    space = SearchSpace(
        [Float("x", -1, 9), Int("n", 0, 9), Ordinal("o", [1, 2.5]), Float("v", -1, 1, size=2), Bool("f")]
    )
    same: list[Config] = [
        {"x": 1.0, "n": 4, "o": 1, "v": [0.0, 1.0], "f": True},
        {"f": np.bool_(True), "v": [-0.0, 1], "o": 1.0, "n": 4.0, "x": 1},
        {"x": np.float64(1), "n": np.int64(4), "o": np.float64(1), "v": np.array([0, 1]), "f": True},
    ]
    assert {space.canonical_json(c) for c in same} == {'{"f":true,"n":4,"o":1,"v":[0.0,1.0],"x":1.0}'}
    assert space.config_hash(same[0]) == space.config_hash(same[1]) != space.config_hash({**same[0], "x": -1.0})
    assert space.config_hash({**same[0], "x": -0.0}) == space.config_hash({**same[0], "x": 0})
    assert len(space.config_hash(same[0])) == 64
    with pytest.raises(UsageError, match="'y' is not in the space"):
        space.config_hash({"y": 1})


def test_round_trip_through_json() -> None:
    def fits(tp: int, pp: int) -> bool:
        return tp * pp <= 8

    space = SearchSpace(
        [*serving_space().parameters, Float("b", 0, 1, size=2, default=[0.5, 1]), Int("q", 1, 9, step=2, log=True),
         Bool("f", default=True)],
        ["window % tp == 0", fits, Constraint(lambda q: q > 1, name="odd", parameters=("q",))],
    ).with_anchors([])  # fmt: skip
    space = space.with_anchors([space.default()])
    text = json.dumps(space.to_dict())
    back = SearchSpace.from_dict(json.loads(text), {"fits": fits, "odd": lambda q: q > 1})
    assert back.to_dict() == space.to_dict() and back.definition_hash() == space.definition_hash()
    assert back.parameters == space.parameters and back.default() == space.default() and back.anchors == space.anchors
    assert back.definition_hash() != serving_space().definition_hash()
    with pytest.raises(UsageError, match="'odd' is a function that is not stored"):
        SearchSpace.from_dict(json.loads(text), {"fits": fits})
    with pytest.raises(UsageError, match="format 9"):
        SearchSpace.from_dict({"format": 9})


# Bad definitions


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Int("a b", 1, 2), "name 'a b' is not an identifier"),
        (lambda: Int("sum", 1, 2), "'sum' is a word of the constraint language"),
        (lambda: Int("a", 2, 1), "a: low=2 is above high=1"),
        (lambda: Float("a", 0, 1, log=True), "log=True needs low > 0, but low=0"),
        (lambda: Float("a", 0, float("inf")), "is not finite"),
        (lambda: Float("a", -1e308, 1e308), "not a finite number"),
        (lambda: Float("a", "0", 1), "is not a number but str"),
        (lambda: Int("a", 1.5, 2), "low=1.5 is not a whole number"),
        (lambda: Int("a", 1, 2**60), "beyond 2\\*\\*53"),
        (lambda: Int("a", 1, 9, step=0), "step=0"),
        (lambda: Int("a", 1, 9, size=0), "size is 0"),
        (lambda: Int("a", 1, 9, default=10), "a: default 10 is outside"),
        (lambda: Int("a", 1, 9, size=2, default=[1]), "must be a list of 2"),
        (lambda: Ordinal("a", []), "values is empty"),
        (lambda: Ordinal("a", [1, 2, 1.0]), "holds 1.0 twice"),
        (lambda: Ordinal("a", "abc"), "values is 'abc'; give a list"),
        (lambda: Categorical("a", [[1]]), "holds \\[1\\]"),
        (lambda: Categorical("a", ["x"], when=""), "when is ''"),
        (lambda: SearchSpace([Int("a", 1, 2), Bool("a")]), "'a' is used twice"),
        (lambda: SearchSpace(["a"]), "parameters holds 'a'"),
        (lambda: SearchSpace([Int("a", 1, 2)], [3]), "constraint 3 is neither text nor callable"),
        (lambda: SearchSpace([Int("a", 1, 2)]).sample(-1, 0), "n is -1"),
        (lambda: SearchSpace.from_dict({"format": 1, "parameters": [{"kind": "real", "name": "a"}]}), "kind is 'real'"),
        (lambda: SearchSpace.from_dict({"format": 1, "parameters": [{"kind": "int", "name": "a", "lo": 1}]}), "of kind int"),
    ],
)  # fmt: skip
def test_bad_definitions_are_told_in_one_sentence(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Float("x", 0, 1, size=100_000_000), "size is 100000000"),
        (lambda: Ordinal("x", {1, 2}), "values is {1, 2}; give a list, which has an order"),
        (lambda: SearchSpace(3), "parameters is 3"),  # type: ignore[arg-type]
        (lambda: SearchSpace([Int("x", 0, 1)]).sample("a", 0), "n is 'a'"),  # type: ignore[arg-type]
        (lambda: SearchSpace([Int("x", 0, 1)]).sample(1, -1), "seed is -1"),
        (lambda: SearchSpace([Int("x", 0, 1)], [lambda c: c["x"] < 1]), "or all of them as 'config'"),
        (lambda: SearchSpace([Int("x", 0, 1)]).validate(3), "a mapping of parameter names to values"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_parameter_or_configuration_is_named(make: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)


def test_what_is_no_mapping_is_not_in_the_space() -> None:
    assert not SearchSpace([Int("x", 0, 1)], ["x < 1"]).contains(None)  # type: ignore[arg-type]

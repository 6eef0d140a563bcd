"""Features: distances, conditions, sizes and alignment."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotune import SearchSpace
from autotune.space import Bool, Categorical, Config, Float, Int, Ordinal
from autotune.strategies.bo.features import FeatureMap

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def seen(space: SearchSpace, *configs: Config) -> np.ndarray:
    return FeatureMap(space)(space.encode(list(configs)))


def column(space: SearchSpace, values: list[object], group: int) -> list[float]:
    """One group's column over values of the only parameter."""
    features = FeatureMap(space)
    (place,) = np.flatnonzero(features.groups == group)
    return [float(x) for x in features(space.encode([{"a": v} for v in values]))[:, place]]


def test_categories_lie_at_equal_distances_whatever_their_order() -> None:
    space = SearchSpace([Categorical("a", ["x", "y", "z", None, 3])])
    found = seen(space, *({"a": v} for v in ["x", "y", "z", None, 3]))
    distance = np.sqrt(((found[:, None] - found[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(distance, 1.0 - np.eye(5), atol=1e-12)
    assert set(FeatureMap(space).groups) == {0}  # one length scale for all of them
    two = seen(SearchSpace([Bool("a")]), {"a": False}, {"a": True})
    assert abs(two[1, 0] - two[0, 0]) == 1.0


def test_an_ordered_list_is_seen_by_place_size_and_alignment() -> None:
    space = SearchSpace([Ordinal("a", [16, 32, 48, 64])])
    values: list[object] = [16, 32, 48, 64]
    np.testing.assert_allclose(column(space, values, 0), [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(column(space, values, 1), [0, 0.5, math.log2(3) / 2, 1])
    np.testing.assert_allclose(column(space, values, 2), [0, 0.5, 0, 1])


def test_powers_of_two_are_one_column_as_place_size_and_alignment_agree() -> None:
    assert FeatureMap(SearchSpace([Ordinal("a", [1, 2, 4, 8])])).groups.tolist() == [0]


def test_zero_and_negative_numbers() -> None:
    with_zero = SearchSpace([Ordinal("a", [0, 1, 3, 7])])
    np.testing.assert_allclose(column(with_zero, [0, 1, 3, 7], 0), [0, 1 / 3, 2 / 3, 1])
    assert all(np.isfinite(seen(with_zero, {"a": v})).all() for v in (0, 1, 3, 7))
    below = SearchSpace([Int("a", -8, 8)])
    found = column(below, [-8, -4, -1, 0, 1, 4, 8], 1 if len(FeatureMap(below).groups) == 2 else 2)
    np.testing.assert_allclose(found, [1, 2 / 3, 0, 0, 0, 2 / 3, 1])  # how often 2 divides it; 0 counts as odd


def test_a_continuum_is_one_column_on_its_declared_scale() -> None:
    space = SearchSpace([Float("a", 1e-4, 1.0, log=True)])
    np.testing.assert_allclose(seen(space, {"a": 1e-4}, {"a": 1e-2}, {"a": 1.0})[:, 0], [0, 0.5, 1])


def test_a_condition_is_a_column_and_what_it_switches_off_is_in_the_middle() -> None:
    space = SearchSpace(
        [
            Categorical("cache", ["lru", "lfu"]),
            Int("window", 1, 9, when="cache == 'lru'"),
            Bool("eager", when="cache == 'lru'"),
        ]
    )
    features = FeatureMap(space)
    found = seen(
        space,
        {"cache": "lru", "window": 1, "eager": True},
        {"cache": "lfu"},
        {"cache": "lru", "window": 9, "eager": False},
    )
    assert found[:, -1].tolist() == [1.0, 0.0, 1.0]  # one column for the one condition that two parameters share
    window = found[:, features.groups == 1]
    np.testing.assert_allclose(window[:, 0], [0.0, 0.5, 1.0])
    assert np.isfinite(found).all() and features.dims == 3


def test_what_cannot_vary_has_no_column() -> None:
    space = SearchSpace([Ordinal("a", [4]), Float("b", 2.0, 2.0), Bool("c")])
    features = FeatureMap(space)
    assert features.groups.tolist() == [0] and features.dims == 1
    alone = SearchSpace([Ordinal("a", [4])])
    assert FeatureMap(alone)(alone.encode([{"a": 4}])).shape == (1, 0)


def test_a_hundred_dimensions_get_one_column_each_and_no_products() -> None:
    space = SearchSpace([Int("a", 1, 48, size=60), Float("b", 0, 1, size=40)])
    features = FeatureMap(space)
    units = space.sample_encoded(5, np.random.default_rng(0))
    assert features(units).shape == (5, 100) and features.dims == 100
    np.testing.assert_array_equal(features.groups, np.arange(100))
    assert features.interactions(units).shape == (5, 0)


def test_products_and_quotients_of_amounts() -> None:
    space = SearchSpace(
        [Ordinal("x", [1, 2, 4]), Ordinal("y", [8, 16, 32]), Ordinal("sign", [-1, 0, 1]), Float("z", 1, 2)]
    )
    units = space.encode([{"x": 2, "y": 16, "sign": 0, "z": 1.5}, {"x": 4, "y": 8, "sign": 1, "z": 1.5}])
    found = FeatureMap(space).interactions(units)
    np.testing.assert_allclose(np.exp(found), [[32.0, 8.0], [32.0, 2.0]])
    assert FeatureMap(space)(units).flags.c_contiguous

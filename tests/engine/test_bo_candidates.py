"""Where proposals come from: the whole feasible set, or a sample and what lies around the best."""

from __future__ import annotations

import numpy as np
import pytest

from autotune import SearchSpace
from autotune.space import Categorical, Float, Int, Ordinal
from autotune.strategies import Task
from autotune.strategies.bo.candidates import Candidates, OpenPool, Pool, TablePool, pool_of
from autotune.strategies.bo.features import FeatureMap
from autotune.strategies.bo.guides import Guides
from autotune.strategies.bo.surrogate import Shape

Floats = np.ndarray


def pool(space: SearchSpace, seed: int = 0) -> Pool:
    features = FeatureMap(space)
    task = Task(space, (), (), space.default, 0)
    return pool_of(space, features, Guides(task, features, Shape(features.groups, features.dims)), seed)


def table() -> SearchSpace:
    return SearchSpace([Int("x", 0, 30), Int("y", 0, 30), Categorical("c", ["a", "b"])], ["x + y <= 40"])


def open_space() -> SearchSpace:
    return SearchSpace(
        [Float("x", 0, 1), Float("y", 0, 1), Ordinal("n", [1, 2, 4, 8]), Int("k", 0, 5, when="n >= 4")],
        ["x + y <= 1.2", "k <= n"],
    )


def listed() -> SearchSpace:
    """Finite, and too large to be looked at whole."""
    return SearchSpace([Int("x", 0, 999), Int("y", 0, 999)], ["x + y <= 1500"])


SPACES = {"table": table, "open": open_space, "listed": listed}


def keys(units: Floats) -> set[bytes]:
    return {row.tobytes() for row in units}


def first_column(candidates: Candidates) -> Floats:
    return -np.abs(candidates.units[:, 0] - 0.7) - np.abs(candidates.units[:, 1] - 0.2)


def test_the_kind_of_pool() -> None:
    assert isinstance(pool(table()), TablePool)
    assert isinstance(pool(open_space()), OpenPool) and isinstance(pool(listed()), OpenPool)


@pytest.mark.parametrize("kind", SPACES)
def test_what_is_found_is_feasible_new_and_different(kind: str) -> None:
    space = SPACES[kind]()
    found_in = pool(space)
    rng = np.random.default_rng(0)
    # Taken is what would be found first, again and again.
    taken = found_in.best(first_column, 30, np.zeros((0, len(space.dims))), np.zeros((0, len(space.dims))), rng).units
    for _ in range(3):
        best = found_in.best(first_column, 25, taken, taken[:3], rng)
        some = found_in.some(25, taken, rng)
        both = found_in.shortlist(first_column, 20, 20, taken, taken[:3], rng)
        for found, most in ((best, 25), (some, 25), (both, 40)):
            assert len(found) == most
            assert len(keys(found.units)) == len(found)
            assert not keys(found.units) & keys(taken)
            for row in found.units:
                config = found_in.config(row)
                assert space.explain(config) == []
                np.testing.assert_array_equal(space.encode([config])[0], row)
        taken = np.concatenate([taken, best.units])


@pytest.mark.parametrize("kind", SPACES)
def test_the_best_come_first(kind: str) -> None:
    space = SPACES[kind]()
    none = np.zeros((0, len(space.dims)))
    found = pool(space).best(first_column, 10, none, none, np.random.default_rng(0))
    scores = first_column(found)
    assert (np.diff(scores) <= 0).all()
    assert scores[0] > -0.05  # of a best of about 0: a table has it, local search comes near


def test_of_a_table_the_very_best_is_found() -> None:
    space = table()
    none = np.zeros((0, 3))
    found = pool(space).best(first_column, 2, none, none, np.random.default_rng(0))
    assert [tuple(pool(space).config(u).values())[:2] for u in found.units] == [(21, 6), (21, 6)]


def test_ties_are_broken_at_random() -> None:
    space, none = table(), np.zeros((0, 3))
    found_in = pool(space)
    firsts = {
        found_in.best(lambda c: np.zeros(len(c)), 1, none, none, np.random.default_rng(seed)).units.tobytes()
        for seed in range(10)
    }
    assert len(firsts) > 5


@pytest.mark.parametrize("kind", SPACES)
def test_what_must_not_be_proposed_is_not(kind: str) -> None:
    space, none = SPACES[kind](), np.zeros((0, len(SPACES[kind]().dims)))

    def half(candidates: Candidates) -> Floats:
        return np.where(candidates.units[:, 0] > 0.5, -np.inf, candidates.units[:, 0])

    found_in, rng = pool(space), np.random.default_rng(0)
    assert (found_in.best(half, 40, none, none, rng).units[:, 0] <= 0.5).all()
    assert (found_in.shortlist(half, 20, 40, none, none, rng).units[:, 0] <= 0.5).all()
    assert len(found_in.best(lambda c: np.full(len(c), -np.inf), 3, none, none, rng)) == 0


def test_an_exhausted_table_has_nothing_left() -> None:
    space = SearchSpace([Int("x", 0, 3), Int("y", 0, 3)], ["x + y <= 4"])
    found_in, rng, none = pool(space), np.random.default_rng(0), np.zeros((0, 2))
    everything = found_in.best(first_column, 99, none, none, rng).units
    assert len(everything) == space.size == 13
    assert len(found_in.best(first_column, 1, everything, none, rng)) == 0
    assert len(found_in.shortlist(first_column, 5, 5, everything, none, rng)) == 0
    left = found_in.shortlist(first_column, 5, 5, everything[:9], none, rng)
    assert keys(left.units) == keys(everything[9:])


def test_local_search_goes_where_the_sample_has_nothing() -> None:
    """Of a corner of six dimensions with a volume of one in a million."""
    space = SearchSpace([Float("x", 0, 1, size=6)])
    none = np.zeros((0, 6))
    found = pool(space).best(
        lambda c: -np.abs(c.units - 0.03).max(axis=1), 1, none, np.full((1, 6), 0.3), np.random.default_rng(0)
    )
    assert np.abs(found.units - 0.03).max() < 0.1


def test_the_same_generator_finds_the_same() -> None:
    space = open_space()
    none = np.zeros((0, 4))
    first, again = (
        pool(space, seed=3).shortlist(first_column, 9, 9, none, none, np.random.default_rng(1)).units for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)

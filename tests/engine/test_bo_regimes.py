"""Outcomes in two groups far apart: which they are, and that a search sees past them."""

from __future__ import annotations

import numpy as np
import pytest

import autotune
from autotune import Categorical, SearchSpace
from autotune.space import Config
from autotune.strategies.bo.regimes import setbacks

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def normal(n: int, centre: float, deviation: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, deviation, n)


def test_a_group_far_above_is_found_wherever_it_was_measured() -> None:
    losses = np.concatenate([normal(20, 10.0), normal(12, 70.0, seed=1)])
    order = np.random.default_rng(2).permutation(32)
    assert (setbacks(losses[order]) == (order >= 20)).all()
    assert (setbacks(1e-3 * losses[order] - 5.0) == (order >= 20)).all()


@pytest.mark.parametrize(
    "losses",
    [
        normal(50, 10.0),
        np.exp(normal(50, 0.0, 1.5)),
        np.concatenate([normal(47, 10.0), [70.0, 70.1, 70.2]]),
        np.concatenate([normal(5, 10.0), normal(45, 70.0)]),
        np.concatenate([normal(9, 10.0), normal(6, 70.0)]),
        np.full(50, 3.0),
        np.concatenate([normal(10, 10.0), np.full(40, 30.0)]),
    ],
    ids=["one group", "a long tail", "three of them", "mostly far", "too few", "all equal", "mostly equal"],
)
def test_what_is_no_group_of_its_own_is_left_alone(losses: np.ndarray) -> None:
    assert not setbacks(losses).any()


def test_measurements_that_crowd_about_the_best_do_not_make_the_others_setbacks() -> None:
    first = normal(30, 10.0)
    crowd = normal(200, float(first.min()) - 0.5, 1e-3)
    assert not setbacks(np.concatenate([first, crowd])).any()


SPACE = SearchSpace([Categorical(f"op{i}", list("abcd")) for i in range(6)])
RNG = np.random.default_rng(3)
WORTH = RNG.random((6, 4))
DIVERGES = RNG.random((4,) * 6) < 0.5


def diverging(config: Config) -> float:
    """A sum of what each choice is worth; half of the combinations diverge, and no model can tell which."""
    chosen = tuple("abcd".index(config[f"op{i}"]) for i in range(6))
    value = float(sum(WORTH[i, c] for i, c in enumerate(chosen)))
    return 90.0 + value if DIVERGES[chosen] else value


def test_a_search_sees_past_what_diverged() -> None:
    table = SPACE.enumerate()
    assert table is not None
    best = min(diverging(table.config(i)) for i in range(len(table)))
    regrets = []
    for seed in range(4):
        result = autotune.search(SPACE, diverging, strategy="bo", trials=45, seed=seed)
        assert result.best is not None
        regrets.append(result.best.metrics["value"] - best)
    assert np.mean(regrets) < 0.1

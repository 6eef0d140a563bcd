"""Which configurations fail, learned from a limit on memory."""

from __future__ import annotations

import numpy as np
import pytest

from autotune import SearchSpace
from autotune.space import Int, Ordinal
from autotune.strategies.bo.failures import FailureModel, least_probability
from autotune.strategies.bo.features import FeatureMap
from autotune.strategies.bo.surrogate import Points, Shape

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SPACE = SearchSpace(
    [Ordinal("tile", [8, 16, 32, 64, 128, 256]), Ordinal("stages", [1, 2, 3, 4, 5, 6]), Int("other", 0, 9)]
)
FEATURES = FeatureMap(SPACE)
SHAPE = Shape(FEATURES.groups, FEATURES.dims)


def points(units: np.ndarray, guides: int = 0) -> Points:
    return Points(FEATURES(units), FEATURES.interactions(units), np.full((len(units), guides), np.nan))


def too_large(units: np.ndarray) -> np.ndarray:
    configs = [SPACE.decode(row) for row in units]
    return np.array([c["tile"] * c["stages"] > 200 for c in configs])


def learned(n: int, seed: int = 0, guides: int = 0) -> FailureModel:
    units = SPACE.sample_encoded(n, np.random.default_rng(seed))
    failed = too_large(units)
    return FailureModel(points(units[~failed], guides), points(units[failed], guides), SHAPE, seed)


def test_a_limit_on_a_product_of_knobs_is_learned() -> None:
    new = SPACE.sample_encoded(200, np.random.default_rng(9))
    chance = np.exp(learned(60).log_success(points(new)))
    failed = too_large(new)
    assert ((chance < 0.5) == failed).mean() > 0.9
    assert chance[~failed].mean() > 0.85 and chance[failed].mean() < 0.15


def test_nothing_is_certain_and_roughly_is_roughly_the_same() -> None:
    new = SPACE.sample_encoded(100, np.random.default_rng(9))
    model = learned(60)
    exact, rough = model.log_success(points(new)), model.log_success(points(new), rough=True)
    for found in (exact, rough):
        assert (found < 0.0).all() and (found >= np.log(1e-3) - 1e-12).all()
    assert np.corrcoef(exact, rough)[0, 1] > 0.8


def test_after_one_failure_only_what_is_near_is_suspect() -> None:
    configs = [
        {"tile": t, "stages": s, "other": o} for t, s, o in [(8, 1, 0), (16, 2, 3), (8, 3, 9), (32, 1, 5), (256, 6, 5)]
    ]
    units = SPACE.encode(configs)
    model = FailureModel(points(units[:4]), points(units[4:]), SHAPE, 0)
    near, far = SPACE.encode([{"tile": 256, "stages": 6, "other": 6}, {"tile": 8, "stages": 1, "other": 1}])
    chance = np.exp(model.log_success(points(np.array([near, far]))))
    assert chance[0] < 0.6 < chance[1]


def test_silent_guides_and_the_seed_change_nothing() -> None:
    new = SPACE.sample_encoded(30, np.random.default_rng(9))
    plain = learned(40).log_success(points(new))
    np.testing.assert_array_equal(learned(40).log_success(points(new)), plain)
    np.testing.assert_array_equal(learned(40, guides=2).log_success(points(new, guides=2)), plain)


def test_whoever_always_dares_what_is_allowed_fails_in_one_proposal_of_ten() -> None:
    told: list[bool] = []
    for _ in range(300):
        told.append(least_probability(told) < 0.5)
    assert told[0] and not least_probability([False] * 30) > 0.1
    assert all(sum(told[i : i + 100]) <= 13 for i in range(200)) and sum(told) >= 28


def test_many_failures_in_a_row_ask_for_safety_but_not_forever() -> None:
    told = [True] * 20
    assert least_probability(told) == pytest.approx(0.99)
    assert least_probability([*told, *[False] * 35]) < 0.6

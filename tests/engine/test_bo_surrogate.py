"""Stacking, the choice of the warp, guides, the ladder, and numbers that nobody should return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotune import Failure, SearchSpace, Study
from autotune.measurement import Measurement, Metric
from autotune.space import Int
from autotune.strategies.bo.evidence import Reader
from autotune.strategies.bo.gp import FitError, GaussianProcess, fit
from autotune.strategies.bo.surrogate import Points, Shape, Surrogate, choose_warp, most_telling, stack

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SHAPE = Shape(np.arange(2), 2)


def points(x: np.ndarray, guides: np.ndarray | None = None) -> Points:
    return Points(x, np.zeros((len(x), 0)), np.zeros((len(x), 0)) if guides is None else guides)


def steps(x: np.ndarray) -> np.ndarray:
    return 1.0 + 4.0 * (x[:, 0] > 0.61) + 2.0 * (x[:, 1] > 0.37)


def smooth(x: np.ndarray) -> np.ndarray:
    return 3.0 + np.sin(4.0 * x[:, 0]) + (x[:, 1] - 0.4) ** 2


def test_stacking_prefers_the_model_that_is_right() -> None:
    x = np.random.default_rng(0).random((60, 2))
    of_steps, of_smooth = Surrogate(points(x), steps(x), SHAPE, 0), Surrogate(points(x), smooth(x), SHAPE, 0)
    assert of_steps.weights["trees"] > 0.8
    assert of_smooth.weights["gp"] > 0.9
    for surrogate in (of_steps, of_smooth):
        assert abs(sum(surrogate.weights.values()) - 1.0) < 1e-12


@pytest.mark.parametrize("truth", [steps, smooth])
def test_the_mixture_predicts_what_was_not_measured(truth: Any) -> None:
    rng = np.random.default_rng(0)
    x, new = rng.random((80, 2)), rng.random((200, 2))
    surrogate = Surrogate(points(x), truth(x), SHAPE, 0)
    found = surrogate.warp.backward(surrogate.predict(points(new)).mean)
    assert np.median(np.abs(found - truth(new))) < 0.1 * truth(new).std()
    left_out, measured = surrogate.leave_one_out()
    assert np.corrcoef(left_out, measured)[0, 1] > 0.8


def test_weights_of_equal_models_are_equal_and_of_a_better_one_nearly_all() -> None:
    np.testing.assert_allclose(stack(np.zeros((2, 10))), [0.5, 0.5])
    # The prior of 2 observations' worth each: (10 + 2) / (10 + 4).
    np.testing.assert_allclose(stack(np.array([np.zeros(10), np.full(10, -50.0)])), [12 / 14, 2 / 14], rtol=1e-6)
    # A model that alone sees half of the points keeps about half of the say.
    split = np.array([[0.0, -9.0] * 10, [-9.0, 0.0] * 10])
    np.testing.assert_allclose(stack(split), [0.5, 0.5], atol=1e-6)


def test_lognormal_losses_get_a_logarithm_and_plain_ones_none() -> None:
    x = np.random.default_rng(0).random((60, 2))
    latent = 6.0 * np.sin(5.0 * x[:, 0]) + 3.0 * x[:, 1]
    assert choose_warp(points(x), np.exp(latent), SHAPE).power == 0.0
    assert choose_warp(points(x), -np.exp(latent), SHAPE).power == 0.0
    assert choose_warp(points(x), 100.0 + latent, SHAPE).power == 1.0
    assert choose_warp(points(x), latent, SHAPE).power == 1.0


def test_few_or_equal_losses_are_left_as_they_are() -> None:
    x = np.random.default_rng(0).random((20, 2))
    assert choose_warp(points(x[:5]), np.array([1.0, 10.0, 100.0, 1e3, 1e4]), SHAPE).power == 1.0
    assert choose_warp(points(x), np.full(20, 3.0), SHAPE).power == 1.0


def test_the_most_telling_points_are_the_best_and_some_of_the_others() -> None:
    y = np.array([5.0, 0.0, 9.0, 1.0, 7.0, 3.0, 8.0, 2.0])
    assert most_telling(y, 8).tolist() == list(range(8))
    kept = most_telling(y, 4).tolist()
    assert kept == sorted(kept) and {1, 3} <= set(kept) and 2 in kept and len(set(kept)) == 4


def test_a_guide_that_measurements_bear_out_is_heard_and_another_is_not() -> None:
    rng = np.random.default_rng(1)
    x, new = rng.random((30, 2)), rng.random((50, 2))

    def truth(at: np.ndarray) -> np.ndarray:
        return 10.0 + np.sin(40.0 * at[:, 0]) + np.sin(35.0 * at[:, 1])  # too rough for 30 points

    def guides(at: np.ndarray) -> np.ndarray:
        return np.stack([truth(at), -truth(at), np.full(len(at), np.nan)], axis=1)

    def error(columns: tuple[int, ...]) -> float:
        surrogate = Surrogate(points(x, guides(x)), truth(x), SHAPE, 0, guides=columns)
        assert surrogate.trusted == tuple(c for c in columns if c == 0)
        return float(
            np.abs(surrogate.warp.backward(surrogate.predict(points(new, guides(new))).mean) - truth(new)).mean()
        )

    alone = error(())
    assert error((0,)) < 0.3 * alone
    assert error((1, 2)) == alone


def test_the_likelier_process_is_handed_out_with_its_columns() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((30, 2))
    y = rng.normal(size=30)
    surrogate = Surrogate(points(x, y[:, None]), y, SHAPE, 0, guides=(0,))
    assert surrogate.weights["guided gp"] > surrogate.weights["gp"]
    assert surrogate.gp is not None
    features, guides = surrogate.gp_columns(points(x, y[:, None]))
    assert guides.shape == (30, 1)
    mean, _ = surrogate.gp.predict(features, guides)
    assert np.corrcoef(mean, surrogate.warp.forward(y))[0, 1] > 0.99
    plain = Surrogate(points(x), y, SHAPE, 0)
    assert plain.gp is not None and plain.gp_columns(points(x))[1].shape == (30, 0)
    assert Surrogate(points(x), y, SHAPE, 0, members=("trees",)).gp is None


def test_a_fit_that_fails_falls_down_the_ladder_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise FitError("the likelihood of 20 points is not finite")

    x = np.random.default_rng(0).random((20, 2))
    monkeypatch.setattr("autotune.strategies.bo.surrogate.fit", broken)
    simpler = Surrogate(points(x), smooth(x), SHAPE, 0)
    assert set(simpler.weights) == {"gp", "trees"} and "not finite" in simpler.ladder[0]
    monkeypatch.setattr(GaussianProcess, "__init__", broken)
    trees = Surrogate(points(x), smooth(x), SHAPE, 0)
    assert set(trees.weights) == {"trees"} and len(trees.ladder) >= 2
    assert np.isfinite(trees.predict(points(x)).mean).all()
    after = Surrogate(points(x), smooth(x), SHAPE, 0, like=trees)
    assert set(after.weights) == {"trees"} and after.ladder == trees.ladder


@pytest.mark.parametrize("guided", [False, True])
def test_a_surrogate_like_another_learns_nothing_again(guided: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x, more, new = rng.random((30, 2)), rng.random((3, 2)), rng.random((9, 2))

    def at(rows: np.ndarray) -> Points:
        return points(rows, np.sin(4.0 * rows[:, :1]) if guided else None)

    guides = (0,) if guided else ()
    before = Surrogate(at(x), smooth(x), SHAPE, 0, guides=guides)

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("fitted again")

    monkeypatch.setattr("autotune.strategies.bo.surrogate.fit", refused)
    same = Surrogate(at(x), smooth(x), SHAPE, 0, guides=guides, like=before)
    np.testing.assert_array_equal(same.predict(at(new)).mean, before.predict(at(new)).mean)
    all_x = np.concatenate([x, more])
    grown = Surrogate(at(all_x), smooth(all_x), SHAPE, 0, guides=guides, like=before)
    assert grown.warp == before.warp and grown.size == 33
    assert grown.gp is not None and before.gp is not None and grown.gp.learned is before.gp.learned
    variance = grown.predict(at(more)).components[0].variance
    assert (variance < before.predict(at(more)).components[0].variance).all()  # there is less to learn there


@pytest.mark.parametrize(("measured", "fitted"), [(30, [30]), (14, [14, 16])])
def test_what_little_is_under_way_costs_no_further_fit(
    measured: int, fitted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.create(SearchSpace([Int("x", 0, 40), Int("y", 0, 40)]), strategy="bo", seed=0)
    for _ in range(measured):
        trial = study.ask()
        study.tell(trial, 5.0 + (trial.config["x"] - 31) ** 2 + 2 * (trial.config["y"] - 12) ** 2)
    fits: list[int] = []

    def counted(x: np.ndarray, *rest: Any, **named: Any) -> Any:
        fits.append(len(x))
        return fit(x, *rest, **named)

    monkeypatch.setattr("autotune.strategies.bo.surrogate.fit", counted)
    proposed = study.ask(3)
    assert len({tuple(t.config.values()) for t in proposed}) == 3
    assert fits == fitted


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 1.2, 1.5, 2.0, 1.1, 1e300, 1.3, 1.9], [1.0, -1e308, 1.5, 2.0, 1.1, 1e308, 1.3, 1.9],
        [5e-324 * k for k in range(1, 9)], [1e-300, 1e-200, 1e-100, 1.0, 1e100, 1e200, 1e250, 1e300],
        [1e307 * k for k in range(-4, 4)], [0.0] * 7 + [1e-300], [1e308] * 8, [1e15 + k for k in range(8)],
    ],
)  # fmt: skip
def test_extreme_losses_do_not_break_it(losses: list[float]) -> None:
    x = np.random.default_rng(0).random((8, 2))
    surrogate = Surrogate(points(x), np.array(losses), SHAPE, 0, np.array([0.0, 1e200, 1e-300, 1.0] * 2))
    belief = surrogate.predict(points(np.random.default_rng(1).random((20, 2))))
    assert np.isfinite(belief.mean).all() and (belief.variance > 0.0).all()
    assert np.isfinite(surrogate.warp.backward(belief.mean)).all()
    assert "gp" in surrogate.weights and not surrogate.ladder


def test_a_penalty_does_not_hide_where_the_best_is() -> None:
    """What users return for what did not work: the search still finds the valley of the rest."""
    space = SearchSpace([Int("x", 0, 40), Int("y", 0, 40)])
    study = Study.create(space, "minimize v", strategy="bo", seed=2)
    for _ in range(26):
        trial = study.ask()
        c = trial.config
        study.tell(trial, 1e30 if c["x"] < 10 else 5.0 + (c["x"] - 31) ** 2 + 2 * (c["y"] - 12) ** 2)
    assert study.best is not None and study.best.values["v"] <= 7.0
    assert np.isfinite(study.trials[-1].notes["expected_gain"])


def test_evidence_is_signed_merged_and_sorted_by_kind() -> None:
    space = SearchSpace([Int("x", 0, 9)])
    study = Study.create(space, "maximize v", constraints=["w >= 2"], default={"x": 0})
    results: list[Any] = [
        Measurement({"v": Metric(3.0, half_width=1.96), "w": Metric(5.0)}), {"v": 7.0, "w": 1.0}, Failure("oom", "large"),
        {"v": 1.0},
        Measurement({"v": Metric(4.0, half_width=1e200), "w": Metric(2.0)}),
    ]  # fmt: skip
    trials = []
    for result in results:
        trial = study.ask()
        trials.append(trial)
        study.tell(trial, result)
    pending = study.ask()
    evidence = Reader(space).read(study.history)
    values = dict(zip(evidence.hashes, evidence.objectives[0].values, strict=True))
    assert values[space.config_hash(trials[0].config)] == -3.0 and values[space.config_hash(trials[1].config)] == -7.0
    assert evidence.limits == (-2.0,)
    place = evidence.hashes.index(space.config_hash(trials[0].config))
    np.testing.assert_allclose(evidence.objectives[0].variance[place], 1.0)
    assert np.isfinite(evidence.objectives[0].variance).all()
    assert evidence.incumbent == evidence.hashes.index(space.config_hash(trials[4].config))  # 7 breaks its limit
    assert len(evidence.failed) + len(evidence.measured) == 5 and len(evidence.failed) >= 1
    np.testing.assert_array_equal(evidence.pending, space.encode([pending.config]))

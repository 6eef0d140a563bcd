"""Acquisitions that a user may select: what each says on small cases, and that each of them searches."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import numpy as np
import pytest
import torch

from autotune import Failure, SearchSpace, Study, UsageError
from autotune.space import Bool, Categorical, Config, Float, Int, Ordinal
from autotune.strategies.bo import selectable, settings
from autotune.strategies.bo.acquisition import log_expected_improvement
from autotune.strategies.bo.botorch_acquisitions import Question, answer
from autotune.strategies.bo.botorch_model import gain_model, inputs
from autotune.strategies.bo.gp import FitError, GaussianProcess, Hyperparameters
from autotune.strategies.bo.selectable import Scale, combined, promise
from autotune.strategies.bo.settings import Acquisition
from autotune.strategies.bo.surrogate import Belief, Component
from autotune.strategies.bo.warp import Warp
from tests.driving import run

NAMES: list[Acquisition] = sorted(set(get_args(Acquisition)) - settings.ONLY_SEVERAL)
X = np.array([[0.0], [0.25], [0.5], [0.75], [1.0]])
Y = np.array([4.0, 2.0, 1.0, 2.5, 5.0])


def process() -> GaussianProcess:
    learned = Hyperparameters(np.array([math.log(0.4)]), math.log(1e-3), np.zeros(0))
    return GaussianProcess(X, Y, np.zeros(1, dtype=np.intp), learned)


def asked(at: np.ndarray, pending: np.ndarray | None = None, seed: int = 0) -> Question:
    none = np.zeros((0, 1))
    gains = gain_model(process())
    return Question(
        gains.model,
        inputs(at, at[:, :0]),
        inputs(X, X[:, :0]),
        inputs(none if pending is None else pending, none if pending is None else pending[:, :0]),
        (float(gains.gains(1.0)),),
        seed,
    )


GRID = np.linspace(0.0, 1.0, 41)[:, None]


def test_joint_expected_improvement_of_one_is_the_analytic_one() -> None:
    gp = process()
    at = np.array([[0.1], [0.4], [0.45], [0.6], [0.9]])
    exact = log_expected_improvement(Belief((Component(*gp.predict(at), 1.0),), Warp("box-cox", 1.0)), 1.0)
    found = answer("qlogei", asked(at)) + math.log(gain_model(gp).scale)
    likely = exact > math.log(1e-3)  # 256 draws say little of what happens once in a thousand times
    assert likely.sum() >= 3
    np.testing.assert_allclose(found[likely], exact[likely], atol=0.15)


@pytest.mark.parametrize("name", ["qlogei", "qlognei"])
def test_what_is_under_way_promises_nothing_twice(name: Acquisition) -> None:
    """Beside the best candidate as a pending point, another one adds more than the same once more."""
    alone = answer(name, asked(GRID))
    best = int(alone.argmax())
    assert 0.3 < GRID[best, 0] < 0.7
    together = answer(name, asked(GRID, GRID[best : best + 1]))
    assert together.argmax() != best and together.max() > together[best] + 0.01


@pytest.mark.parametrize("name", ["kg", "mes", "jes"])
def test_what_was_measured_tells_little_and_the_gaps_about_the_best_tell_most(name: Acquisition) -> None:
    values = answer(name, asked(GRID))
    gain = np.exp(values) if selectable.SCALES[name] is Scale.LOG else values
    at_measured = gain[::10]
    assert gain.max() > 2.0 * at_measured.max()
    assert 0.25 < GRID[gain.argmax(), 0] < 0.75


def test_thompson_draws_are_of_the_posterior() -> None:
    at = np.array([[0.1], [0.4], [0.45]])
    question = asked(at)
    draws = np.array([answer("ts", dataclasses.replace(question, seed=seed)) for seed in range(300)])
    with torch.no_grad():
        posterior = question.model.posterior(question.candidates)
    covariance = posterior.distribution.covariance_matrix.numpy()
    error = 4.0 * np.sqrt(np.diag(covariance) / 300)
    assert (np.abs(draws.mean(axis=0) - posterior.mean.squeeze(-1).numpy()) < error).all()
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.3 * covariance.max())
    assert np.corrcoef(draws.T)[1, 2] > 0.8  # neighbours are drawn together


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"logei", "pi", "ucb"}))
def test_the_seed_decides_and_nothing_of_torch_is_left_changed(name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    first = answer(name, asked(GRID))
    torch.testing.assert_close(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(answer(name, asked(GRID)), first)
    assert first.shape == (41,) and not np.isnan(first).any()


def test_what_is_not_a_number_is_said_and_the_caller_can_go_on() -> None:
    with pytest.raises(FitError):
        answer("qlogei", asked(np.array([[np.nan], [0.3]])))


def test_probability_and_confidence_bound_on_a_mixture() -> None:
    warp = Warp("box-cox", 1.0)
    belief = Belief(
        (
            Component(np.array([0.0, 1.0]), np.array([1.0, 0.25]), 0.75),
            Component(np.array([2.0, 1.0]), np.array([4.0, 0.25]), 0.25),
        ),
        warp,
    )
    none = np.zeros(2)
    pi = np.exp(promise("pi", belief, 0.0, none))
    np.testing.assert_allclose(pi, [0.75 * 0.5 + 0.25 * 0.15865525, 0.02275013], rtol=1e-6)
    # Mean 0.5 and variance 0.75 (1) + 0.25 (4 + 4) - 0.25 for the first, 1 and 0.25 for the second.
    ucb = promise("ucb", belief, 0.0, none)
    np.testing.assert_allclose(ucb, [-(0.5 - 2.0 * math.sqrt(2.5)), 0.0], atol=1e-12)


def test_chances_enter_on_the_scale_of_the_acquisition() -> None:
    half, values = np.log([1.0, 0.5]), np.array([3.0, 3.0])
    np.testing.assert_allclose(combined(Scale.LOG, values, half), [3.0, 3.0 + math.log(0.5)])
    np.testing.assert_allclose(np.exp(combined(Scale.POSITIVE, values, half)), [3.0, 1.5])
    np.testing.assert_allclose(np.exp(combined(Scale.POSITIVE, -values, half)), [0.0, 0.0], atol=1e-290)
    np.testing.assert_allclose(combined(Scale.SIGNED, values, half), [3.0, 1.5])
    np.testing.assert_allclose(combined(Scale.SIGNED, -values, half), [-3.0, -6.0])


@pytest.mark.parametrize("scale", Scale)
def test_what_is_too_risky_comes_last_and_the_likeliest_of_it_first(scale: Scale) -> None:
    chance = np.array([-0.7, -3000.0, -1000.0])
    for values in (np.array([1.0, 9.0, 5.0]), np.array([-9.0, -1.0, -5.0]), np.zeros(3)):
        found = combined(scale, values, chance, np.random.default_rng(3))
        assert np.argsort(-found)[0] == 0
        assert scale is Scale.DRAW or np.argsort(-found).tolist() == [0, 2, 1]


def test_a_draw_competes_as_often_as_it_is_likely_to_count() -> None:
    rng, chance = np.random.default_rng(0), np.log([0.9, 0.2])
    first = [combined(Scale.DRAW, np.array([0.0, 1.0]), chance, rng).argmax() for _ in range(2000)]
    # The second wins whenever it comes through, and also where neither does only by chance: then the likelier one is taken.
    assert 0.16 < np.mean(first) < 0.24
    hopeless = combined(Scale.DRAW, np.array([0.0, 1.0]), np.array([-900.0, -800.0]), rng)
    assert hopeless.argmax() == 1


# Through a study


def mixed() -> SearchSpace:
    return SearchSpace(
        [
            Ordinal("tp", [1, 2, 4, 8]), Ordinal("pp", [1, 2, 4, 8]), Categorical("cache", ["lru", "lfu"]),
            Int("window", 1, 64, log=True, when="cache == 'lru'"), Float("lr", 1e-4, 1e-1, log=True), Bool("prefetch"),
        ],
        constraints=["tp * pp <= 8"],
    )  # fmt: skip


def loss(config: Config) -> dict[str, float]:
    if config["tp"] == 8 and config["prefetch"]:
        raise Failure("oom", "too large")
    time = abs(math.log2(config["tp"]) - 1) + abs(math.log10(config["lr"]) + 2) + 0.02 * config.get("window", 30)
    return {"time_ms": time, "vram_gib": 8.0 * config["pp"]}


def study_of(acquisition: str, space: SearchSpace, *more: str, seed: int = 0) -> Study:
    return Study.create(
        space,
        "minimize time_ms",
        constraints=more,
        strategy="bo",
        strategy_options={"acquisition": acquisition},
        seed=seed,
    )


@pytest.mark.parametrize("name", NAMES)
def test_proposals_are_feasible_new_and_the_same_for_the_same_history(name: str) -> None:
    found = []
    for _ in range(2):
        study = study_of(name, mixed(), "vram_gib <= 24", seed=3)
        run(study, loss, 12, n=4)
        hashes = [t.config_hash for t in study.trials]
        assert len(set(hashes)) == len(hashes)
        assert all(not study.space.explain(dict(t.config)) for t in study.trials)
        assert study.trials[-1].notes["acquisition"] == name
        assert "fallback" not in study.trials[-1].notes
        found.append(hashes)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_each_finds_the_valley_of_a_bowl(name: str) -> None:
    """Random search finds one of these 23 of 1,681 configurations in 22 trials once in four times."""
    space = SearchSpace([Int("x", 0, 40), Int("y", 0, 40)])
    study = study_of(name, space)
    run(study, lambda c: {"time_ms": 10 + (c["x"] - 31) ** 2 + 2 * (c["y"] - 12) ** 2}, 22)
    assert study.best is not None and study.best.values["time_ms"] <= 20


def test_without_a_feasible_point_all_look_for_one() -> None:
    space = SearchSpace([Int("x", 0, 40), Int("y", 0, 40)])
    for name in ("kg", "ucb", "ts"):
        study = study_of(name, space, "vram_gib <= 4")
        run(study, lambda c: {"time_ms": float(c["x"]), "vram_gib": float(c["x"] + c["y"])}, 16)
        assert study.best is not None, name


def test_a_surrogate_without_a_process_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise FitError("singular")

    monkeypatch.setattr("autotune.strategies.bo.surrogate.fit", broken)
    monkeypatch.setattr("autotune.strategies.bo.gp.GaussianProcess.__init__", broken)
    study = study_of("kg", mixed())
    run(study, loss, 9)
    assert "kg needs a Gaussian process: logei decided" in study.trials[-1].notes["fallback"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"strategy 'bo': option acquisition = 'ei': input should be 'logei', .*'kg'"
    ) as told:
        study_of("ei", mixed())
    assert "\n" not in str(told.value)


def test_acquisitions_are_for_one_objective_or_for_several() -> None:
    told = "'bo': option acquisition = '{}' is for {}, and this study has {}; choose"
    for name in get_args(Acquisition):
        for objectives, known in ((1, NAMES), (2, settings.SEVERAL)):
            if name in known:
                settings.check(name, "bo", objectives, ("gp", "trees"))
                continue
            meant = ("several objectives", "one") if objectives == 1 else ("one objective", "2")
            with pytest.raises(UsageError, match=told.format(name, *meant)):
                settings.check(name, "bo", objectives, ("gp", "trees"))


def test_trees_alone_have_no_joint_distribution() -> None:
    space = mixed()
    with pytest.raises(
        UsageError, match=r"'trees': option acquisition = 'kg' needs a Gaussian .*choose one of logei, pi, ucb"
    ):
        Study.create(space, strategy="trees", strategy_options={"acquisition": "kg"})
    study = Study.create(space, "minimize time_ms", strategy="trees", strategy_options={"acquisition": "ucb"})
    run(study, loss, 10)
    assert study.trials[-1].notes["acquisition"] == "ucb"

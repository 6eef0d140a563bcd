"""Acquisitions of several objectives by BoTorch, against exact answers where there are any."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from botorch.acquisition.multi_objective import logei
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune.objective import pareto_mask
from autotune.strategies.bo.botorch_acquisitions import Question, answer
from autotune.strategies.bo.botorch_model import GainModel, gain_model, gain_models, inputs, side_by_side
from autotune.strategies.bo.gp import GaussianProcess, Hyperparameters
from autotune.strategies.bo.hypervolume import Boxes, log_expected_hypervolume_improvement
from autotune.strategies.bo.several import contenders
from autotune.strategies.bo.surrogate import Component

Floats = npt.NDArray[np.float64]

BOTH = ["qlognehvi", "qlognparego"]
LINE = np.linspace(0.0, 1.0, 41)[:, None]
KNOWN = np.array([[0.0], [0.3], [0.6], [1.0]])


def losses(x: Floats, m: int = 2) -> Floats:
    """At odds: the j-th is best at j / (m - 1); shape ``(n, m)``."""
    return np.concatenate([1.0 + (x - j / (m - 1)) ** 2 for j in range(m)], axis=1)


def processes(x: Floats, y: Floats, noise: float = 1e-6) -> list[GaussianProcess]:
    learned = Hyperparameters(np.full(x.shape[1], math.log(0.4)), math.log(noise), np.zeros(0))
    return [GaussianProcess(x, column, np.arange(x.shape[1]), learned) for column in y.T]


def asked(gps: Sequence[GaussianProcess], at: Floats, known: Floats, goal: Sequence[float], seed: int = 0) -> Question:
    model, gains = gain_models(gps)

    def columns(x: Floats) -> torch.Tensor:
        return side_by_side([(x, x[:, :0])] * len(gps))

    beaten = tuple(float(one.gains(loss)) for one, loss in zip(gains, goal, strict=True))
    return Question(model, columns(at), columns(known), columns(at[:0]), beaten, seed)


def along_a_line(seed: int = 0) -> Question:
    y = losses(KNOWN)
    return asked(processes(KNOWN, y), LINE, KNOWN, y.max(axis=0) + 0.1, seed)


def test_a_model_of_several_gains_is_each_of_them_and_they_are_independent() -> None:
    rng = np.random.default_rng(0)
    x, y, at, said = rng.random((9, 2)), rng.random((9, 3)), rng.random((4, 2)), rng.random((4, 1))
    guides = [x[:, :0], y[:, :1] - 0.5, x[:, :0]]
    gps = [
        GaussianProcess(
            x, y[:, j], np.arange(2), Hyperparameters(np.log([0.4, 0.7 + j]), -6.0, np.zeros(g.shape[1])), g
        )
        for j, g in enumerate(guides)
    ]
    together = side_by_side([(at, said[:, : g.shape[1]]) for g in guides])
    assert together.shape == (4, 2 + 3 + 2)
    model, _ = gain_models(gps)
    with torch.no_grad():
        found = model.posterior(together)
        covariance = found.distribution.covariance_matrix.reshape(3, 4, 3, 4)
        for j, (gp, g) in enumerate(zip(gps, guides, strict=True)):
            alone = gain_model(gp).model.posterior(inputs(at, said[:, : g.shape[1]]))
            torch.testing.assert_close(found.mean[:, j], alone.mean[:, 0])
            torch.testing.assert_close(covariance[j, :, j], alone.distribution.covariance_matrix)
            others = [k for k in range(3) if k != j]
            assert (covariance[j][:, others] == 0.0).all()


def test_a_model_of_one_gain_is_that_model() -> None:
    model, gains = gain_models(processes(KNOWN, losses(KNOWN))[:1])
    assert model is gains[0].model and isinstance(gains[0], GainModel)


@pytest.mark.parametrize(("m", "error"), [(2, 0.1), (3, 0.3)])
def test_noisy_hypervolume_improvement_without_noise_is_the_exact_one(m: int, error: float) -> None:
    """Between few points, where both objectives are in doubt and the answer depends on their being independent."""
    known = np.array([[0.0, 0.2], [0.9, 1.0], [0.5, 0.1]])
    at = np.random.default_rng(1).random((60, 2))
    y = losses(known[:, :1], m) + known[:, 1:] / 4.0
    gps, reference = processes(known, y), y.max(axis=0) + 0.05
    beliefs = [[Component(*gp.predict(at), 1.0)] for gp in gps]
    exact = log_expected_hypervolume_improvement(beliefs, Boxes.of(y, reference))
    exact -= sum(math.log(gain.scale) for gain in gain_models(gps)[1])
    found = np.array([answer("qlognehvi", asked(gps, at, known, reference.tolist(), seed)) for seed in range(6)])
    best = np.argsort(-exact)[:20]
    np.testing.assert_allclose(found[:, best], np.broadcast_to(exact[best], (6, 20)), atol=error)


def test_a_lucky_measurement_is_not_taken_for_the_front() -> None:
    """Of 12 noisy points one was far too good; improvement over what is believed of it is not as hopeless as over its value."""
    x = np.linspace(0.0, 1.0, 12)[:, None]
    y = losses(x)
    y[6] -= 1.0
    gps = processes(x, y, noise=0.3)
    reference = (y.max(axis=0) + 0.1).tolist()
    exact = log_expected_hypervolume_improvement(
        [[Component(*gp.predict(LINE), 1.0)] for gp in gps], Boxes.of(y, np.array(reference))
    )
    exact -= sum(math.log(gain.scale) for gain in gain_models(gps)[1])
    assert answer("qlognehvi", asked(gps, LINE, x, reference)).max() > exact.max() + 1.0


def test_random_weights_look_at_every_part_of_the_front_and_only_there() -> None:
    known = np.array([[0.0, 0.5], [0.5, 1.0], [1.0, 0.5], [0.5, 0.0], [0.5, 0.5]])
    at = np.stack(np.meshgrid(np.linspace(0.0, 1.0, 11), np.linspace(0.0, 1.0, 5)), axis=-1).reshape(-1, 2)
    # The front is y = 0.5, which the measurements show.
    gps = processes(known, losses(known[:, :1]) + 4.0 * (known[:, 1:] - 0.5) ** 2)
    goal = [3.0, 3.0]
    best = [at[answer("qlognparego", asked(gps, at, known, goal, seed)).argmax()] for seed in range(16)]
    assert all(y == 0.5 for _, y in best)
    assert min(x for x, _ in best) < 0.35 and max(x for x, _ in best) > 0.65
    assert len({x for x, _ in best}) >= 4


@pytest.mark.parametrize("name", BOTH)
def test_what_is_under_way_promises_nothing_twice(name: str) -> None:
    question = along_a_line()
    alone = answer(name, question)
    best = int(alone.argmax())
    beside = answer(name, dataclasses.replace(question, pending=question.candidates[best : best + 1]))
    assert beside.argmax() != best
    assert beside[best] < alone[best] - 1.0


@pytest.mark.parametrize("name", BOTH)
def test_the_seed_decides_and_nothing_is_left_changed(name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    kernel = logei._C, logei._load_attempted
    first = answer(name, along_a_line(seed=3))
    torch.testing.assert_close(torch.rand(3), expected)
    assert (logei._C, logei._load_attempted) == kernel
    np.testing.assert_array_equal(answer(name, along_a_line(seed=3)), first)
    assert (answer(name, along_a_line(seed=4)) != first).any()
    assert first.shape == (41,) and np.isfinite(first).all()


def test_contenders_are_what_nothing_surely_beats() -> None:
    mean = np.array([[0.0, 4.0], [4.0, 0.0], [1.0, 1.0], [1.5, 1.5], [3.0, 3.0], [5.0, 6.0], [2.0, 2.0]])
    assert contenders(mean, np.zeros((7, 2))).tolist() == [0, 1, 2, 5]  # the last is the worst in each
    doubt = np.zeros((7, 2))
    doubt[3] = 0.04  # 1.5 - 3 * 0.2 is below 1
    assert contenders(mean, doubt).tolist() == [0, 1, 2, 3, 5]
    doubt[2] = 0.25  # 1 + 3 * 0.5 is above 2, and 1.5 + 3 * 0.2 is as well
    assert contenders(mean, doubt).tolist() == [0, 1, 2, 3, 5, 6]


@given(data=st.data(), m=st.integers(2, 4))
def test_contenders_hold_the_front_whatever_the_doubt(data: st.DataObject, m: int) -> None:
    n = data.draw(st.integers(1, 12))
    mean = data.draw(arrays(np.int64, (n, m), elements=st.integers(0, 5))).astype(float)
    variance = data.draw(arrays(np.int64, (n, m), elements=st.integers(0, 3))).astype(float)
    kept = set(contenders(mean, variance).tolist())
    assert set(np.flatnonzero(pareto_mask(mean)).tolist()) <= kept
    assert {*mean.argmin(axis=0).tolist(), *mean.argmax(axis=0).tolist()} <= kept

"""The Gaussian process: its gradient, its leave-one-out predictions, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from autotune.strategies.bo.gp import (
    FitError,
    GaussianProcess,
    Hyperparameters,
    _negative_log_posterior,
    _prepare,
    fit,
    matern52,
)

GROUPS = np.array([0, 1, 1, 2], dtype=np.intp)


def data(n: int = 25, noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4))
    return x, 50.0 + 10.0 * (np.sin(6.0 * x[:, 0]) + x[:, 1] * x[:, 2] + noise * rng.normal(size=n))


@pytest.mark.parametrize("guides", [0, 2])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_gradient_is_that_of_finite_differences(guides: int, noisy: bool) -> None:
    x, y = data()
    rng = np.random.default_rng(1)
    prepared, _, _ = _prepare(
        x, y, GROUPS, rng.normal(size=(25, guides)) if guides else None, rng.random(25) if noisy else None
    )
    for _ in range(3):
        at = np.concatenate([rng.normal(size=3), [rng.uniform(-6, -1)], rng.normal(size=guides)])
        _, gradient = _negative_log_posterior(at, prepared)
        numeric = approx_fprime(at, lambda v: _negative_log_posterior(v, prepared)[0], 1e-6)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


def test_a_point_left_out_is_predicted_as_by_a_process_without_it() -> None:
    """With the same prior: mean, signal variance and hyperparameters are held."""
    x, y = data(15)
    learned, _ = fit(x, y, GROUPS)
    gp = GaussianProcess(x, y, GROUPS, learned)
    parts = gp.standardised()
    distance = (((x[:, None] - x[None]) / parts.length_scales) ** 2).sum(axis=2)
    covariance = matern52(distance)[0] + np.diag(parts.noise)
    for i in range(15):
        rest = np.arange(15) != i
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, i])
        mean = parts.centre + parts.scale * float(weights @ parts.targets[rest])
        variance = parts.scale**2 * float(covariance[i, i] - weights @ covariance[rest, i])
        np.testing.assert_allclose(gp.leave_one_out[0][i], mean, rtol=1e-8)
        np.testing.assert_allclose(gp.leave_one_out[1][i], variance, rtol=1e-6)


def test_without_noise_it_passes_through_the_points_and_is_unsure_between_them() -> None:
    x, y = data(20, noise=0.0)
    learned, _ = fit(x, y, GROUPS)
    gp = GaussianProcess(x, y, GROUPS, Hyperparameters(learned.log_scale, -13.8, learned.log_guide))
    mean, variance = gp.predict(x)
    np.testing.assert_allclose(mean, y, atol=0.05)
    _, elsewhere = gp.predict(np.random.default_rng(5).random((20, 4)))
    assert variance.max() < elsewhere.min()
    far, unsure = gp.predict(np.full((1, 4), 1e4))
    parts = gp.standardised()
    np.testing.assert_allclose([far[0], unsure[0]], [parts.centre, parts.scale**2], rtol=1e-9)


def test_it_learns_noise_and_what_does_not_matter() -> None:
    x, y = data(120, noise=0.2)
    learned, _ = fit(x, y, GROUPS)
    gp = GaussianProcess(x, y, GROUPS, learned)
    assert 1.0 < gp.noise < 10.0  # truly 2^2
    assert learned.log_scale[2] > max(learned.log_scale[:2])


def test_a_good_guide_is_leant_on_and_a_random_one_is_not() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random((40, 4)), rng.normal(size=40)  # that features say nothing of
    guides = np.stack([y + 0.1 * rng.normal(size=40), rng.normal(size=40)], axis=1)
    learned, likelihood = fit(x, y, GROUPS, guides)
    gp = GaussianProcess(x, y, GROUPS, learned, guides)
    slopes = np.diff(gp.predict(np.full((4, 4), 0.5), np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))[0])
    assert 0.9 < slopes[0] < 1.1 and abs(slopes[2]) < 0.1
    assert likelihood > fit(x, y, GROUPS)[1] + 20.0


def test_measured_noise_counts_point_by_point() -> None:
    x = np.array([[0.2], [0.8]])
    learned = Hyperparameters(np.array([0.0]), -13.0, np.zeros(0))
    gp = GaussianProcess(x, np.array([0.0, 1.0]), np.zeros(1, dtype=np.intp), learned, variance=np.array([0.0, 100.0]))
    mean, variance = gp.predict(x)
    assert abs(mean[0]) < 1e-3 and mean[1] < 0.5
    assert variance[1] > 10.0 * variance[0]


def test_the_same_data_in_other_units_give_the_same_answers() -> None:
    x, y = data()
    new = np.random.default_rng(2).random((7, 4))
    answers = []
    for scale, shift in ((1.0, 0.0), (1e6, 3e7)):
        learned, _ = fit(x, scale * y + shift, GROUPS)
        mean, variance = GaussianProcess(x, scale * y + shift, GROUPS, learned).predict(new)
        answers.append(((mean - shift) / scale, variance / scale**2))
    np.testing.assert_allclose(answers[1][0], answers[0][0], rtol=1e-4)
    np.testing.assert_allclose(answers[1][1], answers[0][1], rtol=1e-2)


def test_constant_targets_and_repeated_points_are_fitted() -> None:
    x = np.repeat(np.random.default_rng(0).random((3, 4)), 3, axis=0)
    learned, _ = fit(x, np.full(9, 7.0), GROUPS)
    mean, variance = GaussianProcess(x, np.full(9, 7.0), GROUPS, learned).predict(x)
    np.testing.assert_allclose(mean, 7.0)
    assert (variance > 0).all()


def test_what_is_not_a_number_is_an_error_that_callers_expect() -> None:
    x, y = data()
    x[3, 1] = np.nan
    with pytest.raises(FitError):
        fit(x, y, GROUPS)
    with pytest.raises(FitError):
        GaussianProcess(x, y, GROUPS, Hyperparameters(np.zeros(3), -4.0, np.zeros(0)))

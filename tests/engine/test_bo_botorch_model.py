"""Our posterior inside BoTorch is the same posterior."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autotune.strategies.bo.botorch_model import gain_model, inputs
from autotune.strategies.bo.gp import GaussianProcess, fit

GROUPS = np.array([0, 1, 1, 2], dtype=np.intp)


def case(guides: int, noisy: bool) -> tuple[GaussianProcess, np.ndarray, np.ndarray]:
    """A fitted process of 40 points, and 25 further points to ask about."""
    rng = np.random.default_rng(guides)
    x, new = rng.random((40, 4)), rng.random((25, 4))
    y = 300.0 + 20.0 * np.sin(5.0 * x[:, 0]) + 7.0 * x[:, 1] * x[:, 3] + rng.normal(0, 0.5, 40)
    given = np.stack([(y - y.mean()) / y.std() + rng.normal(0, 0.3, 40)] * guides, axis=1) if guides else None
    variance = rng.uniform(0.1, 2.0, 40) if noisy else None
    learned, _ = fit(x, y, GROUPS, given, variance)
    return GaussianProcess(x, y, GROUPS, learned, given, variance), new, rng.normal(size=(25, guides))


@pytest.mark.parametrize("guides", [0, 1, 2])
@pytest.mark.parametrize("noisy", [False, True])
def test_means_and_variances_are_equal(guides: int, noisy: bool) -> None:
    gp, new, given = case(guides, noisy)
    mean, variance = gp.predict(new, given)
    ours = gain_model(gp)
    with torch.no_grad():
        posterior = ours.model.posterior(inputs(new, given))
    assert posterior.mean.dtype == torch.float64
    np.testing.assert_allclose(ours.losses(posterior.mean.squeeze(-1).numpy()), mean, rtol=1e-6)
    np.testing.assert_allclose(posterior.variance.squeeze(-1).numpy() * ours.scale**2, variance, rtol=1e-6)


def test_a_smaller_loss_is_a_larger_gain_and_the_way_back_is_exact() -> None:
    gp, _, _ = case(0, False)
    ours = gain_model(gp)
    losses = np.array([280.0, 300.0, 333.0])
    assert (np.diff(ours.gains(losses)) < 0).all()
    np.testing.assert_allclose(ours.losses(ours.gains(losses)), losses, rtol=1e-12)


def test_conditioning_in_botorch_is_conditioning_of_the_whole() -> None:
    """What an acquisition fantasises: a point added in BoTorch says the same as a process of all points."""
    gp, new, _ = case(0, False)
    parts = gp.standardised()
    ours = gain_model(gp)
    x = inputs(new, np.zeros((25, 0)))
    with torch.no_grad():
        ours.model.posterior(x[:1])
        noise = torch.full((1, 1), float(parts.noise[0]), dtype=torch.float64)
        after = ours.model.condition_on_observations(x[:1], torch.ones(1, 1, dtype=torch.float64), noise=noise)
        told = after.posterior(x[1:]).mean.squeeze(-1).numpy()
        cross = ours.model.posterior(x).distribution.covariance_matrix.numpy()
        before = ours.model.posterior(x).mean.squeeze(-1).numpy()
    expected = before[1:] + cross[1:, 0] / (cross[0, 0] + parts.noise[0]) * (1.0 - before[0])
    np.testing.assert_allclose(told, expected, rtol=1e-6, atol=1e-8)

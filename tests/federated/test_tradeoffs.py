"""Rounds against bits: the published orders by hand, and what training through the real methods needs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autotune import UsageError
from evaluators.federated import tradeoffs
from evaluators.federated.methods import make_method
from evaluators.federated.settings import Settings
from evaluators.federated.tradeoffs import best_kept, best_local_steps, locodl_rate, locodl_rounds, omega_of


def test_published_orders_by_hand() -> None:
    assert tradeoffs.rounds(0, 100) == 10
    assert tradeoffs.rounds(4, 100) == 4 + 3 * 10
    assert tradeoffs.floats(4, 100) == 34 / 5
    assert tradeoffs.compressed_gradients(5, 100, 10) == 100 + 50 + 5
    assert tradeoffs.compressed_gradients(0, 100, 10) == 100
    assert tradeoffs.local_training(100, 5) == 25
    assert min(range(1, 50), key=lambda steps: tradeoffs.local_training(100, steps)) == 10
    assert omega_of(8, 32) == 3
    with pytest.raises(UsageError, match=r"kappa is 0\.5"):
        tradeoffs.rounds(1, 0.5)
    with pytest.raises(UsageError, match="kept is 33"):
        omega_of(33, 32)


def test_the_published_order_alone_has_no_best_ratio() -> None:
    sent = [tradeoffs.floats(omega, 100) for omega in (1, 3, 7, 15, 31, 63, 127)]
    assert sent == sorted(sent, reverse=True)


def test_the_rate_by_hand() -> None:
    # Without compression and local steps, gradient descent on half of the strong convexity is what limits it.
    assert locodl_rate(0, 99, 10, 1) == 1 - 2 / 100
    # One message in four steps, of a quarter of the numbers, from three devices: 1 - 1 / (16 * 2 * 7).
    assert locodl_rate(3, 99, 3, 4) == 1 - 1 / 224
    assert locodl_rounds(3, 99, 3, 4, gain=math.exp(-10)) == pytest.approx(10 / -math.log(1 - 1 / 224) / 4)


@settings(max_examples=60, deadline=None)
@given(omega=st.floats(0, 500), kappa=st.floats(1, 1e4), n=st.integers(1, 200))
def test_local_steps_are_the_best_of_all(omega: float, kappa: float, n: int) -> None:
    best = locodl_rounds(omega, kappa, n, best_local_steps(omega, kappa, n))
    assert all(best <= locodl_rounds(omega, kappa, n, steps) * (1 + 1e-9) for steps in range(1, 150))


@settings(max_examples=30, deadline=None)
@given(kappa=st.floats(4, 1e5), omega=st.floats(0, 1e3))
def test_the_rate_has_the_published_order(kappa: float, omega: float) -> None:
    """With many devices, up to a constant and the logarithm."""
    mine = locodl_rounds(omega, kappa, 10**9, best_local_steps(omega, kappa, 10**9)) / math.log(1e8)
    assert 0.3 < mine / tradeoffs.rounds(omega, kappa) < 3


def test_fewer_devices_bear_less_compression() -> None:
    kept = [2**power for power in range(8)]
    best = [best_kept(kept, 128, 100, n) for n in (2, 10, 1000)]
    assert best == sorted(best, reverse=True)
    assert best[0] > best[-1]
    assert best_kept(kept, 128, 100, 10) == 8


def test_training_needs_what_the_rate_says() -> None:
    n, size, kappa, gain = 16, 64, 60.0, 1e-3
    learner = tradeoffs.conditioned(n, size, kappa)
    assert float(torch.linalg.cond(learner.hessians.double().mean(dim=0))) == pytest.approx(kappa, rel=1e-5)
    world = tradeoffs.world_of(learner, [2] * n)
    grid = [64, 32, 16, 8, 4]
    measured, modelled = [], []
    for kept in grid:
        omega = omega_of(kept, size)
        steps = best_local_steps(omega, kappa, n)
        chosen = Settings(
            "locodl",
            compressor="rand-k",
            upload_keep=kept / size,
            local_steps=steps,
            learning_rate=2 / (1 + kappa),
            batch=0,
        )
        found = tradeoffs.rounds_to(make_method(world, chosen), learner.optimum(), gain, 3000)
        assert found is not None
        measured.append(found)
        modelled.append(locodl_rounds(omega, kappa, n, steps, gain))
    assert float(stats.spearmanr(measured, modelled).statistic) == pytest.approx(1.0)
    # It is a bound, and no more than three times what is needed.
    assert all(found <= bound <= 3 * found for found, bound in zip(measured, modelled, strict=True))
    sent = [kept * found for kept, found in zip(grid, measured, strict=True)]
    expected = best_kept(grid, size, kappa, n)
    assert abs(grid.index(expected) - sent.index(min(sent))) <= 1
    assert 0 < sent.index(min(sent)) < len(grid) - 1  # neither no compression nor as much as there is


def test_a_run_that_is_too_short_finds_nothing() -> None:
    learner = tradeoffs.conditioned(2, 4, 50.0)
    method = make_method(tradeoffs.world_of(learner, [10, 10]), Settings(learning_rate=0.001, batch=0))
    assert tradeoffs.rounds_to(method, learner.optimum(), 1e-6, 5) is None


def test_diloco_bytes_by_hand() -> None:
    assert tradeoffs.bytes_per_step([100], 10) == 2 * 4 * 100 / 10
    assert tradeoffs.bytes_per_step([60, 40], 10) == 2 * 4 * 50 / 10
    assert tradeoffs.peak_bytes([100]) == 2 * 4 * 100
    assert tradeoffs.peak_bytes([60, 40, 30]) == 4 * (60 + 40)
    assert tradeoffs.peak_bytes([60, 10, 30]) == 4 * (60 + 30)  # the last comes before the first

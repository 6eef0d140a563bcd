"""Output warping: there and back, increasing, and its slope."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.bo.warp import Warp, candidates

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

sane = st.lists(st.floats(-1e4, 1e4).map(lambda x: round(x, 3)), min_size=3, max_size=30, unique=True).map(np.array)
positive = st.lists(st.floats(1e-3, 1e6).map(lambda x: float(f"{x:.4g}")), min_size=3, max_size=30, unique=True).map(
    np.array
)
anything = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30).map(np.array)


def members(losses: np.ndarray) -> list[Warp]:
    return [warp for warp in candidates(losses) if warp.fits(losses)]


def resolved(losses: np.ndarray, warp: Warp) -> np.ndarray:
    """Distinct losses in order, within the range of the warp, as far apart as double precision can tell after warping."""
    inside = np.unique(losses[(losses >= warp.low) & (losses <= warp.high)])
    kept = [inside[0]]
    for one in inside[1:]:
        if one - kept[-1] > 1e-5 * max(abs(one), abs(kept[-1])):
            kept.append(one)
    return np.array(kept)


@given(st.one_of(sane, positive, positive.map(lambda y: -y)))
def test_there_and_back(losses: np.ndarray) -> None:
    for warp in members(losses):
        inside = resolved(losses, warp)
        unit = float(np.ptp(losses)) or 1.0
        np.testing.assert_allclose(warp.backward(warp.forward(inside)), inside, rtol=1e-5, atol=1e-7 * unit)


@given(st.one_of(sane, positive, positive.map(lambda y: -y)))
def test_a_larger_loss_stays_larger(losses: np.ndarray) -> None:
    for warp in members(losses):
        assert (np.diff(warp.forward(resolved(losses, warp))) > 0).all()


@given(st.one_of(sane, positive, positive.map(lambda y: -y)))
def test_the_slope_is_that_of_finite_differences(losses: np.ndarray) -> None:
    for warp in members(losses):
        for loss in resolved(losses, warp):
            if not warp.low < loss < warp.high or loss == warp.centre:
                continue
            step = 1e-6 * (abs(loss) if warp.kind == "box-cox" else abs(loss - warp.centre) + warp.scale)
            numeric = float(np.diff(warp.forward([loss - step, loss + step]))[0]) / (2.0 * step)
            if abs(float(warp.forward(loss))) * 1e-9 < numeric * step:  # else rounding outweighs the difference
                np.testing.assert_allclose(np.exp(warp.log_slope(loss)), numeric, rtol=1e-3)


@given(anything)
def test_whatever_was_measured_becomes_numbers_of_which_none_is_absurd(losses: np.ndarray) -> None:
    family = candidates(losses)
    assert family[0].fits(losses)  # there is always one
    for warp in family:
        warped = warp.forward(losses)
        assert np.isfinite(warped).all()
        assert (np.diff(warped[np.argsort(losses, kind="stable")]) >= 0).all()
        assert np.isfinite(warp.backward(np.array([-1e6, -1.0, 0.0, 1.0, 1e6]))).all()


def test_the_powers_of_box_and_cox() -> None:
    y = np.array([0.25, 1.0, 4.0])
    np.testing.assert_allclose(Warp("box-cox", 1.0).forward(y), y - 1.0)
    np.testing.assert_allclose(Warp("box-cox", 0.5).forward(y), [-1.0, 0.0, 2.0])
    np.testing.assert_allclose(Warp("box-cox", 0.0).forward(y), np.log(y))
    np.testing.assert_allclose(Warp("box-cox", -1.0).forward(y), [-3.0, 0.0, 0.75])
    np.testing.assert_allclose(Warp("box-cox", 0.0, sign=-1.0).forward(-y), -np.log(y))


def test_the_powers_of_yeo_and_johnson() -> None:
    z = np.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(Warp("yeo-johnson", 1.0).forward(z), z)
    np.testing.assert_allclose(Warp("yeo-johnson", 0.0).forward(z), [-1.5, 0.0, np.log(2.0)])
    np.testing.assert_allclose(Warp("yeo-johnson", 0.0, centre=2.0, scale=3.0).forward([5.0]), [np.log(2.0)])


def test_the_family_follows_the_signs() -> None:
    assert {w.kind for w in candidates(np.array([1.0, 2.0, 3.0]))} == {"box-cox"}
    assert {(w.kind, w.sign) for w in candidates(np.array([-1.0, -2.0, -3.0]))} == {("box-cox", -1.0)}
    assert {w.kind for w in candidates(np.array([-1.0, 0.0, 3.0]))} == {"yeo-johnson"}
    # Where the amounts hardly differ all powers would be the same line, and lose digits.
    assert {w.kind for w in candidates(1e12 + np.array([1.0, 2.0, 3.0]))} == {"yeo-johnson"}


def test_a_penalty_does_not_hide_what_the_others_say() -> None:
    """Losses between 1 and 2 keep four digits beside one of 1e300, and the penalty stays the worst."""
    losses = np.array([1.0, 1.2, 1.5, 1.50001, 2.0, 1e300])
    for warp in members(losses):
        warped = warp.forward(losses)
        assert (np.diff(warped) > 0).all()
        assert (warped[3] - warped[2]) / np.ptp(warped) > 1e-10
    np.testing.assert_allclose(warp.backward(warp.forward(losses[:5])), losses[:5], rtol=1e-6)

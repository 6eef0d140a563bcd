"""Random numbers by counter: the same everywhere, evenly spread, and no row knows of another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from evaluators.federated.compressors.noise import bits52, hashes, keys31, normals, uniforms

STEP = 0x9E3779B97F4A7C15
SEEDS = np.arange(-100, 100)


def finalised(number: int) -> int:
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31


def split_mix(state: int, count: int) -> list[int]:
    return [finalised((state + i * STEP) % 2**64) for i in range(1, count + 1)]


def test_hashes_are_split_mix() -> None:
    # The first numbers that every implementation gives for this state.
    assert split_mix(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for seed in (0, 1, -1, 2**63 - 1, -(2**63)):
        key = finalised((seed + STEP) % 2**64)
        assert hashes(np.array([seed]), 5)[0].tolist() == split_mix(key, 5)


@pytest.mark.parametrize("draw", [hashes, uniforms, normals])
def test_a_row_depends_on_its_seed_and_its_place_alone(draw: object) -> None:
    assert callable(draw)
    whole = draw(SEEDS, 1001)
    assert np.array_equal(draw(SEEDS[7:8], 1001)[0], whole[7])
    assert np.array_equal(draw(SEEDS[::-1].copy(), 500), whole[::-1, :500])
    assert np.array_equal(draw(SEEDS[3:5], 13, 600), whole[3:5, 600:613])


def test_uniform_numbers_are_uniform() -> None:
    drawn = uniforms(SEEDS, 2000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01
    assert stats.kstest(drawn[:, 0], "uniform").pvalue > 0.01
    for numbers, bits in ((hashes(SEEDS, 2000), 64), (bits52(SEEDS, 2000), 52), (keys31(SEEDS, 2000), 31)):
        share = np.array([np.mean(numbers >> numbers.dtype.type(bit) & numbers.dtype.type(1)) for bit in range(bits)])
        # Five standard deviations of the mean of 400,000 fair bits.
        assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(numbers.size)
        assert int(numbers.max()) < 2**bits


def test_normal_numbers_are_normal() -> None:
    drawn = normals(SEEDS, 2000)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 0.01
    # Four moments, each within five standard deviations of its mean.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(drawn**power) - mean) < 5 * np.sqrt(variance / drawn.size)


@pytest.mark.parametrize("lag", [0, 1, 2, 64])
def test_rows_of_neighbouring_seeds_have_nothing_in_common(lag: int) -> None:
    centred = uniforms(SEEDS, 4000) - 0.5
    products: NDArray[np.float64] = centred[:, : 4000 - lag] @ centred[:, lag:].T * 12
    if lag == 0:
        np.fill_diagonal(products, 0)
    # Sums of 4,000 products of independent numbers; among 40,000 of them five and a half deviations are never reached.
    assert np.abs(products).max() < 5.5 * np.sqrt(4000 - lag)

"""Means and errors of compressors against the bounds that they tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evaluators.federated.compressors import COMPRESSORS, Compressor, make
from evaluators.federated.tensors import Tensors

SEEDS = 1500
DEVIATIONS = 6  # of a mean over seeds; further off is no chance
MODEL = Tensors(("matrix", "bias", "kernel"), ((6, 7), (7,), (4, 2, 3)))
KEEPS = [0.03, 0.08, 0.125, 0.3, 0.6, 0.97, 1.0]
UNBIASED = sorted(name for name, kind in COMPRESSORS.items() if kind.unbiased)


def bent(seed: int, power: float) -> Tensor:
    """Normal numbers to a power: the larger, the fewer numbers hold all of the length."""
    drawn = torch.randn(MODEL.size, generator=torch.Generator().manual_seed(seed))
    return drawn.sign() * drawn.abs() ** power


def decoded(compressor: Compressor, vector: Tensor, keep: float, seeds: int = SEEDS) -> Tensor:
    """What arrives under each seed, ``(seeds, size)`` in float64."""
    shares = torch.full((seeds,), keep, dtype=torch.float64)
    return compressor.compress(vector.expand(seeds, -1), shares, torch.arange(seeds)).values.double()


def error(arrived: Tensor, vector: Tensor) -> tuple[float, float]:
    """The mean squared error over seeds as a share of the vector, and how far chance may take it from its mean."""
    errors = (arrived - vector).square().sum(1) / vector.double().square().sum()
    return float(errors.mean()), DEVIATIONS * float(errors.std()) / math.sqrt(len(errors)) + 1e-6


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("power", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_ones_are_right_in_the_mean_and_vary_within_omega(name: str, power: float, keep: float) -> None:
    compressor, vector = make(name, MODEL), bent(3, power)
    arrived = decoded(compressor, vector, keep)
    omega = compressor.omega(keep)
    assert omega is not None
    share, chance = error(arrived, vector)
    assert share <= omega + chance
    # The mean over seeds has a seed's variance over their number; four times that in all numbers together is no chance.
    off = float((arrived.mean(0) - vector).square().sum() / vector.double().square().sum())
    assert off <= 4 * share / SEEDS + 1e-12


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), power=st.floats(0.1, 6), keep=st.sampled_from(KEEPS))
@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_errors_keep_to_the_contraction(name: str, seed: int, power: float, keep: float) -> None:
    for options in ({}, {"scaled": False}) if name == "rand-k" else ({},):
        compressor, vector = make(name, MODEL, **options), bent(seed, power)
        share, chance = error(decoded(compressor, vector, keep, seeds=60), vector)
        delta, omega = compressor.delta(keep), compressor.omega(keep)
        assert delta is None or 0 < delta <= 1
        assert delta is None or share <= 1 - delta + chance
        assert omega is None or share <= omega + chance


def test_which_bounds_there_are() -> None:
    made = {name: make(name, MODEL) for name in COMPRESSORS}
    assert {name for name, one in made.items() if one.omega(0.3) is not None} == set(UNBIASED)
    assert {name for name, one in made.items() if one.delta(0.3) is None} == {"half", "rand-k", "fedzip"}


@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_contractions_that_are_reached(keep: float) -> None:
    """On the worst vectors the error is what the bound says, so no larger contraction could be told."""
    # Of the sizes here the kernel, of 4 x 6, has the least share of its rank, one of four at 0.5.
    for name, vector, worst in (
        ("top-k", torch.ones(MODEL.size), keep),
        ("sign", torch.eye(MODEL.size)[0], keep),
        ("low-rank", torch.cat([torch.zeros(49), torch.eye(4, 6).flatten()]), 0.5),
    ):
        compressor = make(name, MODEL)
        delta = compressor.delta(worst)
        assert delta is not None
        share, _ = error(decoded(compressor, vector, worst, seeds=3), vector)
        assert share == pytest.approx(1 - delta, abs=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", ["quantise", "nonuniform"])
def test_the_variance_of_quantisers_is_reached(name: str, bits: int) -> None:
    """One large number and others at the share of a step that is worst; beyond 1/8 both have the same worst vectors."""
    size, keep = 400, bits / 32
    compressor = make(name, Tensors(("all",), ((size,),)))
    s = 2 ** (bits - 1) - 1
    step = 1 / s if name == "quantise" else 2.0 ** (1 - s)
    c = 1 / step**2 / (size - 1)
    vector = torch.full((size,), step * (math.sqrt(c * c + c) - c))
    vector[0] = 1
    omega = compressor.omega(keep)
    assert omega is not None
    if omega == 1 / 8:
        # Between two powers of two, four thirds of the lower is worst.
        vector[1:] = 1 / 3 * 2
        omega *= 1 - 1 / float(vector.square().sum())
    share, chance = error(decoded(compressor, vector, keep), vector)
    assert share == pytest.approx(omega, abs=chance)
    assert chance < 0.05 * omega


def test_the_bound_of_evenly_spaced_levels_is_tighter_than_that_of_the_two_norm() -> None:
    for size in (2, 10, 1000, 10**6):
        for bits in range(2, 20):
            s = 2 ** (bits - 1) - 1
            omega = make("quantise", Tensors(("all",), ((size,),))).omega(bits / 32)
            assert omega is not None
            assert omega <= min((size - 1) / s**2, math.sqrt(size - 1) / s) / 2


@pytest.mark.parametrize("keep", KEEPS)
def test_what_fedzip_and_low_rank_send_is_at_a_right_angle_to_what_they_drop(keep: float) -> None:
    for name in ("fedzip", "low-rank", "top-k"):
        vector = bent(5, 1.5)
        arrived = decoded(make(name, MODEL), vector, keep, seeds=1)[0]
        lost, whole = float((arrived - vector).square().sum()), float(vector.double().square().sum())
        assert lost == pytest.approx(whole - float(arrived.square().sum()), abs=1e-5 * whole)


def test_more_is_sent_more_exactly() -> None:
    for name, kind in COMPRESSORS.items():
        if kind.rated:
            compressor, vector = make(name, MODEL), bent(8, 1.0)
            shares = [error(decoded(compressor, vector, keep, seeds=300), vector)[0] for keep in (0.07, 0.25, 0.9)]
            # Neighbouring ratios may come to the same rank or to levels that differ nowhere, and are then alike but for chance.
            assert np.diff(shares).max() < 0.01, name
            assert shares[0] > 1.5 * shares[-1], name

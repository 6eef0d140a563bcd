"""What a pruned trial stands for in the Bayesian engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import Int, Pruned, SearchSpace, Study
from autotune.strategies.bo.censored import imputed
from autotune.strategies.bo.evidence import Reader
from autotune.strategies.bo.surrogate import Belief, Component
from autotune.strategies.bo.warp import Warp

PLAIN = Warp("yeo-johnson", 1.0)  # which changes nothing
MEASURED = np.array([10.0, 20.0, 40.0])


def believed(*means: float, deviation: float = 2.0, warp: Warp = PLAIN) -> Belief:
    mean = np.array(means)
    return Belief((Component(mean, np.full(len(mean), deviation**2), 1.0),), warp)


def test_it_is_the_mean_of_a_normal_truncated_at_the_bound() -> None:
    # E[z | z >= 0] of a standard normal is sqrt(2 / pi).
    half = 2.0 * math.sqrt(2.0 / math.pi)
    assert imputed(believed(12.0), np.array([12.0]), MEASURED) == pytest.approx([12.0 + half])
    # A bound far below what is believed says nothing more; one far above is all that is left.
    assert imputed(believed(30.0), np.array([10.0]), MEASURED) == pytest.approx([30.0])
    assert imputed(believed(12.0), np.array([36.0]), MEASURED) == pytest.approx([36.0], rel=0.02)


def test_without_a_bound_that_tells_it_is_what_is_believed_and_at_least_the_median() -> None:
    least = np.array([-np.inf, -np.inf, 9.0])
    assert imputed(believed(12.0, 30.0, 11.0), least, MEASURED) == pytest.approx([20.0, 30.0, 20.0])


def test_none_is_beyond_the_worst_but_by_its_bound() -> None:
    assert imputed(believed(90.0, 12.0), np.array([-np.inf, 55.0]), MEASURED) == pytest.approx([40.0, 55.0])


@given(
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=5),
    st.lists(st.tuples(st.floats(-8, 8), st.floats(-1e300, 1e300)), min_size=1, max_size=5),
    st.floats(1e-9, 1e3),
)
def test_it_is_finite_and_never_below_its_bound(
    losses: list[float], pruned: list[tuple[float, float]], deviation: float
) -> None:
    measured, least = np.array(losses), np.array([bound for _, bound in pruned])
    warp = Warp("box-cox", 0.0, scale=float(measured.max()))
    value = imputed(believed(*(mean for mean, _ in pruned), deviation=deviation, warp=warp), least, measured)
    bound = np.maximum(least, measured.min())
    assert np.isfinite(value).all()
    assert (bound <= value).all() and (value <= np.maximum(bound, measured.max())).all()


def test_bounds_are_read_by_metric_and_by_direction() -> None:
    space = SearchSpace([Int("x", 0, 20)])
    study = Study.create(
        space, ["minimize energy_j", "maximize tokens"], constraints=["energy_j <= 9", "tokens >= 5", "s <= 1"],
        strategy="random", pruner="bound", pruner_options={"accumulating": ["energy_j", "tokens"]},
    )  # fmt: skip
    study.tell(study.ask(), {"energy_j": 5.0, "tokens": 6.0, "s": 0.5})
    trial = study.ask()
    study.report(trial, 0, {"energy_j": 7.0, "tokens": 3.0, "s": 0.1})
    study.prune(trial, "enough")
    study.tell(study.ask(), Pruned("at once"))
    found = Reader(study.space).read(study.history).censored
    assert len(found) == 2
    energy, tokens = found.objectives
    assert energy.tolist() == [7.0, -np.inf]
    assert tokens.tolist() == [-np.inf, -np.inf]  # more tokens may come, which is better
    assert [least.tolist() for least in found.constraints] == [[7.0, -np.inf], [-np.inf] * 2, [-np.inf] * 2]

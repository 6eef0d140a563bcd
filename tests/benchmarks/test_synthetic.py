from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import Failure, UsageError
from benchmarks.quality.functions import Function, ackley, branin, hartmann6, levy, rosenbrock
from benchmarks.quality.synthetic import infeasible, landscape, memory_limited, noisy, problem, shifted, sparse

FUNCTIONS = [branin(), hartmann6(), levy(4), rosenbrock(4), ackley(5)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_functions_are_least_where_they_say_even_beyond_the_box(function: Function) -> None:
    assert function.call(np.array(function.minimiser)) == pytest.approx(function.minimum, abs=1e-6)
    rng = np.random.default_rng(0)
    low, high = np.array(function.low), np.array(function.high)
    wide = rng.uniform(low - (high - low), high + (high - low), (3000, len(low)))
    near = np.array(function.minimiser) + rng.normal(0, 1e-3, (500, len(low))) * (high - low)
    assert min(function.call(x) for x in (*wide, *near)) >= function.minimum - 1e-9


@given(seed=st.integers(0, 50))
def test_a_shift_moves_the_minimiser_inside_the_box(seed: int) -> None:
    moved = shifted(landscape(branin()), seed)
    assert moved.loss(moved.minimiser) == pytest.approx(moved.minimum)
    for parameter in moved.parameters:
        assert parameter.low < moved.minimiser[parameter.name] < parameter.high
    assert moved.minimiser != landscape(branin()).minimiser


@settings(max_examples=15)
@given(seed=st.integers(0, 20))
def test_a_known_region_is_a_constraint_and_a_hidden_one_a_failure_at_the_same_border(seed: int) -> None:
    base = shifted(landscape(branin()), seed)
    known, hidden = problem(infeasible(base, seed, hidden=False)), infeasible(base, seed, hidden=True)
    assert known.space.contains(dict(base.minimiser)) and hidden.loss(base.minimiser) == pytest.approx(base.minimum)
    for config in problem(base).space.sample(50, seed):
        if known.space.contains(config):
            assert hidden.loss(config) == base.loss(config)
        else:
            with pytest.raises(Failure, match="invalid"):
                hidden.loss(config)


def test_at_least_half_of_the_box_stays_feasible() -> None:
    for seed in range(5):
        hidden = problem(infeasible(shifted(landscape(hartmann6()), seed), seed, hidden=True))
        failing = float(np.isnan(hidden.population).mean())
        assert 0.0 < failing < 0.55


def test_idle_parameters_change_nothing_but_the_space() -> None:
    base = landscape(branin())
    wide = sparse(base, 98)
    assert len(problem(wide).space) == 100
    config = dict(wide.minimiser)
    assert wide.loss(config) == wide.loss({**config, "idle7": 0.1}) == pytest.approx(base.minimum)


def test_noise_is_seen_but_is_not_the_truth() -> None:
    quiet, loud = problem(landscape(branin())), problem(noisy(landscape(branin()), 2.0))
    config = quiet.space.default()
    rng = np.random.default_rng(0)
    seen = np.array([loud.evaluate(config, rng)["value"] for _ in range(400)])
    assert loud.truth(config) == quiet.truth(config) == (quiet.evaluate(config, rng)["value"],)
    assert seen.mean() == pytest.approx(quiet.truth(config)[0], abs=0.4) and seen.std() == pytest.approx(2.0, rel=0.15)
    with pytest.raises(UsageError, match="above 0"):
        noisy(landscape(branin()), 0.0)


def test_shifting_what_is_already_constrained_is_refused() -> None:
    with pytest.raises(UsageError, match="shift first, then constrain"):
        shifted(infeasible(landscape(branin()), 0, hidden=False), 1)


def test_the_memory_limit_hides_its_share_and_leaves_the_best_close_to_it() -> None:
    table = memory_limited(0.6)
    assert len(table.failures) / len(table) == pytest.approx(0.6, abs=0.01)
    kinds = {kind for kind, _ in table.failures.values()}
    assert {kind.value for kind in kinds} == {"oom"}
    best = int(np.nanargmin(table.losses[:, 0]))
    configs = table.space.enumerate()
    assert configs is not None
    around = table.space.neighbours(configs.config(best))
    assert any(configs.index_of(c) in table.failures for c in around)


def test_the_fraction_of_a_function_is_the_gap_closed_from_the_median() -> None:
    one = problem(landscape(branin()))
    assert one.fraction([one.median, one.optimum]).tolist() == pytest.approx([0.0, 1.0])

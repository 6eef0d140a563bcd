"""FSMoE's cases, DiLoCo's bandwidths, and what failures leave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.training_layout.diloco import (
    GRID_GBIT_S,
    Exchange,
    data_parallel_utilisation,
    needed_gbit_s,
    utilisation,
)
from evaluators.training_layout.fsmoe import TESTBEDS, Parts, best_degree, case_of, layer_ms
from evaluators.training_layout.goodput import Reliability

MS = st.floats(1e-3, 10.0)


@given(a2a=MS, ag=MS, rs=MS, experts=MS, gradients=st.floats(0.0, 50.0), degree=st.integers(1, 16))
def test_the_case_that_holds_is_the_longest_path(
    a2a: float, ag: float, rs: float, experts: float, gradients: float, degree: int
) -> None:
    """The predicates choose among the four times the largest of those that their side of Q1 admits."""
    parts = Parts(*(np.array([v]) for v in (a2a, ag, rs, experts, gradients)))
    r = degree
    links = 2 * r * a2a
    first, second = links + gradients, 2 * a2a + ag + rs + r * experts
    third, fourth = links + ag + rs, 2 * a2a + r * (ag + rs)
    expected = max(first, second, third if a2a > ag else fourth)
    assert layer_ms(parts, [r])[0] == pytest.approx(expected)
    assert [first, second, third, fourth][int(case_of(parts, [r])[0]) - 1] == pytest.approx(expected)


def test_many_parts_pay_on_a_cluster_where_starting_costs_little() -> None:
    degree, ms = best_degree(TESTBEDS["B"], alltoall=4e6, inside=8e6, experts=3e10)
    alone = float(layer_ms(Parts.of(TESTBEDS["B"], [1], 4e6, 8e6, 3e10), [1])[0])
    assert 1 < degree < 32
    assert ms < 0.8 * alone
    with pytest.raises(UsageError, match="pipeline degree 0; it must be at least 1"):
        Parts.of(TESTBEDS["A"], [0], 1.0, 1.0, 1.0)


# Gbit/s for 50, 80, 90, 95 and 99 % of the time: arXiv:2501.18512, table 4, and arXiv:2503.09799, table 6.
TARGETS = (0.5, 0.8, 0.9, 0.95, 0.99)
DILOCO = {
    (1e9, 0.1, 100): (1.4, 6.2, 13.3, 23.3, 86.8),
    (10e9, 0.8, 100): (1.7, 7.5, 16.0, 33.9, 104.8),
    (100e9, 4.9, 100): (3.0, 11.0, 23.3, 49.4, 184.2),
    (405e9, 26.0, 10): (19.3, 72.0, 126.5, 184.2, 268.3),
    (405e9, 26.0, 50): (3.6, 13.3, 28.1, 59.6, 184.2),
    (405e9, 26.0, 100): (2.0, 7.5, 16.0, 33.9, 126.5),
    (405e9, 26.0, 300): (0.7, 3.0, 6.2, 13.3, 59.6),
    (10e9, 0.8, 10): (16.0, 49.4, 86.8, 152.6, 222.3),
    (10e9, 0.8, 50): (3.0, 11.0, 23.3, 41.0, 126.5),
    (10e9, 0.8, 300): (0.5, 2.0, 4.3, 9.1, 41.0),
}
# Table 4 again: parameters, layers, step; fragments are of three layers, synchronised every 100 steps.
MODELS = {"1B": (1e9, 24, 0.1), "10B": (10e9, 48, 0.8), "100B": (100e9, 108, 4.9)}
DATA_PARALLEL = {
    "1B": (86.8, 152.6, 184.2, 222.3, 569.0),
    "10B": (104.8, 222.3, 222.3, 268.3, 471.5),
    "100B": (184.2, 323.8, 390.7, 390.7, 471.5),
}
STREAMING = {
    (Exchange.STREAMING, 16.0, "1B"): (1.4, 5.2, 9.1, 16.0, 28.1),
    (Exchange.STREAMING, 16.0, "10B"): (1.7, 5.2, 9.1, 13.3, 19.3),
    (Exchange.STREAMING, 16.0, "100B"): (2.4, 6.2, 9.1, 11.0, 19.3),
    (Exchange.OVERLAPPED, 16.0, "1B"): (1.4, 4.3, 6.2, 9.1, 11.0),
    (Exchange.OVERLAPPED, 16.0, "10B"): (1.7, 3.6, 5.2, 6.2, 7.5),
    (Exchange.OVERLAPPED, 16.0, "100B"): (1.7, 3.6, 4.3, 5.2, 5.2),
    (Exchange.OVERLAPPED, 4.0, "1B"): (0.4, 0.9, 1.7, 2.0, 3.0),
    (Exchange.OVERLAPPED, 4.0, "10B"): (0.4, 0.9, 1.4, 1.4, 1.7),
    (Exchange.OVERLAPPED, 4.0, "100B"): (0.5, 0.9, 1.1, 1.1, 1.4),
}


def steps_off(reached: Callable[[np.ndarray], np.ndarray], printed: tuple[float, ...]) -> list[int]:
    """How many steps of the grid every bandwidth lies from the printed one, which stands for the point next to it."""

    def place(gbit_s: float) -> int:
        return int(np.argmin(np.abs(np.log(GRID_GBIT_S / gbit_s))))

    found = [needed_gbit_s(reached, target) for target in TARGETS]
    return [abs(place(mine) - place(theirs)) for mine, theirs in zip(found, printed, strict=True)]


@pytest.mark.parametrize("case", DILOCO)
def test_bandwidths_that_diloco_needs_lie_within_a_step_of_the_printed_ones(case: tuple[float, float, int]) -> None:
    assert max(steps_off(lambda link: utilisation(*case, link), DILOCO[case])) <= 1


@pytest.mark.parametrize("case", STREAMING)
def test_bandwidths_that_streaming_needs_lie_within_a_step_of_the_printed_ones(
    case: tuple[Exchange, float, str],
) -> None:
    exchange, bits, name = case
    parameters, layers, step = MODELS[name]

    def reached(link: np.ndarray) -> np.ndarray:
        return utilisation(parameters, step, 100, link, exchange=exchange, fragments=layers // 3, bits=bits)

    assert max(steps_off(reached, STREAMING[case])) <= 1


@pytest.mark.parametrize("name", DATA_PARALLEL)
def test_bandwidths_that_data_parallelism_needs_lie_within_a_step_of_the_printed_ones(name: str) -> None:
    parameters, layers, step = MODELS[name]
    off = steps_off(lambda link: data_parallel_utilisation(parameters, step, layers, link), DATA_PARALLEL[name])
    assert max(off) <= 1


def test_without_failures_all_of_the_time_is_useful() -> None:
    assert Reliability().goodput(10_000) == pytest.approx(1.0)


@given(hours=st.floats(1e3, 1e6), gpus=st.integers(1, 100_000), checkpoint=st.floats(1.0, 600.0))
def test_goodput_falls_with_gpus_and_checkpoints_are_best_at_the_interval_that_is_said(
    hours: float, gpus: int, checkpoint: float
) -> None:
    cluster = Reliability(hours, checkpoint, restart_s=60.0)
    share = float(cluster.goodput(gpus))
    assert 0.0 <= share <= 1.0
    assert float(cluster.goodput(2 * gpus)) <= share + 1e-12
    best = float(cluster.interval_s(gpus))
    if best > 10 * checkpoint:  # where the first order holds
        for other in (best / 3, best * 3):
            assert float(cluster.goodput(gpus, other)) <= share * (1 + 1e-3)


def test_the_slowest_of_many_is_waited_for_unless_redundancy_spares_it() -> None:
    cluster = Reliability(straggler_spread=0.05)
    alone, many, spared = cluster.slowdown(1), cluster.slowdown(1000), cluster.slowdown(1000, spared=1)
    assert alone == 1.0
    assert many == pytest.approx(1 + 0.05 * 3.24, rel=0.01)  # expected maximum of 1,000 normal draws
    assert spared == pytest.approx(1 + 0.05 * 2.85, rel=0.02)
    with pytest.raises(UsageError, match="positive hours to failure"):
        Reliability(gpu_hours_to_failure=0.0)

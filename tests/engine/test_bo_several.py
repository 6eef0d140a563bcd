"""Several objectives in `bo`: the hypervolume acquisition against exact answers, and searches that need both objectives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.utils.multi_objective.box_decompositions import NondominatedPartitioning
from botorch.utils.multi_objective.hypervolume import Hypervolume
from botorch.utils.testing import MockModel, MockPosterior
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune import Categorical, Failure, Float, Int, Measurement, SearchSpace, Study
from autotune.measurement import Metric
from autotune.objective import pareto_mask
from autotune.space import Config
from autotune.strategies.bo.hypervolume import Boxes, log_expected_hypervolume_improvement
from autotune.strategies.bo.settings import ONLY_SEVERAL
from autotune.strategies.bo.surrogate import Component
from tests.driving import run

Floats = npt.NDArray[np.float64]

REFERENCE = 1.1


def front(n: int, m: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((n, m))


def single(mean: Floats, deviation: Floats) -> list[list[Component]]:
    """One Gaussian per objective from ``(n, m)``."""
    return [[Component(mean[:, j], deviation[:, j] ** 2, 1.0)] for j in range(mean.shape[1])]


def volume(points: Floats) -> float:
    """The hypervolume below the reference point, by BoTorch."""
    tensor = -torch.from_numpy(points[pareto_mask(points)])
    return float(Hypervolume(torch.full((points.shape[1],), -REFERENCE, dtype=torch.double)).compute(tensor))


def gain(points: Floats, new: Floats) -> float:
    """Hypervolume that one new point adds."""
    return volume(np.concatenate([points, new[None]])) - volume(points)


def corners(boxes: Boxes) -> tuple[Floats, Floats]:
    """Lower and upper corners, shapes ``(boxes, m)``."""
    low, high = (
        [levels[places[:, j]] for j, levels in enumerate(boxes.levels)] for places in (boxes.lower, boxes.upper)
    )
    return np.stack(low, axis=1), np.stack(high, axis=1)


# The boxes


@pytest.mark.parametrize("m", [2, 3, 4])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_boxes_hold_every_undominated_point_once_and_no_dominated_one(m: int, data: st.DataObject) -> None:
    # Few distinct coordinates, so that points share them and some equal others.
    points = data.draw(arrays(np.int64, (data.draw(st.integers(0, 8)), m), elements=st.integers(0, 4))).astype(float)
    boxes = Boxes.of(points, np.full(m, 4.0))
    low, high = corners(boxes)
    assert (low < high).all()
    probes = np.stack(np.meshgrid(*[np.arange(-0.5, 5.0)] * m), axis=-1).reshape(-1, m)
    inside = ((low[None] < probes[:, None]) & (probes[:, None] < high[None])).all(axis=2).sum(axis=1)
    dominated = (points[None] <= probes[:, None]).all(axis=2).any(axis=1)
    assert (inside == (~dominated & (probes < 4.0).all(axis=1))).all()


def test_there_are_few_boxes() -> None:
    angle = np.linspace(0.01, 0.5 * math.pi - 0.01, 50)
    arc = 1.0 - np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert len(Boxes.of(arc, np.ones(2)).lower) == 51
    shell = front(60, 3)
    shell /= np.linalg.norm(shell, axis=1)[:, None]
    assert len(Boxes.of(shell, np.full(3, REFERENCE)).lower) <= 2 * 60 + 1


def test_volumes_of_small_fronts() -> None:
    assert Boxes.of(np.zeros((0, 2)), np.ones(2)).dominated() == 0.0
    assert Boxes.of(np.array([[2.0, 0.0]]), np.ones(2)).dominated() == 0.0
    assert Boxes.of(np.array([[0.0, 0.5], [0.5, 0.0], [0.5, 0.5]]), np.ones(2)).dominated() == 0.75
    assert Boxes.of(np.array([[0.0, 0.0, 0.5], [0.5, 0.5, 0.0]]), np.ones(3)).dominated() == 0.5 + 0.125


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_volumes_are_those_of_botorch(m: int) -> None:
    points = front(20, m)
    assert Boxes.of(points, np.full(m, REFERENCE)).dominated() == pytest.approx(volume(points), rel=1e-12)


# The acquisition


@pytest.mark.parametrize("m", [2, 3, 4])
def test_expected_improvement_is_that_of_botorch(m: int) -> None:
    rng = np.random.default_rng(1)
    points, reference = front(12, m), np.full(m, REFERENCE)
    mean, deviation = rng.uniform(-0.2, 1.2, (30, m)), rng.uniform(0.01, 0.4, (30, m))
    posterior = MockPosterior(mean=-torch.from_numpy(mean)[:, None], variance=torch.from_numpy(deviation**2)[:, None])
    partition = NondominatedPartitioning(-torch.from_numpy(reference), -torch.from_numpy(points))
    theirs = ExpectedHypervolumeImprovement(MockModel(posterior), (-reference).tolist(), partition)(
        torch.zeros(30, 1, 1)
    )
    ours = np.exp(log_expected_hypervolume_improvement(single(mean, deviation), Boxes.of(points, reference)))
    # Theirs subtracts numbers of the order of 1e10 from each other.
    assert ours == pytest.approx(theirs.numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("m", [2, 3])
def test_expected_improvement_of_mixtures_is_what_sampling_gives(m: int) -> None:
    rng = np.random.default_rng(2)
    points, reference = front(6, m), np.full(m, REFERENCE)
    mean, deviation = rng.uniform(0.0, 0.8, (2, 3, m)), rng.uniform(0.05, 0.3, (2, 3, m))
    weights = (0.3, 0.7)
    beliefs = [
        [Component(mean[c, :, j], deviation[c, :, j] ** 2, weight) for c, weight in enumerate(weights)]
        for j in range(m)
    ]
    boxes = Boxes.of(points, reference)
    low, high = corners(boxes)
    ours = np.exp(log_expected_hypervolume_improvement(beliefs, boxes))
    for i in range(3):
        which = (rng.random((20_000, m)) < weights[1]).astype(int)  # independent for each objective
        drawn = rng.normal(
            np.take_along_axis(mean[:, i], which, axis=0), np.take_along_axis(deviation[:, i], which, axis=0)
        )
        gains = np.prod(np.maximum(high - np.maximum(drawn[:, None], low), 0.0), axis=2).sum(axis=1)
        assert gains[0] == pytest.approx(gain(points, drawn[0]), rel=1e-9, abs=1e-12)
        assert abs(ours[i] - gains.mean()) < 4.0 * gains.std() / math.sqrt(len(gains))


def test_what_is_known_for_certain_gains_its_hypervolume() -> None:
    points, reference = front(8, 2), np.full(2, REFERENCE)
    new = np.array([[0.01, 0.5], [0.5, 0.01], [-0.3, -0.2], [0.3, 1.05]])
    sure = log_expected_hypervolume_improvement(single(new, np.full((4, 2), 1e-9)), Boxes.of(points, reference))
    assert np.exp(sure) == pytest.approx([gain(points, one) for one in new], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("m", [5, 7])
def test_a_front_too_large_to_be_cut_is_thinned_and_promises_more_never_less(m: int) -> None:
    points = front(60, m)
    points /= np.linalg.norm(points, axis=1)[:, None]  # none dominates another
    reference, new = np.full(m, REFERENCE), np.array([[0.1] * m, [0.3] * m])
    boxes = Boxes.of(points, reference)
    assert len(boxes.lower) < 1500  # of all 60 points, there would be tens of thousands
    sure = np.exp(log_expected_hypervolume_improvement(single(new, np.full((2, m), 1e-9)), boxes))
    # Exactly, by sampling the box that the new point dominates.
    for one, promised in zip(new, sure, strict=True):
        drawn = np.random.default_rng(3).uniform(one, reference, (5000, m))
        free = (~(points[None] <= drawn[:, None]).all(axis=2).any(axis=1)).mean()
        box = float(np.prod(reference - one))
        assert (free - 0.01) * box <= promised < box


def test_candidates_that_hardly_promise_anything_still_compare() -> None:
    points = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    distance = np.array([0.0, 1.0, 10.0, 100.0, 1e4])
    mean = 1.2 + np.stack([distance, distance], axis=1)
    found = log_expected_hypervolume_improvement(single(mean, np.full((5, 2), 0.1)), Boxes.of(points, np.full(2, 1.1)))
    assert np.isfinite(found).all() and (np.diff(found) < 0.0).all()
    # Of a far tail, little more than the exponent of the density is left: two objectives, each at 0.1 a deviation.
    assert found[-1] == pytest.approx(-((1e4 / 0.1) ** 2), rel=1e-3)


def test_tiny_promises_go_over_into_large_ones_without_a_step() -> None:
    points = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    mean = np.linspace(3.0, 3.6, 200)  # where products begin to vanish in double precision
    found = log_expected_hypervolume_improvement(
        single(np.stack([mean, mean], axis=1), np.full((200, 2), 0.1)), Boxes.of(points, np.full(2, 1.1))
    )
    assert found[0] > math.log(1e-250) > found[-1]
    assert (np.abs(np.diff(found, n=2)) < 0.1).all()


# Searches


def measured(config: Config) -> dict[str, float]:
    """Two objectives at odds: 41 x 41 configurations, of which those with y = 25 are the front, one for each x."""
    x, y = config["x"] / 40, config["y"] / 40
    height = 1.0 + 9.0 * (y - 0.625) ** 2
    return {"time_ms": 50.0 * (0.1 + x) * height, "loss": (1.05 - math.sqrt(x)) * height, "memory_gib": 30.0 * x + 3.0}


def square() -> SearchSpace:
    return SearchSpace([Int("x", 0, 40), Int("y", 0, 40)])


def search(strategy: str, trials: int, measure: Any = measured, n: int = 1, **settings: Any) -> Study:
    goals = settings.pop("objectives", ["minimize time_ms", "minimize loss"])
    study = Study.create(settings.pop("space", None) or square(), goals, strategy=strategy, **settings)
    run(study, measure, trials, n)
    return study


def dominated(study: Study) -> float:
    """The share of the known front's hypervolume, by logarithms of both objectives."""

    def logs(rows: list[dict[str, float]]) -> Floats:
        return np.log([[row["time_ms"], row["loss"]] for row in rows])

    everything = logs([measured({"x": x, "y": y}) for x in range(41) for y in range(41)])
    low, high = everything.min(axis=0), everything.max(axis=0)
    found = logs([dict(t.values) for t in study.trials if t.values])
    whole, part = (volume((points - low) / (high - low)) for points in (everything, found))
    return part / whole


def test_a_known_front_is_found_sooner_than_at_random() -> None:
    ours = dominated(search("bo", 35))
    theirs = [dominated(search("random", 35, seed=seed)) for seed in range(3)]
    assert ours > max(theirs)
    assert ours > 0.97


def test_the_order_and_the_units_of_objectives_change_nothing() -> None:
    def scaled(config: Config) -> dict[str, float]:
        found = measured(config)
        return {"time_ms": found["time_ms"] * 1024.0, "loss": -found["loss"] / 64.0}

    plain = search("bo", 14)
    other = search("bo", 14, scaled, objectives=["minimize time_ms", "maximize loss"])
    assert [t.config for t in other.trials] == [t.config for t in plain.trials]
    notes = plain.trials[-1].notes
    assert set(notes["weights"]) == set(notes["warp"]) == {"time_ms", "loss"}
    assert notes["expected_gain"] > 0.0


def test_both_ends_of_the_front_are_found_from_a_start_in_one_corner() -> None:
    # All that is known lies where time is short; the best loss is at the other end.
    study = search("bo", 30, default={"x": 2, "y": 25}, baselines={f"b{i}": {"x": i, "y": 24 + i} for i in range(4)})
    found = [t.values for t in study.pareto()]
    assert min(v["loss"] for v in found) < 0.1 and min(v["time_ms"] for v in found) < 7.0


def test_outcome_constraints_are_kept_and_the_front_is_of_what_keeps_them() -> None:
    study = search("bo", 35, constraints=["memory_gib <= 12"], default={"x": 40, "y": 0})
    later = [t.values["memory_gib"] <= 12 for t in study.trials[15:]]
    assert np.mean(later) >= 0.8
    assert min(t.values["loss"] for t in study.pareto()) < 0.60  # the bound: x = 12, where the loss is 0.502


def test_without_anything_feasible_what_is_most_likely_feasible_is_looked_for() -> None:
    # 25 of 1681 configurations are feasible.
    def narrow(config: Config) -> dict[str, float]:
        return measured(config) | {"error": max(abs(config["x"] - 30), abs(config["y"] - 8))}

    study = search("bo", 25, narrow, constraints=["error <= 2"], default={"x": 0, "y": 40})
    assert study.pareto()


def test_failures_are_learned() -> None:
    def limited(config: Config) -> dict[str, float]:
        if config["x"] > 16:
            raise Failure("oom", "too large")
        return measured(config)

    study = search("bo", 30, limited)
    failed = [t.failure_kind is not None for t in study.trials]
    assert np.mean(failed[15:]) <= 0.2  # 59 % of the space fails, the end of the front with the best losses among it
    assert min(t.values["loss"] for t in study.pareto()) < 0.5


def test_a_batch_is_spread_over_the_front() -> None:
    study = search("bo", 16)
    batch = [t.config for t in study.ask(4)]
    assert len({(c["x"], c["y"]) for c in batch}) == 4
    assert max(c["x"] for c in batch) - min(c["x"] for c in batch) >= 5
    # What was asked for counts as under way, also when the next one asks.
    assert study.ask().config not in batch


def test_three_objectives() -> None:
    goals = ["minimize time_ms", "minimize loss", "maximize spread"]

    def three(config: Config) -> dict[str, float]:
        return measured(config) | {"spread": float(abs(config["y"] - 25))}

    def found(strategy: str, seed: int = 0) -> float:
        study = search(strategy, 24, three, objectives=goals, seed=seed)
        rows = [
            [t.values["time_ms"] / 120.0, t.values["loss"] / 5.0, 1.0 - t.values["spread"] / 25.0] for t in study.trials
        ]
        return volume(np.array(rows))

    assert found("bo") > max(found("random", seed) for seed in range(3))


def test_the_same_seed_proposes_the_same_in_an_endless_space() -> None:
    space = SearchSpace([Float("x", 0, 40), Float("y", 0, 40), Categorical("kind", ["a", "b"])])
    one, again = (search("bo", 12, space=space, seed=4, n=2) for _ in range(2))
    assert [t.config for t in one.trials] == [t.config for t in again.trials]
    assert [t.notes for t in one.trials] == [t.notes for t in again.trials]


# By BoTorch


@pytest.mark.parametrize("acquisition", sorted(ONLY_SEVERAL))
def test_selectable_acquisitions_look_along_the_front_in_batches_and_repeat_themselves(acquisition: str) -> None:
    def limited(config: Config) -> dict[str, float]:
        if config["x"] + config["y"] > 70:
            raise Failure("oom", "too large")
        return measured(config)

    def found(trials: int, seed: int = 0) -> Study:
        options = {"acquisition": acquisition}
        limits = ["memory_gib <= 32"]
        return search("bo", trials, limited, n=4, constraints=limits, seed=seed, strategy_options=options)

    studies, again = [found(28, seed) for seed in range(3)], found(16)
    assert [t.config for t in studies[0].trials[:16]] == [t.config for t in again.trials]
    for study in studies:
        assert len({t.config_hash for t in study.trials}) == len(study.trials)
        assert all(t.notes["acquisition"] == acquisition and "fallback" not in t.notes for t in study.trials[8:])
        # Eight trials of a design and a batch or two by models of so little do not show yet that the front is y = 25.
        later = [t.config for t in study.trials[16:]]
        assert np.mean([abs(c["y"] - 25) <= 3 for c in later]) >= 0.75  # at random, one in six
        assert len({c["x"] // 8 for c in later}) >= 3
        assert sum(t.failure_kind is not None for t in study.trials[16:]) <= 1
    assert np.median([dominated(study) for study in studies]) > 0.9


@pytest.mark.parametrize("acquisition", sorted(ONLY_SEVERAL))
def test_selectable_acquisitions_of_three_objectives(acquisition: str) -> None:
    def three(config: Config) -> dict[str, float]:
        return measured(config) | {"spread": float(abs(config["y"] - 25))}

    def found(strategy: str, **more: Any) -> float:
        study = search(strategy, 16, three, objectives=["minimize time_ms", "minimize loss", "maximize spread"], **more)
        rows = [
            [t.values["time_ms"] / 120.0, t.values["loss"] / 5.0, 1.0 - t.values["spread"] / 25.0] for t in study.trials
        ]
        return volume(np.array(rows))

    ours = found("bo", strategy_options={"acquisition": acquisition})
    assert ours > np.mean([found("random", seed=seed) for seed in range(4)]) + 0.03


def test_a_lucky_measurement_of_a_noisy_system_is_not_what_others_must_beat() -> None:
    """A value far beyond all others, told with a wide interval, leaves as much to hope for as if there had been no luck."""
    first = {"x": 20, "y": 20}

    def hoped_for(luck: float, relative_half_width: float) -> float:
        def told(config: Config) -> Measurement:
            found = measured(config)
            if config != first:
                return Measurement({name: Metric(value) for name, value in found.items()})
            return Measurement({n: Metric(luck * value, relative_half_width * value) for n, value in found.items()})

        study = search("bo", 8, told, default=first)
        study.ask()
        return float(study.trials[-1].notes["expected_gain"])

    assert hoped_for(0.1, 2.0) > 0.5 * hoped_for(1.0, 0.0)

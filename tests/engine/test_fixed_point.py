"""The engine's side of fixed-point iteration: convergence, damping, acceleration and the best iterate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from autotune.errors import UsageError
from autotune.space import Config
from autotune.strategies.fixed_point import FixedPointRun, Vector, iterate, refine, solve


class Map:
    """A mapping of vectors, whose configurations are the vectors themselves."""

    def __init__(
        self, image: Callable[[Vector], Vector], start: Sequence[float], loss: Callable[[Vector], float]
    ) -> None:
        self.image, self.start, self.loss = image, np.array(start, dtype=float), loss

    def starts(self) -> Sequence[str]:
        return ("only",)

    def initial(self, start: str) -> Vector:
        return self.start

    def apply(self, start: str, coupling: Vector) -> tuple[Vector, Config, float]:
        return self.image(coupling), {"x": coupling.tolist()}, self.loss(coupling)

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        x = np.round(np.array(config["x"]))
        return {"x": x.tolist()}, self.loss(x)


def linear(matrix: Any, fixed: Sequence[float], start: Sequence[float]) -> Map:
    """``F(x) = fixed + A (x - fixed)``, whose loss is the distance from the fixed point."""
    a, point = np.array(matrix, dtype=float), np.array(fixed, dtype=float)
    return Map(lambda x: point + a @ (x - point), start, lambda x: float(np.abs(x - point).max()))


def found(run: FixedPointRun) -> Any:
    return np.array(run.best.config["x"])


def test_a_contraction_converges_to_its_fixed_point() -> None:
    run = iterate(linear([[0.5, 0.2], [-0.1, 0.4]], [3.0, -2.0], [0.0, 0.0]), "only", tolerance=1e-9, max_iterations=50)
    assert run.converged and run.iterates[-1].residual <= 1e-9
    assert found(run) == pytest.approx([3.0, -2.0], abs=1e-6)


def test_a_fixed_point_at_the_start_takes_one_step() -> None:
    run = iterate(linear([[0.5]], [3.0], [3.0]), "only")
    assert run.converged and len(run.iterates) == 1 and run.iterates[0].residual == 0.0


def test_a_linear_map_is_solved_exactly_after_as_many_differences_as_dimensions() -> None:
    mapping = linear([[0.9, 0.3], [0.0, -0.7]], [1.0, 2.0], [10.0, -10.0])
    run = iterate(mapping, "only", memory=2, tolerance=1e-8, max_iterations=8)
    assert run.converged and found(run) == pytest.approx([1.0, 2.0], abs=1e-5)


def test_acceleration_beats_plain_damping_on_a_stiff_map() -> None:
    mapping = linear(np.diag([0.99, 0.5, -0.9]), [1.0, 2.0, 3.0], [100.0, -100.0, 50.0])
    plain = iterate(mapping, "only", memory=0, tolerance=1e-6, max_iterations=400)
    fast = iterate(mapping, "only", memory=3, tolerance=1e-6, max_iterations=400)
    assert fast.converged and len(fast.iterates) * 5 < len(plain.iterates)


def test_an_oscillating_map_is_tamed_by_damping() -> None:
    mapping = linear([[-1.5]], [1.0], [4.0])
    assert iterate(mapping, "only", memory=0, damping=0.5, tolerance=1e-6, max_iterations=60).converged
    undamped = iterate(mapping, "only", memory=0, damping=1.0, tolerance=1e-6, max_iterations=5)
    assert undamped.iterates[1].residual > 0  # and yet it halves its steps where the residual grows
    assert iterate(mapping, "only", memory=0, damping=1.0, tolerance=1e-6, max_iterations=60).converged


def test_a_map_that_diverges_keeps_its_best_iterate() -> None:
    mapping = Map(lambda x: 3.0 * x + 1.0, [0.0], lambda x: abs(float(x[0]) - 1.0))
    run = iterate(mapping, "only", memory=0, max_iterations=30)
    assert not run.converged and len(run.iterates) == 30
    assert run.best.loss == min(step.loss for step in run.iterates) < run.iterates[-1].loss


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_leaves_the_numbers_ends_with_what_was_found(bad: float) -> None:
    mapping = Map(
        lambda x: x + 1.0 if x[0] < 2.0 else np.array([bad]), [0.0], lambda x: float("nan") if x[0] == 0 else x[0]
    )
    run = iterate(mapping, "only", memory=0, damping=1.0)
    assert not run.converged and run.iterates[-1].residual == np.inf
    assert run.best.loss == 1.0  # the iterate at 0 has no loss


@pytest.mark.parametrize(("start", "best"), [(2.6, 3.0), (0.4, 0.4)])
def test_the_refined_solution_stands_only_where_it_is_better(start: float, best: float) -> None:
    mapping = linear([[0.5]], [3.0], [start])
    run = refine(mapping, iterate(mapping, "only", max_iterations=1))  # rounding helps from 2.6 and harms from 0.4
    assert run.refined is not None and found(run) == [best]
    assert run.refined.residual == run.iterates[0].residual


def test_a_loss_that_no_longer_falls_ends_the_iteration() -> None:
    turning = Map(lambda x: -x, [8.0], lambda x: 5.0)  # never converges, and nothing gets better
    assert len(iterate(turning, "only", memory=0, damping=1.0, patience=3, max_iterations=30).iterates) == 4
    assert len(iterate(turning, "only", memory=0, damping=1.0, max_iterations=30).iterates) == 30
    falling = Map(lambda x: x / 2, [8.0], lambda x: 1.0 + float(x[0]))
    assert iterate(falling, "only", memory=0, damping=1.0, patience=3, max_iterations=30).best.loss < 1.01


class Several(Map):
    """Starts whose configuration and loss are their own number; refining takes a tenth off."""

    def __init__(self, losses: dict[str, float]) -> None:
        super().__init__(lambda x: x, [0.0], lambda _: 0.0)
        self.losses, self.refined = losses, list[str]()

    def starts(self) -> Sequence[str]:
        return list(self.losses)

    def apply(self, start: str, coupling: Vector) -> tuple[Vector, Config, float]:
        return coupling, {"x": start}, self.losses[start]

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        self.refined.append(start)
        return config, 0.999 * self.losses[start]


def test_starts_are_solved_best_first_and_those_far_behind_are_not_refined() -> None:
    mapping = Several({"far": 12.0, "near": 10.1, "best": 10.0, "lost": float("nan")})
    runs = solve(mapping)
    assert [run.start for run in runs] == ["best", "near", "far", "lost"]
    assert mapping.refined == ["best", "near"]
    assert [run.best.loss for run in runs[:3]] == pytest.approx([9.99, 10.0899, 12.0])


@pytest.mark.parametrize("settings", [{"damping": 0.0}, {"damping": 1.1}, {"max_iterations": 0}, {"patience": 0}])
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        iterate(linear([[0.5]], [1.0], [0.0]), "only", **settings)

"""Fixed-point iteration over a mapping that the domain supplies; the engine owns damping, acceleration and residual.

A domain whose problem falls apart into pieces once a few coupling quantities are known (what one layer leaves of the link
to the next, say) gives a `FixedPointMap`: from coupling values it solves the pieces, and tells the coupling values that
this solution causes. No contraction is assumed: the best iterate is kept, and the residual is reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from autotune.space import Config
from autotune.strategies.base import History, Strategy, Suggestion, Task

Vector = npt.NDArray[np.float64]

# A refinement rarely gains more than this share of the loss.
_WORTH_REFINING = 0.02
# Where pieces are discrete, the residual need not vanish; steps after which a loss has not fallen seldom lower it.
_PATIENCE = 3
_FALLS = 1e-3  # relative


@runtime_checkable
class FixedPointMap(Protocol):
    """What a domain supplies."""

    def starts(self) -> Sequence[str]:
        """Names of the outer settings (policy, prefetch depth, …) to iterate for, the most promising first."""

    def initial(self, start: str) -> Vector:
        """First coupling values for a start, shape ``(n,)``."""

    def apply(self, start: str, coupling: Vector) -> tuple[Vector, Config, float]:
        """Solve the pieces at `coupling`.

        Returns:
            The coupling values that the solution causes, shape ``(n,)``; the solution as a feasible configuration; and
            its predicted loss (smaller is better), comparable between starts.
        """

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        """Improve a solution where what the pieces leave out can be seen; returns it and its predicted loss.

        Called once per start with the best iterate. A map that has nothing to add returns what it was given.
        """


@dataclass(frozen=True)
class Iterate:
    """One step: the configuration decided, its predicted loss, and the residual ``|F(x) - x| / max(|x|, |F(x)|)``."""

    config: Config
    loss: float
    residual: float


@dataclass(frozen=True)
class FixedPointRun:
    """All iterates for one start, in order, and what the map made of the best of them.

    `converged` says whether the residual went under the tolerance.
    """

    start: str
    iterates: tuple[Iterate, ...]
    converged: bool
    refined: Iterate | None = None

    @property
    def best_iterate(self) -> Iterate:
        """The iterate with the smallest predicted loss, the earliest of equal ones."""
        return min(self.iterates, key=lambda i: math.inf if math.isnan(i.loss) else i.loss)

    @property
    def best(self) -> Iterate:
        """The refined solution where it is better, else the best iterate."""
        found = self.best_iterate
        return self.refined if self.refined is not None and self.refined.loss < found.loss else found


def iterate(
    mapping: FixedPointMap,
    start: str,
    *,
    damping: float = 0.7,
    memory: int = 3,
    tolerance: float = 1e-3,
    max_iterations: int = 12,
    patience: int | None = None,
) -> FixedPointRun:
    """Damped fixed-point iteration with Anderson acceleration.

    The step is ``x + a * (F(x) - x)`` corrected by the least-squares combination of the last `memory` differences (Walker
    and Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49, 2011, eq. 2.2). Where the
    residual grew, the plain damped step is taken and the damping halved.

    Args:
        damping: ``a`` in (0, 1].
        memory: differences kept; 0 turns acceleration off.
        patience: steps without a notably smaller loss after which it ends; None for never.
    """
    if not 0.0 < damping <= 1.0:
        raise UsageError(f"damping is {damping}; it must be above 0 and at most 1")
    if max_iterations < 1:
        raise UsageError(f"max_iterations is {max_iterations}; it must be at least 1")
    if patience is not None and patience < 1:
        raise UsageError(f"patience is {patience}; it must be at least 1, or None")
    x = np.asarray(mapping.initial(start), dtype=float)
    steps: list[Iterate] = []
    points: list[Vector] = []
    residuals: list[Vector] = []
    for _ in range(max_iterations):
        image, config, loss = mapping.apply(start, x)
        residual = image - x
        if not np.all(np.isfinite(residual)):  # diverged beyond numbers; what was found before stands
            steps.append(Iterate(config, loss, math.inf))
            break
        scale = max(_norm(x), _norm(image))
        size = _norm(residual) / scale if scale > 0.0 else 0.0
        grew = bool(steps) and size > steps[-1].residual
        steps.append(Iterate(config, loss, size))
        if size <= tolerance:
            return FixedPointRun(start, tuple(steps), converged=True)
        if patience is not None and _stalled([step.loss for step in steps], patience):
            break
        points.append(x)
        residuals.append(residual)
        if grew:
            damping = max(damping / 2, 0.05)
            points, residuals = points[-1:], residuals[-1:]
        x = x + damping * residual - _anderson(points[-memory - 1 :], residuals[-memory - 1 :], damping)
    return FixedPointRun(start, tuple(steps), converged=False)


def refine(mapping: FixedPointMap, run: FixedPointRun) -> FixedPointRun:
    """Let the map refine the best iterate; the refined one keeps that iterate's residual."""
    config, loss = mapping.refine(run.start, run.best_iterate.config)
    return replace(run, refined=Iterate(config, loss, run.best_iterate.residual))


def solve(mapping: FixedPointMap) -> tuple[FixedPointRun, ...]:
    """Every start iterated, and refined where that could make it the best; in the order of their predicted losses."""
    runs = [iterate(mapping, start, patience=_PATIENCE) for start in mapping.starts()]
    refined: list[FixedPointRun] = []
    for run in sorted(runs, key=_loss):
        ahead = min(map(_loss, refined), default=_loss(run))
        # A start far behind is not worth the time.
        near = _loss(run) - ahead <= _WORTH_REFINING * abs(ahead)
        refined.append(refine(mapping, run) if near else run)
    return tuple(sorted(refined, key=_loss))


def _loss(run: FixedPointRun) -> float:
    return math.inf if math.isnan(run.best.loss) else run.best.loss


def _stalled(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` losses are not notably below the best before them."""
    before, since = losses[:-patience], losses[-patience:]
    return bool(before) and not min(since) < min(before) - _FALLS * abs(min(before))


def _norm(vector: Vector) -> float:
    return float(np.max(np.abs(vector), initial=0.0))


def _anderson(points: Sequence[Vector], residuals: Sequence[Vector], damping: float) -> Vector:
    """The correction ``(dX + a * dR) @ gamma`` with ``gamma = argmin |r - dR @ gamma|``; zero without differences."""
    if len(points) < 2:
        return np.zeros_like(points[-1])
    point_steps = np.diff(np.stack(points, axis=1), axis=1)
    residual_steps = np.diff(np.stack(residuals, axis=1), axis=1)
    gamma, *_ = np.linalg.lstsq(residual_steps, residuals[-1], rcond=1e-8)
    correction: Vector = (point_steps + damping * residual_steps) @ gamma
    return correction


class FixedPoint(Strategy):
    """Proposes the best iterate of every start, refined by the map, the best prediction first."""

    name: ClassVar[str] = "fixed-point"
    summary: ClassVar[str] = (
        "divide and conquer with a fixed point over what couples the parts; needs a domain that supplies it"
    )

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if not isinstance(task.domain_map, FixedPointMap):
            raise UsageError(
                "strategy 'fixed-point' needs a domain that supplies a mapping, such as moe-cache; choose another"
            )
        self._map: FixedPointMap = task.domain_map

    @cached_property
    def _runs(self) -> tuple[FixedPointRun, ...]:
        return solve(self._map)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        taken = set(history.hashes)
        found: list[Suggestion] = []
        for run in self._runs:
            if len(found) >= n:
                break
            step = run.best
            key = self.task.space.config_hash(step.config)
            if key not in taken:
                taken.add(key)
                found.append(self.suggestion(step.config, **_notes(run, step)))
        return found


def _notes(run: FixedPointRun, step: Iterate) -> dict[str, Any]:
    return {
        "start": run.start,
        "iteration": run.iterates.index(run.best_iterate),
        "refined": step is run.refined,
        "iterations": len(run.iterates),
        "converged": run.converged,
        "residual": step.residual,
        "residuals": [i.residual for i in run.iterates],
        "losses": [i.loss for i in run.iterates],
        "predicted": step.loss,
    }

"""Composable test problems: a landscape, what wraps it (shift, noise, infeasible region, sparse effect), and a problem of it.

Wrappers take a landscape and return one, in any order, as Vizier's experimenters do (Song et al., "Open Source Vizier",
AutoML 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from autotune.measurement import Failure
from autotune.objective import Objective
from autotune.space import Config, Float, SearchSpace
from benchmarks.quality.functions import Function
from benchmarks.quality.problem import Problem
from evaluators.recorded.table import RecordedTable, record

Floats = npt.NDArray[np.float64]

_SAMPLE = 20_000  # points that stand for the distribution of a continuous space
_MARGIN = 0.05  # of the box, between the minimiser and the border of an infeasible region
OBJECTIVE = Objective("value", "minimize")


@dataclass(frozen=True)
class Landscape:
    """A continuous problem in the making.

    Attributes:
        name: grows with every wrapper.
        family: the function's name, kept by wrappers.
        parameters: of the space.
        loss: noise-free, by configuration; raises `Failure` where the landscape has hidden failures.
        minimiser: a configuration at which the loss is least.
        minimum: the least loss.
        constraints: known to the searcher.
        noise: standard deviation of what a searcher observes, in units of the loss.
    """

    name: str
    family: str
    parameters: tuple[Float, ...]
    loss: Callable[[Mapping[str, float]], float]
    minimiser: Mapping[str, float]
    minimum: float
    constraints: tuple[str, ...] = ()
    noise: float = 0.0


def landscape(function: Function) -> Landscape:
    """A test function over its box, parameters ``x0, x1, ...``."""
    names = [f"x{i}" for i in range(len(function.low))]
    box = zip(names, function.low, function.high, strict=True)
    return Landscape(
        function.name,
        function.name,
        tuple(Float(name, low, high) for name, low, high in box),
        lambda config: function.call(np.array([config[name] for name in names])),
        dict(zip(names, function.minimiser, strict=True)),
        function.minimum,
    )


def shifted(base: Landscape, seed: int) -> Landscape:
    """The same landscape moved at random so far that its minimiser stays inside the box.

    For landscapes whose least value anywhere is that in the box, as all of `functions` are: what enters the box at the
    border cannot be better.
    """
    rng = np.random.default_rng([seed, 1])
    goal = {
        p.name: float(rng.uniform(p.low + 0.1 * (p.high - p.low), p.high - 0.1 * (p.high - p.low)))
        for p in base.parameters
    }
    by = {name: goal[name] - base.minimiser[name] for name in goal}
    return replace(
        base,
        name=f"{base.name}+shift{seed}",
        loss=lambda config: base.loss({name: config[name] - by[name] for name in by}),
        minimiser=goal,
        constraints=_refuse_constraints(base, "shifted"),
    )


def sparse(base: Landscape, extra: int) -> Landscape:
    """The same landscape with parameters that have no effect."""
    dummies = tuple(Float(f"idle{i}", 0.0, 1.0) for i in range(extra))
    return replace(
        base,
        name=f"{base.name}+{extra}idle",
        parameters=(*base.parameters, *dummies),
        minimiser={**base.minimiser, **{p.name: 0.5 for p in dummies}},
    )


def spread(base: Landscape) -> float:
    """Standard deviation of the loss over the box, of a sample, to two digits."""
    sample = SearchSpace(base.parameters, base.constraints).sample(_SAMPLE, 0)
    return float(f"{np.nanstd([_loss_or_nan(base, config) for config in sample]):.2g}")


def noisy(base: Landscape, deviation: float) -> Landscape:
    """The same landscape observed with Gaussian noise of a standard deviation in units of the loss."""
    if deviation <= 0.0:
        raise UsageError(f"noise: deviation={deviation}; give a standard deviation above 0")
    return replace(base, name=f"{base.name}+noise{deviation:g}", noise=deviation)


def infeasible(base: Landscape, seed: int, *, hidden: bool) -> Landscape:
    """The same landscape cut by a random plane close to its minimiser, beyond which nothing is feasible.

    Args:
        base: the landscape.
        seed: of the plane's direction.
        hidden: whether the searcher learns of the region by failures of kind `invalid` only; else it is a constraint.
    """
    rng = np.random.default_rng([seed, 2])
    normal = rng.normal(size=len(base.parameters))
    normal /= np.linalg.norm(normal)
    centre = np.array([(base.minimiser[p.name] - p.low) / (p.high - p.low) - 0.5 for p in base.parameters])
    normal *= -1.0 if normal @ centre < 0.0 else 1.0  # the larger part of the box stays feasible
    weights = {p.name: float(w / (p.high - p.low)) for p, w in zip(base.parameters, normal, strict=True)}
    limit = sum(weights[name] * base.minimiser[name] for name in weights) + _MARGIN
    name = f"{base.name}+{'hidden' if hidden else 'known'}{seed}"
    if not hidden:
        text = " + ".join(f"({weight!r}) * {parameter}" for parameter, weight in weights.items())
        return replace(base, name=name, constraints=(*base.constraints, f"{text} <= {limit!r}"))

    def loss(config: Mapping[str, float]) -> float:
        if sum(weights[p] * config[p] for p in weights) > limit:
            raise Failure("invalid", "beyond the border of the feasible region")
        return base.loss(config)

    return replace(base, name=name, loss=loss)


def problem(given: Landscape, suite: str = "synthetic") -> Problem:
    """A landscape as a problem; the fraction of the optimum is the gap closed from the median."""
    space = SearchSpace(given.parameters, given.constraints)

    def evaluate(config: Config, rng: np.random.Generator) -> Mapping[str, float]:
        value = given.loss(config)
        return {OBJECTIVE.metric: value + (float(rng.normal(0.0, given.noise)) if given.noise else 0.0)}

    population = np.array([[_loss_or_nan(given, config)] for config in space.sample(_SAMPLE, 0)])
    return Problem(
        given.name,
        given.family,
        "",
        suite,
        space,
        (OBJECTIVE,),
        evaluate,
        lambda config: (given.loss(config),),
        population,
        complete=False,
        rule="gap",
        minimum=given.minimum,
    )


def memory_limited(failing: float = 0.6) -> RecordedTable:
    """A serving-like space of ordinals whose larger half of memory use fails with `oom`, the best just below the limit.

    Latency falls with batch, tile and unrolling as long as memory lasts; memory is no constraint that the searcher knows.

    Args:
        failing: the share of configurations that run out of memory.
    """
    values = {
        "batch": [1, 2, 4, 8, 16, 32, 64, 128],
        "tile": [16, 32, 64, 128, 256],
        "stages": [1, 2, 3, 4, 5, 6],
        "cache_pct": [10, 20, 30, 40, 50, 60, 70, 80, 90],
        "precision_bits": [8, 16, 32],
        "threads": [32, 64, 128, 256],
    }
    grid = np.array(np.meshgrid(*values.values(), indexing="ij")).reshape(len(values), -1)
    batch, tile, stages, cache, bits, threads = grid.astype(float)
    memory = bits / 8 * (0.02 * batch * (1 + cache / 25) + stages * tile**1.5 / 600) + 0.002 * threads
    limit = float(np.quantile(memory, 1.0 - failing))
    latency = (
        40.0 / batch**0.45
        + 12.0 * (1 - cache / 100) ** 2
        + 6.0 * np.abs(np.log2(tile / 64)) / stages**0.5
        + 0.35 * bits**0.5
        + 1.5 * np.abs(np.log2(threads / 128))
        + 0.8 * np.maximum(0.0, stages - 4)
    )
    rows = [tuple(row) for row in grid.T.tolist()]
    failures = {int(i): "oom" for i in np.flatnonzero(memory > limit)}
    return record(
        f"memory_limited_{round(100 * failing)}", values, rows, {"latency_ms": latency}, "minimize latency_ms",
        family="memory_limited", failures=failures,
    )  # fmt: skip


def _loss_or_nan(given: Landscape, config: Config) -> float:
    try:
        return given.loss(config)
    except Failure:
        return float("nan")


def _refuse_constraints(base: Landscape, what: str) -> tuple[str, ...]:
    if base.constraints:
        raise UsageError(
            f"{base.name}: {what} moves the landscape but not its constraints; shift first, then constrain"
        )
    return ()

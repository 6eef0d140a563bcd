"""One problem of the benchmark: a space, what answers for a configuration, and what is known of all configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from autotune.objective import Objective
from autotune.space import Config, SearchSpace
from benchmarks.quality.hypervolume import FrontScale
from evaluators.recorded import RecordedTable

Floats = npt.NDArray[np.float64]
Evaluate = Callable[[Config, np.random.Generator], Mapping[str, float]]
Truth = Callable[[Config], Sequence[float]]
# How far a loss is from the optimum, for people: optimum / loss where losses are amounts (times, errors), else the share of
# the way from the median configuration to the optimum.
FractionRule = Literal["ratio", "gap"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A problem with a known optimum.

    Attributes:
        name: unique in a run.
        family: problems that differ in device, shift or noise only share it; nothing may be tuned within a family.
        device: where it was recorded; empty for formulas.
        suite: the group of problems that a report averages over.
        objectives: in order.
        evaluate: the metrics of a configuration as a searcher sees them, noise drawn from the generator; raises `Failure`.
        truth: the losses (to be minimised) of a configuration that does not fail, without noise.
        population: losses of the feasible set, or of a uniform sample of it, shape ``(n, m)``; NaN rows fail.
        complete: whether `population` is the whole feasible set.
        rule: how the fraction of the optimum is read.
        minimum: the known least loss; that of the population by default.
    """

    name: str
    family: str
    device: str
    suite: str
    space: SearchSpace
    objectives: tuple[Objective, ...]
    evaluate: Evaluate
    truth: Truth
    population: Floats
    complete: bool
    rule: FractionRule = "ratio"
    minimum: float | None = None

    @property
    def several(self) -> bool:
        """Whether there is more than one objective."""
        return len(self.objectives) > 1

    @cached_property
    def valid(self) -> Floats:
        """The losses of what does not fail, shape ``(n_valid, m)``."""
        return self.population[~np.isnan(self.population).any(axis=1)]

    @cached_property
    def scale(self) -> FrontScale:
        """The scale in which hypervolume is measured."""
        return FrontScale.of(self.valid)

    @cached_property
    def optimum(self) -> float:
        """The least regret measure: the minimal loss, or 0 where it is the share of hypervolume that is missing."""
        if self.several:
            return 0.0
        return float(self.valid.min()) if self.minimum is None else self.minimum

    @cached_property
    def median(self) -> float:
        """The median loss over what does not fail (one objective)."""
        return float(np.median(self.valid[:, 0]))

    @cached_property
    def worst(self) -> float:
        """What counts before anything was measured: the worst loss, or all of the hypervolume missing."""
        return 1.0 if self.several else float(self.valid.max())

    @cached_property
    def digest(self) -> str:
        """Changes when the parameters or the measurements do, so that stored runs are never taken for others."""
        # Of what was measured, not of how the engine writes a space down, which may change from version to version.
        names = [*(p.name for p in self.space.parameters), *(str(o) for o in self.objectives)]
        content = hashlib.sha256(",".join(names).encode())
        content.update(np.ascontiguousarray(self.population).tobytes())
        return content.hexdigest()[:12]

    def fraction(self, loss: npt.ArrayLike) -> Floats:
        """The fraction of the optimum that a loss (or missing hypervolume) is worth, 1 at the optimum; shape as given."""
        losses = np.asarray(loss, dtype=float)
        if self.several:
            return 1.0 - losses
        if self.rule == "gap":
            fraction: Floats = (self.median - losses) / (self.median - self.optimum)
            return fraction
        # Losses of maximised metrics are negative: optimum / loss would rise as they get worse.
        ratio: Floats = losses / self.optimum if self.optimum < 0 else self.optimum / losses
        return ratio

    def initial(self, n: int, seed: int) -> list[Config]:
        """The shared initial design: n distinct random feasible configurations."""
        return self.space.sample(n, np.random.default_rng([seed, 0x5EED])) if n else []


def recorded(table: RecordedTable, suite: str, name: str = "") -> Problem:
    """A recorded table as a problem; replayed without noise."""
    space_table = table.space.enumerate()
    assert space_table is not None

    def truth(config: Config) -> Sequence[float]:
        losses: list[float] = table.losses[space_table.index_of(config)].tolist()
        return losses

    return Problem(
        name or table.name,
        table.family,
        table.device,
        suite,
        table.space,
        table.objectives,
        lambda config, _rng: table(config),
        truth,
        table.losses,
        complete=True,
    )


def jittery(base: Problem, deviation: float) -> Problem:
    """The same problem whose every measurement is multiplied by a lognormal draw, as repeated runs of a system are.

    Args:
        base: one whose metrics are amounts.
        deviation: standard deviation of the logarithm.
    """

    def evaluate(config: Config, rng: np.random.Generator) -> Mapping[str, float]:
        return {
            name: value * float(np.exp(rng.normal(0.0, deviation)))
            for name, value in base.evaluate(config, rng).items()
        }

    return replace(base, name=f"{base.name}+jitter{deviation:g}", suite="noisy", evaluate=evaluate)

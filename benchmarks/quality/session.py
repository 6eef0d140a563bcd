"""The protocol of one run: what is charged, what is free, and what is written down.

An evaluation is charged once per distinct configuration that the space's known constraints allow, failures included. A proposal
that they do not allow, and one that was measured before, are free; both are counted, and a searcher that makes nothing else
for too long is stopped, keeping what it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from autotune.errors import UsageError
from autotune.measurement import Failure
from autotune.objective import losses
from autotune.space import Config
from benchmarks.quality.problem import Problem

# Optuna's samplers need about 5 proposals for a feasible one where a quarter of the product is feasible; a searcher that
# makes hundreds in a row has nothing new to say.
FREE_IN_A_ROW = 300
FREE_IN_ALL = 20  # times the budget


class BudgetSpentError(Exception):
    """The run is over: the evaluations are spent, or the searcher has stalled."""


@dataclass(frozen=True)
class Settings:
    """What makes runs comparable; part of every stored run's key.

    Attributes:
        budget: evaluations of one run.
        initial: of which so many are the shared initial design, for searchers that take one.
    """

    budget: int
    initial: int

    def __post_init__(self) -> None:
        if self.budget < 1 or not 0 <= self.initial <= self.budget:
            raise UsageError(
                f"budget={self.budget}, initial={self.initial}; give a budget of at least 1 and 0 <= initial <= budget"
            )


@dataclass(frozen=True)
class Reply:
    """What a searcher learns of a proposal.

    Attributes:
        status: `ok`, `failed` (evaluated, typed failure), or `infeasible` (a known constraint forbids it).
        losses: as observed, to be minimised; None unless `ok`.
        metrics: the same by name, before the sign of the objective.
        failure: the failure, where it failed.
        duplicate: whether the configuration was evaluated before; the reply is the old one.
    """

    status: Literal["ok", "failed", "infeasible"]
    losses: tuple[float, ...] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    duplicate: bool = False


class Session:
    """One run of one searcher on one problem.

    Attributes:
        seen, true: losses by charged evaluation, as observed and without noise; None for a failure.
        seconds: the searcher's own time before each charged evaluation, free proposals on the way included.
        infeasible, duplicates: counts of free proposals.
        stalled: whether it was stopped for making only free proposals.
    """

    def __init__(self, problem: Problem, seed: int, settings: Settings) -> None:
        self.problem, self.seed, self.settings = problem, seed, settings
        self.initial = problem.initial(settings.initial, seed)
        self.seen: list[list[float] | None] = []
        self.true: list[list[float] | None] = []
        self.seconds: list[float] = []
        self.infeasible = self.duplicates = 0
        self.stalled = False
        self._noise = np.random.default_rng([seed, 0xA015E])
        self._replies: dict[str, Reply] = {}
        self._in_a_row = 0
        self._spent_s = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether every configuration of the space has been evaluated."""
        size = self.problem.space.size
        return size is not None and len(self.seen) >= size

    def submit(self, config: Config, seconds: float) -> Reply:
        """Evaluate a proposal.

        Args:
            config: any values; what the space does not allow is answered as infeasible.
            seconds: what the searcher took to propose it.

        Raises:
            BudgetSpentError: when nothing may be evaluated any more; the proposal is not looked at.
        """
        if len(self.seen) >= self.settings.budget or self.stalled or self.exhausted:
            raise BudgetSpentError
        self._spent_s += seconds
        space = self.problem.space
        if not space.contains(config):
            self.infeasible += 1
            self._free()
            return Reply("infeasible")
        key = space.config_hash(config)
        if key in self._replies:
            self.duplicates += 1
            self._free()
            known = self._replies[key]
            return Reply(known.status, known.losses, known.metrics, known.failure, duplicate=True)
        self._in_a_row = 0
        self._replies[key] = reply = self._evaluate(config)
        self.seen.append(None if reply.losses is None else list(reply.losses))
        self.true.append(None if reply.losses is None else [float(x) for x in self.problem.truth(config)])
        self.seconds.append(self._spent_s)
        self._spent_s = 0.0
        return reply

    def _evaluate(self, config: Config) -> Reply:
        try:
            metrics = dict(self.problem.evaluate(config, self._noise))
        except Failure as failure:
            return Reply("failed", failure=failure)
        return Reply("ok", losses(metrics, self.problem.objectives), metrics)

    def _free(self) -> None:
        self._in_a_row += 1
        free = self.infeasible + self.duplicates
        if self._in_a_row >= FREE_IN_A_ROW or free >= FREE_IN_ALL * self.settings.budget:
            self.stalled = True

    def record(self) -> dict[str, Any]:
        """The run's part of a stored line."""
        noisy = self.seen != self.true
        return {
            "losses": [None if one is None else [_short(x) for x in one] for one in self.true],
            "observed": [None if one is None else [_short(x) for x in one] for one in self.seen] if noisy else None,
            "seconds": [float(f"{s:.4g}") for s in self.seconds],
            "infeasible": self.infeasible,
            "duplicates": self.duplicates,
            "stalled": self.stalled,
        }


def _short(value: float) -> float:
    """Twelve digits: more than any measurement has, and half of the file."""
    return float(f"{value:.12g}")

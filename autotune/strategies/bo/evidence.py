"""What a history says, as matrices: one row per configuration, repeats merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.goals import Goals
from autotune.space import SearchSpace
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies.base import History
from autotune.strategies.bo.censored import Censored
from autotune.strategies.bo.regimes import setbacks
from autotune.strategies.bo.warp import LARGEST

Floats = npt.NDArray[np.float64]

_Z95 = 1.96  # half-widths are of 95 % intervals
MODELLED = "weights"  # the note that a proposal of models has


@dataclass(frozen=True)
class Metrics:
    """One metric of every measured configuration: to be minimised, shape ``(n,)``, with the variance of its noise or 0."""

    values: Floats
    variance: Floats

    def take(self, places: npt.NDArray[np.intp]) -> Metrics:
        return Metrics(self.values[places], self.variance[places])


@dataclass(frozen=True)
class Evidence:
    """Everything known when a proposal is made.

    Attributes:
        measured: encoded configurations that completed, shape ``(n, d)``, in the order of their first trial.
        objectives: one for each objective, as losses.
        constraints: one for each outcome constraint, signed so that small is good; NaN where the metric is lacking.
        limits: what each of those may reach.
        feasible: which of `measured` keep every outcome constraint, shape ``(n,)``.
        failed: encoded configurations that failed and never completed, shape ``(k, d)``.
        pending: encoded configurations under way, shape ``(p, d)``.
        hashes: of `measured`, in order.
        setback: whether each measured one is far beyond the others (see `regimes`), shape ``(n,)``; such are not `feasible`.
        risks: of the finished trials that models had a say in, in order, whether each failed.
        censored: those whose trials were pruned, and that never completed.
    """

    measured: Floats
    objectives: tuple[Metrics, ...]
    constraints: tuple[Metrics, ...]
    limits: tuple[float, ...]
    feasible: npt.NDArray[np.bool_]
    failed: Floats
    pending: Floats
    hashes: tuple[str, ...]
    setback: npt.NDArray[np.bool_]
    risks: tuple[bool, ...]
    censored: Censored

    @property
    def losses(self) -> Floats:
        """Of every objective, shape ``(n, m)``."""
        return np.stack([metric.values for metric in self.objectives], axis=1)

    @property
    def incumbent(self) -> int | None:
        """The place of the best feasible configuration by the first objective, the first of equal ones."""
        if not self.feasible.any():
            return None
        return int(np.argmin(np.where(self.feasible, self.objectives[0].values, np.inf)))


class Reader:
    """Reads histories of one space; keeps the encoding of what it has seen."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._rows: dict[str, Floats] = {}

    def read(self, history: History) -> Evidence:
        """What the history says."""
        goals = history.task.goals
        merged = [t for t in history.merged if goals.is_usable(t)]
        known = {t.config_hash for t in merged}
        broken = [t for t in (*history.failed, *history.completed) if t.config_hash not in known]
        objectives = tuple(_metric(merged, o.metric, o.sign) for o in goals.objectives)
        signs = [1.0 if c.operator == "<=" else -1.0 for c in goals.constraints]
        limits = tuple(sign * c.bound for c, sign in zip(goals.constraints, signs, strict=True))
        constraints = tuple(_metric(merged, c.metric, s) for c, s in zip(goals.constraints, signs, strict=True))
        feasible = np.ones(len(merged), dtype=bool)
        for metric, limit in zip(constraints, limits, strict=True):
            feasible &= metric.values <= limit  # a metric that is lacking breaks its limit
        # Of several objectives one may be far off where another is best.
        setback = setbacks(objectives[0].values) if len(objectives) == 1 else np.zeros(len(merged), dtype=bool)
        return Evidence(
            self._encode(merged),
            objectives,
            constraints,
            limits,
            feasible & ~setback,
            self._encode({t.config_hash: t for t in broken}.values()),
            self._encode({t.config_hash: t for t in history.pending if t.config_hash not in known}.values()),
            tuple(t.config_hash for t in merged),
            setback,
            tuple(
                t.state is TrialState.FAILED
                for t in sorted((*history.completed, *history.failed), key=lambda t: t.number)
                if MODELLED in t.notes
            ),
            self._censored([t for t in history.pruned if t.config_hash not in known], goals),
        )

    def _censored(self, pruned: Sequence[TrialRecord], goals: Goals) -> Censored:
        def least(metric: str, sign: float) -> Floats:
            # Of what is to be maximised, a lower bound is an upper bound of the loss, and no use.
            found = [t.reported_at_least.get(metric, -np.inf) if sign > 0.0 else -np.inf for t in pruned]
            return np.array(found, dtype=np.float64)

        return Censored(
            self._encode(pruned),
            tuple(least(o.metric, o.sign) for o in goals.objectives),
            tuple(least(c.metric, 1.0 if c.operator == "<=" else -1.0) for c in goals.constraints),
        )

    def _encode(self, trials: Iterable[TrialRecord]) -> Floats:
        wanted = list(trials)
        new = {t.config_hash: t for t in wanted if t.config_hash not in self._rows}
        for name, row in zip(new, self._space.encode([dict(t.config) for t in new.values()]), strict=True):
            self._rows[name] = row
        return np.array([self._rows[t.config_hash] for t in wanted]).reshape(len(wanted), len(self._space.dims))


def _metric(trials: Sequence[TrialRecord], name: str, sign: float) -> Metrics:
    """Values with the variance of their noise, from half-widths where there are any."""
    values, variance = np.full(len(trials), np.nan), np.zeros(len(trials))
    for i, trial in enumerate(trials):
        metric = trial.metrics.get(name)
        if metric is not None:
            values[i] = sign * metric.value
            variance[i] = (min(metric.half_width, LARGEST) / _Z95) ** 2 if metric.half_width is not None else 0.0
    return Metrics(values, variance)

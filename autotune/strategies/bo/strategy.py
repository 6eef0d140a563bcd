"""Bayesian optimisation over feasible sets: what is believed, what it promises, and the proposal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.strategies.base import Capabilities, History, Settings, Strategy, Suggestion, Task
from autotune.strategies.bo import selectable
from autotune.strategies.bo.acquisition import log_expected_improvement, log_probability_below
from autotune.strategies.bo.candidates import Candidates, Pool, Score, pool_of
from autotune.strategies.bo.evidence import MODELLED, Evidence, Metrics, Reader
from autotune.strategies.bo.failures import FailureModel, least_probability
from autotune.strategies.bo.features import FeatureMap
from autotune.strategies.bo.guides import Guides
from autotune.strategies.bo.surrogate import Points, Shape, Surrogate

Floats = npt.NDArray[np.float64]

INITIAL = 8  # configurations before models are asked, the default and baselines among them
_MAXIMIN = 512  # random configurations that the initial design is chosen from
_CENTRES = 5  # of local search
_ROUGH = 1_250_000  # candidates times measured points that a Gaussian process is asked for in one go
_ROUGH_LEAST = 40  # points: so many are always looked at
_MOST_GAIN = 700.0  # logarithm: e to it is still a number
_SHORTLIST = 1_500  # candidates that are scored exactly where all would take too long


class BayesianSettings(Settings):
    """Settings of `bo`.

    Attributes:
        acquisition: what decides among candidates; see the table in docs/strategies.md.
    """

    acquisition: selectable.Acquisition = selectable.DEFAULT


class BayesianOptimisation(Strategy):
    """Gaussian process and trees, log expected improvement, learned failures; see docs/strategies.md."""

    name: ClassVar[str] = "bo"
    summary: ClassVar[str] = "Bayesian optimisation: Gaussian process and trees, scored over the feasible set"
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=False, predictor=True, transfer=True)
    settings_type: ClassVar[type[Settings]] = BayesianSettings
    models: ClassVar[tuple[str, ...]] = ("gp", "trees")  # that a metric is believed by, see `Surrogate`

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        assert isinstance(self.settings, BayesianSettings)
        self._acquisition = self.settings.acquisition
        selectable.check(self._acquisition, self.name, len(task.objectives), self.models)
        self._reader = Reader(task.space)
        self._features = FeatureMap(task.space)
        self._shape = Shape(self._features.groups, self._features.dims)
        self._guides = Guides(task, self._features, self._shape)

    @cached_property
    def _pool(self) -> Pool:
        # Made when it is first needed: a strategy is also made to see whether it fits a task.
        return pool_of(self.task.space, self._features, self._guides, self.task.seed)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        evidence = self._reader.read(history)
        taken = np.concatenate([evidence.measured, evidence.failed, evidence.pending])
        found: list[Suggestion] = []
        chosen: list[Floats] = []
        while len(found) < n:
            rng = history.rng(salt=len(found))
            used = np.concatenate([taken, np.array(chosen).reshape(-1, taken.shape[1])])
            under_way = np.concatenate([evidence.pending, np.array(chosen).reshape(-1, taken.shape[1])])
            if len(used) < INITIAL or not len(evidence.measured):
                units, notes = self._spread_out(evidence, used, rng)
            else:
                units, notes = self._promising(evidence, used, under_way, rng)
            if units is None:
                break
            chosen.append(units)
            found.append(self.suggestion(self._pool.config(units), **notes))
        return found

    # Before there is anything to learn from

    def _spread_out(
        self, evidence: Evidence, used: Floats, rng: np.random.Generator
    ) -> tuple[Floats | None, dict[str, Any]]:
        """The candidate furthest from all that was proposed, among random ones; every other time, what guides find best."""
        known = self._features(used)
        leading = self._guides.of(self.task.objectives[0].metric)

        def led(candidates: Candidates) -> Floats:
            said = candidates.points.guides[:, list(leading)]  # NaN, where one is silent, sorts last
            return np.asarray(-np.argsort(np.argsort(said, axis=0, kind="stable"), axis=0).mean(axis=1))

        def score(candidates: Candidates) -> Floats:
            if leading and len(used) % 2:
                return led(candidates)
            features = candidates.points.features
            some = rng.permutation(len(features))[:_MAXIMIN]
            gap = np.full(len(features), -np.inf)
            squared = ((features[some][:, None] - known[None]) ** 2).sum(axis=2)
            gap[some] = squared.min(axis=1) if len(known) else rng.random(len(some))
            return gap

        best = self._pool.best(score, 1, used, used[:0], rng)
        return (best.units[0], {"why": "initial design"}) if len(best) else (None, {})

    # The proposal

    def _promising(
        self, evidence: Evidence, used: Floats, under_way: Floats, rng: np.random.Generator
    ) -> tuple[Floats | None, dict[str, Any]]:
        seed = int(rng.integers(2**31))
        measured = self._pool.points(evidence.measured)
        pending = self._pool.points(under_way)
        objective = evidence.objectives[0]
        joint = selectable.is_joint(self._acquisition)
        expected = pending.take(np.arange(0)) if joint else pending
        surrogate = self._believed(measured, objective, expected, seed, self.task.objectives[0].metric)
        limits = [
            (self._believed(*_known(measured, metric), pending, seed, constraint.metric), limit)
            for constraint, metric, limit in zip(
                self.task.constraints, evidence.constraints, evidence.limits, strict=True
            )
            if np.isfinite(metric.values).sum() >= 2
        ]
        failures = None
        if len(evidence.failed):
            least = least_probability(evidence.risks)
            failures = FailureModel(measured, self._pool.points(evidence.failed), self._shape, seed, least)
        incumbent = evidence.incumbent
        best = None if incumbent is None else float(objective.values[incumbent])
        chance = _Chance(limits, failures)
        score = self._scorer(surrogate, chance, best)
        order = np.argsort(np.where(evidence.feasible, objective.values, np.inf), kind="stable")
        centres = evidence.measured[order[:_CENTRES]]
        fallback = list(surrogate.ladder)
        if best is not None and selectable.is_shortlisted(self._acquisition):
            feasible = measured.take(np.flatnonzero(evidence.feasible))
            asked = selectable.Decision(surrogate, _warped(surrogate, best), feasible, pending, score, chance)
            found, given_up = selectable.decide(self._acquisition, asked, self._pool, used, centres, rng)
            fallback += given_up
        else:
            found = self._pool.best(score, 1, used, centres, rng)
        if not len(found):
            return None, {}
        notes: dict[str, Any] = {
            MODELLED: {name: round(weight, 3) for name, weight in surrogate.weights.items()},
            "warp": f"{surrogate.warp.kind} {surrogate.warp.power:g}",
            "acquisition": self._acquisition,
        }
        if fallback:
            notes["fallback"] = fallback
        if best is not None:
            belief = surrogate.predict(found.points)
            log_gain = float(log_expected_improvement(belief, _warped(surrogate, best))[0])
            log_gain -= float(surrogate.warp.log_slope(best)) + (math.log(abs(best)) if best else 0.0)
            notes["expected_gain"] = math.exp(min(log_gain, _MOST_GAIN))
        return found.units[0], notes

    def _believed(self, points: Points, metric: Metrics, pending: Points, seed: int, name: str) -> Surrogate:
        """Models of a metric; what is under way counts as if it had given what is expected of it."""
        noise = metric.variance if metric.variance.any() else None
        guides = self._guides.of(name)
        surrogate = Surrogate(points, metric.values, self._shape, seed, noise, guides, self.models)
        if not len(pending):
            return surrogate
        expected = surrogate.warp.backward(surrogate.predict(pending).mean)
        values = np.concatenate([metric.values, np.clip(expected, metric.values.min(), metric.values.max())])
        noise = None if noise is None else np.concatenate([noise, np.zeros(len(pending))])
        return Surrogate(points.joined(pending), values, self._shape, seed, noise, guides, self.models)

    def _scorer(self, surrogate: Surrogate, chance: _Chance, best: float | None) -> Score:
        """The acquisition, of what completes within the limits; without an incumbent, how likely that is."""

        def exact(points: Points, rough: int = 0) -> Floats:
            log_chance = chance(points, rough)
            if best is None:
                return log_chance
            belief = surrogate.predict(points, rough=rough)
            return selectable.promise(self._acquisition, belief, _warped(surrogate, best), log_chance)

        def score(candidates: Candidates) -> Floats:
            rough = max(_ROUGH // max(len(candidates), 1), _ROUGH_LEAST)
            if surrogate.size <= rough or len(candidates) <= _SHORTLIST:
                return exact(candidates.points)
            sketch = exact(candidates.points, rough)
            short = np.argpartition(-sketch, _SHORTLIST)[:_SHORTLIST]
            total = np.full(len(candidates), -np.inf)
            total[short] = exact(candidates.points.take(short))
            return total

        return score


@dataclass(frozen=True)
class _Chance:
    """Logarithm of the probability that a candidate completes and keeps the limits, far lower where the risk is too high.

    Attributes:
        limits: models of the metrics that are limited, and what each may reach.
        failures: where any are known.
    """

    limits: Sequence[tuple[Surrogate, float]]
    failures: FailureModel | None

    def __call__(self, points: Points, rough: int = 0) -> Floats:
        """Of m points, shape ``(m,)``; `rough` as for `Surrogate.predict`."""
        total = np.zeros(len(points))
        for model, limit in self.limits:
            total += log_probability_below(model.predict(points, rough=rough), _warped(model, limit))
        if self.failures is not None:
            total += self.failures.score(points, rough=rough > 0)
        return total


def _known(points: Points, metric: Metrics) -> tuple[Points, Metrics]:
    """Without the points at which the metric is lacking."""
    there = np.flatnonzero(np.isfinite(metric.values))
    return points.take(there), Metrics(metric.values[there], metric.variance[there])


def _warped(surrogate: Surrogate, value: float) -> float:
    return float(surrogate.warp.forward(value))

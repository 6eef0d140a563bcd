"""Bayesian optimisation over feasible sets: what is believed, what it promises, and the proposal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from autotune.strategies.base import Capabilities, History, Settings, Strategy, Suggestion, Task
from autotune.strategies.bo.acquisition import log_probability_below
from autotune.strategies.bo.candidates import Candidates, Pool, Score, pool_of
from autotune.strategies.bo.evidence import Evidence, Metrics, Reader
from autotune.strategies.bo.failures import FailureModel
from autotune.strategies.bo.features import FeatureMap
from autotune.strategies.bo.guides import Guides
from autotune.strategies.bo.promise import Improvement, Promise
from autotune.strategies.bo.several import HypervolumeGain, leading
from autotune.strategies.bo.surrogate import Points, Shape, Surrogate

Floats = npt.NDArray[np.float64]

INITIAL = 8  # configurations before models are asked, the default and baselines among them
_MAXIMIN = 512  # random configurations that the initial design is chosen from
_CENTRES = 5  # of local search
_ROUGH = 1_250_000  # candidates times measured points that a Gaussian process is asked for in one go
_ROUGH_LEAST = 40  # points: so many are always looked at
_SHORTLIST = 1_500  # candidates that are scored exactly where all would take too long


class BayesianSettings(Settings):
    """Settings of `bo`."""


class BayesianOptimisation(Strategy):
    """Gaussian process and trees, log expected improvement, learned failures; see docs/strategies.md."""

    name: ClassVar[str] = "bo"
    summary: ClassVar[str] = "Bayesian optimisation: Gaussian process and trees, scored over the feasible set"
    capabilities: ClassVar[Capabilities] = Capabilities(several_objectives=True, predictor=True, transfer=True)
    settings_type: ClassVar[type[Settings]] = BayesianSettings

    def __init__(self, task: Task) -> None:
        super().__init__(task)
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
        surrogates = [
            self._believed(measured, metric, pending, seed, objective.metric)
            for objective, metric in zip(self.task.objectives, evidence.objectives, strict=True)
        ]
        limits = [
            (self._believed(*_known(measured, metric), pending, seed, constraint.metric), limit)
            for constraint, metric, limit in zip(
                self.task.constraints, evidence.constraints, evidence.limits, strict=True
            )
            if np.isfinite(metric.values).sum() >= 2
        ]
        failures = None
        if len(evidence.failed):
            failures = FailureModel(measured, self._pool.points(evidence.failed), self._shape, seed)
        promise = self._promise(evidence, surrogates, pending)
        score = self._scorer(promise, limits, failures, surrogates[0].size)
        found = self._pool.best(score, 1, used, evidence.measured[_centres(evidence, rng)], rng)
        if not len(found):
            return None, {}
        notes = self._told(surrogates)
        if promise is not None:
            notes["expected_gain"] = promise.gain(found.points)
        return found.units[0], notes

    def _promise(self, evidence: Evidence, surrogates: Sequence[Surrogate], pending: Points) -> Promise | None:
        """What there is to gain; None while nothing feasible was measured, and being feasible is all that counts."""
        incumbent = evidence.incumbent
        if incumbent is None:
            return None
        if len(surrogates) > 1:
            losses = np.stack([metric.values for metric in evidence.objectives], axis=1)
            return HypervolumeGain(surrogates, losses[evidence.feasible], pending)
        return Improvement(surrogates[0], float(evidence.objectives[0].values[incumbent]))

    def _told(self, surrogates: Sequence[Surrogate]) -> dict[str, Any]:
        """For people: what the models of each objective are; by metric where there are several."""
        weights = [{name: round(weight, 3) for name, weight in s.weights.items()} for s in surrogates]
        warps = [f"{s.warp.kind} {s.warp.power:g}" for s in surrogates]
        ladder = [step for s in surrogates for step in s.ladder]
        names = [o.metric for o in self.task.objectives]
        several = len(surrogates) > 1
        return {
            "weights": dict(zip(names, weights, strict=True)) if several else weights[0],
            "warp": dict(zip(names, warps, strict=True)) if several else warps[0],
        } | ({"fallback": ladder} if ladder else {})

    def _believed(self, points: Points, metric: Metrics, pending: Points, seed: int, name: str) -> Surrogate:
        """Models of a metric; what is under way counts as if it had given what is expected of it."""
        noise = metric.variance if metric.variance.any() else None
        guides = self._guides.of(name)
        surrogate = Surrogate(points, metric.values, self._shape, seed, noise, guides)
        if not len(pending):
            return surrogate
        expected = surrogate.warp.backward(surrogate.predict(pending).mean)
        values = np.concatenate([metric.values, np.clip(expected, metric.values.min(), metric.values.max())])
        noise = None if noise is None else np.concatenate([noise, np.zeros(len(pending))])
        return Surrogate(points.joined(pending), values, self._shape, seed, noise, guides)

    def _scorer(
        self,
        promise: Promise | None,
        limits: Sequence[tuple[Surrogate, float]],
        failures: FailureModel | None,
        size: int,
    ) -> Score:
        """What completes within the limits promises; without an incumbent, how likely that is. `size`: of surrogates."""

        def exact(points: Points, rough: int = 0) -> Floats:
            total = np.zeros(len(points))
            for model, limit in limits:
                total += log_probability_below(model.predict(points, rough=rough), _warped(model, limit))
            if failures is not None:
                total += failures.log_success(points, rough=rough > 0)
            if promise is not None:
                total += promise(points, rough=rough)
            return total

        def score(candidates: Candidates) -> Floats:
            rough = max(_ROUGH // max(len(candidates), 1), _ROUGH_LEAST)
            if size <= rough or len(candidates) <= _SHORTLIST:
                return exact(candidates.points)
            sketch = exact(candidates.points, rough)
            short = np.argpartition(-sketch, _SHORTLIST)[:_SHORTLIST]
            total = np.full(len(candidates), -np.inf)
            total[short] = exact(candidates.points.take(short))
            return total

        return score


def _centres(evidence: Evidence, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Places of measured configurations to look around: the best feasible ones, or some of the front, and then others."""
    losses = np.stack([metric.values for metric in evidence.objectives], axis=1)
    if losses.shape[1] == 1:
        order = np.argsort(np.where(evidence.feasible, losses[:, 0], np.inf), kind="stable")
    else:
        order = rng.permutation(len(losses))
        order = order[np.argsort(~leading(losses, evidence.feasible)[order], kind="stable")]
    return order[:_CENTRES]


def _known(points: Points, metric: Metrics) -> tuple[Points, Metrics]:
    """Without the points at which the metric is lacking."""
    there = np.flatnonzero(np.isfinite(metric.values))
    return points.take(there), Metrics(metric.values[there], metric.variance[there])


def _warped(surrogate: Surrogate, value: float) -> float:
    return float(surrogate.warp.forward(value))

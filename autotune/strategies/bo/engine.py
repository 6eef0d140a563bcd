"""Bayesian optimisation over feasible sets: what is believed, what it promises, and the proposal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.objective import Objective, OutcomeConstraint
from autotune.strategies.base import History, Suggestion, Task
from autotune.strategies.bo import selectable
from autotune.strategies.bo.acquisition import log_expected_improvement
from autotune.strategies.bo.candidates import Candidates, Pool, pool_of
from autotune.strategies.bo.censored import imputed
from autotune.strategies.bo.evidence import Evidence, Metrics, Reader
from autotune.strategies.bo.failures import FailureModel, least_probability
from autotune.strategies.bo.features import FeatureMap
from autotune.strategies.bo.fidelity import Cheaper
from autotune.strategies.bo.guides import Guides
from autotune.strategies.bo.outlook import Outlook
from autotune.strategies.bo.promise import Improvement, Promise
from autotune.strategies.bo.replicate import log_value_of_repeating
from autotune.strategies.bo.settings import Acquisition, is_joint, is_shortlisted
from autotune.strategies.bo.several import HypervolumeGain, leading
from autotune.strategies.bo.surrogate import Points, Shape, Surrogate, warped_noise
from autotune.strategies.bo.trust_region import TrustRegion

Floats = npt.NDArray[np.float64]

INITIAL = 8  # configurations before models are asked, the default and baselines among them
_FEW = 3  # measurements of what counts, before which its models follow cheaper evaluators
_MAXIMIN = 512  # random configurations that the initial design is chosen from
_CENTRES = 5  # of local search
# Pending and pruned trials for each measured one, up to which what stands for them teaches no hyperparameters. Where little was
# measured they do: learning anew spreads a batch, and batches of four then found more on a smooth function.
_LITTLE = 0.1


@dataclass(frozen=True)
class Parts:
    """What the engine is made of.

    Attributes:
        models: that a metric is believed by, see `Surrogate`.
        views: of an ordered parameter, see `FeatureMap`.
        trust_region: whether stagnation binds every other proposal to one.
    """

    models: tuple[str, ...]
    views: tuple[str, ...]
    trust_region: bool


@dataclass(frozen=True)
class _Choice:
    """A proposal before it has a name: an encoded configuration, and how it is to be measured."""

    units: Floats
    notes: dict[str, Any] = field(default_factory=dict)
    fidelity: str | None = None
    replicate: bool = False


@dataclass(frozen=True)
class _Moment:
    """What one proposal is made from.

    Attributes:
        used: encoded configurations that must not be proposed, shape ``(t, d)``.
        under_way: those without a result, shape ``(p, d)``.
        turn: how many trials and proposals there are.
        learned: by objective or constraint, a surrogate of what was measured; those of one ask share what it has learned.
    """

    evidence: Evidence
    cheaper: Cheaper
    used: Floats
    under_way: Floats
    turn: int
    rng: np.random.Generator
    learned: dict[str, Surrogate]


class Engine:
    """Gaussian process and trees, log expected improvement, learned failures; see docs/strategies.md.

    Args:
        task: to propose for.
        name: of the strategy that it works for.
        acquisition: what decides among candidates.
        parts: what it is made of.
    """

    def __init__(self, task: Task, name: str, acquisition: Acquisition, parts: Parts) -> None:
        self._task, self._name, self._acquisition, self._parts = task, name, acquisition, parts
        self._reader = Reader(task.space)
        self._features = FeatureMap(task.space, parts.views)
        self._shape = Shape(self._features.groups, self._features.dims)
        self._guides = Guides(task, self._features, self._shape)

    @cached_property
    def _pool(self) -> Pool:
        # Made when it is first needed: a strategy is also made to see whether it fits a task.
        return pool_of(self._task.space, self._features, self._guides, self._task.seed)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        """See `Strategy.propose`."""
        evidence = self._reader.read(history)
        taken = np.concatenate([evidence.measured, evidence.failed, evidence.pending, evidence.censored.units])
        # What was drawn for one evaluator should not be drawn again for the next.
        turn = len(history.trials)
        cheaper = Cheaper(history, self._reader, self._pool.points, self._shape, self._task.seed)
        found: list[_Choice] = []
        learned: dict[str, Surrogate] = {}
        while len(found) < n:
            chosen = np.array([c.units for c in found]).reshape(-1, taken.shape[1])
            moment = _Moment(
                evidence,
                cheaper,
                np.concatenate([taken, chosen]),
                np.concatenate([evidence.pending, chosen]),
                turn + len(found),
                history.rng(salt=turn + len(found)),
                learned,
            )
            choice = self._choice(moment, alone=n == 1)
            if choice is None:
                break
            found.append(choice)
        return [Suggestion(self._pool.config(c.units), self._name, c.notes, c.fidelity, c.replicate) for c in found]

    def _choice(self, moment: _Moment, *, alone: bool) -> _Choice | None:
        """The next proposal, None where nothing is left; `alone`: whether no other is made at the same time."""
        evidence, cheaper = moment.evidence, moment.cheaper
        design = cheaper.design if alone else None
        if design is not None and len(evidence.measured):
            seen = np.concatenate([moment.used, cheaper.rows(design)])
            return self._spread_out(replace(moment, used=seen), design)
        if cheaper.speaks:  # has had its initial design, which need not be made again
            if len(evidence.measured) < _FEW:
                return self._led(moment)
        elif len(moment.used) < INITIAL or not len(evidence.measured):
            followed = self._led(moment) if moment.turn % 2 else None
            return followed or self._spread_out(moment, None)
        return self._promising(moment, alone=alone)

    # Before there is anything to learn from

    def _spread_out(self, moment: _Moment, fidelity: str | None) -> _Choice | None:
        """The candidate furthest from all that was proposed, among random ones."""
        known = self._features(moment.used)

        def score(candidates: Candidates) -> Floats:
            features = candidates.points.features
            some = moment.rng.permutation(len(features))[:_MAXIMIN]
            gap = np.full(len(features), -np.inf)
            squared = ((features[some][:, None] - known[None]) ** 2).sum(axis=2)
            gap[some] = squared.min(axis=1) if len(known) else moment.rng.random(len(some))
            return gap

        best = self._pool.best(score, 1, moment.used, moment.used[:0], moment.rng)
        return _Choice(best.units[0], {"why": "initial design"}, fidelity) if len(best) else None

    def _led(self, moment: _Moment) -> _Choice | None:
        """What guides find best, by the mean of their ranks; None without guides."""
        metric = self._task.objectives[0].metric
        leading = [*self._guides.of(metric), *moment.cheaper.of(metric, len(self._guides))]
        if not leading:
            return None

        def score(candidates: Candidates) -> Floats:
            said = moment.cheaper.guided(candidates.points).guides[:, leading]  # NaN, where one is silent, sorts last
            return np.asarray(-np.argsort(np.argsort(said, axis=0, kind="stable"), axis=0).mean(axis=1))

        best = self._pool.best(score, 1, moment.used, moment.used[:0], moment.rng)
        return _Choice(best.units[0], {"why": "best by what is known beforehand"}) if len(best) else None

    # The proposal

    def _promising(self, moment: _Moment, *, alone: bool) -> _Choice | None:
        evidence, rng = moment.evidence, moment.rng
        measured = moment.cheaper.guided(self._pool.points(evidence.measured))
        pending = moment.cheaper.guided(self._pool.points(moment.under_way))
        outlook = self._outlook(moment, measured, pending, int(rng.integers(2**31)))
        centres = evidence.measured[_centres(evidence, rng)]
        found, fallback = self._decided(outlook, moment, measured, pending, centres)
        if not len(found) and outlook.region is not None:
            outlook = replace(outlook, region=None)
            found, fallback = self._decided(outlook, moment, measured, pending, centres)
        if not len(found):
            return None
        notes = outlook.told([o.metric for o in self._task.objectives])
        notes["acquisition"] = self._acquisition
        if fallback:
            notes["fallback"] = [*notes.get("fallback", ()), *fallback]
        if outlook.region is not None:
            notes["trust_region"] = True
        if evidence.setback.any():
            notes["setbacks"] = int(evidence.setback.sum())
        points = moment.cheaper.guided(found.points)
        if outlook.promise is not None:
            notes["expected_gain"] = outlook.promise.gain(points)
        if not alone:
            return _Choice(found.units[0], notes)
        again = self._repeated(outlook, evidence, measured, points)
        if again is not None:
            return _Choice(evidence.measured[again], {**notes, "why": "to know a good one better"}, replicate=True)
        first = moment.cheaper.first(found.units[0], trusted=self._trusts(moment, outlook.surrogates[0]))
        return _Choice(found.units[0], notes, first)

    def _decided(
        self, outlook: Outlook, moment: _Moment, measured: Points, pending: Points, centres: Floats
    ) -> tuple[Candidates, list[str]]:
        """The best candidate, or none where nothing is left; and what was given up on the way."""
        if outlook.promise is None or not is_shortlisted(self._acquisition):
            return self._pool.best(outlook.score, 1, moment.used, centres, moment.rng), []
        asked = selectable.Decision(
            outlook.surrogates,
            outlook.promise.goal,
            measured.take(np.flatnonzero(moment.evidence.feasible)),
            pending,
            outlook.score,
            outlook.log_chance,
            outlook.guided,
        )
        return selectable.decide(self._acquisition, asked, self._pool, moment.used, centres, moment.rng)

    def _outlook(self, moment: _Moment, measured: Points, pending: Points, seed: int) -> Outlook:
        evidence = moment.evidence
        # What is under way is known to some acquisitions; to others it is as if it had given what is expected of it.
        expected = pending.take(np.arange(0)) if is_joint(self._acquisition) else pending
        normal = np.flatnonzero(~evidence.setback)
        pruned = moment.cheaper.guided(self._pool.points(evidence.censored.units))
        surrogates = [
            self._believed(
                moment, measured.take(normal), metric.take(normal), expected, seed, objective, (pruned, least)
            )
            for objective, metric, least in zip(
                self._task.objectives, evidence.objectives, evidence.censored.objectives, strict=True
            )
        ]
        limits = [
            (
                self._believed(moment, *_known(measured, metric), pending, seed, constraint, _bounded(pruned, least)),
                limit,
            )
            for constraint, metric, limit, least in zip(
                self._task.constraints,
                evidence.constraints,
                evidence.limits,
                evidence.censored.constraints,
                strict=True,
            )
            if np.isfinite(metric.values).sum() >= 2
        ]
        failures = None
        if len(evidence.failed):
            failed = self._pool.points(evidence.failed)
            failures = FailureModel(measured, failed, self._shape, seed, least_probability(evidence.risks))
        setbacks = None
        if evidence.setback.any():
            far = measured.take(np.flatnonzero(evidence.setback))
            setbacks = FailureModel(measured.take(normal), far, self._shape, seed)
        promise = self._promise(evidence, surrogates, measured, pending)
        outlook = Outlook(surrogates, limits, failures, setbacks, promise, moment.cheaper.guided)
        region = self._region(evidence)
        if region is None or moment.turn % 2:
            return outlook
        learned = surrogates[0].gp
        scales = self._features.scales(learned.learned.log_scale if learned is not None else np.zeros(0))
        centre = evidence.measured[evidence.incumbent]
        return replace(outlook, region=lambda units: region.holds(units, centre, scales, self._task.space.dims))

    def _region(self, evidence: Evidence) -> TrustRegion | None:
        """The trust region of one objective that stagnates; None else."""
        if not self._parts.trust_region or len(self._task.objectives) > 1 or evidence.incumbent is None:
            return None
        losses = np.where(evidence.feasible, evidence.objectives[0].values, np.inf)
        region = TrustRegion.after(losses[np.isfinite(losses)].tolist(), self._features.dims)
        return region if region.stagnant else None

    def _promise(
        self, evidence: Evidence, surrogates: Sequence[Surrogate], measured: Points, pending: Points
    ) -> Promise | None:
        if evidence.incumbent is None:
            return None
        feasible = np.flatnonzero(evidence.feasible)
        known = [
            # Of what is known to be noisy, the least value is too good to be true.
            surrogate.predict(measured.take(feasible)).mean
            if metric.variance.any()
            else surrogate.warp.forward(metric.values[feasible])
            for surrogate, metric in zip(surrogates, evidence.objectives, strict=True)
        ]
        if len(surrogates) > 1:
            return HypervolumeGain(surrogates, np.stack(known, axis=1), pending)
        noisy = evidence.objectives[0].variance.any()
        best = float(surrogates[0].warp.backward(known[0].min()) if noisy else evidence.losses[feasible, 0].min())
        return Improvement(surrogates[0], best, self._acquisition)

    def _believed(
        self,
        moment: _Moment,
        points: Points,
        metric: Metrics,
        pending: Points,
        seed: int,
        of: Objective | OutcomeConstraint,
        pruned: tuple[Points, Floats],
    ) -> Surrogate:
        """Models of a metric; what is under way counts as if it had given what is expected of it, and so does what was pruned,
        with its lower bounds (see `censored`)."""
        noise = metric.variance if metric.variance.any() else None
        guides = (*self._guides.of(of.metric), *moment.cheaper.of(of.metric, len(self._guides)))
        like = moment.learned.get(str(of))
        surrogate = Surrogate(points, metric.values, self._shape, seed, noise, guides, self._parts.models, like)
        moment.learned.setdefault(str(of), surrogate)
        ended, least = pruned
        guessed = len(pending) + len(ended)
        if not guessed:
            return surrogate
        values = metric.values
        if len(pending):
            expected = surrogate.warp.backward(surrogate.predict(pending).mean)
            values = np.concatenate([values, np.clip(expected, metric.values.min(), metric.values.max())])
            points = points.joined(pending)
        if len(ended):
            values = np.concatenate([values, imputed(surrogate.predict(ended), least, metric.values)])
            points = points.joined(ended)
        noise = None if noise is None else np.concatenate([noise, np.zeros(guessed)])
        like = surrogate if guessed <= _LITTLE * len(metric.values) else None
        return Surrogate(points, values, self._shape, seed, noise, guides, self._parts.models, like)

    def _repeated(self, outlook: Outlook, evidence: Evidence, measured: Points, found: Points) -> int | None:
        """The place of the configuration that is better measured again than the new one measured at all."""
        promise, noise = outlook.promise, evidence.objectives[0].variance
        places = np.flatnonzero(evidence.feasible & (noise > 0.0))
        if not isinstance(promise, Improvement) or len(places) < 2:
            return None
        surrogate = outlook.surrogates[0]
        belief = surrogate.predict(measured.take(places))
        losses = evidence.objectives[0].values
        spread = float(surrogate.warp.forward(losses[~evidence.setback]).var())
        warped = warped_noise(surrogate.warp, losses[places], noise[places], spread)
        worth = log_value_of_repeating(belief.mean, belief.variance, warped)
        explored = float(log_expected_improvement(surrogate.predict(found), promise.incumbent)[0])
        return int(places[np.argmax(worth)]) if float(worth.max()) > explored else None

    def _trusts(self, moment: _Moment, surrogate: Surrogate) -> bool:
        """Whether what cheaper evaluators say of the objective has not been found wanting."""
        columns = moment.cheaper.of(self._task.objectives[0].metric, len(self._guides))
        return not columns or any(column in surrogate.trusted for column in columns)


def _centres(evidence: Evidence, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Places of measured configurations to look around: the best feasible ones, or some of the front, and then others."""
    losses = evidence.losses
    if losses.shape[1] == 1:
        order = np.argsort(np.where(evidence.feasible, losses[:, 0], np.inf), kind="stable")
    else:
        order = rng.permutation(len(losses))
        order = order[np.argsort(~leading(losses, evidence.feasible)[order], kind="stable")]
    return order[:_CENTRES]


def _bounded(points: Points, least: Floats) -> tuple[Points, Floats]:
    """The pruned ones of which something is known."""
    there = np.flatnonzero(np.isfinite(least))
    return points.take(there), least[there]


def _known(points: Points, metric: Metrics) -> tuple[Points, Metrics]:
    """Without the points at which the metric is lacking."""
    there = np.flatnonzero(np.isfinite(metric.values))
    return points.take(there), metric.take(there)

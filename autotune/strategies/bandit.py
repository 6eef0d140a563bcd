"""Whose turn it is in a portfolio: discounted Thompson sampling on improvement per cost.

- Credit: how much a trial improved on the incumbent, as a share of what lies between the median and the best (Fialho, Da
  Costa, Schoenauer and Sebag, Analyzing bandit-based adaptive operator selection mechanisms, Annals of Mathematics and
  Artificial Intelligence 60, 2010, compare such measures; an improvement over the incumbent is also what OpenTuner's bandit
  counts, Ansel et al., PACT 2014).
- Decay: what was earned long ago says little, because gains get rarer for everybody. Earnings are discounted, priors are not
  (discounted Thompson sampling: Raj and Kalyani, Taming non-stationary bandits: a Bayesian approach, 2017, algorithm 1), so
  that a member which has stopped improving falls behind what is believed of the others.
- Cost: the turn goes to the highest draw of reward per cost (Xia, Li, Qin, Yu and Liu, Thompson sampling for budgeted
  multi-armed bandits, IJCAI 2015, algorithm 1).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

import numpy as np

from autotune.measurement import FailureKind
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies.base import History

HALF = 0.05  # the share of the way from median to best that earns half of what a trial can earn
DISCOUNT = 0.97  # of earnings by each further trial: about the last thirty count
_REMEMBERED = 300  # trials; 0.97^300 is 1e-4
# Seconds that the proposals of a whole search may take before they are held against a member: who waits for a search does not
# mind a minute. Decisions that depend on clocks are thereby rare, and a search with the same seed finds the same.
UNNOTICED_S = 60.0
TYPICAL_BUDGET = 100  # trials, where the budget is open
_RECENT = 10  # trials of a member that say what its next proposal takes
_STEP = 4.0  # relative costs are powers of it, so that only gross differences count

_Key: TypeAlias = tuple[int, int, str]


@dataclass(frozen=True)
class Expectation:
    """What members are believed to earn before they have proposed.

    The others' priors follow the leader: that it finds nothing more is no sign that somebody else would, as most often nobody
    does. What a low expectation leaves is spread wide, so they get more turns then all the same.

    Attributes:
        leader: believed to be the best.
        mean: of what it earns with a trial.
        shares: what every other member earns, relative to what the leader earns at present.
        trials: worth of evidence of each prior.
    """

    leader: str
    mean: float
    shares: Mapping[str, float]
    trials: float


@dataclass(frozen=True)
class Belief:
    """A Beta distribution of a member's next reward."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)


def improvement(new: float, best: float, middle: float) -> float:
    """How far a loss improves on the best one, as a share of the way from the median to where it is: in [0, 1].

    Nothing depends on the unit of losses, nor on their origin. Losses of one sign are compared by logarithm: a time that
    halves is as good a step from 1000 ms as from 10 ms.

    Args:
        new: the loss of a trial.
        best: the least loss before.
        middle: the median loss before, at least `best`.
    """
    if not new < best:
        return 0.0
    if new * middle > 0.0:
        sign = math.copysign(1.0, new)
        new, best, middle = (sign * math.log(abs(x)) for x in (new, best, middle))
    scale = max(abs(new), abs(middle))
    way = middle / scale - new / scale  # of losses near the largest float, a difference would overflow
    return (best / scale - new / scale) / way if way > 0.0 else 0.0


class Rewards:
    """What finished trials earned, in [0, 1), in the order in which they finished.

    With one objective, the improvement over the feasible incumbent, saturating; the first feasible trial earns 1. With several,
    1 for entering the Pareto front of then. Failures, pruned trials and broken limits earn nothing. Keeps what it has worked
    out, which depends on the history alone.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._keys: list[_Key] = []
        self._earned: list[float] = []
        self._losses: list[float] = []  # feasible ones, ascending
        self._front: list[tuple[float, ...]] = []

    def read(self, history: History) -> list[tuple[TrialRecord, float]]:
        """Every finished trial that says something about who proposed it, with its reward.

        Those of cheaper evaluators, repeated measurements, and what the machine broke do not.
        """
        finished = sorted(_firsts(history), key=_key)
        keys = [_key(t) for t in finished]
        if keys[: len(self._keys)] != self._keys:
            self._forget()
        self._earned += [self._reward(t, history) for t in finished[len(self._keys) :]]
        self._keys = keys
        return list(zip(finished, self._earned, strict=True))

    def _reward(self, trial: TrialRecord, history: History) -> float:
        if trial.state is not TrialState.COMPLETED or not history.is_feasible(trial):
            return 0.0
        losses = history.losses(trial)
        if len(losses) > 1:
            return self._entry(losses)
        known = self._losses
        share = improvement(losses[0], known[0], known[len(known) // 2]) if known else math.inf
        bisect.insort(known, losses[0])
        return 1.0 if math.isinf(share) else share / (share + HALF)

    def _entry(self, losses: tuple[float, ...]) -> float:
        if any(all(a <= b for a, b in zip(held, losses, strict=True)) for held in self._front):
            return 0.0
        self._front = [h for h in self._front if not all(a <= b for a, b in zip(losses, h, strict=True))]
        self._front.append(losses)
        return 1.0


def beliefs(rewarded: Sequence[tuple[TrialRecord, float]], expected: Expectation) -> dict[str, Belief]:
    """What to expect of each member, from what was expected at first and what its latest trials earned.

    Args:
        rewarded: finished trials and rewards, the latest last; those that no member proposed are passed over.
        expected: of every member.
    """
    earned = {name: [0.0, 0.0] for name in (expected.leader, *expected.shares)}
    weight = 1.0
    for trial, reward in reversed(rewarded[-_REMEMBERED:]):
        if trial.proposer in earned:
            earned[trial.proposer][0] += weight * reward
            earned[trial.proposer][1] += weight * (1.0 - reward)
            weight *= DISCOUNT
    leader = _posterior(expected.mean, expected.trials, *earned[expected.leader])
    others = {
        name: _posterior(share * leader.mean, expected.trials, *earned[name]) for name, share in expected.shares.items()
    }
    return {expected.leader: leader, **others}


def _posterior(mean: float, trials: float, gained: float, missed: float) -> Belief:
    return Belief(mean * trials + gained, (1.0 - mean) * trials + missed)


def relative_costs(history: History, members: Iterable[str]) -> dict[str, float]:
    """What a trial costs with each member's proposal, in units of the evaluation alone; 1 for who has not proposed yet.

    Seconds as the history has them: the median of the latest proposals, and of all evaluations. Evaluations that were not
    timed count as dear. Rounded to powers of 4, and seconds that nobody would notice are given free (see `UNNOTICED_S`).
    """
    timed = [t.evaluate_s for t in history.counted if t.evaluate_s is not None]
    free = UNNOTICED_S / (history.task.budget or max(TYPICAL_BUDGET, len(history.trials)))
    evaluation = max(median(timed), free) if timed else math.inf
    costs = {}
    for name in members:
        asked = [t.suggest_s for t in history.trials if t.proposer == name][-_RECENT:]
        relative = 1.0 + median(asked) / evaluation if asked else 1.0
        costs[name] = _STEP ** round(math.log(relative, _STEP))
    return costs


def draw(beliefs: Mapping[str, Belief], costs: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    """Members by drawn reward per cost, the highest first."""
    drawn = {name: rng.beta(belief.alpha, belief.beta) / costs[name] for name, belief in beliefs.items()}
    return sorted(drawn, key=lambda name: -drawn[name])


def _firsts(history: History) -> list[TrialRecord]:
    found: dict[str, TrialRecord] = {}
    for trial in history.counted:
        finished = trial.state in (TrialState.COMPLETED, TrialState.FAILED, TrialState.PRUNED)
        if finished and trial.failure_kind is not FailureKind.INFRA:
            found.setdefault(trial.config_hash, trial)
    return list(found.values())


def _key(trial: TrialRecord) -> _Key:
    return trial.revision, trial.number, trial.config_hash

"""The default choice: exhaustive where the budget covers the space, else a portfolio in which the bandit gives turns.

Every member sees the whole history, so what one finds is every other's start. Which member proposed a trial is the trial's
`proposer`, so the bandit (`autotune.strategies.bandit`) reads everything that it knows from the history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, cast, get_args

from pydantic import BeforeValidator, Field, field_validator

from autotune.errors import UsageError
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies.bandit import Belief, Expectation, Rewards, beliefs, draw, relative_costs
from autotune.strategies.base import Capabilities, History, Settings, Strategy, Suggestion, Task, lacking
from autotune.strategies.bo import BayesianOptimisation, TreesAlone
from autotune.strategies.exhaustive import Exhaustive
from autotune.strategies.fixed_point import FixedPoint, FixedPointMap
from autotune.strategies.local import LocalSearch
from autotune.strategies.optuna_samplers import OptunaStrategy

# In the order of what they found on recorded kernels: the first that can handle a task leads (see `_expected`).
Member = Literal["bo", "trees", "tpe", "local", "random", "fixed-point"]
MEMBERS: tuple[Member, ...] = get_args(Member)

_CLASSES: dict[Member, type[Strategy]] = {
    "bo": BayesianOptimisation,
    "trees": TreesAlone,
    "tpe": OptunaStrategy.named("tpe"),
    "local": LocalSearch,
    "random": OptunaStrategy.named("random"),
    "fixed-point": FixedPoint,
}
# What a turn of each member is expected to earn, relative to one of bo: rough, from recorded kernels and smooth functions.
_STRENGTH: dict[Member, float] = {"bo": 1.0, "trees": 0.2, "tpe": 0.1, "local": 0.1, "random": 0.01}
_BESIDE_OWN = 0.1  # of these, where a domain's own answer leaves little but small steps
_LEADER_MEAN = 0.2
_TRIALS = 20.0
_SALT = 0xA070


def _split(given: object) -> object:
    """Texts of the command line name members with commas between."""
    return [word.strip() for word in given.split(",")] if isinstance(given, str) else given


class AutoSettings(Settings):
    """Settings of `auto`."""

    members: Annotated[
        tuple[Member, ...],
        BeforeValidator(_split),
        Field(min_length=1, description="who takes part; those that cannot handle the task are left out"),
    ] = MEMBERS

    @field_validator("members")
    @classmethod
    def _once(cls, members: tuple[Member, ...]) -> tuple[Member, ...]:
        twice = next((name for name in members if members.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice; name each member once")
        return members


class Auto(Strategy):
    """Exhaustive, or a portfolio of the members that can handle the task."""

    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = (
        "exhaustive if the budget covers the space, else a bandit over bo, trees, tpe, local, random and the domain's own"
    )
    capabilities: ClassVar[Capabilities] = Capabilities(
        several_objectives=True, predictor=True, transfer=True, fidelities=True
    )
    settings_type: ClassVar[type[Settings]] = AutoSettings

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._made: dict[Member, Strategy] = {}
        self._rewards = Rewards()
        self._able = tuple(name for name in self._wanted if _lacks(name, task) is None)
        self._exhaustive: Exhaustive | None = None
        size = task.space.size if task.budget is not None else None
        if size is not None and task.budget is not None and size <= task.budget:
            self._exhaustive = Exhaustive(replace(task, settings=None))
        else:
            self._check()

    @property
    def _wanted(self) -> tuple[Member, ...]:
        assert isinstance(self.settings, AutoSettings)
        return self.settings.members

    def _check(self) -> None:
        """Refuse members that can do nothing here, and what none of them would look at."""
        names = ", ".join(self._wanted)
        if not self._able:
            raise UsageError(
                f"strategy 'auto' with the members {names} cannot handle {_lacks(self._wanted[0], self.task)}; name others "
                "too, such as tpe, or leave members out"
            )
        has = [_CLASSES[name].capabilities for name in self._able]
        for given, used, what in (
            (self.task.predictor is not None, any(c.predictor for c in has), "a predictor"),
            (bool(self.task.sources), any(c.transfer for c in has), "earlier studies"),
        ):
            if given and not used:
                raise UsageError(
                    f"strategy 'auto' has the members {', '.join(self._able)} for this task, none of which looks at {what}; "
                    f"leave out {what}" + ("" if "bo" in self._wanted else ", or add bo to members")
                )

    @cached_property
    def _expected(self) -> Expectation | None:
        """Of the members that take turns. The domain's own comes first of all, and measured steps around its answer lead."""
        turns = [name for name in MEMBERS if name in self._able and name != "fixed-point"]
        if not turns:
            return None
        leader: Member
        if "fixed-point" in self._able and "local" in turns:
            leader, scale = "local", _BESIDE_OWN
        else:
            leader, scale = turns[0], 1.0 / _STRENGTH[turns[0]]
        shares = {str(name): scale * _STRENGTH[name] for name in turns if name != leader}
        return Expectation(leader, _LEADER_MEAN, shares, _TRIALS)

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        if self._exhaustive is not None:
            return self._exhaustive.propose(history, n)
        found: list[Suggestion] = []
        if "fixed-point" in self._able:
            found += self._member("fixed-point").propose(history, n)
        if len(found) < n and self._expected is not None:
            known = beliefs(self._rewards.read(history), self._expected)
            for name, count in self._turns(known, history, n - len(found)):
                if len(found) >= n:
                    break  # the others stand by for members with less to propose than their turns
                wanted = min(count, n - len(found))
                proposed = self._member(name).propose(_with_pending(history, found), wanted)
                found += [_told(s, known) for s in proposed]
        return found

    def _turns(self, known: dict[str, Belief], history: History, n: int) -> list[tuple[Member, int]]:
        """Who is asked for how many, in order; first as drawn, then everybody for whatever is still lacking."""
        costs, rng = relative_costs(history, known), history.rng(_SALT)
        rankings = [draw(known, costs, rng) for _ in range(n)]
        drawn = Counter(ranking[0] for ranking in rankings).most_common()
        return [(cast(Member, name), count) for name, count in [*drawn, *((name, n) for name in rankings[0])]]

    def _member(self, name: Member) -> Strategy:
        if name not in self._made:
            # The domain's own solver is a member: who takes part decides whether it is asked, and nobody asks it twice.
            known = self.task.domain_map if name == "fixed-point" else None
            self._made[name] = _CLASSES[name](replace(self.task, settings=None, domain_map=known))
        return self._made[name]


def _lacks(name: Member, task: Task) -> str | None:
    """Why a member cannot take part, in words; None where it can."""
    if name == "fixed-point" and not isinstance(task.domain_map, FixedPointMap):
        return "a task whose domain supplies no mapping"
    return lacking(_CLASSES[name].capabilities, task)


def _told(suggestion: Suggestion, known: dict[str, Belief]) -> Suggestion:
    """With what was expected of every member when the turn was given."""
    prospects = {name: round(belief.mean, 3) for name, belief in known.items()}
    return replace(suggestion, notes={**suggestion.notes, "prospects": prospects})


def _with_pending(history: History, found: Sequence[Suggestion]) -> History:
    """The history as it will be when these proposals are under way."""
    begun = [
        TrialRecord(
            id=0,
            number=len(history.trials) + i,
            config=s.config,
            config_hash=history.task.space.config_hash(s.config),
            state=TrialState.RUNNING,
            proposer=s.proposer,
            attempt=1,
            revision=0,
            fidelity=history.task.cheaper(s.fidelity),
            notes=s.notes,
        )
        for i, s in enumerate(found)
    ]
    return History(history.task, (*history.trials, *begun)) if begun else history

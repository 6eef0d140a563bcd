"""Rules that end a trial early, by what it has reported and what others had reported before.

Every rule is a function of reports and measurements alone: the same reports end the same trials. None looks at a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated, ClassVar, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from autotune.goals import Goals
from autotune.objective import Objective
from autotune.pruning.curves import Curve, Trace
from autotune.text import number


def _split(given: object) -> object:
    """Texts of the command line name metrics with commas between."""
    return [word.strip() for word in given.split(",") if word.strip()] if isinstance(given, str) else given


class PrunerSettings(BaseModel):
    """What may be set of every pruner; a domain declares the first three itself (`Problem`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accumulating: Annotated[
        tuple[str, ...],
        BeforeValidator(_split),
        Field(description="metrics that only grow while an evaluation runs, reported under their own names"),
    ] = ()
    progress: Annotated[
        str | None, Field(description="reported metric by which trials are compared, 'maximize accuracy'")
    ] = None
    resource: Annotated[
        str | None,
        Field(
            description="metric at whose equal values trials are compared, or step; else the objective where it accumulates"
        ),
    ] = None


@dataclass(frozen=True)
class Incumbent:
    """The best feasible configuration of a study with one objective: the number of its first trial, and its objective."""

    number: int
    value: float


@dataclass(frozen=True)
class Scene:
    """What a rule sees beside the trial that runs.

    Attributes:
        goals: of the study.
        accumulating: metrics whose reports are lower bounds of what will be measured.
        progress: what to compare trials by.
        resource: at which metric's equal values; the step where it is None, or is not reported.
        others: curves of other trials that count, by number: completed ones, pruned ones, and those that run elsewhere.
        incumbent: None while there is none, and with several objectives.
    """

    goals: Goals
    accumulating: tuple[str, ...]
    progress: Objective
    resource: str | None
    others: Sequence[Curve] = ()
    incumbent: Incumbent | None = None


class Rule(Protocol):
    """One reason to end a trial."""

    name: ClassVar[str]

    def reason(self, running: Curve, scene: Scene) -> str | None:
        """Whether the trial shall end at its last report: one sentence with its numbers, None to go on."""


class Bound:
    """What only grows cannot become better: ends a trial that can no longer be the best, or feasible.

    With one objective, to be minimised, that accumulates: as soon as it is no better than the incumbent's. For every outcome
    constraint ``metric <= limit`` on an accumulating metric: as soon as it is broken.
    """

    name: ClassVar[str] = "bound"

    def reason(self, running: Curve, scene: Scene) -> str | None:
        """See `Rule`."""
        last = running.last
        for limit in scene.goals.constraints:
            value = last.get(limit.metric)
            grows = limit.metric in scene.accumulating and limit.operator == "<="
            if grows and value is not None and value > limit.bound:
                return f"{limit.metric} is {number(value)} by step {running.step}, which breaks {limit}"
        goal, best = scene.goals.first, scene.incumbent
        value = last.get(goal.metric)
        alone = len(scene.goals.objectives) == 1 and goal.direction == "minimize"
        if best is None or value is None or not alone or goal.metric not in scene.accumulating:
            return None
        if value >= best.value:
            return (
                f"{goal.metric} is {number(value)} by step {running.step}, no better than {number(best.value)} of trial "
                f"{best.number}"
            )
        return None


class MedianSettings(PrunerSettings):
    """Settings of `median`."""

    warmup: Annotated[float, Field(ge=0.0, description="resource up to which nothing is ended")] = 0.0
    least_trials: Annotated[
        int, Field(ge=1, description="earlier trials that got as far, before anything is ended")
    ] = 5


class Median:
    """The median stopping rule: the best progress so far is worse than the median of the others' mean progress.

    Golovin, Solnik, Moitra, Kochanski, Karro and Sculley, Google Vizier: A Service for Black-Box Optimization, KDD 2017,
    section 3.2.2: the best objective value by step s is strictly worse than the median of the running averages up to s. There
    of completed trials; here of pruned ones and those that run elsewhere too, where they got as far.
    """

    name: ClassVar[str] = "median"

    def __init__(self, settings: MedianSettings) -> None:
        self._settings = settings

    def reason(self, running: Curve, scene: Scene) -> str | None:
        """See `Rule`."""
        scene = _heard(running, scene)
        own = running.trace(scene.progress, scene.resource)
        if not own.losses or own.resource[-1] < self._settings.warmup:
            return None
        at = own.resource[-1]
        others = [
            trace.mean[place] for curve, trace in _traces(scene) if (place := _reached(curve, trace, at)) is not None
        ]
        if len(others) < self._settings.least_trials:
            return None
        middle = median(others)
        if not own.best[-1] > middle:
            return None
        return (
            f"{_shown(scene.progress, own.best[-1])} at {_at(scene, at)} is worse than the median "
            f"{number(scene.progress.sign * middle)} of {len(others)} trials"
        )


class AshaSettings(PrunerSettings):
    """Settings of `asha`."""

    first: Annotated[float, Field(gt=0.0, description="resource of the first rung")] = 1.0
    eta: Annotated[
        int, Field(ge=2, description="what separates rungs, and the inverse of the share that is kept at each")
    ] = 3


class Asha:
    """Asynchronous successive halving: of what has come to a rung, the best ``1 / eta`` go on.

    Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar, A System for Massively Parallel Hyperparameter
    Tuning, MLSys 2020 (arXiv:1810.05934). Rungs are ``first * eta^k``. This is the variant that stops: a trial that is not
    among the best at a rung ends there, where the paper pauses it and may promote it later. The first to come goes on.
    """

    name: ClassVar[str] = "asha"

    def __init__(self, settings: AshaSettings) -> None:
        self._settings = settings

    def reason(self, running: Curve, scene: Scene) -> str | None:
        """See `Rule`. The rung that the last report came to first is looked at."""
        scene = _heard(running, scene)
        own = running.trace(scene.progress, scene.resource)
        rung = self._rung(own)
        if rung is None:
            return None
        others = []
        for curve, trace in _traces(scene):
            place = trace.reaching(rung)
            if place is None and curve.completed:
                place = len(trace.losses) - 1  # it needed no more
            if place is not None:
                others.append(trace.losses[place])
        better = sum(loss < own.losses[-1] for loss in others)
        kept = max(1, (len(others) + 1) // self._settings.eta)
        if better < kept:
            return None
        return (
            f"{_shown(scene.progress, own.losses[-1])} at the rung {_at(scene, rung)} is behind {better} of {len(others)} "
            f"trials, of which the best {kept} go on"
        )

    def _rung(self, own: Trace) -> float | None:
        """The highest rung that the last report has reached and the one before had not; None where there is none."""
        if not own.losses:
            return None
        before = own.resource[-2] if len(own.resource) > 1 else 0.0
        found, rung = None, self._settings.first
        while rung <= own.resource[-1]:
            found = rung if rung > before else found
            rung *= self._settings.eta
        return found


class RaceSettings(PrunerSettings):
    """Settings of `race`."""

    slack: Annotated[
        float, Field(gt=0.0, le=1.0, description="share of its spend at which the incumbent's progress is asked for")
    ] = 0.5
    share: Annotated[
        float, Field(ge=0.0, lt=1.0, description="of the incumbent's whole spend, before which nothing is ended")
    ] = 0.125


class Race:
    """A race against the incumbent's own curve, at equal spend; for objectives such as the traffic to reach an accuracy.

    A rule of this project. Having spent s of the objective, a trial ends when its best progress is worse than what the
    incumbent had at ``slack * s``: it would have to catch up from far behind on what it is measured by. Spend is the objective
    where it accumulates and is reported, else the resource. Nothing ends before `share` of the incumbent's whole spend.
    """

    name: ClassVar[str] = "race"

    def __init__(self, settings: RaceSettings) -> None:
        self._settings = settings

    def reason(self, running: Curve, scene: Scene) -> str | None:
        """See `Rule`."""
        best = scene.incumbent
        curve = next((one for one in scene.others if best is not None and one.number == best.number), None)
        if curve is None:
            return None
        metric = scene.goals.first.metric
        spend = metric if metric in scene.accumulating and metric in running.last else _heard(running, scene).resource
        own, ahead = running.trace(scene.progress, spend), curve.trace(scene.progress, spend)
        if not own.losses or not ahead.losses or own.resource[-1] < self._settings.share * ahead.resource[-1]:
            return None
        spent = own.resource[-1]
        place = ahead.place(self._settings.slack * spent)
        if place is None or not own.best[-1] > ahead.best[place]:
            return None
        return (
            f"{_shown(scene.progress, own.best[-1])} for {spend or 'step'} {number(spent)} is behind trial {curve.number}, "
            f"which had {number(scene.progress.sign * ahead.best[place])} for {number(self._settings.slack * spent)}"
        )


def _heard(running: Curve, scene: Scene) -> Scene:
    """The same scene, by the step where the trial has not reported the resource."""
    return scene if scene.resource is None or scene.resource in running.last else replace(scene, resource=None)


def _traces(scene: Scene) -> list[tuple[Curve, Trace]]:
    found = [(curve, curve.trace(scene.progress, scene.resource)) for curve in scene.others]
    return [(curve, trace) for curve, trace in found if trace.losses]


def _reached(curve: Curve, trace: Trace, resource: float) -> int | None:
    """Place of the last report by so much resource, of a trial that got as far or that needed no more."""
    return trace.place(resource) if curve.completed or trace.resource[-1] >= resource else None


def _shown(progress: Objective, loss: float) -> str:
    return f"{progress.metric} {number(progress.sign * loss)}"


def _at(scene: Scene, resource: float) -> str:
    return f"{scene.resource or 'step'} {number(resource)}"

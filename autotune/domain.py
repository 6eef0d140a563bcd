"""What a plug-in brings: a domain turns typed options into a problem. Found by the entry-point group `autotune.domains`."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from autotune.checks import texts
from autotune.errors import UsageError
from autotune.objective import Objective, OutcomeConstraint, parse_constraints, parse_objectives
from autotune.predictors import PredictorLike
from autotune.space import Config, SearchSpace
from autotune.store.records import Profile

GROUP = "autotune.domains"
Evaluate = Callable[..., object]


@dataclass(frozen=True)
class Problem:
    """One thing to tune: where to look, what to measure, and what people use today.

    Attributes:
        space: the knobs, with known constraints.
        objectives, constraints: as text, ``minimize latency_ms`` and ``vram_gib <= 24``.
        default: the configuration that people use today; it becomes trial 0.
        evaluators: what measures a configuration, by fidelity (`profiled`, `real`, `recorded`), the usual one first.
        metrics: names of all that the evaluators measure.
        baselines: further named configurations that are measured in the same run and shown beside the result.
        domain_map: a `FixedPointMap` where the domain has one.
        predictor: a cheap model of the metrics where the domain has one; strategies trust it as far as measurements
            bear it out.
        predicted: fidelities that the predictor is for; every one where none is named. An evaluator that is itself the
            cheap model needs none.
        profile: the hardware profile that the numbers rest on, copied into the store.
        facts: resolved settings for people, such as the trace's name or the budget in GiB.
        highlights: metrics that a table should show beside the objectives, the most telling first.
        costs: relative cost of an evaluation by fidelity, where the domain knows it.
        accumulating: metrics that only grow while an evaluation runs, such as traffic, and that evaluators report under
            their own names: what is reported is a lower bound of what will be measured.
        progress: the reported metric that trials are compared by while they run, ``maximize accuracy``; the first
            objective when None.
        resource: the reported metric at whose equal values trials are compared, or ``step``; when None the objective
            where it accumulates, else the step.
        pruner: the pruner that the domain recommends (`autotune.PRUNERS`); with None, `bound` where metrics accumulate.
        pruner_options: of that pruner.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    default: Config
    evaluators: Mapping[str, Evaluate]
    constraints: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    baselines: Mapping[str, Config] = field(default_factory=dict)
    domain_map: Any = None
    predictor: PredictorLike | None = None
    predicted: tuple[str, ...] = ()
    profile: Profile | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    highlights: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    accumulating: tuple[str, ...] = ()
    progress: str | None = None
    resource: str | None = None
    pruner: str | None = None
    pruner_options: Mapping[str, Any] = field(default_factory=dict)

    def measuring(
        self,
        objectives: str | Objective | Iterable[str | Objective] | None,
        constraints: Iterable[str | OutcomeConstraint] = (),
    ) -> Problem:
        """The same problem with other objectives (None keeps them) and further outcome constraints.

        Raises:
            UsageError: for a metric that the domain's evaluators do not give.
        """
        goals = parse_objectives(self.objectives if objectives is None else objectives)
        limits = [*parse_constraints(self.constraints), *parse_constraints(constraints)]
        for metric in [o.metric for o in goals] + [c.metric for c in limits]:
            if self.metrics and metric not in self.metrics:
                close = difflib.get_close_matches(metric, self.metrics, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise UsageError(f"metric {metric!r} is unknown{hint}; this domain measures: {', '.join(self.metrics)}")
        return replace(self, objectives=tuple(map(str, goals)), constraints=tuple(map(str, limits)))

    def evaluator(self, fidelity: str | None) -> tuple[str, Evaluate]:
        """The evaluator of that fidelity, or the usual one.

        Raises:
            UsageError: naming those that exist.
        """
        name = next(iter(self.evaluators)) if fidelity is None else fidelity
        if name not in self.evaluators:
            raise UsageError(f"evaluator {name!r} is unknown here; this domain has: {', '.join(self.evaluators)}")
        return name, self.evaluators[name]

    def predictor_of(self, fidelity: str | None) -> PredictorLike | None:
        """The predictor of what that evaluator, or the usual one, will measure."""
        name, _ = self.evaluator(fidelity)
        return self.predictor if not self.predicted or name in self.predicted else None

    def chosen(self, fidelities: str | Sequence[str] | None) -> dict[str, Evaluate]:
        """The evaluators of these fidelities, from the cheapest to the one whose results count; or the usual one alone.

        Raises:
            UsageError: for a name that is unknown, or is given twice.
        """
        names = [None] if fidelities is None else texts("evaluator", fidelities, str)
        found = dict(self.evaluator(name) for name in names)
        if not names or len(found) != len(names):
            raise UsageError(
                f"evaluator is {fidelities!r}; name each once, from the cheapest to the one whose results count"
            )
        return found


class Domain(Protocol):
    """A plug-in. `options` is the pydantic model of what a user may set; `problem` builds the problem from it."""

    name: str
    summary: str
    options: type[BaseModel]

    def problem(self, options: Any) -> Problem: ...


def domain_names() -> list[str]:
    """Names of the installed domains."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_domain(name: str) -> Domain:
    """The installed domain of that name.

    Raises:
        UsageError: when there is none, or when a folder of the user's own hides one of our packages.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        close = difflib.get_close_matches(name, points, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(f"domain {name!r} is unknown{hint}; installed are: {', '.join(sorted(points)) or 'none'}")
    try:
        domain: Domain = points[name].load()
    except (ImportError, AttributeError) as error:
        hidden = shadowing_folder(points[name])
        if hidden is None:
            raise
        raise UsageError(
            f"domain {name!r} cannot be loaded: the folder {str(hidden)!r} hides autotune's package {hidden.name!r}; "
            f"rename it or run from another folder ({error})"
        ) from None
    return domain


def shadowing_folder(point: EntryPoint) -> Path | None:
    """The folder that Python imports in place of the package that an entry point lives in."""
    package = point.module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    submodule = Path(*point.module.split(".")[1:])
    for folder in folders:
        if not (folder / submodule).with_suffix(".py").exists() and not (folder / submodule).is_dir():
            return folder
    return None

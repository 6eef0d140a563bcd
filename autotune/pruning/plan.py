"""How a study prunes: which pruner, set how, on which reported metrics. Kept with the study, so that it goes on alike."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.errors import UsageError
from autotune.goals import Goals
from autotune.objective import Objective
from autotune.options import parse_options
from autotune.pruning.rules import (
    Asha,
    AshaSettings,
    Bound,
    Median,
    MedianSettings,
    PrunerSettings,
    Race,
    RaceSettings,
    Rule,
    Scene,
)
from autotune.store.records import StudyRecord

NONE, BOUND = "none", "bound"
STEP = "step"
SETTING = "pruning"  # the stored setting of a study that says how it prunes; absent where it does not


def _with_bound(rule: Callable[[Any], Rule]) -> Callable[[Any], tuple[Rule, ...]]:
    return lambda settings: (Bound(), rule(settings))


_RULES: dict[str, tuple[type[PrunerSettings], Callable[[Any], tuple[Rule, ...]]]] = {
    NONE: (PrunerSettings, lambda settings: ()),
    BOUND: (PrunerSettings, lambda settings: (Bound(),)),
    Median.name: (MedianSettings, _with_bound(Median)),
    Asha.name: (AshaSettings, _with_bound(Asha)),
    Race.name: (RaceSettings, _with_bound(Race)),
}
PRUNERS: Mapping[str, type[PrunerSettings]] = {name: settings for name, (settings, _) in _RULES.items()}
"""The options of every pruner, by its name."""


@dataclass(frozen=True)
class Declared:
    """What a problem says of its reports; see `autotune.Problem`."""

    accumulating: tuple[str, ...] = ()
    progress: str | None = None
    resource: str | None = None
    pruner: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruning:
    """A pruner by its name, with its settings. The default ends nothing."""

    pruner: str = NONE
    settings: PrunerSettings = field(default_factory=PrunerSettings)

    @classmethod
    def check(
        cls,
        goals: Goals,
        pruner: str | None,
        options: Mapping[str, Any] | None = None,
        declared: Declared | None = None,
    ) -> Pruning:
        """A pruner that can be used.

        Args:
            goals: of the study.
            pruner: by name; what the problem declares when None, and without that `bound` where metrics accumulate.
            options: of the pruner; what the problem declares stands in for those that are not given.
            declared: by the problem.

        Raises:
            UsageError: for an unknown pruner or option, and for a pruner that could never end a trial.
        """
        known = declared or Declared()
        given = dict(options or {})
        own = {"accumulating": known.accumulating, "progress": known.progress, "resource": known.resource}
        merged = {**{name: value for name, value in own.items() if value}, **given}
        name = pruner
        if name is None:
            name = known.pruner if known.pruner and len(goals.objectives) == 1 else BOUND
            if name == BOUND and not merged.get("accumulating"):
                if given:
                    raise UsageError(
                        f"pruner_options are {given!r} without a pruner; give one too: {', '.join(PRUNERS)}"
                    )
                return cls()
        if not isinstance(name, str) or name not in PRUNERS:
            close = difflib.get_close_matches(str(name), PRUNERS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UsageError(f"pruner {name!r} is unknown{hint}; known are: {', '.join(PRUNERS)}")
        if name == NONE and not given:
            return cls()
        if name == known.pruner:
            merged = {**known.options, **merged}
        found = cls(name, parse_options(PRUNERS[name], merged, f"pruner {name!r}"))
        found._refuse_what_is_idle(goals)
        return found

    def _refuse_what_is_idle(self, goals: Goals) -> None:
        progress = self.settings.progress
        try:
            Objective.parse(progress or goals.first)
        except UsageError:
            raise UsageError(
                f"pruner {self.pruner!r}: option progress = {progress!r}: write it as 'maximize METRIC' or 'minimize METRIC'"
            ) from None
        if self.pruner == BOUND and not self.settings.accumulating:
            raise UsageError(
                "pruner 'bound' needs metrics that only grow while an evaluation runs; name them by the option accumulating, "
                "such as energy_j"
            )
        if self.pruner not in (NONE, BOUND) and len(goals.objectives) > 1:
            raise UsageError(
                f"pruner {self.pruner!r} compares trials by one metric, but the study has {len(goals.objectives)} "
                "objectives; use the pruner bound or none"
            )

    @classmethod
    def of(cls, record: StudyRecord) -> Pruning:
        """As a study keeps it."""
        kept: Mapping[str, Any] = record.options.get(SETTING, {})
        name = kept.get("pruner", NONE)
        return cls(name, PRUNERS[name].model_validate(kept.get("options", {})))

    @property
    def stored(self) -> dict[str, Any]:
        """What a study keeps among its options; nothing where nothing is ever ended."""
        if self.pruner == NONE:
            return {}
        return {SETTING: {"pruner": self.pruner, "options": self.settings.model_dump(mode="json", exclude_unset=True)}}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """In the order in which they are asked."""
        return _RULES[self.pruner][1](self.settings)

    def scene(self, goals: Goals) -> Scene:
        """What the rules look at, before there are other trials."""
        progress = goals.first if self.settings.progress is None else Objective.parse(self.settings.progress)
        resource = self.settings.resource
        if (
            resource is None
            and goals.first.metric in self.settings.accumulating
            and progress.metric != goals.first.metric
        ):
            resource = goals.first.metric  # what counts is what was spent
        return Scene(goals, self.settings.accumulating, progress, None if resource == STEP else resource)

    def __str__(self) -> str:
        options = self.settings.model_dump(mode="json", exclude_unset=True)
        told = ", ".join(f"{name} {_text(value)}" for name, value in options.items())
        return f"{self.pruner} ({told})" if told else self.pruner


def _text(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)

"""Decides for one study which of its running trials end early, from what its store holds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autotune.pruning.curves import Curve
from autotune.pruning.plan import Pruning
from autotune.pruning.rules import Incumbent, Scene
from autotune.reports import Pruned
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies.base import History

if TYPE_CHECKING:
    from autotune.study import Study

# What other workers measure meanwhile is looked at so often while a trial runs. With one worker there is nothing to see.
_LOOK_S = 5.0


class Referee:
    """Applies a study's pruner.

    Args:
        study: whose trials; how it prunes is in its record.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self.pruning = Pruning.of(study.record)
        self._rules = self.pruning.rules
        self._ended: dict[int, Curve] = {}  # by key of a trial: reports of one that ended stay as they are

    def watch(self, trial: TrialRecord) -> Watch:
        """Follow a trial whose reports come from this process."""
        return Watch(self, trial, Curve(trial.number))

    def reason(self, trial: TrialRecord) -> str | None:
        """Why a trial shall end, by its stored reports; None to go on."""
        return Watch(self, trial, self._stored(trial)).reason() if self._rules else None

    def told(self, trial: TrialRecord, outcome: Pruned) -> Pruned:
        """The same with what the trial had reported, where it does not say so."""
        return outcome if outcome.facts else Pruned(outcome.reason, self.facts(self._stored(trial)), outcome.log)

    def facts(self, curve: Curve) -> dict[str, Any]:
        """What is kept of a curve with its trial (`autotune.store.records.PRUNED_NOTE`)."""
        if curve.step is None:
            return {}
        scene = self.pruning.scene(self._study.record.goals)
        losses = curve.trace(scene.progress, None).losses
        least = {name: value for name, value in curve.last.items() if name in scene.accumulating}
        return {
            "step": curve.step,
            "values": dict(curve.last),
            **({"at_least": least} if least else {}),
            **({"progress": losses[-1]} if losses else {}),
        }

    def _stored(self, trial: TrialRecord) -> Curve:
        return Curve.of(trial.number, self._study.store.reports(trial.id))

    def scene(self, trial: TrialRecord) -> Scene | None:
        """What rules see beside a trial now; None for one that is never ended.

        That is the default configuration and the baselines, what a cheaper evaluator measures, and what was measured before.
        """
        if not self._rules or trial.label is not None or not trial.counts:
            return None
        known = History(self._study._task, self._study.trials)
        if any(t.config_hash == trial.config_hash for t in known.completed):
            return None
        best = known.best if len(self._study.objectives) == 1 else None
        scene = self.pruning.scene(self._study.record.goals)
        return replace(
            scene,
            others=self._curves(known.counted, trial),
            incumbent=None if best is None else Incumbent(best.number, best.values[scene.goals.first.metric]),
        )

    def _curves(self, trials: tuple[TrialRecord, ...], but: TrialRecord) -> list[Curve]:
        seen = [t for t in trials if t.state in _TELLING and t.id != but.id]
        new = [t for t in seen if t.id not in self._ended]
        rows = self._study.store.reports_of([t.id for t in new])
        fresh = {t.id: Curve.of(t.number, rows.get(t.id, ()), completed=t.state is TrialState.COMPLETED) for t in new}
        self._ended |= {t.id: fresh[t.id] for t in new if t.state is not TrialState.RUNNING}
        curves = [fresh.get(t.id) or self._ended.get(t.id) for t in seen]
        return [curve for curve in curves if curve]


_TELLING = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.RUNNING)


class Watch:
    """One trial under way. Made by `Referee.watch`."""

    def __init__(self, referee: Referee, trial: TrialRecord, curve: Curve) -> None:
        self._referee, self._trial, self._curve = referee, trial, curve
        self._scene = referee.scene(trial)
        self._looked = time.monotonic()

    def add(self, step: int, values: Mapping[str, float]) -> str | None:
        """One more report; a reason to end, or None."""
        self._curve.add(step, values)
        return self.reason()

    def reason(self) -> str | None:
        """Why the trial shall end at its last report; None to go on."""
        if self._scene is None or self._curve.step is None:
            return None
        if time.monotonic() - self._looked > _LOOK_S:
            self._scene, self._looked = self._referee.scene(self._trial) or self._scene, time.monotonic()
        for rule in self._referee._rules:
            reason = rule.reason(self._curve, self._scene)
            if reason is not None:
                return f"{rule.name}: {reason}"
        return None

    def pruned(self, reason: str) -> Pruned:
        """The trial's end, with what it had reported."""
        return Pruned(reason, self._referee.facts(self._curve))

"""Iterated local search on the feasible set (Lourenço, Martin and Stützle, Iterated Local Search, 2003).

First-improvement descent over the neighbours of the current centre; when none is left, a kick from the incumbent, stronger
after every fruitless one, and now and then a random restart. What others propose in the meantime counts as found in the current
run. Everything that it must remember stands in the trials' notes, so that the same history always proposes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from autotune.space import Config
from autotune.store.records import TrialRecord
from autotune.strategies.base import History, Strategy, Suggestion
from autotune.strategies.unseen import unseen_near, unseen_random

_NEIGHBOURS = 512  # of the centre that are looked at; a vector of 100 parameters has tens of thousands
_RESTART_EVERY = 5  # runs
_KICK = (2, 8)  # smallest and largest number of random steps


class LocalSearch(Strategy):
    """Iterated local search for one objective; outcome constraints by ranking, failures are never a centre."""

    name: ClassVar[str] = "local"
    summary: ClassVar[str] = "iterated local search from the default configuration"

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        taken = set(history.hashes)
        run = max((_run(t) for t in history.trials), default=0)
        found: list[Suggestion] = []
        while len(found) < n:
            config = self._descend(history, run, taken)
            if config is None and found:
                break  # the next run should start from what is known once these are measured
            if config is None:
                run += 1
                config = self._kick(history, run, taken)
            if config is None:
                break
            taken.add(self.task.space.config_hash(config))
            found.append(self.suggestion(config, run=run))
        return found

    def _descend(self, history: History, run: int, taken: set[str]) -> Config | None:
        """A new neighbour of this run's centre; None when there is no centre or it is a local optimum."""
        centre = self._centre(history, run)
        if centre is None:
            return None
        space = self.task.space
        # Seeded by the centre alone: every ask walks one and the same list, so no neighbour is drawn twice.
        around = space.neighbours(dict(centre.config), limit=_NEIGHBOURS, seed=self.task.seed + centre.number)
        return next((c for c in around if space.config_hash(c) not in taken), None)

    def _seed(self, history: History, run: int) -> int:
        return (self.task.seed * 1_000_003 + len(history.trials) * 101 + run) & 0x7FFFFFFF

    def _centre(self, history: History, run: int) -> TrialRecord | None:
        """The best completed trial since this run began, whoever proposed it; the first run began with the study."""
        began = 0 if run == 0 else next((t.number for t in history.trials if _run(t) == run), len(history.trials))
        return next((t for t in history.ranked if t.number >= began), None)

    def _kick(self, history: History, run: int, taken: set[str]) -> Config | None:
        seed = self._seed(history, run)
        if not history.ranked or run % _RESTART_EVERY == 0:
            return unseen_random(self.task.space, taken, seed)
        rng = history.rng(salt=run)
        config = dict(history.ranked[0].config)
        for step in range(min(_KICK[0] + run // 2, _KICK[1])):
            around = self.task.space.neighbours(config, limit=_NEIGHBOURS, seed=seed + step)
            if not around:
                break
            config = around[int(rng.integers(len(around)))]
        return unseen_near(self.task.space, config, taken, seed)


def _run(trial: TrialRecord) -> int:
    return int(trial.notes.get("run", 0)) if trial.proposer == LocalSearch.name else 0

"""Which trials a study hands out next: those that were given back, the default and the baselines, then proposals."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence

from autotune.clock import Clock
from autotune.errors import SpaceExhaustedError
from autotune.known_trials import KnownTrials
from autotune.predictors.agreement import PREDICTED, foretold
from autotune.stopping import TrialBudget
from autotune.store import Proposal, Store, TrialRecord
from autotune.store.rows import digest
from autotune.strategies import History, Strategy, Suggestion, Task

LEASE_S = 600.0
_SPREAD = 32  # proposals, at most, of which one is taken by chance where other workers keep being quicker


class Dispatcher:
    """Begins trials in the store, among other workers that do the same.

    Args:
        study_id: of the study in its store.
        known: the study's trials, which this keeps up to date.
        worker: this process, as the store names it.
        clock: counts the seconds that the store takes.

    Attributes:
        alone: whether nobody else writes, as far as is known: then what was read last needs no reading again.
        environment_id: the machine that trials are begun on, once it is stated.
        suggest_s: seconds that proposing took.
    """

    def __init__(
        self,
        store: Store,
        study_id: int,
        task: Task,
        strategy: Strategy,
        known: KnownTrials,
        worker: str,
        clock: Clock,
    ) -> None:
        self.alone = True
        self.environment_id: int | None = None
        self.suggest_s = 0.0
        self._store = store
        self._study_id = study_id
        self._task = task
        self._strategy = strategy
        self._known = known
        self._worker = worker
        self._clock = clock
        self._chance = random.Random()  # what workers draw apart from each other

    def begin(self, wanted: int, up_to: int | None = None) -> list[TrialRecord]:
        """Up to `wanted` running trials, at least one; see `Study.ask`.

        Raises:
            SpaceExhaustedError: when there is nothing to begin.
        """
        budget = None if up_to is None else TrialBudget(up_to, several=bool(self._task.fidelities))
        begun: list[TrialRecord] = []
        if self.alone and not self._known.open and (wanted == 1 or not self._known.first):
            begun, _ = self._begin(wanted, budget)
        if not begun:
            self._known.refresh()
            begun = self._take_over(wanted)
            begun += self._begin_among_others(wanted - len(begun), budget)
        if not begun:
            raise SpaceExhaustedError(self._why_nothing(budget))
        return begun

    def _begin_among_others(self, wanted: int, budget: TrialBudget | None) -> list[TrialRecord]:
        """As `_begin`, over again where others were quicker: each time somebody has begun a trial, so that this ends.

        Workers that know the same trials are proposed the same. The more often one loses, the wider the choice of proposals
        that it draws from: of 16 workers with evaluations of half a second, some would lose dozens of times in a row otherwise.
        """
        begun: list[TrialRecord] = []
        spread = 1
        while True:
            first = bool(self._known.first)  # the strategy is not asked before these are under way
            more, raced = self._begin(wanted - len(begun), budget, spread)
            begun += more
            if len(begun) >= wanted or not (raced or (first and more)):
                return begun
            if raced:
                self._known.refresh()
                spread = min(2 * spread, _SPREAD)

    def _begin(self, wanted: int, budget: TrialBudget | None, spread: int = 1) -> tuple[list[TrialRecord], bool]:
        """Begin up to `wanted` trials of what is proposed; says also whether another worker was quicker with some.

        Args:
            spread: times as many proposals as are wanted, of which so many are taken by chance.
        """
        if budget is not None:
            left = budget.trials - self._known.counted
            wanted = min(wanted, left) if budget.cheaper is None or left <= 0 else wanted
        if wanted <= 0:
            return [], False
        started = time.perf_counter()
        proposed = self._propose(wanted * spread)
        if len(proposed) > wanted:
            proposed = self._chance.sample(proposed, wanted)
        predicted = foretold(self._task.predictor, [s.config for _, s in proposed])
        spent = time.perf_counter() - started
        self.suggest_s += spent
        if not proposed:
            return [], False
        proposals = [
            self._proposal(s, label, said, spent / len(proposed))
            for (label, s), said in zip(proposed, predicted, strict=True)
        ]
        proposals = self._known.new(proposals)
        if budget is not None and budget.cheaper is not None and self._known.cheaper >= budget.cheaper:
            proposals = [p for p in proposals if p.fidelity is None]
        if not proposals:
            return [], False
        with self._clock:
            written = self._store.begin_trials(
                self._study_id,
                proposals,
                worker_id=self._worker,
                lease_s=LEASE_S,
                environment_id=self.environment_id,
                up_to=None if budget is None else budget.trials,
                cheaper_up_to=None if budget is None else budget.cheaper,
                allow_duplicates=self.alone,  # what is known here is all that there is, and the store need not look
                expect=self._known.revision if self.alone else None,
            )
        if written is None:
            self.alone = False
            return [], True
        begun = [record for record in written if record is not None]
        for record in begun:
            self._known.wrote(record)
        return begun, None in written

    def _take_over(self, wanted: int) -> list[TrialRecord]:
        taken: list[TrialRecord] = []
        while len(taken) < wanted and self._known.open:
            with self._clock:
                record = self._store.take_over(
                    self._study_id, worker_id=self._worker, lease_s=LEASE_S, environment_id=self.environment_id
                )
            self._known.refresh()  # it may have closed other trials too
            if record is None:
                break
            taken.append(record)
        return taken

    def _why_nothing(self, budget: TrialBudget | None) -> str:
        spent = None if budget is None else budget.reason(self._known.counted, self._known.cheaper)
        if spent is not None:
            return spent
        size = self._task.space.size
        among = f" of {size} feasible configurations" if size is not None else ""
        apart = f" and {self._known.cheaper} cheaper ones" if self._known.cheaper else ""
        return f"nothing left to propose after {self._known.counted} trials{among}{apart}"

    def _propose(self, n: int) -> Sequence[tuple[str | None, Suggestion]]:
        if self._known.first:
            return [(label, Suggestion(dict(config), label)) for label, config in self._known.first.values()][:n]
        return [(None, s) for s in self._strategy.propose(History(self._task, self._known.all), n)]

    def _proposal(
        self, suggestion: Suggestion, label: str | None, predicted: Mapping[str, float], suggest_s: float
    ) -> Proposal:
        config = self._task.space.validate(suggestion.config)
        text = self._task.space.canonical_json(config)
        return Proposal(
            config=config,
            config_json=text,
            config_hash=digest(text),
            proposer=suggestion.proposer,
            label=label,
            fidelity=self._task.cheaper(suggestion.fidelity),
            suggest_s=suggest_s,
            notes={**suggestion.notes, PREDICTED: predicted} if predicted else suggestion.notes,
            replicate=suggestion.replicate,
        )

"""A study: ask for a configuration, tell what it gave, see what is best. State lives in the store alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from autotune.checks import instance, mapping, whole
from autotune.clock import Clock
from autotune.definition import Definition
from autotune.dispatch import LEASE_S, Dispatcher
from autotune.equipment import PREDICTOR, Equipment
from autotune.errors import UsageError
from autotune.known_trials import KnownTrials
from autotune.measurement import Failure, Measurement
from autotune.notebook import study_html, study_text
from autotune.objective import Objective, OutcomeConstraint
from autotune.plots.methods import Plotting
from autotune.pruning.referee import Referee
from autotune.reports import Pruned
from autotune.space import Config, SearchSpace
from autotune.store import Profile, Store, StudyRecord, TrialRecord
from autotune.store.records import DEFAULT_LABEL
from autotune.store.workers import worker_name
from autotune.strategies import STRATEGIES, History, Strategy, resolve
from autotune.transfer import read, stored_space
from autotune.trial import Trial

if TYPE_CHECKING:
    import pandas as pd
    from optuna.samplers import BaseSampler

    from autotune.exporting import Exported
    from autotune.predictors import PredictorLike
    from autotune.transfer import TransferFrom

IN_MEMORY = "sqlite://"


class Study(Plotting):
    """Trials of one search space under one set of objectives. Make one with `Study.create` or `Study.load`."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        space: SearchSpace,
        strategy: type[Strategy] | None,
        equipment: Equipment,
    ) -> None:
        self.store = store
        self.name = record.name
        default = dict(record.default_config)
        # A space enumerates itself once, so one that knows the default already is kept as it is.
        self.space = space if default in space.anchors else space.with_anchors([default])
        goals = record.goals
        self.objectives = goals.objectives
        self.constraints = goals.constraints
        self.seed = record.seed
        self.record = record
        self._store_clock = Clock()
        self._task = equipment.task(
            self.space,
            goals,
            default,
            record.seed,
            record.budget.get("trials"),
            record.fidelities,
            record.options.get("costs", {}),
        )
        first: dict[str, tuple[str, Config]] = {}
        for label, config in {DEFAULT_LABEL: default, **self._named}.items():
            first.setdefault(self.space.config_hash(config), (label, dict(config)))
        worker = worker_name()
        self._known = KnownTrials(worker, first, self._changes)
        self._dispatcher: Dispatcher | None = None  # of a study to look at
        if strategy is not None:
            chosen = strategy(self._task)
            self._dispatcher = Dispatcher(store, record.id, self._task, chosen, self._known, worker, self._store_clock)

    @property
    def store_s(self) -> float:
        """Seconds that this object spent reading and writing its store."""
        return self._store_clock.total

    @property
    def suggest_s(self) -> float:
        """Seconds that this object's strategy and predictor spent on proposals."""
        return 0.0 if self._dispatcher is None else self._dispatcher.suggest_s

    @property
    def _named(self) -> Mapping[str, Config]:
        baselines: Mapping[str, Config] = self.record.options.get("baselines", {})
        return baselines

    @classmethod
    def create(
        cls,
        space: SearchSpace,
        objectives: str | Objective | Iterable[str | Objective] = "value",
        *,
        constraints: Iterable[str | OutcomeConstraint] = (),
        storage: str | Store = IN_MEMORY,
        name: str = "study",
        strategy: str | type[Strategy] | BaseSampler = "auto",
        strategy_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        default: Mapping[str, Any] | None = None,
        baselines: Mapping[str, Mapping[str, Any]] | None = None,
        budget: int | None = None,
        domain: str | None = None,
        options: Mapping[str, Any] | None = None,
        profile: Profile | None = None,
        predictor: PredictorLike | None = None,
        transfer_from: TransferFrom | None = None,
        domain_map: Any = None,
        fidelities: Sequence[str] = (),
        costs: Mapping[str, float] | None = None,
        pruner: str | None = None,
        pruner_options: Mapping[str, Any] | None = None,
    ) -> Study:
        """Start a study.

        Args:
            strategy_options: of the strategy, by name.
            default: the configuration that people use today, always trial 0; the space's own default when None.
            baselines: further configurations by name, proposed right after the default.
            budget: trials that the search will spend, for strategies that plan.
            fidelities: names of several evaluators, from the cheapest to the one whose results count; a trial's `fidelity`
                says which it is to be measured with.
            costs: relative cost of an evaluation by fidelity, where it is known.
            pruner, pruner_options: what `should_stop` goes by, see `autotune.search_iter`.
            domain, options, profile, domain_map: set by `autotune.search` for a domain.
            predictor, transfer_from: what a strategy may learn from beforehand, see `autotune.search_iter`.

        Raises:
            UsageError: for anything that cannot be used; nothing is written then.
            EmptySpaceError: when no configuration is feasible.
        """
        found = storage if isinstance(storage, Store) else Store.if_there(storage)
        definition = Definition.check(
            name,
            space,
            objectives,
            constraints,
            default=default,
            baselines=baselines,
            strategy=strategy,
            seed=seed,
            budget=budget,
            strategy_options=strategy_options,
            predictor=predictor,
            transfer=read(transfer_from, found, name),
            domain_map=domain_map,
            fidelities=fidelities,
            costs=costs,
            pruner=pruner,
            pruner_options=pruner_options,
        )
        store = storage if isinstance(storage, Store) else found or Store(storage)
        return cls.begin(definition, store, domain=domain, options=options, profile=profile)

    @classmethod
    def begin(
        cls,
        definition: Definition,
        store: Store,
        *,
        domain: str | None = None,
        options: Mapping[str, Any] | None = None,
        profile: Profile | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> Study:
        """Write a study that was checked before; `limits` is what else ends its search (`Limits.stored`)."""
        equipment = definition.equipment
        settings = equipment.settings
        source = {} if equipment.predictor_from is None else {PREDICTOR: equipment.predictor_from}
        record = store.create_study(
            name=definition.name,
            domain=domain,
            space=definition.space.to_dict(),
            space_hash=definition.space.definition_hash(),
            objectives=[str(o) for o in definition.goals.objectives],
            constraints=[str(c) for c in definition.goals.constraints],
            default_config=definition.default,
            strategy=definition.strategy.name,
            seed=definition.seed,
            budget={**({"trials": definition.budget} if definition.budget else {}), **(limits or {})},
            options={
                **(options or {}),
                **definition.stored_fidelities,
                **definition.pruning.stored,
                "baselines": definition.baselines,
                **source,
            },
            strategy_options=None if settings is None else settings.model_dump(mode="json", exclude_unset=True),
            sources=equipment.records,
            profile=profile,
        )
        return cls(store, record, definition.space, definition.strategy, equipment)

    @classmethod
    def load(
        cls,
        name: str,
        storage: str | Store,
        *,
        space: SearchSpace | None = None,
        strategy: str | type[Strategy] | BaseSampler | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        predictor: PredictorLike | None = None,
        transfer_from: TransferFrom | None = None,
        domain_map: Any = None,
    ) -> Study:
        """Go on with a study that exists.

        Args:
            space: needed only where the space has callable constraints, which a database cannot hold.
            strategy: another one than before, if wished.
            strategy_options: of the strategy; those that are stored when None.
            predictor: needed again where the study was made with one, which a database cannot hold; False for none.
            transfer_from: the earlier studies that are stored when None, none of them when empty.

        Raises:
            UsageError: when there is no such study, its space is another one, or it was set otherwise.
        """
        # A study that exists is in a database that exists.
        store = storage if isinstance(storage, Store) else Store(storage, create=False)
        record = store.load_study(name)
        functions = [c for c in record.space["constraints"] if not isinstance(c, str) and "callable" in c]
        if space is None and functions:
            raise UsageError(
                f"study {name!r} has the constraint {functions[0]['callable']!r}, a function, which a database cannot "
                "hold; pass space=..., the search space that the study was made with"
            )
        found = space if space is not None else SearchSpace.from_dict(record.space)
        if found.definition_hash() != record.space_hash:
            raise UsageError(
                f"study {name!r} in {store.url} has another search space; choose another study name, or search the same space"
            )
        if strategy is None and record.strategy not in STRATEGIES:
            raise UsageError(
                f"study {name!r} was made with {record.strategy!r}, a strategy that the caller supplied; pass strategy=... "
                "to go on with it, or the name of another"
            )
        chosen = resolve(strategy or record.strategy)
        equipment = Equipment.resume(
            record,
            store,
            chosen,
            options=strategy_options,
            predictor=predictor,
            transfer_from=transfer_from,
            domain_map=domain_map,
        )
        return cls(store, record, found, chosen, equipment)

    @classmethod
    def view(cls, store: Store, record: StudyRecord) -> Study:
        """A study to look at, from a store that may be read-only; `ask` refuses.

        Constraints that are functions are left out of its space: they matter only to what is proposed.
        """
        return cls(store, record, stored_space(record.space), None, Equipment())

    # ------------------------------------------------------------- ask and tell

    @overload
    def ask(self, n: None = None, *, up_to: int | None = None) -> Trial: ...
    @overload
    def ask(self, n: int, *, up_to: int | None = None) -> list[Trial]: ...
    def ask(self, n: int | None = None, *, up_to: int | None = None) -> Trial | list[Trial]:
        """One trial to evaluate, or up to `n` of them.

        Trials that were released, or whose worker is gone, come first; then the default configuration and the baselines;
        then what the strategy proposes.

        Args:
            up_to: begin no trial beyond so many in the study, however many workers ask at once. In a study of several
                fidelities these are trials of the one that counts; of all others together there may be
                `autotune.stopping.CHEAPER_PER_TRIAL` for each.

        Raises:
            SpaceExhaustedError: when every feasible configuration was proposed, the strategy has nothing left, or the
                study holds as many trials as it may.
        """
        if self._dispatcher is None:
            raise UsageError(f"study {self.name!r} was opened to look at; use Study.load to go on with it")
        begun = self._dispatcher.begin(1 if n is None else whole("n", n, 1), up_to)
        trials = [Trial(record, self.seed) for record in begun]
        return trials[0] if n is None else trials

    def tell(
        self,
        trial: Trial,
        outcome: float | Mapping[str, float] | Measurement | Failure | Pruned,
        *,
        evaluate_s: float | None = None,
    ) -> TrialRecord:
        """Record what a trial gave: a number (one objective), metrics by name, a `Measurement`, a `Failure` or `Pruned`.

        Durable when it returns. An objective that is not finite is recorded as a `nan` failure.

        Raises:
            UsageError: when an objective is missing.
            LeaseLostError: when the trial was told before, or another worker has it by now.
        """
        instance("trial", trial, Trial, "what `ask` returned")
        result: Measurement | Failure | Pruned
        if isinstance(outcome, Failure):
            result = outcome
        elif isinstance(outcome, Pruned):
            result = self.referee.told(trial.record, outcome)
        else:
            try:
                result = Measurement.of(outcome, [o.metric for o in self.objectives])
            except Failure as failure:
                result = failure
        with self._store_clock:
            record = self.store.finish(self.record.id, trial.record, result, evaluate_s=evaluate_s)
        self._known.wrote(record)
        return record

    def release(self, trial: Trial) -> None:
        """Give a trial back unevaluated; the next ask hands it out again."""
        with self._store_clock:
            self.store.release(self.record.id, trial.record)

    @property
    def stopped_by(self) -> str | None:
        """Who asked that searches of this study end, since one began; None where nobody did."""
        with self._store_clock:
            request = self.store.stop_request(self.record.id)
        return None if request is None else request.by

    def keep(self, trial: Trial) -> None:
        """Say that a trial is still being evaluated: its lease, of ten minutes, begins anew.

        Raises:
            LeaseLostError: when the trial was told before, or another worker has it by now.
        """
        self.store.extend_lease(trial.record, LEASE_S)

    def report(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        """Record intermediate values of a running trial.

        Raises:
            UsageError: for a metric that was reported at that step before.
            LeaseLostError: when the trial was told before, or another worker has it by now.
        """
        with self._store_clock:
            self.store.report(trial.record, whole("step", step, 0), mapping("values", values))

    def should_stop(self, trial: Trial) -> str | None:
        """Why the study's pruner would end a trial at its last report, in one sentence; None to go on."""
        return self.referee.reason(instance("trial", trial, Trial, "what `ask` returned").record)

    def prune(self, trial: Trial, reason: str, *, evaluate_s: float | None = None) -> TrialRecord:
        """End a trial early: it is never proposed again, never ranked, and no failure. As `tell` of `Pruned`."""
        return self.tell(trial, Pruned(reason), evaluate_s=evaluate_s)

    @cached_property
    def referee(self) -> Referee:
        """Applies the study's pruner to running trials."""
        return Referee(self)

    def set_environment(self, fingerprint: str, details: Mapping[str, Any]) -> None:
        """State the machine on which the following trials are measured."""
        saved = self.store.save_environment(fingerprint, details)
        if self._dispatcher is not None:
            self._dispatcher.environment_id = saved

    # ------------------------------------------------------------------ results

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """Every trial, by number, as the store has it now."""
        self._known.refresh()
        return self._known.all

    @property
    def history(self) -> History:
        """What a strategy sees."""
        return History(self._task, self.trials)

    @property
    def best(self) -> TrialRecord | None:
        """The best feasible configuration of a study with one objective, replicates as one; None while there is none.

        Raises:
            UsageError: with several objectives, where `pareto` is the answer.
        """
        if len(self.objectives) > 1:
            raise UsageError(f"study {self.name!r} has {len(self.objectives)} objectives; use pareto() instead of best")
        return self.history.best

    def pareto(self) -> list[TrialRecord]:
        """Feasible configurations that no other feasible one dominates, replicates as one, by number."""
        return list(self.history.pareto)

    @property
    def default(self) -> TrialRecord | None:
        """Trial 0, the configuration that people use today; None before it was asked for."""
        return self.history.find(self.record.default_config)

    @property
    def baselines(self) -> dict[str, TrialRecord | None]:
        """The named configurations, by name; None for one that was not asked for yet."""
        history = self.history
        return {label: history.find(config) for label, config in self._named.items()}

    def export(
        self,
        format_: str,
        trial: int | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        stem: str = "autotune",
    ) -> Exported:
        """A configuration in the format of a program that runs it, by an exporter of the study's domain.

        Args:
            format_: name of the exporter.
            trial: whose configuration; the best one's when None.
            options: of the exporter, by name.
            stem: of the file that it will be written to; attachments take their names from it.

        Raises:
            UsageError: for a format that the domain does not have (the message lists those that it has), a trial that does not
                exist, several best ones, options that cannot be used, and where nothing of the configuration can be expressed.
            SearchFailedError: when nothing feasible was measured and no trial is named.
        """
        from autotune.exporting import chosen, export_config  # noqa: PLC0415 - it loads what domains are made of

        return export_config(self.record, format_, chosen(self, trial), options, stem)

    def frame(self) -> pd.DataFrame:
        """One row per trial: number, state, proposer, fidelity, every parameter, every metric, failure and times."""
        from autotune.frame import trials_frame  # noqa: PLC0415 - pandas takes longer to import than a search to start

        return trials_frame(self.trials, self.record)

    def __repr__(self) -> str:
        return study_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return study_html(self)

    def _changes(self, since: int) -> Sequence[TrialRecord]:
        with self._store_clock:
            return self.store.trials(self.record.id, since=since)

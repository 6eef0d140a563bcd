"""What a strategy is given besides the task's definition: its options, a predictor, earlier studies, the domain's map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.checks import mapping
from autotune.errors import UsageError
from autotune.goals import Goals
from autotune.options import parse_options
from autotune.predictors import Predictor, PredictorLike, guarded
from autotune.space import Config, SearchSpace
from autotune.store import SourceRecord, Store, StudyRecord
from autotune.strategies import Settings, Source, Strategy, Task
from autotune.transfer import Transfer, reread

if TYPE_CHECKING:
    from autotune.transfer import TransferFrom

PREDICTOR = "predictor"  # the stored setting that says where a study's predictor came from; absent where there is none
GIVEN, OFF = "given", "off"


@dataclass(frozen=True)
class Equipment:
    """Checked and ready for a `Task`.

    Attributes:
        predictor_from: `GIVEN` by the caller or the domain, turned `OFF`, or None.
        records: what is stored of `sources`.
    """

    settings: Settings | None = None
    predictor: Predictor | None = None
    predictor_from: str | None = None
    sources: tuple[Source, ...] = ()
    records: tuple[SourceRecord, ...] = ()
    domain_map: Any = None

    @classmethod
    def check(
        cls,
        strategy: type[Strategy],
        goals: Goals,
        *,
        options: Mapping[str, Any] | None = None,
        predictor: PredictorLike | None = None,
        transfer: Iterable[Transfer] = (),
        domain_map: Any = None,
    ) -> Equipment:
        """What a new study is given.

        Raises:
            UsageError: for an option that the strategy does not have, or a predictor or an earlier study that it would
                not look at.
        """
        known = tuple(transfer)
        if known:
            _refuse_unless(
                strategy.capabilities.transfer, strategy, "does not learn from earlier studies", "transfer_from"
            )
        model = guarded(predictor, goals.metrics)
        if model is not None:
            _refuse_unless(strategy.capabilities.predictor, strategy, "does not use a predictor", "predictor")
        return cls(
            settings=settings_of(strategy, options),
            predictor=model,
            predictor_from=OFF if predictor is False else GIVEN if model is not None else None,
            sources=tuple(t.source for t in known),
            records=tuple(t.record for t in known),
            domain_map=domain_map,
        )

    @classmethod
    def resume(
        cls,
        record: StudyRecord,
        store: Store,
        strategy: type[Strategy],
        *,
        options: Mapping[str, Any] | None = None,
        predictor: PredictorLike | None = None,
        transfer_from: TransferFrom | None = None,
        domain_map: Any = None,
    ) -> Equipment:
        """What a study that is gone on with is given: as before, unless the caller says otherwise.

        Where another strategy takes over, the options of the one before are left aside, and so is what it has no use for.

        Raises:
            UsageError: for other options than before, a predictor or a source that is lacking now, and as `check` does.
        """
        has = strategy.capabilities
        kept = settings_of(strategy, record.strategy_options) if strategy.name == record.strategy else None
        settings = kept if options is None else settings_of(strategy, options)
        default = strategy.settings_type()
        if strategy.name == record.strategy and (settings or default) != (kept or default):
            raise UsageError(
                f"study {record.name!r} in {store.url} has the strategy options {dict(record.strategy_options)}, not "
                f"{dict(options or {})}; choose another study name"
            )
        before = record.options.get(PREDICTOR)
        if predictor is None and before == OFF:
            predictor = False
        if predictor is None and before == GIVEN and has.predictor:
            raise UsageError(
                f"study {record.name!r} was made with a predictor, which a database cannot hold; pass predictor=... to "
                "go on with it, or predictor=False (--no-predictor) to go on without"
            )
        aside = transfer_from is None and not has.transfer
        found = cls.check(
            strategy,
            record.goals,
            options=options,
            predictor=predictor,
            transfer=() if aside else reread(record, transfer_from, store),
            domain_map=domain_map,
        )
        return replace(found, settings=settings)

    def task(
        self,
        space: SearchSpace,
        goals: Goals,
        default: Config,
        seed: int,
        budget: int | None,
        fidelities: tuple[str, ...],
        costs: Mapping[str, float],
    ) -> Task:
        """The task of a strategy."""
        return Task(
            space=space,
            objectives=goals.objectives,
            constraints=goals.constraints,
            default=default,
            seed=seed,
            budget=budget,
            domain_map=self.domain_map,
            settings=self.settings,
            predictor=self.predictor,
            sources=self.sources,
            fidelities=fidelities,
            costs=costs,
        )


def settings_of(strategy: type[Strategy], options: Mapping[str, Any] | None) -> Settings | None:
    """A strategy's options as its settings; None where none are given.

    Raises:
        UsageError: one sentence for the first option that is wrong.
    """
    given = {} if options is None else mapping("strategy_options", options)
    if not given:
        return None
    return parse_options(strategy.settings_type, given, f"strategy {strategy.name!r}")


def _refuse_unless(able: bool, strategy: type[Strategy], lacks: str, argument: str) -> None:
    if not able:
        raise UsageError(
            f"strategy {strategy.name!r} {lacks}; choose one that does, such as bo, or leave out {argument}"
        )

"""The study that a search goes on with: made when it is new, and refused when it is another one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotune.definition import Definition
from autotune.domain import Problem
from autotune.equipment import OFF, PREDICTOR
from autotune.errors import StudyExistsError, UsageError
from autotune.execution.runner import OF_MEASURING
from autotune.pruning import Declared, Pruning
from autotune.store import Store, StudyRecord
from autotune.strategies import STRATEGIES, Strategy, resolve
from autotune.study import IN_MEMORY, Study
from autotune.transfer import read

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.predictors import PredictorLike
    from autotune.transfer import TransferFrom

_FOR_PEOPLE = frozenset({"facts", "highlights"})  # settings that say something and change nothing
_OF_ITS_MAKING = frozenset({"command", "created_at"})  # of a profile


def open_study(
    problem: Problem,
    *,
    domain: str | None = None,
    options: Mapping[str, Any] | None = None,
    trials: int | None = None,
    strategy: str | type[Strategy] | BaseSampler | None = None,
    strategy_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    storage: str | Store = IN_MEMORY,
    name: str = "study",
    predictor: PredictorLike | None = None,
    transfer_from: TransferFrom | None = None,
    fidelities: Sequence[str] = (),
    costs: Mapping[str, float] | None = None,
    limits: Mapping[str, Any] | None = None,
    pruner: str | None = None,
    pruner_options: Mapping[str, Any] | None = None,
) -> Study:
    """The study of that name for this problem, created when it is new.

    Args:
        fidelities, costs: see `Study.create`.
        limits: what a new study keeps of the limits of its search (`Limits.stored`).
        pruner, pruner_options: see `autotune.search_iter`; what the study keeps when both are None.

    Raises:
        UsageError: when the study of that name is another one: another space, other objectives, another default
            configuration, evaluator, domain option, strategy option, pruner, source or seed.
    """
    counted = fidelities[-1] if fidelities else None
    store = storage if isinstance(storage, Store) else Store.if_there(storage)
    record = None if store is None else store.find_study(name)
    kept = Pruning() if record is None else Pruning.of(record)
    if pruner is None and pruner_options is not None and record is not None:
        pruner = kept.pruner
    # Before a database is made: what cannot be used should leave no file behind.
    definition = Definition.check(
        name,
        problem.space,
        problem.objectives,
        problem.constraints,
        default=problem.default,
        baselines=problem.baselines,
        strategy="auto" if strategy is None else strategy,
        strategy_options=strategy_options if record is None else None,
        seed=0 if seed is None else seed,
        budget=trials,
        predictor=_predictor(problem, predictor, strategy or "auto", counted) if record is None else None,
        transfer=read(transfer_from, store, name) if record is None else (),
        domain_map=problem.domain_map,
        fidelities=fidelities,
        costs=costs,
        pruner=pruner,
        pruner_options=pruner_options,
        declared=Declared(
            problem.accumulating, problem.progress, problem.resource, problem.pruner, problem.pruner_options
        ),
    )
    if record is None or store is None:
        made = storage if isinstance(storage, Store) else store or Store(storage)
        try:
            return Study.begin(definition, made, domain=domain, options=options, profile=problem.profile, limits=limits)
        except StudyExistsError:
            if record is not None or made.find_study(name) is None:
                raise
            # Another worker of the same search made it since it was looked for.
            return open_study(
                problem, domain=domain, options=options, trials=trials, strategy=strategy, strategy_options=strategy_options,
                seed=seed, storage=made, name=name, predictor=predictor, transfer_from=transfer_from, fidelities=fidelities,
                costs=costs, limits=limits, pruner=pruner, pruner_options=pruner_options,
            )  # fmt: skip
    study = Study.load(
        name,
        store,
        space=problem.space,
        strategy=strategy,
        strategy_options=strategy_options,
        predictor=_predictor(problem, predictor, strategy or record.strategy, counted, record),
        transfer_from=transfer_from,
        domain_map=problem.domain_map,
    )
    compared = [
        ("the domain", record.domain, domain),
        ("the objectives", list(record.objectives), [str(o) for o in definition.goals.objectives]),
        ("the outcome constraints", list(record.constraints), [str(c) for c in definition.goals.constraints]),
        ("the seed", record.seed, record.seed if seed is None else definition.seed),
        ("the default configuration", dict(record.default_config), definition.default),
    ]
    compared += [
        (f"the setting {key!r}", record.options.get(key), value)
        for key, value in (options or {}).items()
        if key not in _FOR_PEOPLE and key not in OF_MEASURING
    ]
    compared += [
        (f"the {name}", record.options.get(name, []), definition.stored_fidelities.get(name, []))
        for name in ("fidelities", "costs")
    ]
    if pruner_options is not None or pruner not in (None, kept.pruner):
        compared.append(("the pruner", str(kept), str(definition.pruning)))
    for what, before, now in compared:
        if before != now:
            was, wanted = _differing(before, now)
            raise UsageError(
                f"study {name!r} in {store.url} has {what} {_short(was)}, not {_short(wanted)}; choose another study name"
            )
    if record.profile_id is not None and problem.profile is not None:
        measured_with = store.profile(record.profile_id)
        if _measured(measured_with.payload) != _measured(json.loads(json.dumps(problem.profile.payload))):
            raise UsageError(
                f"study {name!r} in {store.url} rests on another hardware profile than this search; choose another study name"
            )
    measuring = {key: (options or {}).get(key) for key in OF_MEASURING}
    changed = {key: value for key, value in measuring.items() if value != record.options.get(key)}
    if changed:
        store.set_options(record.id, changed)
    return study


def _predictor(
    problem: Problem,
    given: PredictorLike | None,
    strategy: str | type[Strategy] | BaseSampler,
    fidelity: str | None,
    record: StudyRecord | None = None,
) -> PredictorLike | None:
    """The caller's choice, else the domain's predictor where the strategy uses one and the study was not made without."""
    if given is not None:
        return given
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        return None  # refused where it is resolved
    if record is not None and record.options.get(PREDICTOR) == OFF:
        return False
    return problem.predictor_of(fidelity) if resolve(strategy).capabilities.predictor else None


def _measured(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a profile says, without when and how it came to be: measuring more for another study changes these alone."""
    return {key: value for key, value in payload.items() if key not in _OF_ITS_MAKING}


def _differing(before: Any, now: Any) -> tuple[Any, Any]:
    """Of two mappings the entries that are not the same; anything else as it is."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return before, now
    same = {key for key in before if key in now and before[key] == now[key]}
    was, wanted = ({key: value for key, value in one.items() if key not in same} for one in (before, now))
    return was, wanted


def _short(value: Any) -> str:
    text = (", ".join(value) or "none") if isinstance(value, list) else repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"

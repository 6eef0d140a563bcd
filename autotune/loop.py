"""The loop that drives a study: ask, evaluate, tell, until the budget is spent or nothing is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.callbacks import Callback, listened, parse_callbacks
from autotune.checks import instance, mapping
from autotune.domain import Problem, load_domain
from autotune.errors import LeaseLostError, SpaceExhaustedError, StoreError, UsageError
from autotune.execution import Evaluate, InProcess, Runner, described
from autotune.hardware import current_environment
from autotune.heartbeat import Heartbeat
from autotune.interrupts import asked, held
from autotune.measurement import ONCE, Failure, Measurement, Protocol
from autotune.objective import Objective, OutcomeConstraint, parse_constraints, parse_objectives
from autotune.opening import open_study
from autotune.options import parse_options
from autotune.pruning.plan import NONE as NO_PRUNER
from autotune.reporting import Reporter, reporter_of
from autotune.reports import Pruned
from autotune.result import Result, counts
from autotune.space import Config, SearchSpace
from autotune.stopping import Limits, stopped_by
from autotune.store import Store, TrialRecord, TrialState
from autotune.strategies import Strategy
from autotune.strategies.again import Again
from autotune.study import IN_MEMORY, Study
from autotune.trial import Trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.predictors import PredictorLike
    from autotune.transfer import TransferFrom

DEFAULT_TRIALS = 60
_INFRA_PAUSE_S = 1.0  # before a machine that failed is asked again


@dataclass(frozen=True)
class Progress:
    """How far a search is, after one more trial.

    In a study of several fidelities `best`, `gain`, `counts` and `budget` speak of trials of the one that counts.

    Attributes:
        trial: the trial that just ended, of whichever fidelity.
        best: the incumbent (with several objectives: a member of the Pareto front); None before there is one.
        gain: of the incumbent over the default, on the first objective.
        counts: trials by state and failures by kind.
        budget: trials that the search may spend in all, None where time alone limits it.
        elapsed_s, remaining_s: of this run; remaining is an estimate, None while nothing is known.
    """

    study: Study
    trial: TrialRecord
    best: TrialRecord | None
    gain: float | None
    counts: Mapping[str, Any]
    budget: int | None
    elapsed_s: float
    remaining_s: float | None


def search(
    space: SearchSpace | str,
    evaluate: Evaluate | Mapping[str, Evaluate] | None = None,
    objectives: str | Objective | Iterable[str | Objective] | None = None,
    *,
    callback: Callback | Iterable[Callback] | None = None,
    **settings: Any,
) -> Result:
    """Find a good configuration.

    Args:
        space: a `SearchSpace`, or the name of an installed domain such as ``"moe-cache"``.
        evaluate: ``evaluate(config)`` returning a number, a mapping of metrics or a `Measurement`, or raising. One that takes
            the keyword `report` is given a `Report` for what it measures on the way. Several by name, from the cheapest to
            the one whose results count, are fidelities: ``{"short": f, "full": g}``. A domain brings its own.
        objectives: ``"latency_ms"``, ``["minimize latency_ms", "maximize throughput"]``; ``"value"`` when not given.
        callback: called after every trial with a `Progress`: a function or several, such as the loggers of
            `autotune.integrations.loggers`. The trial is stored before; an error of one ends the search and is passed on.
        settings: see `search_iter`.

    Returns:
        The result; ``result.best.config`` is the answer.

    Raises:
        UsageError: for anything that cannot be used; nothing is written then.
        KeyboardInterrupt: passed on after the running trial was given back; every finished trial is kept.
    """
    callbacks = parse_callbacks(callback)
    return listened(search_iter(space, evaluate, objectives, **settings), callbacks)


def search_iter(
    space: SearchSpace | str,
    evaluate: Evaluate | Mapping[str, Evaluate] | None = None,
    objectives: str | Objective | Iterable[str | Objective] | None = None,
    *,
    constraints: Iterable[str | OutcomeConstraint] = (),
    trials: int | None = None,
    timeout_s: float | None = None,
    target: str | Iterable[str] | None = None,
    min_gain: float | None = None,
    min_gain_per_hour: float | None = None,
    strategy: str | type[Strategy] | BaseSampler | None = None,
    strategy_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    storage: str | Store = IN_MEMORY,
    study: str = "study",
    default: Mapping[str, Any] | None = None,
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    evaluator: str | Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    predictor: PredictorLike | None = None,
    transfer_from: TransferFrom | None = None,
    costs: Mapping[str, float] | None = None,
    runner: Runner | None = None,
    protocol: Protocol = ONCE,
    pruner: str | None = None,
    pruner_options: Mapping[str, Any] | None = None,
) -> Generator[Progress, None, Result]:
    """As `search`, yielding a `Progress` after every trial and returning the result; for notebooks and user interfaces.

    Args:
        constraints: limits on measured metrics, ``["vram_gib <= 24"]``.
        trials: trials in the study when it is done, the default configuration, the baselines and what an earlier run
            measured among them; 60 when neither this nor `timeout_s` is given. With several fidelities, trials of the one
            that counts; of the cheaper ones there may be ten for each.
        timeout_s: stop asking after so many seconds.
        target: stop when the incumbent is this good, ``"latency_ms <= 10"``; several limits are to be kept at once.
        min_gain: stop when the strategy expected a smaller improvement of the first objective over the incumbent, as a
            share of it, from each of five proposals in a row. Only strategies that tell what they expect end so.
        min_gain_per_hour: as `min_gain`, for what an hour of evaluations is expected to bring.
        strategy: a name (see `autotune.STRATEGIES`), a `Strategy` class or an Optuna sampler; ``"auto"`` when not given.
        strategy_options: of the strategy, by name; see `docs/strategies.md`.
        seed: of the search; 0 when not given.
        storage: a database URL; in memory when not given.
        study: its name. A study that exists is gone on with.
        default: the configuration that people use today; measured first.
        baselines: further configurations by name, measured next and shown beside the result.
        evaluator: which of a domain's evaluators measures, by fidelity; several from the cheapest to the one whose results
            count, ``["profiled", "real"]``.
        options: a domain's options.
        predictor: a cheap model of the metrics for the strategy to start from: ``predict(config)`` returning a number (of
            the first objective) or a mapping of metrics, or a `Predictor`. In place of a domain's own; False for none.
        transfer_from: earlier studies to learn from: names in the same storage, ``URL#NAME``, or studies. The study keeps
            them and what they held; empty when it is gone on with to go on without.
        costs: relative cost of an evaluation by fidelity, where it is known; else it is what trials took.
        runner: how evaluations run; in this process when not given.
        protocol: how often each is repeated, where `runner` is not given.
        pruner: what ends trials early by what they report (see `autotune.PRUNERS` and `docs/pruning.md`); a domain's own
            choice when not given. The study keeps it.
        pruner_options: of the pruner, by name; `accumulating`, `progress` and `resource` say what the reports are.
    """
    started = time.perf_counter()
    if trials is None and timeout_s is None:
        trials = DEFAULT_TRIALS
    limits = Limits.check(
        trials=trials, timeout_s=timeout_s, target=target, min_gain=min_gain, min_gain_per_hour=min_gain_per_hour
    )
    instance("protocol", protocol, Protocol, "an autotune.Protocol")
    if isinstance(space, str):
        if evaluate is not None or default is not None or baselines is not None:
            raise UsageError(
                f"domain {space!r} brings its own evaluator, default and baselines; give it options instead"
            )
        domain, problem = space, domain_problem(space, mapping("options", options or {}))
        own = parse_constraints(problem.constraints)
        further = [c for c in parse_constraints(constraints) if c not in own]
        problem = problem.measuring(objectives, further)
    else:
        if options is not None:
            raise UsageError("options are a domain's; a search of a space of your own has none")
        instance("space", space, SearchSpace, "an autotune.SearchSpace or the name of a domain")
        domain, problem = (
            None,
            Problem(
                space=space,
                objectives=tuple(map(str, parse_objectives("value" if objectives is None else objectives))),
                default=space.default() if default is None else dict(mapping("default", default)),
                constraints=tuple(map(str, parse_constraints(constraints))),
                evaluators=_evaluators(evaluate),
                baselines=mapping("baselines", baselines or {}),
            ),
        )
        evaluator = evaluator if evaluator is not None else list(problem.evaluators)
    measures = problem.chosen(evaluator)
    if costs is None and len(measures) > 1:
        costs = {name: cost for name, cost in problem.costs.items() if name in measures}
    limits.require_objectives(map(Objective.parse, problem.objectives))
    run = runner or InProcess([Objective.parse(o).metric for o in problem.objectives], protocol)
    *cheaper, (_, counted) = measures.items()
    with held():
        found = open_study(
            problem,
            domain=domain,
            options={
                "evaluator": list(measures)[-1],
                "facts": dict(problem.facts),
                "highlights": list(problem.highlights),
                **({"domain_options": dict(options or {})} if domain else {}),
                **described(counted, run),
            },
            trials=limits.trials,
            strategy=strategy,
            strategy_options=strategy_options,
            seed=seed,
            storage=storage,
            name=study,
            predictor=predictor,
            transfer_from=transfer_from,
            fidelities=list(measures),
            costs=costs,
            limits=limits.stored(),
            pruner=pruner,
            pruner_options=pruner_options,
        )
    by_fidelity: dict[str | None, Evaluate] = {**dict(cheaper), None: counted}  # as trials carry it
    return (yield from _drive(found, by_fidelity, run, limits, started))


def measure_iter(
    problem: Problem,
    configs: Mapping[str, Config],
    *,
    domain: str | None = None,
    options: Mapping[str, Any] | None = None,
    evaluator: str | None = None,
    rounds: int = 1,
    storage: str | Store = IN_MEMORY,
    study: str = "study",
    runner: Runner | None = None,
    protocol: Protocol = ONCE,
) -> Generator[Progress, None, Study]:
    """Measure named configurations instead of searching; the default is measured first. A study that exists is gone on with.

    Args:
        configs: by name, in the order to be measured.
        options: settings that the study keeps; one that was made with others is refused.
        evaluator: which of the problem's measures.
        rounds: how often all of them are measured, one after the other; each time is a trial.

    Raises:
        UsageError: for anything that cannot be used; nothing is written then.
    """
    started = time.perf_counter()
    name, evaluate = problem.evaluator(evaluator)
    distinct = {problem.space.config_hash(config) for config in (problem.default, *configs.values())}
    limits = Limits.check(
        trials=rounds * len(distinct), timeout_s=None, target=None, min_gain=None, min_gain_per_hour=None
    )
    with held():
        found = open_study(
            replace(problem, baselines=configs, predictor=None),
            domain=domain,
            options={
                "evaluator": name,
                "facts": dict(problem.facts),
                "highlights": list(problem.highlights),
                **(options or {}),
            },
            trials=limits.trials,
            strategy=Again,
            storage=storage,
            name=study,
            fidelities=[name],
            limits=limits.stored(),
            pruner=NO_PRUNER,
        )
    run = runner or InProcess([o.metric for o in found.objectives], protocol)
    yield from _drive(found, {None: evaluate}, run, limits, started)
    return found


def _evaluators(given: Evaluate | Mapping[str, Evaluate] | None) -> dict[str, Evaluate]:
    named = dict(given) if isinstance(given, Mapping) and given else {"given": given}
    for name, evaluate in named.items():
        if not callable(evaluate):
            raise UsageError(
                f"evaluate is {given!r}; give a callable that takes a configuration"
                if given is evaluate
                else f"evaluator {name!r} is {evaluate!r}; give a callable that takes a configuration"
            )
    return {name: evaluate for name, evaluate in named.items() if callable(evaluate)}


def domain_problem(name: str, options: Mapping[str, Any]) -> Problem:
    """The problem that an installed domain makes of these options."""
    domain = load_domain(name)
    return domain.problem(parse_options(domain.options, options))


def _drive(
    study: Study, evaluators: Mapping[str | None, Evaluate], runner: Runner, limits: Limits, started: float
) -> Generator[Progress, None, Result]:
    environment = current_environment()
    study.set_environment(environment.fingerprint, environment.to_dict())
    study.store.begin_search(study.record)
    evaluated = 0.0
    first = len(study.history.counted)
    heartbeat = Heartbeat(study)
    state, reason = "failed", "the search was broken off by an error"
    try:
        while True:
            by = study.stopped_by
            if by is not None:
                state, reason = "interrupted", stopped_by(by)
                break
            enough = limits.reason(time.perf_counter() - started, lambda: study.history)
            if enough is not None:
                state, reason = "done", enough
                break
            try:
                trial = asked(study, limits.trials)
            except SpaceExhaustedError as end:
                state, reason = "done", str(end)
                break
            record, spent = _evaluate(study, trial, evaluators[trial.fidelity], runner, heartbeat)
            evaluated += spent
            if record is None:
                continue
            if record.state is TrialState.WAITING:  # the machine failed, and may need a moment
                time.sleep(_INFRA_PAUSE_S)
                continue
            yield _progress(study, record, limits.trials, time.perf_counter() - started, first)
    except KeyboardInterrupt:
        state, reason = "interrupted", "interrupted by the user"
        raise
    except GeneratorExit:
        state, reason = "interrupted", "the caller stopped iterating"
        raise
    finally:
        heartbeat.stop()
        runner.close()
        study.store.set_study_state(study.record.id, state, reason, store_s=study.store_s)
    total = time.perf_counter() - started
    seconds = {"total": total, "suggest": study.suggest_s, "evaluate": evaluated, "store": study.store_s}
    return Result.of(study, seconds)


def _evaluate(
    study: Study, trial: Trial, evaluate: Evaluate, runner: Runner, heartbeat: Heartbeat
) -> tuple[TrialRecord | None, float]:
    """Measure and tell one trial; None in place of the record where another worker has the trial by now."""
    began = time.perf_counter()
    try:
        with heartbeat.beating(trial):
            outcome = _outcome(trial, evaluate, runner, reporter_of(study, trial, evaluate, runner))
            spent = time.perf_counter() - began
            with held():
                return study.tell(trial, outcome, evaluate_s=spent), spent
    except LeaseLostError:
        return None, time.perf_counter() - began
    except BaseException:
        with contextlib.suppress(StoreError):  # it may have been told; and what broke matters more
            study.release(trial)
        raise


def _outcome(
    trial: Trial, evaluate: Evaluate, runner: Runner, reporter: Reporter | None
) -> Measurement | Failure | Pruned:
    if reporter is None:
        try:
            return runner.run(evaluate, trial.config, trial.seed)
        except (Failure, Pruned) as ended:
            return ended
    with reporter:
        try:
            found: Measurement | Failure | Pruned = runner.run(evaluate, trial.config, trial.seed, report=reporter)
        except (Failure, Pruned) as ended:
            found = ended
    if reporter.stopped is None:
        return found
    # One that was told to stop has not measured all that it would have, whatever it returned.
    reporter.stopped.log = found.log
    return reporter.stopped


def _progress(study: Study, trial: TrialRecord, budget: int | None, elapsed: float, first: int) -> Progress:
    history = study.history
    best = history.best if len(study.objectives) == 1 else next(iter(history.pareto), None)
    measured = len(history.counted) - first
    remaining = None
    if budget is not None and measured > 0:
        remaining = elapsed / measured * max(0, budget - len(history.counted))
    return Progress(study, trial, best, history.gain(best), counts(history.counted), budget, elapsed, remaining)


__all__ = ["DEFAULT_TRIALS", "Progress", "domain_problem", "measure_iter", "open_study", "search", "search_iter"]

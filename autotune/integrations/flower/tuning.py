"""Studies of Flower apps: made, run by run, and searched."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from autotune.checks import instance, mapping
from autotune.domain import Problem
from autotune.errors import AutotuneError, LeaseLostError, SpaceExhaustedError, StoreError, UsageError
from autotune.execution.runner import classify
from autotune.hardware import current_environment
from autotune.heartbeat import Heartbeat
from autotune.integrations.flower.run import TOTALS, TunedRun
from autotune.interrupts import asked, held
from autotune.loop import DEFAULT_TRIALS
from autotune.measurement import Failure, Measurement
from autotune.objective import Objective, OutcomeConstraint, parse_constraints, parse_objectives
from autotune.opening import open_study as open_of_problem
from autotune.reports import Pruned
from autotune.result import Result
from autotune.space import Config, SearchSpace
from autotune.stopping import Limits
from autotune.study import Study


def open_study(
    space: SearchSpace,
    objectives: str | Objective | Iterable[str | Objective],
    *,
    constraints: Iterable[str | OutcomeConstraint] = (),
    default: Mapping[str, Any] | None = None,
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Study:
    """The study of that name, made where it is new.

    It knows that what a run took (`TunedRun.totals`) only grows, so that its pruner ends a run whose bytes exceed a limit.

    Args:
        settings: ``storage``, ``name``, ``strategy``, ``strategy_options``, ``seed``, ``trials``, ``pruner`` and
            ``pruner_options``, see `autotune.search_iter`.

    Raises:
        UsageError: for anything that cannot be used, and when the study of that name is another one.
    """
    problem = Problem(
        space=instance("space", space, SearchSpace, "an autotune.SearchSpace"),
        objectives=tuple(map(str, parse_objectives(objectives))),
        constraints=tuple(map(str, parse_constraints(constraints))),
        default=space.default() if default is None else dict(mapping("default", default)),
        baselines=mapping("baselines", baselines or {}),
        evaluators={"flower": _by_flower},
        accumulating=TOTALS,
    )
    return open_of_problem(problem, **settings)


def _by_flower(config: Config) -> object:
    raise UsageError("a study of a Flower app is gone on with by tune or tuned_run, which run the app")


@contextmanager
def tuned_run(study: Study, *, trials: int | None = None) -> Iterator[TunedRun]:
    """Ask for a trial, and tell what the Flower run within the block gave.

    A run that fails in a way that says something of its configuration (it diverged, no client came back) is told as that, and
    so is one that the study's pruner ends. The block is left then as if nothing had happened, and ``run.record`` is the trial.
    Any other exception is told as a crash and passed on. A mistake of the caller's, and Ctrl-C, give the trial back to be asked
    for again.

    Args:
        trials: begin none beyond so many in the study.

    Raises:
        SpaceExhaustedError: when there is nothing left to try.
        UsageError: when the app reports no metric of the name of an objective, among other mistakes.
    """
    environment = current_environment()
    study.set_environment(environment.fingerprint, environment.to_dict())
    trial = asked(study, trials)
    heartbeat = Heartbeat(study)
    began = time.perf_counter()
    raised: BaseException | None = None
    try:
        with heartbeat.beating(trial):
            run = TunedRun(study, trial)
            try:
                yield run
                outcome: Measurement | Failure | Pruned = run.outcome()
            except (Exception, SystemExit) as error:
                known = run.error or error
                if isinstance(known, AutotuneError):  # nothing that the configuration has done
                    raise known from None if known is error else error
                outcome = classify(known) if run.pruned is None else Pruned(run.pruned)
                raised = None if run.pruned is not None or isinstance(known, Failure) else error
            with held():
                run.record = study.tell(trial, outcome, evaluate_s=time.perf_counter() - began)
    except BaseException:
        with suppress(StoreError):  # it may have been told; and what broke matters more
            study.release(trial)
        raise
    finally:
        heartbeat.stop()
    if raised is not None:
        raise raised


def tune(
    study: Study,
    run_app: Callable[[TunedRun], object],
    *,
    trials: int | None = None,
    timeout_s: float | None = None,
    target: str | None = None,
    callback: Callable[[TunedRun], None] | None = None,
) -> Result:
    """Run a Flower app again and again, each time with another configuration.

    Args:
        run_app: ``run_app(run)`` runs the app once, with ``run.tuned(strategy)`` as its strategy. It may return a mapping of
            further metrics.
        trials: trials in the study when it is done; what it was made for when None, else 60.
        timeout_s: begin no run after so many seconds.
        target: stop when the incumbent is this good, ``"server.accuracy >= 0.9"``.
        callback: called after every run.

    Returns:
        The result; ``result.best.config`` is the answer. A run that crashes is warned of, and the next one begins.

    Raises:
        UsageError: see `tuned_run`.
        KeyboardInterrupt: passed on after the trial was given back; every finished one is kept.
    """
    began = time.perf_counter()
    if trials is None and timeout_s is None:
        trials = study.record.budget.get("trials", DEFAULT_TRIALS)
    limits = Limits.check(trials=trials, timeout_s=timeout_s, target=target, min_gain=None, min_gain_per_hour=None)
    limits.require_objectives(study.objectives)
    study.store.set_study_state(study.record.id, "running")
    state, reason = "failed", "the search was broken off by an error"
    try:
        while True:
            enough = limits.reason(time.perf_counter() - began, lambda: study.history)
            if enough is not None:
                state, reason = "done", enough
                break
            try:
                _once(study, run_app, limits.trials, callback)
            except SpaceExhaustedError as end:
                state, reason = "done", str(end)
                break
    except KeyboardInterrupt:
        state, reason = "interrupted", "interrupted by the user"
        raise
    finally:
        study.store.set_study_state(study.record.id, state, reason)
    return Result.of(study)


def _once(
    study: Study,
    run_app: Callable[[TunedRun], object],
    trials: int | None,
    callback: Callable[[TunedRun], None] | None,
) -> None:
    run = None
    try:
        with tuned_run(study, trials=trials) as run:
            returned = run_app(run)
            if isinstance(returned, Mapping):
                run.measured(**returned)
    except LeaseLostError:  # another worker has the trial by now
        return
    except (Exception, SystemExit):
        if run is None or run.record is None:  # it was not told as a crash
            raise
        warnings.warn(f"trial {run.number} failed: {run.record.failure_message}", RuntimeWarning, stacklevel=3)
    if callback is not None and run is not None:
        callback(run)

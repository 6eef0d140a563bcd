"""Runners call an evaluator and turn whatever goes wrong into a typed `Failure`; this file holds the in-process one."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import subprocess
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autotune.errors import UsageError
from autotune.execution.process import printable, says_out_of_memory
from autotune.measurement import ONCE, Failure, FailureKind, Measurement, Protocol, repeat
from autotune.reports import Report, ignored

Evaluate = Callable[..., object]
"""``evaluate(config)``, with the keywords `seed` and `report` where it takes them; returns what `Measurement.of` reads, or
raises."""


class Runner(typing.Protocol):
    """Measures one configuration."""

    def run(
        self, evaluate: Evaluate, config: Mapping[str, Any], seed: int, report: Report | None = None
    ) -> Measurement:
        """Measure `config` as often as the runner's protocol asks for.

        Args:
            evaluate: called with a copy of the configuration, and with ``seed=seed`` and ``report=...`` where it takes
                keywords of these names.
            config: parameter values by name.
            seed: of this trial, the same for every repeat.
            report: takes the reports of the first counted run; those of warm-ups and of further repeats are ignored. With None
                all are.

        Raises:
            Failure: when the configuration could not be measured.
            Pruned: what `report` or the evaluator raised to end the evaluation early.
            UsageError: when the evaluator itself cannot be used, so that no other configuration would fare better.
        """

    def close(self) -> None:
        """Free what the runner holds. A closed runner may be used again."""


def metric_names(objectives: Sequence[str]) -> tuple[str, ...]:
    """Objectives as a runner takes them; one name alone is one metric, not its letters."""
    return (objectives,) if isinstance(objectives, str) else tuple(objectives)


class InProcess:
    """Calls the evaluator in this process: the least overhead, and no protection from a crash, a hang or memory.

    Args:
        objectives: metric names that every evaluation must return.
        protocol: how often to repeat; once by default.
    """

    def __init__(self, objectives: Sequence[str], protocol: Protocol = ONCE) -> None:
        self.objectives = metric_names(objectives)
        self.protocol = protocol

    def run(
        self, evaluate: Evaluate, config: Mapping[str, Any], seed: int, report: Report | None = None
    ) -> Measurement:
        """See `Runner.run`."""
        heard = reports_of_first(report, self.protocol)
        try:
            return repeat(lambda: call(evaluate, config, seed, next(heard)), self.objectives, self.protocol)
        except (UsageError, Failure):
            raise
        except (Exception, SystemExit) as error:
            raise classify(error) from error

    def close(self) -> None:
        """Nothing is held."""


def reports_of_first(report: Report | None, protocol: Protocol) -> Iterator[Report | None]:
    """What each run of a protocol in turn reports to: the first that counts to `report`, the others to nobody."""
    first = itertools.chain(itertools.repeat(None, protocol.warmup), [report])
    return itertools.chain(first, itertools.repeat(None))


def call(evaluate: Evaluate, config: Mapping[str, Any], seed: int, report: Report | None = None) -> object:
    """One call of the evaluator with a copy of the configuration, and what else it takes.

    Raises:
        UsageError: for what is no callable, or takes other arguments; every configuration would fail alike.
    """
    given = copy.deepcopy(dict(config))
    options: dict[str, Any] = {"seed": seed} if takes(evaluate, "seed") else {}
    if takes(evaluate, "report"):
        options["report"] = ignored if report is None else report
    try:
        return evaluate(given, **options)
    except TypeError as error:
        if not _can_be_called(evaluate, options):
            raise UsageError(
                f"evaluate cannot be called with a configuration ({error}); give a callable that takes one argument"
            ) from error
        raise


def _can_be_called(evaluate: object, options: Mapping[str, Any]) -> bool:
    if not callable(evaluate):
        return False
    try:
        inspect.signature(evaluate).bind({}, **options)
    except TypeError:
        return False
    except ValueError:  # a signature that cannot be told
        return True
    return True


def takes(evaluate: Evaluate, name: str) -> bool:
    """Whether the callable has a parameter of that name that is still free to be given by keyword."""
    if isinstance(evaluate, functools.partial) and name in evaluate.keywords:
        return False
    try:
        parameter = inspect.signature(evaluate).parameters.get(name)
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def classify(exception: BaseException) -> Failure:
    """The typed failure that an evaluator's exception means.

    The message is one line, ``Type: message``; the traceback is kept as the failure's log and as a note (`details`).

    Raises:
        BaseException: `exception` itself where it is no failure of the configuration: `KeyboardInterrupt` and the like,
            and `UsageError`, which is the caller's mistake.
    """
    if isinstance(exception, Failure):
        return exception
    if isinstance(exception, UsageError) or not isinstance(exception, (Exception, SystemExit)):
        raise exception
    text = printable(f"{type(exception).__name__}: {_said(exception)}")
    trace = "".join(traceback.format_exception(exception))
    failure = Failure(_kind(exception), text if len(text) <= 300 else text[:299] + "…", trace)
    failure.add_note(trace)
    return failure


def _said(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception as error:  # `__str__` is the evaluator's code too
        return f"(its text cannot be had: {type(error).__name__})"


COMMAND, ISOLATED, REPEATS = "command", "isolated", "repeats"
OF_MEASURING = (COMMAND, ISOLATED, REPEATS)
"""Settings of a study that say how it was measured last: nothing that it was made with, and kept so that it is gone on with
by its name alone."""


def described(evaluate: Evaluate, runner: Runner) -> dict[str, Any]:
    """What a study keeps of how it is measured, by `OF_MEASURING`: JSON-able, and absent where there is nothing to say.

    An evaluator says what it is by a method ``described()``, as `CommandEvaluator` does, and a runner likewise.
    """
    of_evaluator, of_runner = (getattr(one, "described", None) for one in (evaluate, runner))
    protocol = getattr(runner, "protocol", ONCE)
    found = {
        COMMAND: of_evaluator() if callable(of_evaluator) else None,
        ISOLATED: of_runner() if callable(of_runner) else None,
        REPEATS: asdict(protocol) if protocol != ONCE else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def details(failure: Failure) -> str:
    """What is known beyond the message: the traceback, or the end of the output. Empty where there is nothing."""
    return "\n".join(getattr(failure, "__notes__", ()))


def _kind(exception: BaseException) -> FailureKind:
    # torch's and JAX's errors are told by name and text: importing a framework only to ask costs seconds.
    names = {cls.__name__ for cls in type(exception).__mro__}
    if isinstance(exception, MemoryError) or "OutOfMemoryError" in names or says_out_of_memory(_said(exception)):
        return FailureKind.OOM
    if isinstance(exception, (TimeoutError, subprocess.TimeoutExpired)):
        return FailureKind.TIMEOUT
    return FailureKind.CRASH

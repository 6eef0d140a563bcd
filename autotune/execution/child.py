"""What runs inside an isolated process: load the evaluator once, then answer one request after another."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import pickle
import resource
import select
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import Any

from autotune.errors import UsageError
from autotune.execution.runner import Evaluate, call, classify
from autotune.measurement import Failure, Measurement
from autotune.reports import TOO_LATE, Pruned, checked

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>

loading = False
"""True while the evaluator is being loaded, when a script that is imported again must not start a search."""


@dataclass(frozen=True)
class Start:
    """The first request.

    Attributes:
        main: where to import the parent's ``__main__`` from (`multiprocessing.spawn.get_preparation_data`), or None
            where the evaluator does not come from it.
        evaluate: the pickled evaluator.
        objectives: metric names that it must return.
        data_limit_bytes: for `RLIMIT_DATA`, or None.
    """

    main: Mapping[str, Any] | None
    evaluate: bytes
    objectives: tuple[str, ...]
    data_limit_bytes: int | None


@dataclass(frozen=True)
class Call:
    """Evaluate one configuration once.

    Attributes:
        heard: whether the parent wants its reports, each of which it answers.
    """

    config: Mapping[str, Any]
    seed: int
    heard: bool = False


@dataclass(frozen=True)
class GoOn:
    """The answer to a report."""


@dataclass(frozen=True)
class End:
    """The other answer to a report: why the evaluation shall end."""

    reason: str


@dataclass(frozen=True)
class Stop:
    """End as a program does, so that what registered with `atexit` runs."""


@dataclass(frozen=True)
class Ready:
    """The evaluator is loaded."""


@dataclass(frozen=True)
class Misuse:
    """A `UsageError`'s text."""

    message: str


@dataclass(frozen=True)
class Reported:
    """An intermediate report; no reply yet."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Ended:
    """The evaluation ended early."""

    reason: str


Request = Start | Call | Stop | GoOn | End
Reply = Ready | Misuse | Measurement | Failure | Reported | Ended


def main(descriptor: int) -> None:
    """Serve requests from the socket `descriptor` until a `Stop`; die with all children when the parent closes it."""
    # It arrived inheritable; what the evaluator starts must not hold it open.
    os.set_inheritable(descriptor, False)
    connection: Connection[Reply, Request] = Connection(descriptor)
    # Watches for the parent's end even while the evaluator runs; the evaluator must not outlive the search.
    threading.Thread(target=_die_with_parent, args=(descriptor,), daemon=True).start()
    _adopt_orphans()
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        # A process that dies must have said its last words before.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    start = connection.recv()
    assert isinstance(start, Start)
    try:
        evaluate = _load(start)
    except UsageError as error:
        connection.send(Misuse(str(error)))
        return
    connection.send(Ready())
    while isinstance(request := connection.recv(), Call):
        reports = _Reports(connection)
        reply = _evaluate(evaluate, request, start.objectives, reports)
        reports.close()
        _answer(connection, reply)


def _load(start: Start) -> Evaluate:
    global loading  # noqa: PLW0603 -- read by `Isolated` when the evaluator's own script is imported again
    loading = True
    try:
        if start.main is not None:
            spawn.prepare(dict(start.main))
        evaluate: Evaluate = pickle.loads(start.evaluate)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"the evaluator cannot be loaded in a fresh process ({type(error).__name__}: {error}); define it in a "
            "module that can be imported from there, or run it in process"
        ) from error
    finally:
        loading = False
    if start.data_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (start.data_limit_bytes, start.data_limit_bytes))
    return evaluate


class _Reports:
    """The `Report` of one call: sends every report and waits for its answer, so that it may come from any thread."""

    def __init__(self, connection: Connection[Reply, Request]) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self._step = -1
        self._reason: str | None = None

    def __call__(self, step: int, **metrics: float) -> None:
        with self._lock:
            if self._reason is None:
                self._step, values = checked(step, metrics, self._step)
                self._connection.send(Reported(self._step, values))
                answer = self._connection.recv()
                self._reason = answer.reason if isinstance(answer, End) else None
        if self._reason is not None:
            raise Pruned(self._reason)

    def close(self) -> None:
        """Send no more: what the parent says next is no answer to a report."""
        with self._lock:
            self._reason = TOO_LATE


def _evaluate(evaluate: Evaluate, request: Call, objectives: tuple[str, ...], report: _Reports) -> Reply:
    try:
        returned = call(evaluate, request.config, request.seed, report if request.heard else None)
        return Measurement.of(returned, objectives)
    except UsageError as error:
        return Misuse(str(error))
    except Pruned as pruned:
        return Ended(pruned.reason)
    except Failure as failure:
        # A subclass of the user's may not survive the way back.
        plain = Failure(failure.kind, failure.message, failure.log)
        for note in getattr(failure, "__notes__", ()):
            plain.add_note(note)
        return plain
    except (Exception, SystemExit) as error:
        return classify(error)


def _answer(connection: Connection[Reply, Request], reply: Reply) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    try:
        connection.send(reply)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        connection.send(
            Misuse(f"what the evaluator returned cannot be sent back ({error}); return plain numbers and text")
        )


def _die_with_parent(descriptor: int) -> None:
    hang_up = select.poll()
    hang_up.register(descriptor, 0)  # no event but those that are always reported: the other end is closed
    hang_up.poll()
    os.killpg(0, signal.SIGKILL)


def _adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that one that started its own session is still found."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

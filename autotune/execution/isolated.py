"""Evaluations in a process of their own: a crash, a hang or running out of memory never harms the search."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing import spawn
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from autotune.errors import UsageError
from autotune.execution import child
from autotune.execution.process import GIB, Limits, SessionProcess
from autotune.execution.runner import Evaluate, metric_names, reports_of_first, takes
from autotune.measurement import ONCE, Failure, FailureKind, Measurement, Protocol, joined_logs, repeat
from autotune.reports import Pruned, Report

# Importing a large framework from a cold network disk takes minutes; loading longer than this is a hang.
_LOAD_LIMIT = Limits(time_s=600.0)

# How long a process may take to end by itself, so that profilers and CUDA write and free what they hold.
_GRACE_S = 2.0

# After these the evaluator's process is as good as before; after the others it may hold memory or a broken context.
_HARMLESS = frozenset({FailureKind.INVALID, FailureKind.NAN})

# sys.path comes first: the package itself may be importable only through what the parent added to it.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from autotune.execution.child import main; main(int(sys.argv[2]))"
)


class Isolated:
    """Calls the evaluator in a fresh Python process that leads its own session; limits apply to each call of it.

    The process loads the evaluator once (loading is not counted against the time limit) and is used again by the next
    configuration, as importing a framework costs seconds; after any failure but `invalid` and `nan`, and after an
    interrupt, it is ended with all processes that it started, and the next configuration gets a new one. The end of what
    the evaluator prints is the log of the measurement or the failure, and is quoted when the process dies.

    Memory is watched from outside, every 50 ms, as the resident size of the session: address-space limits
    (`RLIMIT_AS`) also count what is reserved and never touched, which under CUDA and numba is hundreds of GiB.
    `hard_memory_limit` adds `RLIMIT_DATA` per process, which no burst between two looks can pass and which surfaces as
    a `MemoryError` inside the evaluator; it counts private writable pages that are reserved, thread stacks included.
    Device memory is not limited.

    Args:
        objectives: metric names that every evaluation must return.
        protocol: how often to repeat; once by default. All repeats run in the same process.
        time_limit_s: wall time of one call in seconds; exceeding it is a `timeout`.
        memory_limit_gib: memory of the session in GiB, the interpreter's own (0.13 GiB, with torch 0.3) included;
            exceeding it is an `oom`.
        hard_memory_limit: see above.
        reuse: False gives every configuration a process of its own.

    Raises:
        UsageError: for a limit that is not above 0.

    Not safe for concurrent use; give every worker its own.
    """

    def __init__(
        self,
        objectives: Sequence[str],
        protocol: Protocol = ONCE,
        *,
        time_limit_s: float | None = None,
        memory_limit_gib: float | None = None,
        hard_memory_limit: bool = False,
        reuse: bool = True,
    ) -> None:
        if hard_memory_limit and memory_limit_gib is None:
            raise UsageError("hard_memory_limit is set without memory_limit_gib; give the limit too")
        self.objectives = metric_names(objectives)
        self.protocol = protocol
        self.limits = Limits(time_limit_s, memory_limit_gib)
        self.hard_memory_limit = hard_memory_limit
        self.reuse = reuse
        self._worker: _Worker | None = None

    def run(
        self, evaluate: Evaluate, config: Mapping[str, Any], seed: int, report: Report | None = None
    ) -> Measurement:
        """See `Runner.run`. The evaluator must be importable or picklable; it is sent when it is first seen.

        Every report is answered by this process. What that takes counts against the time limit.

        Raises:
            Pruned: when `report` or the evaluator ended the evaluation early; its process is used again.
            Failure: `timeout`, `oom`, `crash` (an exception, a signal or an exit), what the evaluator raised itself, or
                `infra` when its process died before the evaluator was called.
            UsageError: when the evaluator cannot be sent to or loaded in another process, or returns what is no metric.
        """
        heard = reports_of_first(report if takes(evaluate, "report") else None, self.protocol)
        try:
            return repeat(lambda: self._call(evaluate, config, seed, next(heard)), self.objectives, self.protocol)
        except Failure as failure:
            if failure.kind not in _HARMLESS:
                self._kill()
            raise
        except (UsageError, Pruned):
            raise
        except BaseException:
            self._kill()
            raise
        finally:
            if not self.reuse:
                self.close()

    def described(self) -> dict[str, Any]:
        """The arguments that make a runner with the same limits."""
        return {
            "time_limit_s": self.limits.time_s,
            "memory_limit_gib": self.limits.memory_gib,
            "hard_memory_limit": self.hard_memory_limit,
            "reuse": self.reuse,
        }

    def close(self) -> None:
        """End the process, if one is held: with a short grace to exit by itself, then with all that it started."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _kill(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def _call(self, evaluate: Evaluate, config: Mapping[str, Any], seed: int, report: Report | None) -> Measurement:
        if self._worker is not None and (self._worker.evaluate is not evaluate or self._worker.process.exited):
            self.close()
        if self._worker is None:
            self._worker = self._started(evaluate)
        try:
            reply = self._worker.ask(child.Call(dict(config), seed, report is not None), self.limits, report)
        except Failure as failure:  # a limit, which knows of no output; a process that ended does
            failure.log = failure.log or self._worker.process.log()
            raise
        printed = self._worker.process.log()
        if isinstance(reply, Failure):
            reply.log = joined_logs(printed, reply.log)
            raise reply
        if isinstance(reply, child.Ended):
            raise Pruned(reply.reason, log=printed)
        if isinstance(reply, child.Misuse):
            raise UsageError(reply.message)
        assert isinstance(reply, Measurement)
        return replace(reply, log=joined_logs(printed, reply.log))

    def _started(self, evaluate: Evaluate) -> _Worker:
        worker = _Worker(evaluate)
        try:
            worker.load(self.objectives, int((self.limits.memory_gib or 0.0) * GIB) if self.hard_memory_limit else None)
        except BaseException:
            worker.kill()
            raise
        return worker


class _Worker:
    """One isolated process that serves one evaluator."""

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate
        self._payload = _pickled(evaluate)
        self._main = _main_module() if b"__main__" in self._payload else None
        ours, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno())]
            self.process = SessionProcess(argv, pass_fds=[theirs.fileno()], merge=True)
        self._connection: Connection[child.Request, child.Reply] = Connection(ours.detach())
        # Also at interpreter exit, but never from a fork of this process.
        self._finalizer = weakref.finalize(self, _end, self.process, self._connection, os.getpid())

    def load(self, objectives: tuple[str, ...], data_limit_bytes: int | None) -> None:
        try:
            reply = self.ask(child.Start(self._main, self._payload, objectives, data_limit_bytes), _LOAD_LIMIT)
        except Failure as failure:
            message = f"while the evaluator was loaded: {failure.message}"
            raise Failure(FailureKind.INFRA, message, failure.log or self.process.log()) from failure
        if isinstance(reply, child.Misuse):
            raise UsageError(reply.message)

    def ask(self, request: child.Request, limits: Limits, report: Report | None = None) -> child.Reply:
        """Send a request and wait for the reply under limits, answering reports until it comes.

        Raises:
            Failure: when a limit is exceeded or the process ends instead of replying.
            UsageError: when the request cannot be sent.
        """
        self.process.stdout.clear()
        replies: list[child.Reply] = []

        def replied(seconds: float) -> bool:
            until = time.monotonic() + seconds
            # Several reports between two looks at the limits, which cost more than they do; but no more than there is time for.
            while self._spoke_or_exited(max(0.0, until - time.monotonic())):
                said = self._connection.recv()
                if not isinstance(said, child.Reported):
                    replies.append(said)
                    return True
                self._connection.send(_answer(said, report))
                if time.monotonic() >= until:
                    break
            return False

        try:
            self._send(request)
            self.process.supervise(replied, limits)
            return replies[0]
        except (EOFError, ConnectionError):
            # The socket closes a moment before the process is gone, and it may have been closed by one that lives on.
            if not self.process.exits_within(_GRACE_S):
                raise Failure(FailureKind.CRASH, "the evaluator closed its process's connection") from None
            raise self.process.failure("the evaluator's process", limits) from None

    def _send(self, request: child.Request) -> None:
        try:
            self._connection.send(request)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UsageError(f"the configuration cannot be sent to an isolated process: {error}") from error

    def _spoke_or_exited(self, seconds: float) -> bool:
        # An exit is looked at too, as a grandchild that inherited the socket would keep it open.
        if self._connection.poll(seconds):
            return True
        if self.process.exited and not self._connection.poll():
            raise EOFError
        return False

    def close(self) -> None:
        self.process.remember_descendants()
        with contextlib.suppress(OSError):
            self._connection.send(child.Stop())
            self.process.exits_within(_GRACE_S)
        self.kill()

    def kill(self) -> None:
        self._finalizer()


def _answer(said: child.Reported, report: Report | None) -> child.Request:
    try:
        if report is not None:
            report(said.step, **said.metrics)
    except Pruned as pruned:
        return child.End(pruned.reason)
    return child.GoOn()


def _end(process: SessionProcess, connection: Connection[child.Request, child.Reply], owner: int) -> None:
    if os.getpid() == owner:
        process.end()
        connection.close()


def _pickled(evaluate: Evaluate) -> bytes:
    name = getattr(evaluate, "__qualname__", type(evaluate).__qualname__)
    if child.loading:
        raise UsageError(
            f"evaluator {name} is defined in a script that starts a search when it is imported; put the search under "
            "`if __name__ == '__main__':`, or move the evaluator into a module"
        )
    try:
        return pickle.dumps(evaluate)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"evaluator {name} cannot be sent to an isolated process ({error}); define it with `def` at the top level "
            "of a module instead of as a lambda or inside a function, or run it in process"
        ) from error


def _main_module() -> dict[str, Any]:
    data = dict(spawn.get_preparation_data("autotune-evaluator"))
    path = data.get("init_main_from_path")
    if "init_main_from_name" not in data and (path is None or not Path(path).is_file()):
        raise UsageError(
            "the evaluator is defined in an interactive session, which an isolated process cannot import; move it into "
            "a .py file and import it, or run it in process"
        )
    # The key of multiprocessing's own connections is neither needed nor picklable.
    return {name: value for name, value in data.items() if name != "authkey"}

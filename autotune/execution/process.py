"""A process that leads its own session: its last output kept, its memory watched, all it started ended with it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from autotune.errors import UsageError
from autotune.measurement import LOG_BYTES, Failure, FailureKind, joined_logs, log_tail

GIB = float(1 << 30)

# How often limits are looked at. A look costs about a millisecond of one core; memory can be exceeded for this long.
_LOOK_S = 0.05

_STDERR = "--- stderr ---"  # stands in a log between the two streams
_BLOCK = 1 << 16  # bytes of a stream that are read at once
_PIPE_BLOCKS = 16  # a pipe holds up to 1 MiB where nobody raised the kernel's limit

# A process that the kernel's OOM killer took is believed to have run out of memory from this share of its limit on.
_NEAR_LIMIT = 0.9

# What allocators print last before they give up: CPython, PyTorch, XLA, libstdc++, LLVM, glibc's perror.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|\bMemoryError\b|RESOURCE_EXHAUSTED|std::bad_alloc|Cannot allocate memory",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Limits:
    """What one call may take; None is without limit.

    Attributes:
        time_s: wall time in seconds.
        memory_gib: resident memory in GiB of the whole session, the interpreter included.
    """

    time_s: float | None = None
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        for field, value in (("time limit in seconds", self.time_s), ("memory limit in GiB", self.memory_gib)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
                raise UsageError(f"{field} is {value!r}; give a number above 0, or none for no limit")


class Tail:
    """The last bytes of a stream, read by a thread so that a chatty process never blocks on a full pipe."""

    def __init__(self, stream: IO[bytes], keep_bytes: int) -> None:
        self._kept = bytearray()
        self._passed = 0  # bytes that were read and are kept no more
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()
        self._stream = stream
        self._ended = False
        self._came = select.poll()
        self._came.register(stream, select.POLLIN)
        self._thread = threading.Thread(target=self._drain, daemon=True, name="autotune-tail")
        self._thread.start()

    def _drain(self) -> None:
        waiting = select.poll()  # one object for each thread that polls
        waiting.register(self._stream, select.POLLIN)
        with self._stream:
            while not self._ended:
                waiting.poll()
                with self._lock:
                    self._take()

    def _take(self) -> bool:
        """Take one block over, if there is any; says whether there was. The lock is held."""
        if self._ended or not self._came.poll(0):
            return False
        block = self._stream.read(_BLOCK)
        self._ended = not block
        self._kept += block
        self._passed += max(0, len(self._kept) - self._keep_bytes)
        del self._kept[: -self._keep_bytes]
        return True

    def settle(self) -> str:
        """As `text`, with all that was written before the call."""
        with self._lock:
            for _ in range(_PIPE_BLOCKS):  # more than a pipe holds, and no more, as a process may print without end
                if not self._take():
                    break
        return self.text()

    def text(self) -> str:
        """What was kept, decoded as UTF-8 with replacement characters for what is not."""
        with self._lock:
            return self._kept.decode("utf-8", errors="replace")

    def lines_since(self, place: int) -> tuple[list[str], int]:
        """Whole lines that came after the byte `place` of the stream, and the place after them.

        Lines of which more came than is kept since the last look are lost.
        """
        with self._lock:
            start = max(0, place - self._passed)
            end = self._kept.rfind(b"\n", start) + 1
            text = bytes(self._kept[start:end]).decode("utf-8", errors="replace") if end else ""
            return text.splitlines(), max(place, self._passed + end)

    def clear(self) -> None:
        with self._lock:
            self._passed += len(self._kept)
            self._kept.clear()

    def join(self, timeout_s: float) -> None:
        """Wait for the stream's end, within limits, as a process that left the session may hold it open for ever."""
        self._thread.join(timeout_s)


class SessionProcess:
    """A started process, leader of its own session and process group, with no input.

    Args:
        argv: program and arguments; no shell is involved.
        env: whole environment, or None for this process's own.
        cwd: working folder.
        pass_fds: file descriptors that the process inherits beside its streams.
        merge: let `stdout` hold what is printed on both streams, in order; `stderr` is then the same object.
        keep_bytes: how much of the end of each stream is kept.

    Raises:
        OSError: when the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        merge: bool = False,
        keep_bytes: int = 1 << 16,
    ) -> None:
        self._oom_kills_before = _kernel_oom_kills()
        self.started_s = time.perf_counter()
        self._popen = subprocess.Popen(
            list(argv),
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self.ended_s = self.started_s
        self.peak_bytes = 0
        self._exited = threading.Event()
        self._code: int | None = None
        self._remembered: list[psutil.Process] = []
        assert self._popen.stdout is not None
        self.stdout = Tail(self._popen.stdout, keep_bytes)
        self.stderr = self.stdout if self._popen.stderr is None else Tail(self._popen.stderr, keep_bytes)
        threading.Thread(target=self._await_exit, daemon=True, name="autotune-wait").start()

    def _await_exit(self) -> None:
        # WNOWAIT leaves the process unreaped, so that its number is not given to another before `end` kills the group.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.ended_s = time.perf_counter()
        self._exited.set()

    @property
    def exited(self) -> bool:
        """Whether the leader itself has ended; others of its session may still run."""
        return self._exited.is_set()

    def exits_within(self, seconds: float) -> bool:
        """Wait at most so long for the leader's end."""
        return self._exited.wait(seconds)

    def supervise(self, done: Callable[[float], bool], limits: Limits) -> None:
        """Block until ``done(seconds)``, which may wait that long, is true.

        Raises:
            Failure: `timeout` or `oom` when a limit is exceeded. The process still runs then: call `end`.
        """
        deadline = None if limits.time_s is None else time.monotonic() + limits.time_s
        while True:
            left = _LOOK_S if deadline is None else deadline - time.monotonic()
            if done(max(0.0, min(left, _LOOK_S))):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise Failure(FailureKind.TIMEOUT, f"no result within {limits.time_s:g} s")
            if limits.memory_gib is not None:
                self._check_memory(limits.memory_gib)

    def _check_memory(self, limit_gib: float) -> None:
        used = resident_bytes(self.pid, above=limit_gib * GIB)
        self.peak_bytes = max(self.peak_bytes, used)
        if used > limit_gib * GIB:
            raise Failure(
                FailureKind.OOM, f"used {used / GIB:.4g} GiB of memory, more than the limit of {limit_gib:g} GiB"
            )

    def remember_descendants(self) -> None:
        """Note who descends from the leader, as those who left its session are not to be found once it has ended."""
        self._remembered = _descendants(self.pid)

    def end(self) -> int:
        """Kill all that is left of the session and all descendants, reap the leader, and collect the last output.

        Returns:
            The exit code as `subprocess` tells it, negative for a signal; a leader that had ended keeps its own.
        """
        if self._code is None:
            for process in [*self._remembered, *_descendants(self.pid)]:
                with contextlib.suppress(psutil.Error):
                    process.kill()  # which looks at the start time first, as a number may have been given away
            for pid in session_members(self.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._code = self._popen.wait()
            for tail in (self.stdout, self.stderr):
                tail.join(timeout_s=1.0)
        return self._code

    def log(self) -> str | None:
        """The end of all that was printed since the streams were cleared; both streams one after the other, unless merged."""
        out, err = self.stdout.settle(), "" if self.stderr is self.stdout else self.stderr.settle()
        if not (out.strip() and err.strip()):
            return joined_logs(out, err)
        room = LOG_BYTES - len(f"\n{_STDERR}\n\n")
        # Each stream has half of it, and what the other one leaves.
        err = log_tail(err, max(room // 2, room - len(out.encode())))
        return joined_logs(log_tail(out, room - len(err.encode())), _STDERR, err)

    def failure(self, who: str, limits: Limits) -> Failure:
        """The failure of a leader that ended by itself: what ended it, its last words, and more output in a note."""
        code = self.end()
        output = self.stderr.text().strip() or self.stdout.text().strip()
        last = last_line(output)
        message = f"{who} {describe_exit(code)}" + (f"; its last output: {last}" if last else "")
        failure = Failure(
            FailureKind.OOM if self._ran_out_of_memory(code, output, limits) else FailureKind.CRASH,
            message,
            self.log(),
        )
        if output:
            failure.add_note(output[-4096:])
        return failure

    def _ran_out_of_memory(self, code: int, output: str, limits: Limits) -> bool:
        if code == -signal.SIGKILL:
            near_limit = limits.memory_gib is not None and self.peak_bytes >= _NEAR_LIMIT * limits.memory_gib * GIB
            before, after = self._oom_kills_before, _kernel_oom_kills()
            return near_limit or (before is not None and after is not None and after > before)
        # Only the last lines: an earlier mention may have been dealt with.
        return code != 0 and _OUT_OF_MEMORY.search("\n".join(output.splitlines()[-10:])) is not None


def says_out_of_memory(text: str) -> bool:
    """Whether an error's text is an allocator's."""
    return _OUT_OF_MEMORY.search(text) is not None


def last_line(text: str, limit: int = 200) -> str:
    """The last line that is not blank, cut to `limit` characters, without what a terminal would act upon."""
    lines = text.strip().splitlines()
    line = printable(lines[-1].strip()) if lines else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def printable(text: str) -> str:
    """The text on one line, with a replacement character for what is not printed: escape sequences, control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def describe_exit(code: int) -> str:
    """An exit code in words: ``was killed by SIGSEGV (signal 11)`` or ``exited with code 3``."""
    if code < 0:
        return f"was killed by {_signal_name(-code)} (signal {-code})"
    if code > 128 and _signal_name(code - 128) != "a signal":
        # Shells and container runtimes report a signal of their own child this way.
        return f"exited with code {code} (128 + {_signal_name(code - 128)})"
    return f"exited with code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a signal"


def session_members(session: int) -> set[int]:
    """The processes of a session, zombies included."""
    members = set()
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                members.add(pid)
    return members


def resident_bytes(session: int, above: float = 0.0) -> int:
    """Resident memory of a session in bytes.

    Resident sizes count a page once per process that maps it. Where their sum over several processes exceeds `above`,
    the proportional sizes, which count it once but cost a walk of the page tables, are taken instead.
    """
    members = session_members(session)
    resident = sum(_memory(pid, "rss") for pid in members)
    if len(members) == 1 or resident <= above:
        return resident
    return sum(_memory(pid, "pss") or _memory(pid, "rss") for pid in members)


def _memory(pid: int, kind: str) -> int:
    try:
        process = psutil.Process(pid)
        info = process.memory_full_info() if kind == "pss" else process.memory_info()
        return int(getattr(info, kind, 0))
    except psutil.Error:
        return 0


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _kernel_oom_kills() -> int | None:
    """How many processes the kernel's OOM killer has taken since boot, control groups included; None where unknown."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)

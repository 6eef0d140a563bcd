"""Did another process take the processor while something was timed?

On a busy machine a kernel on all cores waits at its barriers for the thread that lost its core: one competitor turns a
third of a millisecond into whole scheduler slices, and does so often enough to move the median. The scheduler itself
knows: it counts the time that each thread was ready to run and did not.
"""

from __future__ import annotations

from pathlib import Path

_TASKS = Path("/proc/self/task")

# A preempted thread loses at least a scheduler slice (0.7 to 8 ms); threads of our own that wait for each other lose
# some tens of microseconds. Short samples lie below either, so the absolute limit comes first.
_LIMIT_MS = 0.5
_LIMIT_SHARE = 0.05


def run_delay_ms() -> float | None:
    """Milliseconds that this process's living threads have spent ready to run but waiting for a core.

    None where the kernel keeps no account (no ``schedstat``), so that contention cannot be told from slowness.
    """
    total = 0
    try:
        for task in _TASKS.iterdir():
            try:
                # Fields: time on a core (ns), time waiting for one (ns), time slices.
                total += int((task / "schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                # A thread that ended since the listing: fine. A kernel without the file fails for the first one too.
                if task.exists():
                    return None
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e6


def is_contended(sample_ms: float, before: float | None, after: float | None) -> bool:
    """Whether a sample was slowed by other processes, from `run_delay_ms` before and after it."""
    if before is None or after is None:
        return False
    return after - before > max(_LIMIT_MS, _LIMIT_SHARE * sample_ms)

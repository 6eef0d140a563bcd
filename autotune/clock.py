"""Time spent at one kind of work."""

from __future__ import annotations

import time


class Clock:
    """Adds up the time spent inside of `with` blocks, in seconds."""

    def __init__(self) -> None:
        self.total = 0.0
        self._entered = 0.0

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.total += time.perf_counter() - self._entered

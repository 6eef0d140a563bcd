"""Keeps the lease of the trial that is being evaluated, so that a long evaluation is not given to another worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autotune.dispatch import LEASE_S
from autotune.errors import LeaseLostError, StoreError
from autotune.study import Study
from autotune.trial import Trial


class Heartbeat:
    """One thread for a whole search. Use `beating` around each evaluation, and `stop` at the end.

    Args:
        every_s: pause between extensions; a third of a lease, so that one that fails is made good by the next.
    """

    def __init__(self, study: Study, every_s: float = LEASE_S / 3) -> None:
        self._study = study
        self._every_s = every_s
        self._trial: Trial | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autotune-heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def beating(self, trial: Trial) -> Iterator[None]:
        """Extend the lease of `trial` until the block is left."""
        self._trial = trial
        try:
            yield
        finally:
            self._trial = None

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            trial = self._trial
            if trial is None:
                continue
            try:
                self._study.keep(trial)
            except LeaseLostError:
                continue  # told just now, or lost; whoever tells it learns which
            except StoreError:
                continue  # a database that is busy for a while has time until the lease ends

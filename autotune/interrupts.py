"""Ctrl-C at a moment of our choosing, where raising it at any other would lose it or leave something half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.study import Study
    from autotune.trial import Trial


@contextmanager
def held() -> Iterator[None]:
    """Let an interrupt wait for the end of the block, and raise `KeyboardInterrupt` there; a second one does not wait.

    Libraries that are imported, callbacks of the garbage collector and native code that calls back swallow the exception
    now and then; a search that was told to stop would go on. Nothing changes outside the main thread, nor where the
    program has a handler of its own.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            signal.default_int_handler(number, frame)
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def asked(study: Study, up_to: int | None) -> Trial:
    """The next trial; an interrupt meanwhile gives it back."""
    trial = None
    try:
        with held():
            trial = study.ask(up_to=up_to)
    except KeyboardInterrupt:
        if trial is not None:
            study.release(trial)
        raise
    return trial

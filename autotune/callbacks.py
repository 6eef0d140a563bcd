"""What is called after every trial of a search, and what becomes of an error there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.loop import Progress
    from autotune.result import Result

Callback: TypeAlias = "Callable[[Progress], object]"


def parse_callbacks(given: object) -> tuple[Callback, ...]:
    """None, one or many, in the order in which they are called.

    Raises:
        UsageError: for one that cannot be called.
    """
    if given is None:
        return ()
    found: tuple[Any, ...] = (given,) if callable(given) or not isinstance(given, Iterable) else tuple(given)
    for one in found:
        if not callable(one) or isinstance(one, type):
            raise UsageError(f"callback {one!r} cannot be called; give a function that takes a Progress, or several")
    return found


def listened(steps: Generator[Progress, None, Result], callbacks: Sequence[Callback]) -> Result:
    """Drive a search to its end, calling each of `callbacks` after every trial.

    A trial is stored before they are called. An error of one ends the search, with every finished trial kept, and is passed
    on; the study says that it was broken off, and can be gone on with.

    A callback with a method ``finish(result)`` is also told when the search has ended: with its `Result`, or with None where
    an error, or the user, broke it off.
    """
    result: Result | None = None

    def end(finish: Callable[[Result | None], object]) -> None:
        finish(result)

    with ExitStack() as ends:
        for callback in reversed(callbacks):
            finish = getattr(callback, "finish", None)
            if callable(finish):
                ends.callback(partial(end, finish))
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                result = found = cast("Result", stop.value)
                return found
            for callback in callbacks:
                _call(callback, progress, steps)


def _call(callback: Callback, progress: Progress, steps: Generator[Progress, None, Result]) -> None:
    try:
        callback(progress)
    except BaseException as error:
        study = progress.study
        error.add_note(
            f"raised by a callback of autotune.search after trial {progress.trial.number} of study {study.name!r}, which is "
            f"stored in {study.store.url}, as is every trial before it"
        )
        steps.throw(error)  # so that the study's state and the workers are left in order
        raise

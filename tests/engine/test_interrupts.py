"""Ctrl-C ends a search even where it comes while a library is at work that swallows exceptions."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from autotune import Int, SearchSpace, search
from autotune.interrupts import held
from autotune.store import Store, TrialState
from autotune.strategies import History, Strategy, Suggestion


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # a signal's handler runs between two instructions, not at once


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held():
        with contextlib.suppress(BaseException):  # as a callback of native code would
            _interrupt()
        done.append(True)
    assert done == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held():
        _interrupt()
        _interrupt()
        done.append(True)
    assert done == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_handler_stays() -> None:
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with held():
            _interrupt()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_other_threads_are_let_be() -> None:
    ended = []

    def work() -> None:
        with held():
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]


class Swallowing(Strategy):
    """Is interrupted once, while it makes its second proposal, in code that lets no exception through."""

    name = "swallowing"
    summary = "for this test"
    interrupted = False

    def propose(self, history: History, n: int) -> Sequence[Suggestion]:
        if len(history.counted) == 2 and not Swallowing.interrupted:
            Swallowing.interrupted = True
            with contextlib.suppress(BaseException):
                _interrupt()
        return [self.suggestion({"x": 10 + len(history.counted)})]


def test_a_search_interrupted_in_its_strategy_stops_and_gives_the_trial_back(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db")
    space = SearchSpace([Int("x", 0, 100)])
    with pytest.raises(KeyboardInterrupt):
        search(space, lambda config: float(config["x"]), trials=6, strategy=Swallowing, storage=store)
    study = store.load_study("study")
    assert (study.state, study.stop_reason) == ("interrupted", "interrupted by the user")
    assert [t.state for t in store.trials(study.id)] == [TrialState.COMPLETED, TrialState.COMPLETED, TrialState.WAITING]
    result = search(space, lambda config: float(config["x"]), trials=6, strategy=Swallowing, storage=store)
    assert result.trials["total"] == 6

"""Runs what is missing: every searcher on every problem with every seed, seed by seed, so that a stopped benchmark is even."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from benchmarks.quality.ledger import Key, Ledger
from benchmarks.quality.peers.client import PeerError
from benchmarks.quality.problem import Problem
from benchmarks.quality.searchers import Searcher, resolve_searcher
from benchmarks.quality.session import Session, Settings


def run_all(
    problems: Sequence[Problem],
    searchers: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    ledger: Ledger,
    pythons: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Run and keep what the ledger lacks.

    Raises:
        UsageError: for an unknown searcher.
    """
    for name in searchers:
        todo = [
            (problem, seed)
            for seed in seeds
            for problem in problems
            if Key.of(problem, name, seed, settings) not in ledger.runs
        ]
        if not todo:
            say(f"{name}: nothing to do")
            continue
        searcher = resolve_searcher(name, pythons, problems)
        if isinstance(searcher, str):
            say(f"{name}: {searcher}")
            ledger.add_absent(name, searcher)
            continue
        try:
            refused = {p.name: reason for p in problems if (reason := searcher.refuses(p)) is not None}
            for problem_name, reason in refused.items():
                ledger.add_refused(name, problem_name, reason)
            for problem, seed in todo:
                if problem.name in refused:
                    continue
                try:
                    say(_run(problem, searcher, seed, settings, ledger))
                except PeerError as error:
                    ledger.add_broke(Key.of(problem, name, seed, settings), str(error))
                    say(f"{problem.name} {name} seed {seed}: {error}")
                    searcher.close()
                    again = resolve_searcher(name, pythons, problems)
                    if isinstance(again, str):
                        ledger.add_absent(name, again)
                        break
                    searcher = again
        finally:
            searcher.close()


def _run(problem: Problem, searcher: Searcher, seed: int, settings: Settings, ledger: Ledger) -> str:
    session = Session(problem, seed, settings)
    searcher.search(session)
    key = Key.of(problem, searcher.name, seed, settings)
    about = {
        "suite": problem.suite,
        "family": problem.family,
        "device": problem.device,
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    ledger.add_run(key, searcher.version, session.record(), about)
    failed = sum(one is None for one in session.seen)
    return (
        f"{problem.name} {searcher.name} seed {seed}: {len(session.seen)} evaluations, {failed} failed, "
        f"{session.infeasible} infeasible and {session.duplicates} repeated proposals, {sum(session.seconds):.1f} s"
    )

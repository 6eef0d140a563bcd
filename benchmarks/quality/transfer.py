"""What a searcher may learn from before it begins: earlier studies of the benchmark's other problems, good ones and bad ones.

`bo+siblings` has one study of every other device with the same kernel; `bo+shuffled` has one study whose measured values were
dealt out anew at random; `bo+strangers` has one study of a problem of every other family, of which only parameters with equal
names say anything at all. Each of these is what strategy `bo` itself did in 100 evaluations of that problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from autotune.measurement import Metric
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies import Source, Task, resolve
from benchmarks.quality.problem import Problem
from benchmarks.quality.session import Session, Settings

SOURCES = ("siblings", "shuffled", "strangers")
EARLIER = Settings(budget=100, initial=10)  # what an earlier study spent
_OTHER_SEEDS = 1_000_000  # an earlier study does not begin where this one does


def has_sources(kind: str, problem: Problem, problems: Sequence[Problem]) -> bool:
    """Whether there is anything to learn from."""
    return bool(_earlier(kind, problem, problems))


def sources(kind: str, problem: Problem, problems: Sequence[Problem], seed: int) -> tuple[Source, ...]:
    """The earlier studies of one run."""
    studies = tuple(_study(p, seed) for p in _earlier(kind, problem, problems))
    return tuple(_shuffled(s, seed) for s in studies) if kind == "shuffled" else studies


def _earlier(kind: str, problem: Problem, problems: Sequence[Problem]) -> list[Problem]:
    if kind == "shuffled":
        return [problem]
    others = [p for p in problems if p.objectives == problem.objectives and p.name != problem.name]
    if kind == "siblings":
        return [p for p in others if p.family == problem.family]
    first_of_family = {p.family: p for p in reversed(others) if p.family != problem.family}
    return list(first_of_family.values())


def _shuffled(source: Source, seed: int) -> Source:
    measured = [t for t in source.trials if t.state is TrialState.COMPLETED]
    order = np.random.default_rng([seed, 0x5407]).permutation(len(measured))
    dealt: dict[int, dict[str, Metric]] = {
        t.number: dict(measured[i].metrics) for t, i in zip(measured, order.tolist(), strict=True)
    }
    trials = tuple(replace(t, metrics=dealt[t.number]) if t.number in dealt else t for t in source.trials)
    return replace(source, trials=trials)


@lru_cache(maxsize=64)
def _study(problem: Problem, seed: int) -> Source:
    from benchmarks.quality.searchers import run_strategy  # noqa: PLC0415 - which knows of this module

    session = Session(problem, seed + _OTHER_SEEDS, EARLIER)
    strategy = resolve("bo")
    task = Task(
        space=problem.space,
        objectives=problem.objectives,
        constraints=(),
        default=session.initial[0],
        seed=session.seed,
        budget=EARLIER.budget,
    )
    trials: list[TrialRecord] = run_strategy(strategy(task), session)
    return Source(problem.name, problem.space, problem.objectives, tuple(trials))

"""How long a strategy takes for a proposal, by the trials that it knows: on one core, with histories of random configurations.

    python benchmarks/ask_time.py                              the table
    python benchmarks/ask_time.py --strategies bo,tpe --trials 100,500

The spaces: 11,000 feasible configurations of 8 parameters; 10 continuous parameters, with Optuna's own GP beside ours; 100
parameters. Each cell is the median of seven proposals after so many random trials, and the slowest of them. Each row has a
process of its own, whose largest memory it tells.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, the package itself is not on the path

import numpy as np  # noqa: E402
import optuna  # noqa: E402

from autotune import Float, Objective, Ordinal, SearchSpace  # noqa: E402
from autotune.measurement import Metric  # noqa: E402
from autotune.space import Config  # noqa: E402
from autotune.store.records import TrialRecord, TrialState  # noqa: E402
from autotune.strategies import History, Task, resolve  # noqa: E402

ASKS = 7  # of which the median counts
CONTINUOUS = "10 continuous"
OPTUNA = "Optuna's GP"
_OPTUNA_MOST = 1000  # trials: its models hold all of them, and the cost grows with their cube


def tiles() -> SearchSpace:
    """8 parameters as a GPU kernel has them; 11,000 of 25,920 combinations keep the limit on threads and tiles."""
    return SearchSpace(
        [
            Ordinal("block_x", [16, 32, 64, 128, 256, 512]),
            Ordinal("block_y", [1, 2, 4, 8, 16]),
            Ordinal("tile_x", [1, 2, 3, 4]),
            Ordinal("tile_y", [1, 2, 3, 4]),
            Ordinal("unroll", [1, 2, 4]),
            Ordinal("vector", [1, 2, 4]),
            Ordinal("stage", [0, 1]),
            Ordinal("pad", [0, 1]),
        ],
        ["32 <= block_x * block_y <= 1024", "block_y * tile_y * tile_x <= 48"],
    )


def box(d: int) -> SearchSpace:
    return SearchSpace([Float(f"x{i}", 0.0, 1.0) for i in range(d)])


def layers(d: int) -> SearchSpace:
    """A vector with a value for each layer, as cache budgets and drop rates have it."""
    return SearchSpace([Ordinal("rate", [0.0, 0.1, 0.2, 0.4, 0.8], size=d)])


SPACES: dict[str, Callable[[], SearchSpace]] = {
    "8 parameters, 11k feasible": tiles,
    CONTINUOUS: lambda: box(10),
    "100 ordinal": lambda: layers(100),
}


def cost(units: np.ndarray) -> np.ndarray:
    """A smooth bowl with a step, positive, of encoded configurations ``(n, d)``."""
    centre = np.linspace(0.2, 0.8, units.shape[1])
    value: np.ndarray = 1.0 + ((units - centre) ** 2).sum(axis=1) + 0.3 * (units[:, 0] > 0.5)
    return value


def trial(space: SearchSpace, number: int, config: Config, value: float) -> TrialRecord:
    return TrialRecord(
        id=number + 1, number=number, config=config, config_hash=space.config_hash(config), state=TrialState.COMPLETED,
        proposer="random", attempt=1, revision=number, metrics={"cost": Metric(value)}, suggest_s=0.01, evaluate_s=1.0,
    )  # fmt: skip


def random_trials(space: SearchSpace, n: int) -> list[TrialRecord]:
    configs = space.sample(n, 1)
    return [
        trial(space, i, c, float(v)) for i, (c, v) in enumerate(zip(configs, cost(space.encode(configs)), strict=True))
    ]


def asks(name: str, space: SearchSpace, trials: list[TrialRecord]) -> list[float]:
    """Seconds of proposals one after the other, each told of before the next."""
    task = Task(
        space, (Objective.parse("minimize cost"),), (), dict(trials[0].config), seed=0, budget=len(trials) + ASKS
    )
    strategy = resolve(name)(task)
    known, seconds = list(trials), list[float]()
    strategy.propose(History(task, tuple(known)), 1)  # what is made once and compiled once
    for _ in range(ASKS):
        history = History(task, tuple(known))
        began = time.perf_counter()
        found = strategy.propose(history, 1)
        seconds.append(time.perf_counter() - began)
        config = dict(found[0].config)
        known.append(trial(space, len(known), config, float(cost(space.encode([config]))[0])))
    return seconds


def optuna_asks(space: SearchSpace, trials: list[TrialRecord]) -> list[float]:
    """The same of Optuna's own GP sampler, in a study in memory."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {p.name: optuna.distributions.FloatDistribution(0.0, 1.0) for p in space.parameters}
    study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=0))
    for one in trials:
        value = one.metrics["cost"].value
        study.add_trial(optuna.trial.create_trial(params=dict(one.config), distributions=distributions, value=value))
    seconds = []
    for i in range(ASKS + 1):
        began = time.perf_counter()
        asked = study.ask(distributions)
        if i:
            seconds.append(time.perf_counter() - began)
        study.tell(asked, float(cost(np.array([[asked.params[p.name] for p in space.parameters]]))[0]))
    return seconds


def row(title: str, strategy: str, counts: list[int]) -> str:
    """One row of the table, with the largest memory of this process."""
    space = SPACES[title]()
    trials = random_trials(space, max(counts))
    cells = []
    for n in counts:
        if strategy == OPTUNA and n > _OPTUNA_MOST:
            cells.append("not run")
            continue
        seconds = optuna_asks(space, trials[:n]) if strategy == OPTUNA else asks(strategy, space, trials[:n])
        cells.append(f"{1e3 * statistics.median(seconds):.0f} ms (slowest {1e3 * max(seconds):.0f})")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"| {title} | {strategy} | " + " | ".join(cells) + f" | {memory:.0f} MiB |"


def table(strategies: list[str], counts: list[int]) -> Iterator[str]:
    yield "| space | strategy | " + " | ".join(f"{n} trials" for n in counts) + " | largest memory |"
    yield "| --- | --- |" + " --- |" * (len(counts) + 1)
    for title in SPACES:
        for strategy in [*strategies, *([OPTUNA] if title == CONTINUOUS else [])]:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                yield alone.submit(row, title, strategy, counts).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--strategies", default="bo,auto,tpe")
    parser.add_argument("--trials", default="100,300,500,1000,2000,10000")
    options = parser.parse_args()
    strategies = options.strategies.split(",")
    for line in table(strategies, [int(n) for n in options.trials.split(",")]):
        print(line, flush=True)


if __name__ == "__main__":
    main()

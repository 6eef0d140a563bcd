"""Time of one ask and one tell: this store, Optuna's storages, and the least that a durable SQLite needs.

    python benchmarks/store.py [--json FILE] [--trials 200] [--growth 10000] [--postgres URL] [--folder DIR]

Nobody thinks: our strategy hands out configurations that were drawn beforehand, Optuna's is its RandomSampler. Contenders take
turns trial by trial, so that a busy disk or processor meets all of them. ``bare SQLite`` is two transactions of the sqlite3
module (insert the configuration; write one metric) with the same settings: WAL and synchronous=FULL. Processor time is
measured beside elapsed time, as how long a disk takes to confirm says nothing of the code.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna

from autotune import Float, SearchSpace, Study
from autotune.strategies import History, Strategy, Suggestion

SIZES = (10, 64)
WARM_UP = 20
TARGET_MS = 2.0
Step = Callable[[], None]


def space_of(size: int) -> SearchSpace:
    return SearchSpace([Float(f"x{i}", 0, 1) for i in range(size)])


def drawn_beforehand(space: SearchSpace, trials: int) -> type[Strategy]:
    """A strategy that proposes at no cost."""
    configs = space.sample(trials, seed=0)

    class DrawnBeforehand(Strategy):
        name, summary = "drawn-beforehand", "for this benchmark"

        def propose(self, history: History, n: int) -> Sequence[Suggestion]:
            done = len(history.trials)
            return [self.suggestion(config) for config in configs[done : done + n]]

    return DrawnBeforehand


def ours(url: str, size: int, trials: int) -> tuple[Study, Step]:
    space = space_of(size)
    study = Study.create(space, "latency_ms", storage=url, strategy=drawn_beforehand(space, trials), name=f"of {size}")

    def step() -> None:
        study.tell(study.ask(), 1.0)

    return study, step


def optunas(storage: Any, size: int) -> Step:
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))

    def step() -> None:
        trial = study.ask()
        for i in range(size):
            trial.suggest_float(f"x{i}", 0, 1)
        study.tell(trial, 1.0)

    return step


def bare(file: Path, size: int) -> Step:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE trials (id INTEGER PRIMARY KEY, config TEXT, state TEXT)")
    connection.execute("CREATE TABLE metrics (trial INTEGER, name TEXT, value REAL, PRIMARY KEY (trial, name))")
    text = json.dumps({f"x{i}": 0.1234567890123456 for i in range(size)})

    def step() -> None:
        connection.execute("BEGIN IMMEDIATE")
        key = connection.execute("INSERT INTO trials (config, state) VALUES (?, 'running')", (text,)).lastrowid
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE trials SET state = 'completed' WHERE id = ?", (key,))
        connection.execute("INSERT INTO metrics VALUES (?, 'latency_ms', 1.0)", (key,))
        connection.execute("COMMIT")

    return step


@contextlib.contextmanager
def postgres(url: str | None) -> Iterator[str | None]:
    """The server that was named, else one of the test suite's, else None."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.postgres import PostgresMissingError, server  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(server())
        except PostgresMissingError:
            yield None
            return
        yield found


def measure(steps: dict[str, Step], trials: int) -> dict[str, dict[str, float]]:
    """Milliseconds per ask and tell, by contender."""
    elapsed: dict[str, list[float]] = {name: [] for name in steps}
    processor: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM_UP + trials):
        for name, step in steps.items():
            began, used = time.perf_counter(), time.process_time()
            step()
            elapsed[name].append((time.perf_counter() - began) * 1e3)
            processor[name].append((time.process_time() - used) * 1e3)
    return {
        name: {
            "median_ms": statistics.median(elapsed[name][WARM_UP:]),
            "p95_ms": statistics.quantiles(elapsed[name][WARM_UP:], n=20)[-1],
            "processor_ms": statistics.median(processor[name][WARM_UP:]),
        }
        for name in steps
    }


def compare(folder: Path, size: int, trials: int, server: str | None) -> dict[str, dict[str, float]]:
    place = folder / str(size)
    place.mkdir()
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(place / "journal.log")))
    drawn = WARM_UP + trials
    steps = {"autotune, SQLite": ours(f"sqlite:///{place / 'ours.db'}", size, drawn)[1]}
    if server is not None:
        steps["autotune, PostgreSQL"] = ours(server, size, drawn)[1]
    steps["Optuna, SQLite"] = optunas(f"sqlite:///{place / 'optuna.db'}", size)
    steps["Optuna, journal file"] = optunas(journal, size)
    steps["bare SQLite"] = bare(place / "bare.db", size)
    return measure(steps, trials)


def growth(folder: Path, trials: int) -> list[dict[str, float]]:
    """Milliseconds per ask and tell, as a study of ten parameters grows."""
    file = f"sqlite:///{folder / 'growth.db'}"
    study, step = ours(file, SIZES[0], trials)
    marks = [m for m in (100, 1_000, 3_000, 10_000, 30_000) if m <= trials]
    rows: list[dict[str, float]] = []
    elapsed: list[float] = []
    processor: list[float] = []
    for number in range(1, trials + 1):
        began, used = time.perf_counter(), time.process_time()
        step()
        elapsed.append((time.perf_counter() - began) * 1e3)
        processor.append((time.process_time() - used) * 1e3)
        if number in marks:
            began = time.perf_counter()
            loaded = Study.load(study.name, file, strategy="random")
            assert len(loaded.trials) == number
            rows.append(
                {
                    "trials": number,
                    "median_ms": statistics.median(elapsed[-100:]),
                    "processor_ms": statistics.median(processor[-100:]),
                    "load_ms": (time.perf_counter() - began) * 1e3,
                }
            )
    return rows


def machine() -> dict[str, Any]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    packages = ("autotune", "optuna", "sqlalchemy", "psycopg")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--growth", type=int, default=10_000, metavar="TRIALS", help="0 leaves that part out")
    parser.add_argument(
        "--postgres", metavar="URL", help="of an empty database; else a server is started, if installed"
    )
    parser.add_argument("--folder", type=Path, help="where the databases are made; the disk is part of the result")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    found: dict[str, Any] = {"machine": machine(), "trials": options.trials, "sizes": {}}
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    with tempfile.TemporaryDirectory(dir=options.folder) as name, postgres(options.postgres) as server:
        print(f"\nask and tell together, milliseconds; {options.trials} trials each, in turns\n")
        print(f"{'parameters':>10}  {'contender':<22}{'median':>9}{'95 %':>9}{'processor':>11}{'of ours':>10}")
        for size in SIZES:
            rows = found["sizes"][size] = compare(Path(name), size, options.trials, server)
            reference = rows["autotune, SQLite"]["median_ms"]
            for contender, row in rows.items():
                print(
                    f"{size:>10}  {contender:<22}{row['median_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['processor_ms']:>11.2f}"
                    f"{row['median_ms'] / reference:>9.1f}x"
                )
        if options.growth:
            found["growth"] = growth(Path(name), options.growth)
            print(f"\n{'trials':>10}{'median':>9}{'processor':>11}{'load the study':>16}")
            for row in found["growth"]:
                print(f"{row['trials']:>10}{row['median_ms']:>9.2f}{row['processor_ms']:>11.2f}{row['load_ms']:>16.0f}")
    met = all(found["sizes"][size]["autotune, SQLite"]["median_ms"] < TARGET_MS for size in SIZES)
    floor = max(found["sizes"][size]["bare SQLite"]["median_ms"] for size in SIZES)
    print(
        f"\ntarget, under {TARGET_MS:g} ms at both sizes on SQLite: {'met' if met else 'MISSED'} "
        f"(this disk takes up to {floor:.2f} ms of it)"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

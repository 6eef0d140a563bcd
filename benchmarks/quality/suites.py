"""The problems of the benchmark by suite, from recorded data where it is present and from formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from autotune.errors import UsageError
from benchmarks.quality.functions import ackley, branin, hartmann6, levy, rosenbrock
from benchmarks.quality.problem import Problem, jittery, recorded
from benchmarks.quality.synthetic import (
    infeasible,
    landscape,
    memory_limited,
    noisy,
    problem,
    shifted,
    sparse,
    spread,
)
from evaluators.recorded import discover, read_kernel, read_serving, read_tabular

# A second pair of objectives for each kind of tabular benchmark.
_PAIRS = {
    "nasbench201": ("accuracy-latency", ["maximize val_acc", "minimize latency_ms"]),
    "hpolib": ("loss-size", ["minimize val_loss", "minimize model_size"]),
}


def kernels(data: Path) -> Iterator[Problem]:
    """Every recorded space (``NAME.json`` beside ``NAME.csv.gz``) under the folder."""
    for description in discover(data):
        yield recorded(read_kernel(description), "kernels")


def tabular(data: Path) -> Iterator[Problem]:
    """The tabular benchmarks, one objective."""
    for path in sorted(data.rglob("tabular_benchmarks/*.csv.gz")):
        yield recorded(read_tabular(path), "tabular")


def pairs(data: Path) -> Iterator[Problem]:
    """The tabular benchmarks and the serving points, two objectives."""
    for path in sorted(data.rglob("tabular_benchmarks/*.csv.gz")):
        table = read_tabular(path)
        name, objectives = _PAIRS[table.family]
        yield recorded(table.measuring(objectives), "pairs", f"{table.name}:{name}")
    for path in sorted(data.rglob("serving_points.csv.gz")):
        for table in read_serving(path):
            yield recorded(table, "pairs", table.name)


def smooth(_data: Path) -> Iterator[Problem]:
    """Continuous functions, moved so that no minimiser lies in the middle."""
    for function in (branin(), hartmann6(), levy(4), rosenbrock(4), ackley(5)):
        yield problem(shifted(landscape(function), 1), "smooth")


def wrapped(_data: Path) -> Iterator[Problem]:
    """Noise, known and hidden infeasible regions, idle parameters up to 100 dimensions, a memory limit."""
    base = shifted(landscape(hartmann6()), 2)
    yield problem(noisy(base, 0.2), "wrapped")
    yield problem(infeasible(base, 1, hidden=False), "wrapped")
    yield problem(infeasible(base, 1, hidden=True), "wrapped")
    yield problem(sparse(base, 14), "wrapped")
    yield problem(sparse(base, 94), "wrapped")
    yield recorded(memory_limited(0.6), "wrapped")


def noisy_ones(data: Path) -> Iterator[Problem]:
    """Functions with a tenth of their standard deviation as noise, recorded kernels with 5 %; no half-widths are told."""
    for function in (branin(), hartmann6(), levy(4), rosenbrock(4), ackley(5)):
        base = shifted(landscape(function), 3)
        yield problem(noisy(base, 0.1 * spread(base)), "noisy")
    for one in kernels(data):
        yield jittery(one, 0.05)


SUITES: dict[str, Callable[[Path], Iterator[Problem]]] = {
    "kernels": kernels,
    "tabular": tabular,
    "pairs": pairs,
    "smooth": smooth,
    "wrapped": wrapped,
    "noisy": noisy_ones,
}


def load(data: Path, suites: Sequence[str], patterns: Sequence[str] = ()) -> list[Problem]:
    """The problems of some suites whose name matches a pattern (all by default).

    Raises:
        UsageError: for an unknown suite, or when nothing is left.
    """
    unknown = [name for name in suites if name not in SUITES]
    if unknown:
        raise UsageError(f"suite {unknown[0]!r} is unknown; known are: {', '.join(SUITES)}")
    found = [
        one
        for name in suites
        for one in SUITES[name](data)
        if not patterns or any(fnmatch(one.name, pattern) for pattern in patterns)
    ]
    if not found:
        raise UsageError(
            f"no problem in the suites {', '.join(suites)} under {data}"
            + (f" matches {', '.join(patterns)}" if patterns else "")
            + "; give --data FOLDER with recorded spaces, or another --suite"
        )
    names = [one.name for one in found]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UsageError(f"problem {twice!r} is found twice under {data}; runs are stored by name, so rename one")
    return found

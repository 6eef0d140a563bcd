"""The tables of a benchmark, as Markdown: one part for each suite, then every problem on its own."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from benchmarks.quality.ledger import Ledger, Run
from benchmarks.quality.measures import baseline, score, trajectory
from benchmarks.quality.problem import Problem
from benchmarks.quality.searchers import UNIFORM, is_ours
from benchmarks.quality.session import Settings
from benchmarks.quality.statistics import holm, mean_interval, signed_rank

Floats = npt.NDArray[np.float64]

MARKS = (25, 50, 100, 200)
_SETTLED = 20  # failures are counted from here on: before, nobody can know


@dataclass(frozen=True, eq=False)
class Results:
    """The runs of one searcher on one problem, by seed."""

    problem: Problem
    runs: tuple[Run, ...]
    length: int
    start: int
    expected: Floats

    @cached_property
    def seeds(self) -> list[int]:
        return [run.key.seed for run in self.runs]

    @cached_property
    def trajectories(self) -> Floats:
        """Shape ``(seeds, length)``."""
        return np.stack([trajectory(self.problem, run.seen, run.true, self.length) for run in self.runs])

    @cached_property
    def scores(self) -> Floats:
        """Shape ``(seeds,)``."""
        return score(self.problem, self.trajectories, self.expected, self.start)

    def at(self, mark: int | None) -> Floats:
        """The fraction of the optimum after so many evaluations, or the score; shape ``(seeds,)``."""
        if mark is None:
            return self.scores
        return self.problem.fraction(self.trajectories[:, mark - 1])


ByProblem = Mapping[str, Results]

_MEANING = """How to read the tables:

- **@25** is the fraction of the optimum after 25 evaluations: optimum / best found for amounts (times, errors), the share of
  the way from the median configuration to the optimum for functions, the share of the Pareto front's hypervolume for two
  objectives (scaled to the unit square between the best and the worst value known; by logarithm where positive values span
  more than a decade; the reference point is the worst corner). Means over problems of the mean over seeds.
- **score** is that of Willemsen, van Nieuwpoort and van Werkhoven (Future Generation Computer Systems 159, 2024): 0 is the
  exactly expected trajectory of random search without replacement, 1 the optimum from the first evaluation on,
  `(random - found) / (random - optimum)` averaged over the evaluations after the initial design. The budget is counted in
  evaluations, of which a failure is one; before anything succeeded the incumbent counts as the worst of the space.
- **failed after 20**: of all evaluations but the first 20, the share that failed.
- **infeasible** and **repeated**: proposals that a known constraint forbids and that were measured before, for each
  evaluation. Both are free; a searcher that makes 300 of them in a row, or 20 for each evaluation of the budget, has stalled
  and keeps what it has.
- **ms per evaluation** is the searcher's own time, asking and learning, free proposals included, on one core. Strategies that
  weigh it against the evaluation's are told that an evaluation took a second."""


def report(problems: Sequence[Problem], ledger: Ledger, settings: Settings) -> str:
    """All tables of some problems.

    Raises:
        UsageError: when nothing has been run with these settings.
    """
    found = _collect(problems, ledger, settings)
    if not found:
        raise UsageError(
            f"{ledger.path} holds no run of these problems with budget {settings.budget} and initial {settings.initial}; "
            "run the benchmark first, without --report"
        )
    parts = [_header(problems, found, settings), _MEANING]
    for suite in dict.fromkeys(p.suite for p in problems):
        of_suite = [p for p in problems if p.suite == suite]
        parts.append(_suite(suite, of_suite, found, settings))
    parts.append(_notes(ledger, found, settings))
    return "\n\n".join(part for part in parts if part) + "\n"


def _collect(problems: Sequence[Problem], ledger: Ledger, settings: Settings) -> dict[str, dict[str, Results]]:
    """By searcher, by problem."""
    found: dict[str, dict[str, Results]] = {}
    for problem in problems:
        length = settings.budget
        if problem.complete:
            length = min(length, len(problem.population))
        expected = baseline(problem, length)
        runs: dict[str, list[Run]] = {}
        for run in ledger.runs.values():
            key = run.key
            if (key.problem, key.digest, key.settings) == (problem.name, problem.digest, settings):
                runs.setdefault(key.searcher, []).append(run)
        for searcher, listed in runs.items():
            ordered = tuple(sorted(listed, key=lambda run: run.key.seed))
            found.setdefault(searcher, {})[problem.name] = Results(problem, ordered, length, settings.initial, expected)
    return found


def _header(problems: Sequence[Problem], found: Mapping[str, ByProblem], settings: Settings) -> str:
    seeds = _spread([len(r.runs) for results in found.values() for r in results.values()])
    return (
        f"{dt.date.today().isoformat()}, {_machine()}, Python {platform.python_version()}. {seeds} runs of each searcher on "
        f"each of {len(problems)} problems, {settings.budget} evaluations each, the first {settings.initial} of them the same "
        "random configurations for all searchers that take an initial design."
    )


def _suite(suite: str, problems: Sequence[Problem], found: Mapping[str, ByProblem], settings: Settings) -> str:
    here = {name: {p.name: results[p.name] for p in problems if p.name in results} for name, results in found.items()}
    here = {name: results for name, results in here.items() if results}
    if not here:
        return ""
    names = [p.name for p in problems if any(p.name in results for results in here.values())]
    full = {name: results for name, results in here.items() if len(results) == len(names)}
    marks = [
        m for m in MARKS if m <= settings.budget and all(m <= r.length for rs in here.values() for r in rs.values())
    ]
    marks = marks or [min(r.length for rs in here.values() for r in rs.values())]
    ranked = sorted(full, key=lambda name: -_mean_score(full[name]))
    parts = [f"## {suite}", _summary(full, ranked, marks)]
    lacking = [f"{name} ({len(results)} of {len(names)})" for name, results in here.items() if name not in full]
    if lacking:
        parts.append(f"Not in the means, as runs on some problems are missing: {', '.join(lacking)}.")
    parts.append(_families(full, ranked, problems))
    order = [*ranked, *(name for name in here if name not in full)]
    for mark in [*marks, None]:
        what = "Score" if mark is None else f"Fraction of the optimum at {mark} evaluations"
        rows = [
            [name, *(f"{here[s][name].at(mark).mean():.3f}" if name in here[s] else "" for s in order)]
            for name in names
        ]
        parts.append(f"{what}, by problem:\n\n" + _table(["problem", *order], rows))
    return "\n\n".join(part for part in parts if part)


def _summary(full: Mapping[str, ByProblem], ranked: Sequence[str], marks: Sequence[int]) -> str:
    peers = [name for name in ranked if not is_ours(name) and name != UNIFORM]
    best = peers[0] if peers else None
    columns = [*marks, None]
    corrected = {
        mark: dict(zip(ranked, holm([_paired(full, name, best, mark) for name in ranked]), strict=True))
        for mark in columns
    }
    rows = []
    for name in ranked:
        results = full[name]
        cells = [name, _spread([len(r.runs) for r in results.values()])]
        for mark in columns:
            mean, low, high = mean_interval({p: r.at(mark) for p, r in results.items()})
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]{_p(corrected[mark][name])}")
        rows.append([*cells, *_counts(results)])
    head = [
        "searcher",
        "seeds",
        *(f"@{mark}" for mark in marks),
        "score",
        "failed after 20",
        "infeasible",
        "repeated",
        "ms per evaluation",
    ]
    text = _table(head, rows)
    if best is not None:
        text += (
            f"\n\nIntervals are 95 % of a bootstrap over seeds. In round brackets: p of Wilcoxon's signed ranks against "
            f"{best}, the peer with the highest score, paired by problem and seed, after Holm's correction over the searchers."
        )
    return text


def _paired(full: Mapping[str, ByProblem], name: str, best: str | None, mark: int | None) -> float | None:
    """p of the difference to the best peer."""
    if best is None or name == best:
        return None
    differences: list[float] = []
    for problem, mine in full[name].items():
        other = full[best][problem]
        a = dict(zip(mine.seeds, mine.at(mark).tolist(), strict=True))
        b = dict(zip(other.seeds, other.at(mark).tolist(), strict=True))
        differences += [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    return signed_rank(differences)


def _counts(results: ByProblem) -> list[str]:
    runs = [(run, r.start) for r in results.values() for run in r.runs]
    later = [one is None for run, _ in runs for one in run.true[_SETTLED:]]
    charged = sum(len(run.true) for run, _ in runs)
    # All of a run's own seconds over the evaluations that it proposed: some searchers think in bursts.
    asked = [1000.0 * sum(run.seconds) / (len(run.seconds) - start) for run, start in runs if len(run.seconds) > start]
    stalled = sum(run.stalled for run, _ in runs)
    return [
        f"{100 * np.mean(later):.1f} %" if later else "",
        f"{sum(run.infeasible for run, _ in runs) / charged:.2f}",
        f"{sum(run.duplicates for run, _ in runs) / charged:.2f}" + (f" ({stalled} stalled)" if stalled else ""),
        f"{np.mean(asked):.1f}" if asked else "",
    ]


def _families(full: Mapping[str, ByProblem], ranked: Sequence[str], problems: Sequence[Problem]) -> str:
    families = list(dict.fromkeys(p.family for p in problems))
    if len(families) == len(problems):
        return ""
    rows = []
    for family in families:
        members = [p.name for p in problems if p.family == family]
        rows.append([family, *(f"{np.mean([full[s][m].scores.mean() for m in members]):.3f}" for s in ranked)])
    return "Score by family:\n\n" + _table(["family", *ranked], rows)


def _notes(ledger: Ledger, found: Mapping[str, ByProblem], settings: Settings) -> str:
    lines = []
    for name, results in sorted(found.items()):
        versions = sorted({run.version for r in results.values() for run in r.runs})
        lines.append(f"- {name}: {'; '.join(versions)}")
    lines += [f"- {name}: {reason}" for name, reason in sorted(ledger.absent.items())]
    refused: dict[tuple[str, str], list[str]] = {}
    for (searcher, problem), reason in ledger.refused.items():
        refused.setdefault((searcher, reason), []).append(problem)
    lines += [f"- {searcher} takes {reason}; left out of {', '.join(ps)}" for (searcher, reason), ps in refused.items()]
    broken = [(key, reason) for key, reason in ledger.broke.items() if key.settings == settings]
    lines += [f"- {key.searcher} on {key.problem}, seed {key.seed}: {reason}" for key, reason in broken]
    return "## What ran\n\n" + "\n".join(lines)


def _mean_score(results: ByProblem) -> float:
    return float(np.mean([r.scores.mean() for r in results.values()]))


def _spread(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _p(value: float | None) -> str:
    return "" if value is None else f" ({value:.2g})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    models = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return f"{models[0]}, {len(models)} cores, one used" if models else platform.processor() or platform.machine()

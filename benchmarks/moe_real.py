"""Real runs of moe-cache beside what people use today, at budgets from 5 % to 75 % of all expert bytes.

python benchmarks/moe_real.py --data DIR [--traces NAME,NAME] [--rounds 3] [--rows FILE.jsonl] [--tier auto] [--scratch DIR]
    [--link-mib-s N]
python benchmarks/moe_real.py --rows FILE.jsonl --report

Needs a quiet machine. Every configuration is run `rounds` times, in turns with the others of its budget; medians count. A file
of rows that exists is gone on with. Validate first (`autotune validate moe-cache`, with the options that are printed), so that
the profiled evaluator is corrected by this machine's own runs.

The tuned configuration: `fixed-point` proposes by the profiled evaluator alone. Of its proposals and of the plain ones, the
best by prediction of every policy and prefetch depth are ranked, the first few run for real once, and the fastest of those
twice more. Three noisy runs know as much as one prediction: the one with the smallest product of both, the median and what
was predicted, is what is compared, by runs of its own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import autotune
from autotune.domain import Problem, load_domain
from autotune.options import parse_options
from benchmarks.rows import Row, Rows
from evaluators.moe_cache.formats import load_trace, save_trace
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.predict import Predictor
from evaluators.moe_cache.profiled import Profiled, plan_of
from evaluators.moe_cache.real import Real, measurement
from evaluators.moe_cache.timeline import simulate
from search_spaces.moe_cache import SHIPPED_TRACES

BUDGETS = (0.05, 0.1, 0.25, 0.5, 0.75)
LRU_CURVE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
CANDIDATES, FINALISTS = 4, 2  # configurations that are run for real once, and twice more, before one is chosen
LIMIT, TUNED, UNIFORM_LRU = "limit: Belady, perfect prefetch", "autotune", "uniform LRU"
RESIDENT = "all experts resident"


@dataclass(frozen=True)
class Subject:
    """A trace to run: its file under the data folder (None: the shipped one), the domain's options, what of it to keep.

    Attributes:
        turns: by number; None keeps all.
        decode: generated tokens of each turn; None keeps all.
    """

    file: str | None
    options: Mapping[str, Any]
    turns: tuple[int, ...] | None = None
    decode: int | None = None


SUBJECTS = {
    "tiny-moe": Subject(None, {}, (0, 1)),
    "granite": Subject("granite.trace.json.gz", {"bits": 16, "scale": 0.125}, decode=32),
    "qwen": Subject("qwen.route.csv.gz", {"bits": 16, "scale": 0.125}, decode=24),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the recorded traces, moe_routing")
    parser.add_argument("--traces", default=",".join(SUBJECTS))
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=Path, default=Path("moe-real.jsonl"))
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--scratch")
    parser.add_argument(
        "--link-mib-s", type=float, help="hold the link to so many MiB/s, against a disk of changing speed"
    )
    parser.add_argument("--report", action="store_true", help="print the tables of the rows that there are")
    given = parser.parse_args()
    if missing := [name for name in given.traces.split(",") if name not in SUBJECTS]:
        parser.error(f"--traces {missing[0]}: known are {', '.join(SUBJECTS)}")
    rows = Rows(given.rows, ("trace", "budget", "name", "round"))
    if not given.report:
        for name in given.traces.split(","):
            subject = SUBJECTS[name]
            options = {**subject.options, "trace": _trace(subject, given), "tier": given.tier}
            if given.scratch:
                options["scratch"] = given.scratch
            if given.link_mib_s is not None:
                options["link_mib_s"] = given.link_mib_s
            Bench(name, options, rows).run([float(b) for b in given.budgets.split(",")], given.rounds)
    for line in report(list(rows)):
        print(line)


def _trace(subject: Subject, given: argparse.Namespace) -> str:
    if subject.file is None:
        path = SHIPPED_TRACES / "tiny-moe.moetrace.npz"
    elif given.data is None:
        sys.exit(f"{subject.file} needs --data, the folder moe_routing of the recorded traces")
    else:
        path = given.data / subject.file
    if subject.turns is None and subject.decode is None:
        return str(path)
    cut = given.rows.parent / f"cut-{path.name.partition('.')[0]}.moetrace.npz"
    kept = None if subject.decode is None else slice(0, subject.decode)
    save_trace(load_trace(path).select(turns=subject.turns, decode=kept), cut)
    return str(cut)


class Bench:
    """One trace at all budgets, through one prepared set of experts."""

    def __init__(self, name: str, options: Mapping[str, Any], rows: Rows) -> None:
        self.name = name
        self.options = options
        self.rows = rows
        self.chosen = {r["budget"]: r["config"] for r in rows if r["trace"] == name and r["name"] == TUNED}
        self.real: Real | None = None

    def problem(self, budget: float) -> Problem:
        domain = load_domain("moe-cache")
        return domain.problem(parse_options(domain.options, {**self.options, "budget_fraction": budget}))

    def run(self, budgets: list[float], rounds: int) -> None:
        for budget in sorted(budgets, reverse=True):
            problem = self.problem(budget)
            if self.real is None:
                real = problem.evaluators["real"]
                assert isinstance(real, Real)
                self.real = real
            plain = self.plain(problem)
            plans = {name: plan_of(config) for name, config in plain.items()}
            plans[LIMIT] = self.limit(problem, plans[UNIFORM_LRU])
            plans[TUNED] = plan_of(self.tuned(problem, plain, budget))
            self.measure(problem, plans, budget, rounds)
        for budget in LRU_CURVE:
            problem = self.problem(budget)
            self.measure(problem, {UNIFORM_LRU: plan_of(problem.default)}, budget, rounds)
        whole = self.problem(1.1)
        everything = plan_of(whole.default)
        self.measure(whole, {RESIDENT: replace(everything, policy="static")}, 1.0, rounds)
        if self.real is not None:
            self.real.close()

    def plain(self, problem: Problem) -> dict[str, dict[str, Any]]:
        """What people do besides; each with and without prefetching where staging buffers for it fit."""
        found = {UNIFORM_LRU: problem.default, **problem.baselines}
        twins: dict[str, dict[str, Any]] = {}
        staged = problem.domain_map.memory
        layers = len(problem.default["budget_mib"])
        for name, config in found.items():
            other = 0 if config["prefetch_depth"] else 1
            if staged.for_caches(other) < 0:
                continue
            share = staged.for_caches(other) // layers / 2**20
            twin = {**config, "prefetch_depth": other, "budget_mib": [share] * layers}
            if other == 0:
                twin.pop("predictor", None)
            else:
                twin |= {"predictor": "recorded"} if "predictor" in {p.name for p in problem.space.parameters} else {}
            twins[f"{name}, {'no ' if other == 0 else ''}prefetch"] = twin
        return {**found, **twins}

    def limit(self, problem: Problem, uniform: CachePlan) -> CachePlan:
        """Belady's caches of equal budgets with the trace's own future as predictor, at the best depth by prediction."""
        profiled, memory = self.profiled(problem), problem.domain_map.memory
        layers = len(uniform.theta)
        plans = [
            replace(
                uniform,
                policy="belady",
                prefetch_depth=depth,
                predictor=Predictor.ORACLE,
                budget_bytes=(memory.for_caches(depth) // layers,) * layers,
            )
            for depth in range(4)
            if memory.for_caches(depth) >= 0
        ]
        return min(plans, key=lambda plan: float(simulate(profiled.trace, plan, profiled.costs).latency_ms.mean()))

    @staticmethod
    def profiled(problem: Problem) -> Profiled:
        found = problem.evaluators["profiled"]
        assert isinstance(found, Profiled)
        return found

    def tuned(self, problem: Problem, plain: Mapping[str, Mapping[str, Any]], budget: float) -> Mapping[str, Any]:
        """The fastest in real runs of the best by prediction."""
        if budget in self.chosen:
            found: Mapping[str, Any] = self.chosen[budget]
            return found
        result = autotune.search(
            "moe-cache", options={**self.options, "budget_fraction": budget}, strategy="fixed-point", trials=60
        )
        known = [dict(trial.config) for trial in result.study.history.completed] + [dict(c) for c in plain.values()]
        profiled = self.profiled(problem)
        by_prediction = sorted((profiled(c).values()["token_latency_ms"], n) for n, c in enumerate(known))
        settings: dict[tuple[Any, ...], tuple[float, int]] = {}
        for predicted, n in by_prediction:
            settings.setdefault((known[n]["policy"], known[n]["prefetch_depth"]), (predicted, n))
        candidates = list(settings.values())[:CANDIDATES]
        runs: dict[int, list[float]] = {n: [] for _, n in candidates}

        def run_again(number: int, predicted: float) -> None:
            runs[number].append(self.latency(problem, plan_of(known[number])))
            config = known[number]
            say(f"{self.name} {budget:.0%}: candidate {number} ({config['policy']}, prefetch {config['prefetch_depth']}) "
                f"{runs[number][-1]:.3f} ms, predicted {predicted:.3f}")  # fmt: skip

        for predicted, number in candidates:
            run_again(number, predicted)
        finalists = sorted(candidates, key=lambda one: runs[one[1]][0])[:FINALISTS]
        for _ in range(2):
            for predicted, number in finalists:
                run_again(number, predicted)
        return known[min(finalists, key=lambda one: one[0] * statistics.median(runs[one[1]]))[1]]

    def latency(self, problem: Problem, plan: CachePlan) -> float:
        assert self.real is not None
        return float(
            measurement(self.real.run(plan), self.real.trace, self.real.work.expert.inter).values()["token_latency_ms"]
        )

    def measure(self, problem: Problem, plans: Mapping[str, CachePlan], budget: float, rounds: int) -> None:
        profiled, real = self.profiled(problem), self.real
        assert real is not None

        def measured(name: str, plan: CachePlan, number: int) -> Row:
            values = measurement(real.run(plan), real.trace, real.work.expert.inter).values()
            predicted = simulate(profiled.trace, plan, profiled.costs).metrics()
            say(f"{self.name} {budget:.0%} round {number} {name}: {values['token_latency_ms']:.3f} ms, predicted "
                f"{predicted['token_latency_ms']:.3f}")  # fmt: skip
            return {
                "latency_ms": values["token_latency_ms"], "hit_rate": values["hit_rate"],
                "memory_gib": values["fast_memory_gib"], "moved_mib": values["moved_mib"],
                "predicted_ms": predicted["token_latency_ms"], "predicted_hit_rate": predicted["hit_rate"],
                "facts": dict(problem.facts), "config": config_row(plan),
            }  # fmt: skip

        for number in range(rounds):
            for name, plan in plans.items():
                of = {"trace": self.name, "budget": budget, "name": name, "round": number}
                self.rows.row(of, partial(measured, name, plan, number))


def config_row(plan: CachePlan) -> dict[str, Any]:
    """A plan as the configuration that `plan_of` reads."""
    return {
        "budget_mib": [budget / 2**20 for budget in plan.budget_bytes], "theta": list(plan.theta), "policy": plan.policy,
        "lcp_rho": plan.lcp_rho, "lcp_omega": plan.lcp_omega, "prefetch_depth": plan.prefetch_depth,
        "predictor": str(plan.predictor), "cpu_threshold_tokens": plan.cpu_threshold_tokens,
    }  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -------------------------------------------------------------------------------------------------------------- the report


def report(rows: list[Row]) -> Iterator[str]:
    """Markdown tables."""
    yield f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    for trace in dict.fromkeys(row["trace"] for row in rows):
        mine = [row for row in rows if row["trace"] == trace]
        yield f"\n## {trace}\n"
        for name, value in mine[0]["facts"].items():
            if name != "budget":
                yield f"- {name}: {value}"
        budgets = [b for b in BUDGETS if any(r["budget"] == b and r["name"] == TUNED for r in mine)]
        yield from _latencies(mine, budgets)
        yield from _distances(mine, budgets)


def _median(rows: list[Row], budget: float, name: str, field: str = "latency_ms") -> float:
    values = [row[field] for row in rows if row["budget"] == budget and row["name"] == name]
    return statistics.median(values) if values else float("nan")


def _latencies(rows: list[Row], budgets: list[float]) -> Iterator[str]:
    names = [n for n in dict.fromkeys(row["name"] for row in rows) if n != RESIDENT]
    yield "\nMedian token latency in ms (what the profiled evaluator predicted):\n"
    yield "| configuration | " + " | ".join(f"{b:.0%}" for b in budgets) + " |"
    yield "| --- |" + " --- |" * len(budgets)

    def cell(name: str, budget: float, of: Callable[..., float]) -> str:
        real, said = of(rows, budget, name), of(rows, budget, name, "predicted_ms")
        return "–" if np.isnan(real) else f"{real:.2f} ({said:.2f})"

    for name in sorted(names, key=lambda n: (n == LIMIT, n == TUNED, n)):
        yield f"| {name} | " + " | ".join(cell(name, b, _median) for b in budgets) + " |"
    resident = _median(rows, 1.0, RESIDENT)
    yield f"| {RESIDENT} | " + " | ".join(f"{resident:.2f}" for _ in budgets) + " |"


def _distances(rows: list[Row], budgets: list[float]) -> Iterator[str]:
    curve = [(b, _median(rows, b, UNIFORM_LRU)) for b in LRU_CURVE]
    memory = {b: _median(rows, b, UNIFORM_LRU, "memory_gib") for b in LRU_CURVE}
    yield "\n| budget | autotune beside the best baseline | distance to the limit closed | uniform LRU needs | hit rate |"
    yield "| --- | --- | --- | --- | --- |"
    for budget in budgets:
        tuned, lru, limit = (_median(rows, budget, n) for n in (TUNED, UNIFORM_LRU, LIMIT))
        others = {r["name"] for r in rows if r["budget"] == budget} - {TUNED, LIMIT, RESIDENT}
        best = min(others, key=lambda n: _median(rows, budget, n))
        ratio = tuned / _median(rows, budget, best)
        enough = [b for b, latency in curve if latency <= tuned]
        needs = f"{min(enough):.0%} ({memory[min(enough)]:.2f} GiB)" if enough else "more than all"
        closed = (lru - tuned) / (lru - limit)
        hits = _median(rows, budget, TUNED, "hit_rate")
        yield f"| {budget:.0%} | {ratio:.3f} of {best} | {closed:.0%} | {needs} | {hits:.1%} |"


if __name__ == "__main__":
    main()

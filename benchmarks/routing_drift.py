"""What drift of routing costs: configurations tuned on one piece of a trace, judged on the others.

    python benchmarks/routing_drift.py [--json FILE] [--hardware epyc-2core-disk]

Prints tables in Markdown. Every cell is the latency of a token under a configuration tuned on the row's piece, on the column's
piece, over that of the configuration tuned on the column's piece itself, less one. All by the profiled evaluator. The pieces:
the three prompts of the Granite trace, the halves of the Qwen trace's generated tokens, and three turns of the shipped
trace. The recorded traces are used where they are present ($AUTOTUNE_DATA, else ../shared/data beside the repository).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.hardware import current_environment, load_named
from evaluators.moe_cache.drift import drift
from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.replan import DYNAMIC_POLICIES, STARTS, fixed_point, replan
from evaluators.moe_cache.solver import SEARCHED_POLICIES
from evaluators.moe_cache.trace import RoutingTrace
from evaluators.moe_cache.workload import Workload
from search_spaces.moe_cache import DOMAIN, SHIPPED_TRACES, Options

BUDGETS = (0.1, 0.25, 0.5)
REPLANNED_AT = 0.25
_REPLANNED = (
    *("from", "to", "drift: p", "bits beyond chance", "ms: kept", "ms: planned anew", "by"),
    *("gain in hindsight", "held out", "advice"),
)
_ROOT = Path(__file__).resolve().parents[1]

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """Pieces of one trace by name, and what else plans are tuned on: pieces together, by name."""

    file: Path
    pieces: Mapping[str, RoutingTrace]
    together: Mapping[str, RoutingTrace] = field(default_factory=dict)
    budgets: tuple[float, ...] = BUDGETS


def cases() -> list[Case]:
    folder = Path(os.environ.get("AUTOTUNE_DATA", _ROOT.parent / "shared" / "data")) / "moe_routing"
    granite, qwen = folder / "granite.trace.json.gz", folder / "qwen.route.csv.gz"
    shipped = SHIPPED_TRACES / "tiny-moe.moetrace.npz"
    made = []
    if granite.exists():
        trace = load_trace(granite)
        names = {"prose": 0, "code": 1, "mathematics": 2}
        others = {f"all but {name}": [i for i in names.values() if i != turn] for name, turn in names.items()}
        made.append(
            Case(
                granite,
                {name: trace.select([turn]) for name, turn in names.items()},
                {name: trace.select(turns) for name, turns in others.items()},
            )
        )
    if qwen.exists():
        trace = load_trace(qwen)
        half = trace.decode_tokens // 2
        halves = {"first half": slice(0, half), "second half": slice(half, None)}
        made.append(Case(qwen, {name: trace.select(decode=part) for name, part in halves.items()}))
    trace = load_trace(shipped)
    turns = {trace.turn_names[turn]: trace.select([turn]) for turn in (0, 1, 2)}
    made.append(Case(shipped, turns, budgets=(REPLANNED_AT,)))
    return made


@dataclass(frozen=True, eq=False)
class Tuned:
    """A configuration, and the piece that its experts are placed by where its policy is `static`."""

    config: Mapping[str, Any]
    on: Workload

    def latency_ms(self, judged: Workload) -> float:
        return float(judged.latency_ms(self.config, self.on.popularity).mean())


def tune(workload: Workload, policies: tuple[str, ...]) -> Tuned:
    return Tuned(fixed_point(workload.solver(policies), STARTS).config, workload)


def matrix(case: Case, budget: float, hardware: str) -> Json:
    """Losses of one trace at one budget, by way of tuning, row and column."""
    options = Options(trace=str(case.file), hardware=hardware, budget_fraction=budget)
    problem = DOMAIN.problem(options)
    whole = DOMAIN.workload(options, load_named(hardware).to_dict())
    pieces = {name: whole.on(trace) for name, trace in case.pieces.items()}
    learned = {**pieces, **{name: whole.on(trace) for name, trace in case.together.items()}}
    ways: dict[str, dict[str, Tuned]] = {
        "tuned": {name: tune(one, SEARCHED_POLICIES) for name, one in learned.items()},
        "tuned, no static": {name: tune(one, DYNAMIC_POLICIES) for name, one in learned.items()},
        "popularity placement": {
            name: Tuned(problem.baselines["popularity placement"], one) for name, one in learned.items()
        },
        "uniform LRU": {"any": Tuned(problem.default, whole)},
    }
    own = {name: ways["tuned"][name].latency_ms(one) for name, one in pieces.items()}
    losses = {
        way: {
            row: {column: tuned.latency_ms(one) / own[column] - 1.0 for column, one in pieces.items()}
            for row, tuned in rows.items()
        }
        for way, rows in ways.items()
    }
    policies = {name: str(ways["tuned"][name].config["policy"]) for name in learned}
    found: Json = {"budget": budget, "own_ms": own, "losses": losses, "policies": policies}
    if budget == REPLANNED_AT:
        found["replans"] = [
            _replanned(names, pieces, ways["tuned"][names[0]]) for names in itertools.permutations(pieces, 2)
        ]
    return found


def _replanned(names: tuple[str, ...], pieces: Mapping[str, Workload], tuned: Tuned) -> Json:
    before, after = (pieces[name] for name in names)
    found = replan(before, after, tuned.config)
    return {
        "from": names[0],
        "to": names[1],
        "p": found.drift.p,
        "excess_bits": found.drift.excess_bits,
        "present_ms": found.present_ms,
        "found_ms": found.found_ms,
        "found_by": found.found_by,
        "gain": found.gain,
        "held_out_gain": found.held_out_gain,
        "changed": found.changed,
    }


def report(case: Case, found: list[Json]) -> None:
    """Markdown of one trace."""
    trace = load_trace(case.file)
    columns = list(case.pieces)
    print(f"\n## {trace.model}: {trace.n_layers} layers x {trace.n_experts} experts, top {trace.top_k}\n")
    heads = " | ".join(f"on {name}" for name in columns)
    print(f"| budget | way | tuned on | {heads} |\n| --- | --- | --- |{' --- |' * len(columns)}")
    for one in found:
        for way, rows in one["losses"].items():
            for row, cells in rows.items():
                policy = f" ({one['policies'][row]})" if way == "tuned" else ""
                shown = " | ".join(
                    f"{one['own_ms'][column]:.4g} ms" if (way, row) == ("tuned", column) else f"{cells[column]:+.1%}"
                    for column in columns
                )
                print(f"| {one['budget']:.0%} | {way}{policy} | {row} | {shown} |")
    print(f"\n| {' | '.join(_REPLANNED)} |\n|{' --- |' * len(_REPLANNED)}")
    for one in next(o["replans"] for o in found if "replans" in o):
        print(
            f"| {one['from']} | {one['to']} | {one['p']:.3g} | {one['excess_bits']:+.3f} | {one['present_ms']:.4g} | "
            f"{one['found_ms']:.4g} | {one['found_by']} | {one['gain']:.1%} | {one['held_out_gain']:.1%} | "
            f"{'change' if one['changed'] else 'keep'} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--hardware", default="epyc-2core-disk", help="a hardware profile by name or file")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    document: Json = {"hardware": arguments.hardware, "traces": {}}
    for case in cases():
        found = [matrix(case, budget, arguments.hardware) for budget in case.budgets]
        report(case, found)
        pairs = [
            {"pieces": names, **drift(*(case.pieces[name] for name in names)).to_dict()}
            for names in itertools.combinations(case.pieces, 2)
        ]
        document["traces"][case.file.name] = {"budgets": found, "drift": pairs}
    environment = current_environment()
    spent = time.perf_counter() - begin
    print(f"\n{environment.details['hardware']['cpu']['model']}, Python {platform.python_version()}, {spent:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": environment.to_dict(), **document}, indent=1))


if __name__ == "__main__":
    main()

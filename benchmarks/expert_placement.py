"""Solvers of expert placement on routing traces: hops and load, on the tokens placed by and on held-out ones; time.

    python benchmarks/expert_placement.py [--json FILE] [--seconds 60] [--seeds 20]

The shipped trace, made top-1 routing in the shape of Mixtral-8x7B, and the recorded traces where they are present
($AUTOTUNE_DATA, else ../shared/data beside the repository), on 4 and 8 GPUs of one node. Half of the tokens of every
turn are placed by; traces of several turns are also split by turns, so that the held-out half is other text. Random
placement is the mean over the seeds. Seconds are the processor's, so that other work on the machine does not count; the
limit of the integer programs is on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.hardware import current_environment
from evaluators.expert_placement.cluster import Cluster
from evaluators.expert_placement.measure import expected_random_hops, measure
from evaluators.expert_placement.routing import Routing, SplitBy, split
from evaluators.expert_placement.solvers import SOLVERS, NoSolutionError, Solution, Task, usable
from evaluators.expert_placement.solvers.swap import swap
from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.trace import DECODE, RoutingTrace

Row = dict[str, Any]
_ROOT = Path(__file__).resolve().parents[1]
SWEEPS = 16
# Where the local search starts, and how much the load weighs in it.
POLISHED = (("contiguous", 0.0), ("contiguous", 0.5), ("contiguous", 1.0), ("alternating", 0.0), ("alternating", 0.5))


def made_top_1(tokens: int = 4000, layers: int = 32, experts: int = 8, seed: int = 0) -> RoutingTrace:
    """A Markov chain of experts, each followed by few (Dirichlet 0.3): two turns of tokens, one expert per layer."""
    rng = np.random.default_rng(seed)
    picks = np.empty((tokens, layers, 1), dtype=np.int16)
    picks[:, 0, 0] = rng.integers(experts, size=tokens)
    for layer in range(1, layers):
        follows = rng.dirichlet(np.full(experts, 0.3), size=experts).cumsum(axis=1)
        picks[:, layer, 0] = (
            (rng.random((tokens, 1)) > follows[picks[:, layer - 1, 0]]).sum(axis=1).clip(max=experts - 1)
        )
    turn = np.repeat(np.arange(2, dtype=np.int32), tokens // 2)
    return RoutingTrace("made top-1", experts, 1, picks, turn, np.full(tokens, DECODE, dtype=np.int8))


def traces() -> Iterator[tuple[str, RoutingTrace]]:
    yield "made top-1", made_top_1()
    yield "tiny-moe", load_trace(_ROOT / "evaluators" / "moe_cache" / "traces" / "tiny-moe.moetrace.npz")
    data = Path(os.environ.get("AUTOTUNE_DATA", _ROOT.parent / "shared" / "data")) / "moe_routing"
    for name, file in (("granite", "granite.trace.json.gz"), ("qwen", "qwen.route.csv.gz")):
        if (data / file).exists():
            yield name, load_trace(data / file)
        else:
            print(f"{name}: {data / file} is absent, left out")


def compare(name: str, trace: RoutingTrace, gpus: int, by: SplitBy, seconds: float, seeds: int) -> list[Row]:
    """Every solver that can place these experts, and the local search after some; integer programs in one split alone."""
    train, held_out = split(trace, 0.5, by)
    task = Task(train, Cluster(gpus, gpus), seconds=seconds)
    about = {"trace": name, "gpus": gpus, "held_out": by, "train_tokens": train.n_tokens}
    rows, starts = [], {}
    for solver in usable(task):
        if solver.startswith("exflow") and by == "turns":
            continue
        begin = time.process_time()
        try:
            solution = SOLVERS[solver](task)
        except NoSolutionError as error:
            rows.append({**about, "solver": solver, "failed": str(error), "s": time.process_time() - begin})
            continue
        row = {**about, "solver": solver, "s": time.process_time() - begin, **dict(solution.facts)}
        if solver == "random":
            drawn = [SOLVERS[solver](replace(task, seed=seed)) for seed in range(seeds)]
            rows.append(row | _mean([_costs(one, task, held_out) for one in drawn]))
        else:
            rows.append(row | _costs(solution, task, held_out))
        starts[solver] = solution
    for solver, weight in POLISHED:
        begin = time.process_time()
        polished = swap(task, starts[solver].placement, SWEEPS, weight)
        row = {**about, "solver": f"{solver} + swap, load {weight:g}", "s": time.process_time() - begin}
        rows.append({**row, **dict(polished.facts), **_costs(polished, task, held_out)})
    return rows


def _costs(solution: Solution, task: Task, held_out: Routing) -> dict[str, float]:
    here, there = (measure(solution.placement, part, task.cluster) for part in (task.routing, held_out))
    return {
        "train_hops": here.hops_per_token,
        "train_pair_hops": here.pair_hops_per_token,
        "train_load": here.max_load,
        "hops": there.hops_per_token,
        "exflow_hops": there.exflow_hops_per_token,
        "load": there.max_load,
        "worst_load": there.worst_load,
    }


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _show(rows: list[Row], chance: float) -> None:
    first = rows[0]
    print(
        f"\n{first['trace']}, {first['gpus']} GPUs, held out by {first['held_out']}, placed by {first['train_tokens']} tokens; "
        f"random in expectation {chance:.2f} hops"
    )
    print(f"{'':30}   placed by: hops  by pairs   load  |  held out: hops  exflow   load  worst  |  cpu s")
    for row in rows:
        if "failed" in row:
            print(f"{row['solver']:30} {row['failed']}")
            continue
        told = f"gap {row['largest_gap']:.0%}" if "largest_gap" in row else ""
        print(
            f"{row['solver']:30} {row['train_hops']:17.2f} {row['train_pair_hops']:9.2f} {row['train_load']:6.3f}  | "
            f"{row['hops']:15.2f} {row['exflow_hops']:7.2f} {row['load']:6.3f} {row['worst_load']:6.2f}  | "
            f"{row['s']:8.2f}  {told}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of the integer programs of one placement")
    parser.add_argument("--seeds", type=int, default=20, help="random placements to average")
    given = parser.parse_args()
    _warm_up()
    rows: list[Row] = []
    for name, trace in traces():
        splits: list[SplitBy] = (
            ["tokens", "turns"] if len(trace.turn_names) > 1 and name != "made top-1" else ["tokens"]
        )
        for by in splits:
            for gpus in (4, 8):
                found = compare(name, trace, gpus, by, given.seconds, given.seeds)
                _show(found, expected_random_hops(trace.n_layers, trace.n_experts, trace.top_k, gpus))
                rows += found
    environment = current_environment()
    print(
        f"\n{environment.details['hardware']['cpu']['model']}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    if given.json:
        given.json.write_text(json.dumps({"environment": environment.to_dict(), "rows": rows}, indent=1))


def _warm_up() -> None:
    """Compile, so that no solver is charged for it."""
    train, held_out = split(made_top_1(64, layers=3, experts=4), 0.5)
    task = Task(train, Cluster(2, 2), seconds=1.0)
    for solve in SOLVERS.values():
        _costs(swap(task, solve(task).placement, 1, 0.5), task, held_out)


if __name__ == "__main__":
    main()

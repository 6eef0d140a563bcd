"""The map of moe-cache: what splitting experts, prefetching and computing on the slow tier are worth, and where.

python benchmarks/moe_map.py [--json FILE] [--data DIR]

Cells are simulated with the profiled timeline on made-up routing; times are in units of a token's computation with every
expert resident. Real traces are added where their folder (moe_routing) is given or found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autotune.hardware import current_environment
from benchmarks import moe_map_report
from evaluators.moe_cache.batching import batched
from evaluators.moe_cache.cells import ThetaSweep, build_cell, theta_sweep, threshold_sweep
from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.replay import replay
from evaluators.moe_cache.stats import trace_stats
from evaluators.moe_cache.synthetic import SyntheticRouting
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import RoutingTrace

MOEPIC_RATIO = 2.89  # 165 ms of loading over 57 ms of computing per token (arXiv:2509.08342)
REAL_TRACES = ("qwen.route.csv.gz", "granite.trace.json.gz")
_SHIPPED = Path(__file__).parents[1] / "evaluators" / "moe_cache" / "traces" / "tiny-moe.moetrace.npz"

Row = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A model's shape and what is varied on it."""

    name: str
    n_layers: int
    n_experts: int
    top_k: int
    skews: tuple[float, ...]
    localities: tuple[float, ...]
    accuracies: tuple[float, ...]
    ratios: tuple[float, ...] = (1.0, MOEPIC_RATIO, 6.0, 12.0)
    budgets: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)

    def routing(self, skew: float, locality: float, *, seed: int = 0, sequences: int = 1) -> SyntheticRouting:
        """Prompts of 64 tokens warm the caches; 256 generated tokens are timed, or 64 of each of several sequences."""
        return SyntheticRouting(
            n_experts=self.n_experts,
            top_k=self.top_k,
            n_layers=self.n_layers,
            decode_tokens=256 if sequences == 1 else 64,
            prompt_tokens=64,
            sequences=sequences,
            skew=skew,
            locality=locality,
            seed=seed,
        )


QWEN15 = Grid("Qwen1.5-MoE", 24, 60, 4, (0.0, 0.4, 0.8, 1.2), (0.0, 0.5, 0.8), (0.6, 0.9, 1.0))
MIXTRAL = Grid("Mixtral-8x7B", 32, 8, 2, (0.0, 0.8), (0.0, 0.8), (0.6, 0.9), budgets=(0.25, 0.5, 0.75))
QWEN3 = Grid("Qwen3-30B-A3B", 16, 128, 8, (0.0, 0.8), (0.0, 0.8), (0.6, 0.9))
GRIDS = (QWEN15, MIXTRAL, QWEN3)

CPU_RATIOS = (1.0, 3.0, 10.0, 30.0)
BATCHES = (1, 4, 16)
DENSE_SHARES = (0.2, 0.5, 0.8)


@cache
def made(grid: Grid, skew: float, locality: float, accuracy: float | None, seed: int, batch: int = 1) -> RoutingTrace:
    trace = grid.routing(skew, locality, seed=seed, sequences=batch).trace()
    if accuracy is not None:
        trace = with_accuracy(trace, accuracy, seed, depths=1)
    return batched(trace, batch)


def routing_statistics(trace: RoutingTrace) -> Row:
    """Hit rates of decode look-ups at half and a quarter of the experts, per layer, and how many experts are popular."""
    batches = trace.passes()
    half, quarter = trace.n_experts // 2, trace.n_experts // 4
    return {
        "lru_half": replay(batches, "lru", half).decode_hit_rate,
        "lfu_half": replay(batches, "lfu", half).decode_hit_rate,
        "lcp_half": replay(batches, "lcp", half).decode_hit_rate,
        "lru_quarter": replay(batches, "lru", quarter).decode_hit_rate,
        "effective_experts": float(trace_stats(trace).effective_experts.mean()),
    }


def by_rule(sweep: ThetaSweep, budget: float) -> float:
    """How far the better of whole experts and of a split at the budget's share of all experts is from the best split."""
    split = min(sweep.thetas, key=lambda theta: abs(theta - budget))
    return min(sweep.at(1.0), sweep.at(split)) / min(sweep.latency) - 1.0


def sweep_row(sweeps: dict[str, ThetaSweep], budget: float) -> Row:
    """Numbers of a cell: the splits under LRU, and the shortest latency of either policy against on-demand LRU."""
    lru, lcp = sweeps["lru"], sweeps["lcp"]
    return {
        "hit_rate": lru.on_demand_hit_rate,
        "on_demand": lru.on_demand,
        "latency": list(lru.latency),
        "best_theta": lru.best_theta,
        "over_0": lru.gain_over(0.0),
        "over_1": lru.gain_over(1.0),
        "by_rule": by_rule(lru, budget),
        "interior": lru.interior_gain,
        "reduction": lru.reduction,
        "whole_reduction": lru.whole_reduction,
        "lcp_best_theta": lcp.best_theta,
        "lcp_interior": lcp.interior_gain,
        "lcp_reduction": lcp.reduction,
    }


def theta_rows(grid: Grid) -> list[Row]:
    """Every cell of a grid; where an interior split wins, whether it does on routing that it was not chosen on."""
    rows = []
    for skew, locality, accuracy, ratio, budget in itertools.product(
        grid.skews, grid.localities, grid.accuracies, grid.ratios, grid.budgets
    ):
        cell = build_cell(made(grid, skew, locality, accuracy, 0), ratio, budget)
        row = sweep_row({policy: theta_sweep(cell, policy=policy) for policy in ("lru", "lcp")}, budget)
        if row["interior"] > moe_map_report.WORTH:
            other = theta_sweep(build_cell(made(grid, skew, locality, accuracy, 1), ratio, budget))
            row["interior_other_seed"] = 1 - other.at(row["best_theta"]) / min(other.at(0.0), other.at(1.0))
        key = {"shape": grid.name, "skew": skew, "locality": locality, "accuracy": accuracy}
        rows.append({**key, "ratio": ratio, "budget": budget, **row})
    return rows


def reach_rows(grid: Grid) -> list[Row]:
    """Cells around the most that overlapping can give: loading of misses about as long as computing.

    `traffic` is misses x ratio under on-demand LRU. With h hits and R the ratio, on demand takes up to ``1 + (1 - h) R`` and
    perfect overlap of the same bytes ``max(1, (1 - h) R)``: at most half is saved, where the traffic is 1.
    """
    rows = []
    for skew, locality, accuracy, budget, dense_share in itertools.product(
        (0.0, 0.4, 0.8), (0.0, 0.5), (0.9, 1.0), (0.25, 0.5, 0.75), DENSE_SHARES
    ):
        trace = made(grid, skew, locality, accuracy, 0)
        base = build_cell(trace, 1.0, budget)
        hits = simulate(trace, base.on_demand(), base.costs).hit_rate
        for traffic in (0.5, 0.7, 0.85, 1.0, 1.2, 1.5):
            ratio = traffic / (1.0 - hits)
            cell = build_cell(trace, ratio, budget, dense_share=dense_share)
            sweeps = {policy: theta_sweep(cell, policy=policy) for policy in ("lru", "lcp")}
            policy, best = max(sweeps.items(), key=lambda item: item[1].reduction)
            rows.append(
                {"shape": grid.name, "skew": skew, "locality": locality, "accuracy": accuracy, "budget": budget,
                 "dense_share": dense_share, "traffic": traffic, "ratio": ratio, "lru_hit_rate": hits, "policy": policy,
                 "best_theta": best.best_theta, "interior": best.interior_gain, "reduction": best.reduction,
                 "whole_reduction": max(sweep.whole_reduction for sweep in sweeps.values())}
            )  # fmt: skip
    return rows


def threshold_rows(grid: Grid) -> list[Row]:
    """CPU thresholds at half of the experts' bytes, without prefetching."""
    rows = []
    for skew, batch, ratio, cpu_ratio in itertools.product((0.0, 0.8), BATCHES, grid.ratios, CPU_RATIOS):
        sweep = threshold_sweep(build_cell(made(grid, skew, 0.5, None, 0, batch), ratio, 0.5, cpu_ratio=cpu_ratio))
        rows.append(
            {
                "shape": grid.name,
                "skew": skew,
                "batch": batch,
                "ratio": ratio,
                "cpu_ratio": cpu_ratio,
                "hit_rate": sweep.hit_rate,
                "thresholds": list(sweep.thresholds),
                "latency": list(sweep.latency),
                "best_threshold": sweep.best_threshold,
                "over_loading": sweep.gain_over_loading,
                "over_computing": sweep.gain_over_computing,
                "crossover": sweep.crossover,
                "crossover_loss": sweep.crossover_loss,
            }
        )
    return rows


def real_rows(traces: Iterable[RoutingTrace]) -> list[Row]:
    """The same sweep on recorded traces, with predictions right in 90 % and with the trace's own predictor."""
    rows = []
    for trace in traces:
        for predictor, predicted in (("90 % right", with_accuracy(trace, 0.9, 0, depths=1)), ("own", trace)):
            for ratio, budget in itertools.product((1.0, MOEPIC_RATIO, 6.0), (0.1, 0.25, 0.5, 0.75)):
                cell = build_cell(predicted, ratio, budget)
                row = sweep_row({policy: theta_sweep(cell, policy=policy) for policy in ("lru", "lcp")}, budget)
                rows.append({"trace": trace.model, "predictor": predictor, "ratio": ratio, "budget": budget, **row})
    return rows


def first_look(trace: RoutingTrace) -> list[Row]:
    """Whole and split experts at MoEpic's ratio, per-layer LRU, predictions right in 90 %; staging buffers come on top."""
    predicted = with_accuracy(trace, 0.9, 0, depths=1)
    rows = []
    for dense_share, budget in itertools.product((0.2, 0.5), (0.25, 0.5)):
        cell = build_cell(predicted, MOEPIC_RATIO, budget, dense_share=dense_share)
        share = tuple(int(budget * trace.n_experts * size) for size in cell.costs.expert_bytes)
        for theta, depth in ((1.0, 0), (1.0, 1), (0.8, 1), (0.6, 1), (0.4, 1)):
            plan = CachePlan(share, (theta,) * trace.n_layers, prefetch_depth=depth)
            result = simulate(predicted, plan, cell.costs)
            rows.append(
                {"dense_share": dense_share, "budget": budget, "theta": theta, "prefetch_depth": depth,
                 "latency": float(result.latency_ms.mean()), "hit_rate": result.hit_rate}
            )  # fmt: skip
    return rows


def recorded(data: Path | None) -> list[RoutingTrace]:
    folder = (
        data or Path(os.environ.get("AUTOTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    ) / "moe_routing"
    return [load_trace(folder / name) for name in REAL_TRACES if (folder / name).exists()]


def statistics_rows() -> list[Row]:
    return [
        {
            "shape": grid.name,
            "skew": skew,
            "locality": locality,
            **routing_statistics(made(grid, skew, locality, None, 0)),
        }
        for grid in GRIDS
        for skew, locality in itertools.product(grid.skews, grid.localities)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every cell here")
    parser.add_argument("--data", type=Path, help="folder that holds moe_routing; $AUTOTUNE_DATA if left out")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    real = [*recorded(arguments.data), load_trace(_SHIPPED)]
    results: dict[str, Any] = {
        "theta": [row for grid in GRIDS for row in theta_rows(grid)],
        "threshold": [row for grid in (QWEN15, MIXTRAL) for row in threshold_rows(grid)],
        "routing": statistics_rows(),
        "real": real_rows(real),
        "first_look": [row for trace in real if "qwen3" in trace.model.lower() for row in first_look(trace)],
        "reach": reach_rows(QWEN15),
    }
    moe_map_report.report(results)
    environment = current_environment()
    print(f"{environment.details['hardware']['cpu']['model']}, Python {platform.python_version()}")
    print(f"{time.perf_counter() - begin:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": environment.to_dict(), **results}, indent=1))


if __name__ == "__main__":
    main()

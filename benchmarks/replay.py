"""How long one replay takes: by trace, by policy, by trace length and by number of configurations.

    python benchmarks/replay.py [--json FILE] [--repeats 7]

Times are wall-clock medians over the repeats, with the best beside them (on a busy machine it is the truer one), after
one warm-up call that compiles and fills the caches of the trace. A replay is `simulate`: caches, link and compute stream,
every token, and the summary of the result. The recorded traces are used where they are present ($AUTOTUNE_DATA, else
../shared/data beside the repository).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.plan import CachePlan, Costs, by_tokens
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import lookahead
from evaluators.moe_cache.replay import hit_curves, replay
from evaluators.moe_cache.timeline import simulate, simulate_many
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

Row = dict[str, Any]
_ROOT = Path(__file__).resolve().parents[1]


def synthetic(
    decode_tokens: int, *, layers: int = 48, n_experts: int = 128, top_k: int = 6, seed: int = 0
) -> RoutingTrace:
    """Zipf-distributed routing whose favourites drift: every token keeps half of the last one's experts on average."""
    rng = np.random.default_rng(seed)
    prompt = 28
    tokens = prompt + decode_tokens
    liking = -np.log(np.arange(1, n_experts + 1))
    favourites = np.argsort(rng.random((layers, n_experts)), axis=1)
    experts = np.empty((tokens, layers, top_k), dtype=np.int16)
    noise = rng.gumbel(size=(layers, n_experts))
    for token in range(tokens):
        renewed = rng.random((layers, n_experts)) < 0.25
        noise = np.where(renewed, rng.gumbel(size=(layers, n_experts)), noise)
        chosen = np.argpartition(-(liking + noise), top_k, axis=1)[:, :top_k]
        experts[token] = np.take_along_axis(favourites, chosen, axis=1)
    phase = np.where(np.arange(tokens) < prompt, PREFILL, DECODE).astype(np.int8)
    sizes = np.full(layers, 3_059_712, dtype=np.int64)
    return RoutingTrace(
        "synthetic", n_experts, top_k, experts, np.zeros(tokens, dtype=np.int32), phase, expert_bytes=sizes
    )


def example_costs(trace: RoutingTrace) -> Costs:
    """Round numbers of a PCIe 4.0 card; the time of a replay hardly depends on them."""
    sizes = trace.expert_bytes if trace.expert_bytes is not None else np.full(trace.n_layers, 2_000_000)
    largest = int(trace.passes().pass_tokens.max())
    return Costs(
        expert_bytes=sizes,
        link_bytes=np.array([2.0**16, 2.0**20, 2.0**24]),
        link_ms=np.array([0.02, 0.06, 0.7]),
        expert_ms=by_tokens([1, 32, 64], [0.03, 0.05, 0.06], largest),
        dense_ms=by_tokens([1, 64], [0.15, 0.4], largest),
        cpu_expert_ms=by_tokens([1, 64], [0.3, 19.0], largest),
    )


def quarter(trace: RoutingTrace, **changes: Any) -> CachePlan:
    """A plan whose budget holds a quarter of every layer."""
    sizes = example_costs(trace).expert_bytes
    fields: Row = {"theta": (1.0,) * trace.n_layers, **changes}
    return CachePlan(budget_bytes=tuple(int(s) * trace.n_experts // 4 for s in sizes), **fields)


def measured(trace: RoutingTrace, plan: CachePlan, costs: Costs) -> dict[str, float]:
    """A replay as the evaluator does it."""
    return simulate(trace, plan, costs).metrics()


def timed(call: Callable[[], object], repeats: int) -> Row:
    """Median and best wall-clock time in ms."""
    call()
    samples = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        samples.append(1e3 * (time.perf_counter() - begun))
    return {"ms": statistics.median(samples), "best_ms": min(samples)}


def by_plan(name: str, trace: RoutingTrace, repeats: int) -> list[Row]:
    """One row per kind of plan, and the cache alone."""
    costs = example_costs(trace)
    split = (0.6,) * trace.n_layers
    plans = {
        **{f"timeline {policy}": quarter(trace, policy=policy.value) for policy in Policy},
        "timeline lru, prefetch 1": quarter(trace, prefetch_depth=1),
        "timeline lcp, theta 0.6, prefetch 3": quarter(trace, policy="lcp", theta=split, prefetch_depth=3),
        "timeline lru, cpu below 2 tokens": quarter(trace, cpu_threshold_tokens=1),
    }
    batches = trace.passes()
    calls: dict[str, Callable[[], object]] = {
        what: partial(measured, trace, plan, costs) for what, plan in plans.items()
    }
    calls["caches only, lru"] = lambda: replay(batches, "lru", trace.n_experts // 4)
    calls["hits of every capacity, lru"] = lambda: hit_curves(batches, "lru")
    return [
        {"table": "plans", "trace": name, "picks": trace.n_picks, "what": what} | timed(call, repeats)
        for what, call in calls.items()
    ]


def by_length(repeats: int, lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)) -> list[Row]:
    """Growing synthetic traces; `growth` is the best time per pick over that of the shortest, 1 where the growth is linear."""
    longest = synthetic(lengths[-1])
    rows: list[Row] = []
    prompt = longest.n_tokens - longest.decode_tokens
    for length in lengths:
        kept = slice(0, prompt + length)
        trace = RoutingTrace(
            longest.model,
            longest.n_experts,
            longest.top_k,
            longest.experts[kept],
            longest.turn[kept],
            longest.phase[kept],
            expert_bytes=longest.expert_bytes,
        )
        costs = example_costs(trace)
        for depth in (0, 1):
            plan = quarter(trace, prefetch_depth=depth)
            times = timed(partial(measured, trace, plan, costs), repeats)
            what = f"timeline lru, prefetch {depth}"
            shortest = next((r for r in rows if r["what"] == what), None)
            per_pick = times["best_ms"] / trace.n_picks
            growth = per_pick / (shortest["best_ms"] / shortest["picks"]) if shortest else 1.0
            rows.append(
                {"table": "length", "trace": f"{length} tokens", "picks": trace.n_picks, "what": what}
                | times
                | {"growth": growth}
            )
    return rows


def by_configurations(name: str, trace: RoutingTrace, repeats: int, threads: int) -> list[Row]:
    """Many different plans in one call, on one thread and on several."""
    costs = example_costs(trace)
    whole = trace.n_experts * costs.expert_bytes
    rows: list[Row] = []
    for count in (1, 4, 16, 64, 256):
        plans = [
            CachePlan(
                budget_bytes=tuple((whole * (i + 1) // (2 * count)).tolist()),
                theta=(1.0 if i % 2 else 0.6,) * trace.n_layers,
                policy=("lru", "lcp", "lfu")[i % 3],
                prefetch_depth=i % 2,
            )
            for i in range(count)
        ]
        lookahead(trace, 1)
        for n in sorted({1, threads}):
            times = timed(partial(simulate_many, trace, plans, costs, threads=n), min(repeats, 3))
            rows.append(
                {
                    "table": "configurations",
                    "trace": name,
                    "picks": trace.n_picks,
                    "what": f"{count} plans, {n} threads",
                }
                | times
                | {"growth": times["best_ms"] / count}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    data = Path(os.environ.get("AUTOTUNE_DATA", _ROOT.parent / "shared" / "data")) / "moe_routing"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {_cpu()}"
    print(machine)
    traces = {}
    for name, file in (("qwen", "qwen.route.csv.gz"), ("granite", "granite.trace.json.gz")):
        if (data / file).exists():
            traces[name] = load_trace(data / file)
        else:
            print(f"{name}: {data / file} is absent, left out")
    traces["synthetic"] = synthetic(128)
    rows: list[Row] = []
    for name, trace in traces.items():
        rows += by_plan(name, trace, given.repeats)
    rows += by_length(given.repeats)
    first = next(iter(traces))
    rows += by_configurations(first, traces[first], given.repeats, given.threads)
    _show(rows)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "repeats": given.repeats, "rows": rows}, indent=1))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _show(rows: list[Row]) -> None:
    headings = {
        "plans": ("one replay by plan", ""),
        "length": ("one replay by length of the trace", "ms per pick / shortest"),
        "configurations": ("many plans in one call", "ms per plan"),
    }
    for table, (title, extra) in headings.items():
        print(f"\n{title}\n{'trace':12} {'picks':>9}  {'what':38} {'ms':>9} {'best':>9}  {extra}")
        for row in (r for r in rows if r["table"] == table):
            growth = f"{row['growth']:.2f}" if "growth" in row else ""
            print(
                f"{row['trace']:12} {row['picks']:9,d}  {row['what']:38} {row['ms']:9.2f} {row['best_ms']:9.2f}  {growth}"
            )


if __name__ == "__main__":
    main()

"""The replay against answers that are known: global LRU on the Qwen trace, Belady's bound, theta = 1, everything resident.

    python benchmarks/known_answers.py [--data DIR] [--json FILE]

DIR is the folder of measurements by others (default: $AUTOTUNE_DATA, else ../shared/data beside the repository).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.plan import CachePlan, Costs
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.replay import hit_curves, replay_global
from evaluators.moe_cache.timeline import simulate
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

MIB = 2**20
REPOSITORY = Path(__file__).resolve().parent.parent


def global_lru(trace: RoutingTrace) -> list[dict[str, float]]:
    """Hit rate of one LRU cache over all layers, by its size."""
    batches = trace.passes()
    sizes = np.asarray(trace.expert_bytes)
    return [
        {"mib": mib, "hit_rate": replay_global(batches, "lru", mib * MIB, sizes).hit_rate}
        for mib in (1000, 2000, 3000, 4000, 5000, 6000)
    ]


def bounds(trace: RoutingTrace) -> dict[str, Any]:
    """Every policy's hits at every capacity, over prefill and decode: is Belady never below, does LRU never fall?"""
    batches = trace.passes()
    hits = {
        policy.value: sum(
            hit_curves(batches, policy.value, phase=phase).sum(axis=(0, 1), dtype=np.int64)
            for phase in (PREFILL, DECODE)
        )
        for policy in Policy
    }
    lookups = len(batches.experts)
    quarter = trace.n_experts // 4
    return {
        "rates": {policy: float(curve[quarter] / lookups) for policy, curve in hits.items()},
        "belady_bounds_all": all(bool((hits["belady"] >= curve).all()) for curve in hits.values()),
        "lru_never_falls": bool((np.diff(hits["lru"]) >= 0).all()),
    }


def timeline_identities(trace: RoutingTrace) -> dict[str, float]:
    """Everything resident: what is still exposed after the first touch, as a share of the latency."""
    sizes = np.asarray(trace.expert_bytes)
    most = int(trace.passes().pass_tokens.max())
    costs = Costs(
        expert_bytes=sizes,
        link_bytes=np.array([65536.0, float(sizes.max())]),
        link_ms=np.array([0.1, 1.0]),
        expert_ms=np.concatenate(([0.0], np.full(most, 0.2))),
        dense_ms=np.concatenate(([0.0], np.full(most, 0.3))),
    )
    roomy = CachePlan(tuple(int(size) * trace.n_experts for size in sizes), (1.0,) * trace.n_layers)
    result = simulate(trace, roomy, costs)
    compute = trace.n_layers * (0.3 + trace.top_k * 0.2)
    touched = np.flatnonzero(result.moved_bytes == 0)
    return {
        "tokens_without_a_first_touch": len(touched),
        "exposed_ms_of_those": float(result.exposed_ms[touched].max()),
        "latency_over_compute_of_those": float(np.abs(result.latency_ms[touched] / compute - 1).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("AUTOTUNE_DATA", REPOSITORY.parent / "shared" / "data")
    )
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    source = Path(arguments.data) / "moe_routing" / "qwen.route.csv.gz"
    if not source.is_file():
        sys.exit(f"known_answers: {source} is not there; name the folder of measurements with --data DIR")
    trace = load_trace(source)
    found: dict[str, Any] = {
        "global_lru": global_lru(trace),
        "bounds": bounds(trace),
        "resident": timeline_identities(trace),
    }
    print("global LRU over the whole trace: MiB, hits")
    for row in found["global_lru"]:
        print(f"{row['mib']:>6}  {row['hit_rate']:.2%}")
    print("\nper-layer caches of a quarter of the experts, look-ups that hit")
    for policy, rate in sorted(found["bounds"]["rates"].items(), key=lambda item: item[1]):
        print(f"{policy:>8}  {rate:.2%}")
    print(f"Belady bounds every policy at every capacity: {found['bounds']['belady_bounds_all']}")
    print(f"LRU never falls when capacity grows: {found['bounds']['lru_never_falls']}")
    print(f"\neverything resident: {found['resident']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

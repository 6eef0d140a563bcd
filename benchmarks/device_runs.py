"""Runs that others measured on a phone and a desktop: fitted from five, predicted for the rest.

python benchmarks/device_runs.py [--data DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators.moe_cache.device_runs import (
    DeviceModel,
    DeviceRun,
    TraceCurve,
    can_fit,
    first_of_each_kind,
    noise_floor,
    read_runs,
    within,
)
from evaluators.moe_cache.formats import load_trace

HIT_TOLERANCE = 0.01
SECONDS_TOLERANCE = 0.15

Row = dict[str, Any]


def predictions(runs: Sequence[DeviceRun], fitted: Sequence[DeviceRun], curve: TraceCurve) -> list[Row]:
    """Every run with its prediction; `fitted` ones are marked and count for nothing."""
    model = DeviceModel.fit(fitted, curve)
    rows = []
    for run in runs:
        found = model.predict(run)
        row: Row = {
            "run": run.name,
            "top_k": run.top_k,
            "cache_mib": run.cache_mib,
            "overlap": run.overlap,
            "fitted": run in fitted,
            "beyond": run.beyond,
            "hit_rate": run.hit_rate,
            "seconds": run.seconds_per_token,
        }
        if found is not None:
            row["predicted_seconds"] = found.seconds_per_token
            row["seconds_right"] = within(found.seconds_per_token, run.seconds_per_token, SECONDS_TOLERANCE)
            if found.hit_rate is not None and run.hit_rate is not None:
                row["predicted_hit_rate"] = found.hit_rate
                row["hits_right"] = abs(found.hit_rate - run.hit_rate) <= HIT_TOLERANCE
        rows.append(row)
    return rows


def score(rows: Sequence[Row]) -> Row:
    """Of the runs that were not fitted: how many were predicted, and how many of them rightly."""
    rest = [row for row in rows if not row["fitted"]]
    hits = [row for row in rest if "hits_right" in row]
    seconds = [row for row in rest if "seconds_right" in row]
    errors = [abs(row["predicted_seconds"] / row["seconds"] - 1.0) for row in seconds]
    return {
        "rest": len(rest),
        "hits_predicted": len(hits),
        "hits_right": sum(row["hits_right"] for row in hits),
        "seconds_predicted": len(seconds),
        "seconds_right": sum(row["seconds_right"] for row in seconds),
        "hit_error_points": statistics.mean(abs(row["predicted_hit_rate"] - row["hit_rate"]) for row in hits) * 100,
        "seconds_mape": statistics.mean(errors),
    }


def every_choice(runs: Sequence[DeviceRun], curve: TraceCurve) -> list[Row]:
    """The score of every way to take one run of each kind."""
    kinds: dict[object, list[DeviceRun]] = {}
    for run in filter(can_fit, runs):
        kinds.setdefault(run.kind, []).append(run)
    return [score(predictions(runs, chosen, curve)) for chosen in itertools.product(*kinds.values())]


def spread(runs: Sequence[DeviceRun]) -> list[Row]:
    """Settings that were measured more than once: how far apart the slowest and the fastest run are."""
    groups: dict[object, list[DeviceRun]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run)
    return [
        {
            "runs": ", ".join(run.name for run in group),
            "seconds": [run.seconds_per_token for run in group],
            "slowest_over_fastest": max(r.seconds_per_token for r in group) / min(r.seconds_per_token for r in group),
            "compute_slowest_over_fastest": max(r.compute_seconds for r in group)
            / min(r.compute_seconds for r in group),
        }
        for group in groups.values()
        if len(group) > 1 and all(run.compute_seconds > 0 for run in group)
    ]


def report(results: Row) -> None:
    print("| run | top k | cache MiB | overlap | hits | predicted | s/token | predicted | error | |")
    print("|" + " --- |" * 10)
    for row in results["rows"]:
        predicted_hits = f"{row['predicted_hit_rate']:.1%}" if "predicted_hit_rate" in row else "–"
        measured_hits = "–" if row["hit_rate"] is None else f"{row['hit_rate']:.1%}"
        seconds, error, verdict = "–", "–", f"not predicted: {row['beyond']}"
        if "predicted_seconds" in row:
            seconds = f"{row['predicted_seconds']:.3f}"
            error = f"{row['predicted_seconds'] / row['seconds'] - 1:+.0%}"
            wrong = [
                name for name, key in (("hits", "hits_right"), ("seconds", "seconds_right")) if row.get(key) is False
            ]
            verdict = "fitted" if row["fitted"] else " and ".join(wrong) + " missed" if wrong else "right"
        cache = "none" if row["cache_mib"] is None else f"{row['cache_mib']:.0f}"
        cells = [row["run"], row["top_k"], cache, "yes" if row["overlap"] else "no", measured_hits, predicted_hits]
        print("| " + " | ".join(map(str, [*cells, f"{row['seconds']:.3f}", seconds, error, verdict])) + " |")
    print()
    for name, value in results["score"].items():
        print(f"{name}: {value:.3g}")
    print("\nsettings measured more than once:")
    for row in results["spread"]:
        print(
            f"- {row['runs']}: {row['slowest_over_fastest']:.2f} in all, {row['compute_slowest_over_fastest']:.2f} in compute"
        )
    right, total = results["noise_floor"]
    print(f"\nthe best constant for each of them is within {SECONDS_TOLERANCE:.0%} for {right} of {total} runs")
    choices = results["every_choice"]
    print(f"\none run of each kind, all {len(choices)} ways:")
    for name in ("hits_right", "seconds_right", "hit_error_points", "seconds_mape"):
        values = sorted(row[name] for row in choices)
        print(f"- {name}: least {values[0]:.3g}, median {statistics.median(values):.3g}, most {values[-1]:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(os.environ.get("AUTOTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument(
        "--data", type=Path, default=beside, help="folder that holds moe_routing; $AUTOTUNE_DATA if left out"
    )
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    runs = read_runs(arguments.data / "moe_routing" / "measured_runs.csv")
    curve = TraceCurve(load_trace(arguments.data / "moe_routing" / "qwen.route.csv.gz"))
    rows = predictions(runs, first_of_each_kind(runs), curve)
    results: Row = {
        "rows": rows,
        "score": score(rows),
        "spread": spread(runs),
        "noise_floor": noise_floor(runs, SECONDS_TOLERANCE),
        "every_choice": every_choice(runs, curve),
    }
    report(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

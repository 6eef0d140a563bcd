"""Spot checks of the map of moe-cache: cells that are run for real, beside what the profiled evaluator predicts for them.

python benchmarks/moe_map_spots.py [--first N] [--rounds 3] [--tier auto] [--scratch DIR] [--link-mib-s N] [--rows FILE.jsonl]

Needs a quiet machine, and two cores on ram<-disk: one computes, one reads. Every cell is a made-up trace and a small model of
the map's shape, through the domain as a user calls it. The ratio of loading to computing is set by the cached positions that
attention reads, which are chosen from this machine's profile; where even the fewest are too many, the cell is
run at the largest ratio that this machine has, and the table says which. A file of rows that exists is gone on with.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autotune.domain import load_domain
from autotune.hardware import TierPair, current_environment, load_or_measure
from autotune.options import parse_options
from benchmarks.moe_map import MIXTRAL, MOEPIC_RATIO, QWEN3, QWEN15, Grid
from benchmarks.moe_map_report import WORTH, percent, print_rows
from benchmarks.rows import Row, Rows
from evaluators.moe_cache.cells import Cell, build_cell, ratios_of, theta_sweep
from evaluators.moe_cache.formats import save_trace
from evaluators.moe_cache.machine import LayerWork, costs_of
from evaluators.moe_cache.model_config import from_config_json
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.profiled import Profiled
from evaluators.moe_cache.real import Real
from evaluators.moe_cache.solver import config_of
from evaluators.moe_cache.trace import RoutingTrace

HEADS, HEAD_DIM = 4, 64
BITS = 32  # every processor computes with these at the speed of its memory
FEWEST, MORE, MOST = 16, 16_384, 131_072  # cached positions

Sign = Literal["agrees", "undecided", "differs"]


@dataclass(frozen=True)
class Spot:
    """A cell of the map, on a model that is small enough to run.

    Attributes:
        grid: whose experts per layer and per token; real runs have fewer layers, as there is time for.
        skew, locality, accuracy, budget: as in the map.
        ratio: the loading ratio that is wanted; a row tells which was reached.
        width: hidden and intermediate size of an expert. At 512 it has 3 MiB: bandwidth and not latency decides.
        prompt_tokens, decode_tokens: of the trace.
    """

    grid: Grid
    skew: float
    locality: float
    accuracy: float
    ratio: float
    budget: float
    width: int = 512
    prompt_tokens: int = 32
    decode_tokens: int = 96

    def routing(self) -> RoutingTrace:
        """The cell's routing."""
        made = replace(
            self.grid.routing(self.skew, self.locality),
            prompt_tokens=self.prompt_tokens,
            decode_tokens=self.decode_tokens,
        )
        sizes = np.full(made.n_layers, 3 * self.width**2 * BITS // 8)
        return replace(with_accuracy(made.trace(), self.accuracy, 0, depths=1), expert_bytes=sizes)

    def model_config(self, folder: Path) -> Path:
        """The small model, written as a config.json."""
        values = {
            "model_type": "mixtral",
            "_name_or_path": f"small {self.grid.name}",
            "num_hidden_layers": self.grid.n_layers,
            "num_local_experts": self.grid.n_experts,
            "num_experts_per_tok": self.grid.top_k,
            "hidden_size": self.width,
            "intermediate_size": self.width,
            "num_attention_heads": HEADS,
            "head_dim": HEAD_DIM,
            "vocab_size": 32_000,
            "dtype": f"float{BITS}",
        }
        path = folder / "config.json"
        path.write_text(json.dumps(values))
        return path


SIXTY, EIGHT, MANY = (replace(grid, n_layers=n) for grid, n in ((QWEN15, 8), (MIXTRAL, 16), (QWEN3, 6)))

# Over all three shapes, both sides of the border between split and whole experts, and both ends of every axis.
SPOTS = (
    Spot(SIXTY, 0.0, 0.0, 0.9, MOEPIC_RATIO, 0.75),
    Spot(SIXTY, 0.0, 0.8, 0.9, MOEPIC_RATIO, 0.25),
    Spot(EIGHT, 0.0, 0.0, 0.9, MOEPIC_RATIO, 0.75),
    Spot(SIXTY, 0.0, 0.0, 1.0, 1.0, 0.25),
    Spot(MANY, 0.0, 0.0, 0.9, MOEPIC_RATIO, 0.75),
    Spot(SIXTY, 0.0, 0.0, 0.9, MOEPIC_RATIO, 0.5),
    Spot(SIXTY, 0.4, 0.0, 0.6, MOEPIC_RATIO, 0.75),
    Spot(SIXTY, 0.8, 0.0, 1.0, 1.0, 0.25),
    Spot(SIXTY, 1.2, 0.5, 0.6, MOEPIC_RATIO, 0.5),
    Spot(SIXTY, 0.0, 0.0, 0.9, 6.0, 0.75),
    Spot(EIGHT, 0.8, 0.8, 0.6, MOEPIC_RATIO, 0.5),
    Spot(EIGHT, 0.0, 0.0, 0.9, 1.0, 0.25),
    Spot(MANY, 0.8, 0.8, 0.9, 1.0, 0.25),
    Spot(SIXTY, 0.0, 0.0, 0.9, MOEPIC_RATIO, 0.1),
)


def context_for(spot: Spot, folder: Path, tier: str, scratch: Path | None, link_mib_s: float | None) -> int:
    """Cached positions at which this machine takes `spot.ratio` times as long to load a token as to compute it.

    Attention's time is measured at `FEWEST` and `MORE` positions and taken to lie on a line through them, up to `MOST`.
    """
    model = from_config_json(spot.model_config(folder))
    works = [LayerWork.of(model, context) for context in (FEWEST, MORE)]
    pair = TierPair.detect() if tier == "auto" else TierPair.parse(tier)
    shapes = [shape for work in works for shape in work.shapes]
    profile = load_or_measure(pair, shapes, scratch=scratch, progress=lambda step: say(f"measuring {step.what}"))
    sizes = np.full(model.n_layers, model.expert_bytes())
    few, many = (costs_of(profile, work, sizes, 1).held_to(link_mib_s) for work in works)
    loading = float(few.transfer_ms(sizes).mean())
    wanted = model.top_k * (loading / spot.ratio - float(few.expert_ms[0, 1]))
    low, high = float(few.dense_ms[0, 1]), float(many.dense_ms[0, 1])
    slope = max((high - low) / (MORE - FEWEST), 1e-9)
    return min(MOST, max(FEWEST, round(FEWEST + (wanted - low) / slope)))


def run_spot(spot: Spot, folder: Path, rounds: int, options: Mapping[str, Any], context: int) -> Row:
    """Run a cell's plans for real, in turns, and set them beside their predictions.

    Args:
        options: of the domain, beside the trace, the model, the context and the budget.

    Returns:
        settings, what was reached, for every plan its latencies and hit rates, and for every gain prediction and reality.
    """
    trace = spot.routing()
    save_trace(trace, folder / "spot.moetrace.npz")
    domain = load_domain("moe-cache")
    given = {"trace": str(folder / "spot.moetrace.npz"), "model": str(spot.model_config(folder)), "context": context}
    problem = domain.problem(parse_options(domain.options, {**given, "budget_fraction": spot.budget, **options}))
    profiled, real = problem.evaluators["profiled"], problem.evaluators["real"]
    assert isinstance(profiled, Profiled) and isinstance(real, Real)
    ratio, dense_share = ratios_of(profiled.costs, trace.top_k)
    ideal = theta_sweep(build_cell(trace, ratio, spot.budget, dense_share=dense_share))
    cell = replace(build_cell(trace, ratio, spot.budget), costs=profiled.costs)
    here = theta_sweep(cell)
    chosen = min((t for t in here.thetas if 0.0 < t < 1.0), key=here.at)
    configs = {name: config_of(plan, cell.costs) for name, plan in plans_of(cell, chosen).items()}
    predicted = {name: profiled(config).values() for name, config in configs.items()}
    latency: dict[str, list[float]] = {name: [] for name in configs}
    hits: dict[str, float] = {}
    try:
        for turn in range(rounds + 1):
            for name, config in configs.items():
                values = real(config).values()
                hits[name] = values["hit_rate"]
                if turn > 0:  # the first round warms files, buffers and compiled code
                    latency[name].append(values["token_latency_ms"])
    finally:
        real.close()
    return {
        "shape": spot.grid.name,
        "skew": spot.skew,
        "locality": spot.locality,
        "accuracy": spot.accuracy,
        "budget": spot.budget,
        "wanted_ratio": spot.ratio,
        "ratio": ratio,
        "dense_share": dense_share,
        "context": context,
        "map_theta": ideal.best_theta,
        "map_over_1": ideal.gain_over(1.0),
        "best_theta": here.best_theta,
        "theta": chosen,
        "predicted_ms": {name: values["token_latency_ms"] for name, values in predicted.items()},
        "real_ms": latency,
        "predicted_hits": {name: values["hit_rate"] for name, values in predicted.items()},
        "real_hits": hits,
        "gains": {
            over: asdict(gain(predicted["split"]["token_latency_ms"], predicted[over]["token_latency_ms"],
                              latency["split"], latency[over]))
            for over in ("whole", "none", "on demand")
        },
    }  # fmt: skip


def plans_of(cell: Cell, theta: float) -> dict[str, CachePlan]:
    """The best interior split, both ends (all with prefetching), and whole experts on demand; uniform LRU all."""
    return {
        "split": cell.plan(theta),
        "whole": cell.plan(1.0),
        "none": cell.plan(0.0),
        "on demand": cell.on_demand(),
    }


@dataclass(frozen=True)
class Gain:
    """Share of another plan's latency that the split saves: predicted, and over the rounds the median, least and most."""

    predicted: float
    real: float
    least: float
    most: float
    sign: Sign


def gain(predicted_split: float, predicted_other: float, split: Sequence[float], other: Sequence[float]) -> Gain:
    """Of one cell; every round's gain is taken from its own two runs, so that a slow minute counts for both.

    The sign agrees where both gains are at most `WORTH` or have the same sign, and is undecided where rounds disagree on it.
    """
    predicted = 1.0 - predicted_split / predicted_other
    gains = [1.0 - a / b for a, b in zip(split, other, strict=True)]
    real, least, most = statistics.median(gains), min(gains), max(gains)
    sign: Sign = "differs"
    if predicted * real > 0.0 or max(abs(predicted), abs(real)) <= WORTH:
        sign = "agrees"
    elif least < 0.0 < most:
        sign = "undecided"
    return Gain(predicted, real, least, most, sign)


def score(rows: Sequence[Row], over: str) -> Row:
    """How predictions of one gain compare with reality over the cells, in points."""
    gains = [Gain(**row["gains"][over]) for row in rows]
    gaps = [100.0 * (g.real - g.predicted) for g in gains]
    return {
        "gain over": over,
        "cells": len(gains),
        **{f"sign {sign}": sum(g.sign == sign for g in gains) for sign in ("agrees", "undecided", "differs")},
        "mean gap (points)": statistics.mean(map(abs, gaps)),
        "bias (points)": statistics.mean(gaps),
        "largest gap (points)": max(map(abs, gaps)),
    }


def report(rows: Sequence[Row]) -> None:
    """Print the cells and how well they were predicted, in Markdown."""
    print_rows(
        [
            {
                **{name: row[name] for name in ("shape", "skew", "locality", "accuracy", "budget", "wanted_ratio")},
                **{name: row[name] for name in ("ratio", "dense_share")},
                "map's theta": f"{row['map_theta']:g} ({percent(row['map_over_1'])} over 1)",
                "best here": f"{row['best_theta']:g}",
                "split": f"{row['theta']:g}",
                **{f"over {over}": gain_text(Gain(**row["gains"][over])) for over in row["gains"]},
            }
            for row in rows
        ]
    )
    print_rows([score(rows, over) for over in rows[0]["gains"]])
    latencies = [
        statistics.median(row["real_ms"][name]) / row["predicted_ms"][name] for row in rows for name in row["real_ms"]
    ]
    print(
        f"real over predicted latency of the {len(latencies)} plans: {min(latencies):.2f} to {max(latencies):.2f}, "
        f"median {statistics.median(latencies):.2f}"
    )
    gaps = [abs(row["real_hits"][name] - row["predicted_hits"][name]) for row in rows for name in row["real_hits"]]
    print(f"largest difference of hit rates: {max(gaps):.4f}")


def gain_text(found: Gain) -> str:
    """Predicted, then real with the range over the rounds."""
    text = f"{percent(found.predicted)} -> {percent(found.real)} ({percent(found.least)} to {percent(found.most)})"
    return text if found.sign == "agrees" else f"{text}, sign {found.sign}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=len(SPOTS), help="run only the first so many cells")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every plan that count; one more warms up")
    parser.add_argument("--tier", choices=["auto", "ram<-disk", "gpu<-host"], default="auto", help="memory tiers")
    parser.add_argument("--scratch", type=Path, help="folder on the disk to use; the cache folder if left out")
    parser.add_argument(
        "--link-mib-s", type=float, help="hold the link to so many MiB/s, against a disk of changing speed"
    )
    parser.add_argument("--rows", type=Path, help="keep every cell's numbers here, one JSON object a line")
    arguments = parser.parse_args()
    if arguments.first < 1 or arguments.rounds < 1:
        parser.error("--first and --rounds must be at least 1")
    if arguments.link_mib_s is not None and not 0.0 < arguments.link_mib_s < math.inf:
        parser.error(f"--link-mib-s is {arguments.link_mib_s:g}; give MiB/s above 0, or leave it out")
    begin = time.perf_counter()
    given = {"tier": arguments.tier, "scratch": arguments.scratch, "link_mib_s": arguments.link_mib_s}
    options = {
        name: value if name == "link_mib_s" else str(value) for name, value in given.items() if value is not None
    }
    known, rows = Rows(arguments.rows, ("number", "rounds", "link_mib_s")), []

    def measured(spot: Spot) -> Row:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            context = context_for(spot, folder, arguments.tier, arguments.scratch, arguments.link_mib_s)
            return run_spot(spot, folder, arguments.rounds, options, context)

    for number, spot in enumerate(SPOTS[: arguments.first], start=1):
        row = known.row(
            {"number": number, "rounds": arguments.rounds, "link_mib_s": arguments.link_mib_s}, partial(measured, spot)
        )
        rows.append(row)
        latency = {plan: round(statistics.median(ms), 2) for plan, ms in row["real_ms"].items()}
        say(f"{number}: {spot.grid.name}, ratio {row['ratio']:.2f}, ms per token {latency}")
    report(rows)
    environment = current_environment()
    cpu = environment.details["hardware"]["cpu"]["model"]
    runs = sum(len(ms) for row in rows for ms in row["real_ms"].values())
    print(f"\n{cpu}, Python {platform.python_version()}; {runs} real runs, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()

"""The tables of `moe_map.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

MOEPIC_REDUCTION = 0.375  # the least gain over a baseline that MoEpic (arXiv:2509.08342) reports
WORTH = 0.01  # a gain counts where it is more than this

Row = dict[str, Any]


def report(results: dict[str, Any]) -> None:
    """Print every table, in Markdown."""
    theta, threshold, reach = results["theta"], results["threshold"], results["reach"]
    print(f"{len(theta) + len(reach)} cells of theta, {len(threshold)} of the CPU threshold\n")
    print("**Where splits win**\n")
    print_rows(where_splits_win(theta, ("shape",)))
    for name in ("accuracy", "budget", "ratio"):
        print_rows(where_splits_win(theta, ("shape", name)))
    print("**By routing, with decode hit rates at half and a quarter of the experts**\n")
    statistics = {(row["shape"], row["skew"], row["locality"]): row for row in results["routing"]}
    print_rows(
        [
            {**row, **statistics[row["shape"], row["skew"], row["locality"]]}
            for row in where_splits_win(theta, ("shape", "skew", "locality"))
        ]
    )
    for shape in dict.fromkeys(row["shape"] for row in theta):
        own = [row for row in theta if row["shape"] == shape and row["accuracy"] == 0.9]
        title = f"{shape}, predictions right in 90 %: best theta (gain over theta 0, over theta 1, over on-demand LRU)"
        heat_map(title, own, ("skew", "locality", "ratio"), "budget", theta_text)
    print_reach(reach)
    if results["first_look"]:
        print("**Qwen3 trace at MoEpic's ratio**\n")
        print_rows(results["first_look"])
    for name, predictor in dict.fromkeys((row["trace"], row["predictor"]) for row in results["real"]):
        own = [row for row in results["real"] if (row["trace"], row["predictor"]) == (name, predictor)]
        heat_map(f"{name}, predictions: {predictor}", own, ("ratio",), "budget", theta_text)
    for shape, batch in dict.fromkeys((row["shape"], row["batch"]) for row in threshold):
        own = [row for row in threshold if (row["shape"], row["batch"]) == (shape, batch)]
        title = f"{shape}, batch {batch}: best threshold (gain over loading, over the CPU; loss by Fiddler's threshold)"
        heat_map(title, own, ("skew", "ratio"), "cpu_ratio", threshold_text)


def where_splits_win(rows: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """By the values of some columns: how often and by how much interior splits win, and what prefetching is worth."""
    found = []
    for key in dict.fromkeys(tuple(row[name] for name in by) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in by) == key]
        inside = [row for row in own if row["interior"] > WORTH]
        found.append(
            {
                **dict(zip(by, key, strict=True)),
                "cells": len(own),
                "split wins by > 1 %": len(inside),
                "on other routing too": sum(row["interior_other_seed"] > WORTH for row in inside),
                "by at most": percent(max(row["interior"] for row in own)),
                "theta 1 within 1 %": sum(row["over_1"] <= WORTH for row in own),
                "theta 0 within 1 %": sum(row["over_0"] <= WORTH for row in own),
                "1 or budget within 1 %": sum(row["by_rule"] <= WORTH for row in own),
                "prefetching loses": sum(row["reduction"] < 0 for row in own),
                "largest reduction": percent(max(max(row["reduction"], row["lcp_reduction"]) for row in own)),
            }
        )
    return found


def print_reach(rows: Sequence[Row]) -> None:
    """Where MoEpic's gain over on-demand LRU is reached."""
    reached = [row for row in rows if row["reduction"] >= MOEPIC_REDUCTION]
    whole = sum(row["whole_reduction"] >= MOEPIC_REDUCTION for row in rows)
    print(
        f"**{MOEPIC_REDUCTION:.1%} over on-demand LRU: {len(reached)} of {len(rows)} cells, {whole} with whole experts**\n"
    )
    names = ("skew", "locality", "accuracy", "budget", "dense_share", "traffic", "ratio", "lru_hit_rate")
    shares = ("reduction", "whole_reduction", "interior")
    best_first = sorted(reached, key=lambda row: -row["reduction"])
    print_rows(
        [
            {**{n: row[n] for n in (*names, "policy", "best_theta")}, **{n: percent(row[n]) for n in shares}}
            for row in best_first
        ]
    )
    own = [row for row in rows if row["accuracy"] == 0.9 and row["locality"] == 0.0]
    title = "Largest reduction against on-demand LRU by misses x ratio; predictions right in 90 %, no locality"
    heat_map(title, own, ("dense_share", "skew", "budget"), "traffic", lambda row: percent(row["reduction"]))


def heat_map(title: str, rows: Sequence[Row], down: Sequence[str], across: str, text: Callable[[Row], str]) -> None:
    """A table with one line for each combination of `down` and one column for each value of `across`."""
    print(f"**{title}**\n")
    columns = sorted({row[across] for row in rows})
    lines: dict[tuple[object, ...], dict[float, str]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in down), {})[row[across]] = text(row)
    body = [[*key, *(line.get(column, "") for column in columns)] for key, line in lines.items()]
    print_table([*down, *(f"{across} {column:g}" for column in columns)], body)


def print_rows(rows: Sequence[Row]) -> None:
    if rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row) + " |")
    print()


def percent(share: float) -> str:
    return f"{share:.1%}"


def theta_text(row: Row) -> str:
    return f"{row['best_theta']:g} ({row['over_0']:.0%}, {row['over_1']:.1%}, {row['reduction']:.0%})"


def threshold_text(row: Row) -> str:
    best = "all" if row["best_threshold"] == row["thresholds"][-1] else str(row["best_threshold"])
    return f"{best} ({row['over_loading']:.0%}, {row['over_computing']:.0%}; {row['crossover_loss']:.0%})"

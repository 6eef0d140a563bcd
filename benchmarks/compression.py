"""Compression: tuned settings beside the best fixed ratio of every compressor, and what pruning saves.

    python -m benchmarks.compression                                   all parts, both tasks
    python -m benchmarks.compression --part table --task digits
    python -m benchmarks.compression --part pruning --strategy bo --json pruning.json
    python -m benchmarks.compression --part speed

`table`: every baseline compressor at every ratio of a grid, one way (devices to server) and both ways, five seeds; its best
ratio is chosen on those very seeds. Tuned settings come from searches on another seed, and are measured on the five afterwards.
`pruning`: a coarse grid measured exhaustively, and what share of its training rounds each strategy needs until it has measured
the grid's best setting, with and without pruning. `speed`: 100 devices for 100 rounds.
Rows are kept in a file and gone on with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, the package itself is not on the path

import torch  # noqa: E402

import autotune  # noqa: E402
from autotune import Failure, Problem  # noqa: E402
from benchmarks.rows import Row, Rows  # noqa: E402
from evaluators.federated.baselines import CAESAR  # noqa: E402
from search_spaces.compression import DOMAIN, Options  # noqa: E402

SEEDS = (0, 1, 2, 3, 4)
TUNED_ON = 1_000  # a seed that no table is made of
SPARSE = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
BITS = (0.5, 0.25, 0.125, 0.0625)
DROP = 0.7  # points of final accuracy
_DROP_MARGIN = 0.5  # one seed alone may be so much worse than the mean
SEARCHED_DROP = (
    0.4  # that a search allows: the best of many lies at its limit, of which chance takes a standard error of 0.3
)
# The transformer costs a hundred times the digits' network, so that its runs are fewer and shorter.
JOBS: Mapping[str, Mapping[str, Any]] = {
    "digits": {"task": "digits"},
    "text": {
        "task": "text",
        "devices": 24,
        "rounds": 60,
        "batch": "8,4,16",
        "local_steps": "5,1,2,10,20",
        "target_accuracy": 0.4,
    },
}
# Devices' settings that compression has nothing to do with stay as they are where only compression is searched.
COMPRESSION_ONLY = {"local_steps": "usual", "batch": "usual", "learning_rate": "usual", "balanced": "false"}


def fixed_ratios() -> Iterator[tuple[str, float | None, dict[str, Any]]]:
    """Baselines: compressor, ratio (None where it has none), and settings."""
    yield "none", None, {}
    yield "half", None, {"compressor": "half"}
    yield "sign", None, {"compressor": "sign", "feedback": "ef"}
    for name, feedback in (("top-k", "ef"), ("rand-k", "none"), ("fedzip", "ef"), ("low-rank", "ef")):
        for keep in SPARSE:
            yield name, keep, {"compressor": name, "upload_keep": keep, "feedback": feedback}
    for keep in SPARSE:
        settings = {"compressor": "top-k", "upload_keep": keep, "feedback": "dgc", "momentum": 0.9, "warmup_rounds": 20}
        yield "dgc", keep, settings
    for name in ("quantise", "nonuniform"):
        for keep in BITS:
            yield name, keep, {"compressor": name, "upload_keep": keep, "feedback": "none"}
    yield "caesar", None, dict(CAESAR)


def both_ways(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same ratio for the download, by the compressor that is nearest; None where there is none."""
    name = settings.get("compressor", "none")
    if name in ("quantise", "nonuniform"):
        return {**settings, "download": "quantise", "download_keep": settings["upload_keep"]}
    if name == "fedzip":
        return {**settings, "download": "fedzip", "download_keep": settings["upload_keep"]}
    if name in ("top-k", "rand-k", "low-rank"):
        return {**settings, "download": "top-k", "download_keep": settings["upload_keep"]}
    return {**settings, "download": "half"} if name in ("half", "sign") else None


@cache
def problem(task: str, seed: int, repeats: int = 1, **fixed: str) -> Problem:
    """The job of a task, under one seed."""
    options: dict[str, Any] = {**JOBS[task], "chance": seed, "repeats": repeats, **fixed}
    found: Problem = DOMAIN.problem(Options(**options))
    return found


def measure(task: str, seed: int, settings: Mapping[str, Any]) -> Row:
    """One training run."""
    began = time.perf_counter()
    evaluate: Any = problem(task, seed).evaluators["trained"]
    try:
        measured = evaluate({**problem(task, seed).default, **settings})
    except Failure as failure:
        return {"failure": str(failure), "seconds": time.perf_counter() - began}
    values = measured.values()
    kept = (
        "traffic_mib",
        "upload_mib",
        "download_mib",
        "time_s",
        "energy_j",
        "rounds",
        "final_accuracy",
        "accuracy_drop_points",
    )
    return {**{name: values[name] for name in kept}, "failure": None, "seconds": time.perf_counter() - began}


# ------------------------------------------------------------------------------------------------------------ table


def baselines(task: str, rows: Rows, shortlist: int | None) -> list[dict[str, Any]]:
    """Every baseline at every ratio: means over seeds.

    Args:
        shortlist: so many ratios of a compressor go on after the first seed, those that send least; None for all.
    """
    ratios: dict[tuple[str, str], list[tuple[float | None, dict[str, Any]]]] = {}
    for name, keep, settings in fixed_ratios():
        for ways, chosen in (("up", settings), ("both", both_ways(settings))):
            if chosen is not None:
                ratios.setdefault((name, ways), []).append((keep, chosen))
    found = []
    for (name, ways), several in ratios.items():
        label = f"{name} {ways}"
        for keep, chosen in several if shortlist is None else _shortlisted(task, label, several, shortlist, rows):
            means = _over_seeds(task, f"{label} {keep}", chosen, rows)
            found.append({"name": name, "ways": ways, "keep": keep, **means})
    return found


def _shortlisted(
    task: str, label: str, ratios: Sequence[tuple[float | None, dict[str, Any]]], most: int, rows: Rows
) -> list[tuple[float | None, dict[str, Any]]]:
    """The ratios that send least on the first seed, of those that might keep their accuracy on all of them."""
    sent = {}
    for keep, chosen in ratios:
        first = _over_seeds(task, f"{label} {keep}", chosen, rows, SEEDS[:1])
        if first["failure"] is None and first["accuracy_drop_points"] <= DROP + _DROP_MARGIN:
            sent[keep] = first["traffic_mib"]
    kept = sorted(sent, key=lambda keep: sent[keep])[:most]
    return [(keep, chosen) for keep, chosen in ratios if keep in kept]


def _over_seeds(
    task: str, label: str, settings: Mapping[str, Any], rows: Rows, seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    runs = []
    for seed in seeds:
        of = {"part": "table", "task": task, "label": label, "seed": seed}
        runs.append(rows.row(of, partial(measure, task, seed, settings)))
        print(f"  {task} {label} seed {seed}: {_told(runs[-1])}", file=sys.stderr, flush=True)
        if runs[-1]["failure"]:  # a ratio that fails once is no candidate
            break
    return {"settings": dict(settings), **_summary(runs)}


def _told(row: Row) -> str:
    return (
        str(row["failure"])
        if row["failure"]
        else f"{row['traffic_mib']:.3f} MiB, drop {row['accuracy_drop_points']:.2f}"
    )


def _summary(runs: Sequence[Row]) -> dict[str, Any]:
    failed = next((row["failure"] for row in runs if row["failure"]), None)
    if failed:
        return {"failure": failed}
    names = ("traffic_mib", "upload_mib", "time_s", "energy_j", "rounds", "final_accuracy", "accuracy_drop_points")
    mean = {name: statistics.fmean(row[name] for row in runs) for name in names}
    sent = [row["traffic_mib"] for row in runs]
    return {**mean, "traffic_deviation": statistics.stdev(sent) if len(sent) > 1 else 0.0, "failure": None}


def tuned(task: str, rows: Rows, strategy: str, trials: int, searched: str, repeats: int) -> dict[str, Any]:
    """Search on a seed apart, and measure what was found on the others."""
    of = {"part": "search", "task": task, "label": f"{strategy} {searched} {trials}", "seed": TUNED_ON}

    def run() -> Row:
        began = time.perf_counter()
        fixed = {**COMPRESSION_ONLY} if searched == "compression" else {}
        usual = problem(task, TUNED_ON).default
        fixed = {name: str(usual[name]).lower() if value == "usual" else value for name, value in fixed.items()}
        options = {**JOBS[task], **fixed, "chance": TUNED_ON, "repeats": repeats, "accuracy_drop": SEARCHED_DROP}
        result = autotune.search("compression", options=options, trials=trials, strategy=strategy, seed=0)
        if result.best is None:
            return {"failure": "nothing feasible was found"}
        best = dict(result.best.config)
        return {
            "settings": {**{k: usual[k] for k in ("local_steps", "batch", "learning_rate")}, **best},
            "gain": result.gain,
            "trials": dict(result.trials),
            "seconds": time.perf_counter() - began,
            "failure": None,
        }

    found = rows.row(of, run)
    print(f"  {task} {of['label']}: {found['failure'] or found['settings']}", file=sys.stderr, flush=True)
    if found["failure"]:
        return {"name": f"tuned by {strategy} ({searched})", **found}
    label = f"tuned {strategy} {searched} {trials}"
    return {"name": f"tuned by {strategy} ({searched})", **_over_seeds(task, label, found["settings"], rows)}


def table(
    task: str, rows: Rows, strategies: Sequence[str], trials: int, repeats: int, shortlist: int | None
) -> dict[str, Any]:
    """The best fixed ratio of every baseline, and tuned settings."""
    every = baselines(task, rows, shortlist)
    best: dict[str, dict[str, Any]] = {}
    for row in every:
        if row["failure"] is None and row["accuracy_drop_points"] <= DROP:
            key = f"{row['name']} ({row['ways']})" if row["ways"] == "both" else row["name"]
            if key not in best or row["traffic_mib"] < best[key]["traffic_mib"]:
                best[key] = row
    ours = [
        tuned(task, rows, strategy, trials, searched, repeats)
        for searched in ("compression", "all")
        for strategy in strategies
    ]
    return {"task": task, "baselines": best, "tuned": ours, "measured": every}


def print_table(found: Mapping[str, Any]) -> None:
    """One table of a task, in markdown."""
    plain = found["baselines"]["none"]["traffic_mib"]
    best = min(row["traffic_mib"] for row in found["baselines"].values())
    print(f"\n{found['task']}: means over seeds {SEEDS[0]} to {SEEDS[-1]}\n")
    print(
        "| settings | keep | MiB to target | of full precision | of the best baseline | rounds | s | kJ | drop, points |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = [(name, row) for name, row in sorted(found["baselines"].items(), key=lambda item: -item[1]["traffic_mib"])]
    rows += [(row["name"], row) for row in found["tuned"]]
    for name, row in rows:
        if row["failure"]:
            print(f"| {name} | | {row['failure']} | | | | | | |")
            continue
        keep = "" if row.get("keep") is None else f"{row['keep']:g}"
        print(
            f"| {name} | {keep} | {row['traffic_mib']:.3f} ± {row['traffic_deviation']:.3f} | "
            f"{row['traffic_mib'] / plain:.1%} | "
            f"{row['traffic_mib'] / best:.1%} | {row['rounds']:.0f} | {row['time_s']:.2f} | {row['energy_j'] / 1e3:.3f} | "
            f"{row['accuracy_drop_points']:.2f} |"
        )


# ---------------------------------------------------------------------------------------------------------- pruning

# A coarse grid of what matters, on one seed: every setting is measured by the exhaustive search.
GRID: Mapping[str, str] = {
    "compressor": "none,top-k,quantise,sign",
    "upload_keep": "0.5,0.25,0.1,0.0625,0.02",
    "importance_share": "1",
    "feedback": "ef",
    "warmup_rounds": "0",
    "download": "none,half,low-deviation,top-k",
    "download_keep": "0.4,0.1",
    "staleness": "false",
    "local_steps": "2,5,10",
    "batch": "16",
    "balanced": "false",
}


def pruning(task: str, rows: Rows, strategies: Sequence[str], seeds: int, budget: float) -> dict[str, Any]:
    """The grid measured whole; then how many training rounds each strategy takes until it has measured the grid's best."""
    usual = problem(task, TUNED_ON).default
    grid = problem(task, TUNED_ON, **GRID, learning_rate=str(usual["learning_rate"]))
    rounds = Options(**JOBS[task]).rounds
    evaluate = grid.evaluators["trained"]
    feasible = grid.space.enumerate()
    assert feasible is not None
    configs = [feasible.config(row) for row in range(len(feasible))]
    scores: dict[str, float] = {}
    for config in configs:
        label = grid.space.canonical_json(config)
        of = {"part": "grid", "task": task, "label": label, "seed": TUNED_ON}
        row = rows.row(of, partial(_outcome, evaluate, config))
        if row["failure"] is None and row["accuracy_drop_points"] <= DROP:
            scores[label] = row["traffic_mib"]
        print(f"  grid {label}: {_told(row)}", file=sys.stderr, flush=True)
    best = min(scores, key=lambda label: scores[label])
    whole = rounds * len(configs)
    found: dict[str, Any] = {
        "task": task, "configurations": len(configs), "rounds": whole,
        "best": json.loads(best), "best_traffic_mib": scores[best], "runs": [],
    }  # fmt: skip
    for strategy in strategies:
        for pruner in ("race", "none"):
            for seed in range(seeds):
                of = {"part": "pruning", "task": task, "label": f"{strategy} {pruner}", "seed": seed}
                row = rows.row(of, partial(_race, grid, strategy, pruner, seed, int(budget * whole), scores[best]))
                found["runs"].append({"strategy": strategy, "pruner": pruner, **row})
                print(f"  {of['label']} seed {seed}: {row}", file=sys.stderr, flush=True)
    return found


def _outcome(evaluate: Any, config: Mapping[str, Any]) -> Row:
    try:
        values = evaluate(config).values()
    except Failure as failure:
        return {"failure": str(failure)}
    return {
        "traffic_mib": values["traffic_mib"],
        "accuracy_drop_points": values["accuracy_drop_points"],
        "failure": None,
    }


def _race(grid: Problem, strategy: str, pruner: str, seed: int, limit: int, best: float) -> Row:
    """Search until so many rounds were trained; tells after how many the grid's best was measured."""
    evaluate = grid.evaluators["trained"]
    trained = 0

    def counted(config: Any, report: Any) -> Any:
        def counting(step: int, **values: float) -> None:
            nonlocal trained
            trained += 1
            report(step, **values)

        return evaluate(config, report=counting)

    within, incumbent, trials = None, float("inf"), 0
    extra = {} if pruner == "none" else {"accumulating": "traffic_mib", "progress": "maximize accuracy"}
    for progress in autotune.search_iter(
        grid.space,
        counted,
        list(grid.objectives),
        constraints=list(grid.constraints),
        default=grid.default,
        trials=100_000,
        strategy=strategy,
        seed=seed,
        pruner=pruner,
        pruner_options=extra,
    ):
        trials += 1
        if progress.best is not None:
            incumbent = progress.best.values["traffic_mib"]
        if within is None and incumbent <= best * (1 + 1e-9):
            within = trained
            break
        if trained >= limit:
            break
    return {
        "rounds_to_best": within,
        "rounds": trained,
        "trials": trials,
        "incumbent_mib": incumbent,
        "regret": incumbent / best - 1,
    }


def print_pruning(found: Mapping[str, Any]) -> None:
    """One table of a task, in markdown."""
    whole = found["rounds"]
    print(
        f"\n{found['task']}: {found['configurations']} configurations, {whole} training rounds; the best sends "
        f"{found['best_traffic_mib']:.3f} MiB: {found['best']}\n"
    )
    print(
        "| strategy | pruner | found the best | rounds to it, share of all (median) | worst | regret where not found |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for strategy, pruner in dict.fromkeys((row["strategy"], row["pruner"]) for row in found["runs"]):
        runs = [row for row in found["runs"] if (row["strategy"], row["pruner"]) == (strategy, pruner)]
        shares = sorted((row["rounds_to_best"] or float("inf")) / whole for row in runs)
        missed = [f"{row['regret']:.1%}" for row in runs if row["rounds_to_best"] is None]
        middle, worst = (
            f"{share:.1%}" if share < float("inf") else "more" for share in (statistics.median(shares), shares[-1])
        )
        print(
            f"| {strategy} | {pruner} | {len(runs) - len(missed)} of {len(runs)} | {middle} | {worst} | {', '.join(missed)} |"
        )


# ------------------------------------------------------------------------------------------------------------ speed


def speed() -> None:
    """100 devices, all of them in each of 100 rounds of the digits task."""
    options = {
        "devices": 100,
        "participation": 1.0,
        "rounds": 100,
        "repeats": 1,
        "target_accuracy": 0.5,
        "dropout": 0.0,
    }
    print(f"\n100 devices x 100 rounds of digits, {torch.get_num_threads()} threads\n\n| settings | s |\n| --- | --- |")
    for name in ("default", "top-k 10 %", "caesar", "fedzip 10 %"):
        one = DOMAIN.problem(Options(**options))
        config = one.default if name == "default" else one.baselines[name]
        evaluate = one.evaluators["trained"]
        vars(evaluate)["reference"] = 0.0  # full precision is not trained beside it
        began = time.perf_counter()
        evaluate(config)
        print(f"| {name} | {time.perf_counter() - began:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("table", "pruning", "speed"), help="all without it")
    parser.add_argument("--task", choices=tuple(JOBS), action="append", help="both without it; may be given twice")
    parser.add_argument("--strategy", action="append", help="of the searches; may be given several times")
    parser.add_argument("--trials", type=int, default=60, help="of a search of the table")
    parser.add_argument("--repeats", type=int, default=3, help="training runs of a trial of such a search")
    parser.add_argument(
        "--shortlist", type=int, help="ratios of a compressor that go on after the first seed; all without it"
    )
    parser.add_argument("--seeds", type=int, default=5, help="of the searches of the part pruning")
    parser.add_argument(
        "--budget", type=float, default=0.2, help="share of the grid's rounds after which such a search ends"
    )
    parser.add_argument(
        "--rows", type=Path, default=Path("compression-rows.jsonl"), help="what was measured, gone on with"
    )
    parser.add_argument("--json", type=Path, help="write the results there too")
    given = parser.parse_args()
    rows = Rows(given.rows, ("part", "task", "label", "seed"))
    results: dict[str, list[Any]] = {"table": [], "pruning": []}
    if given.part in (None, "speed"):
        speed()
    for task in given.task or tuple(JOBS):
        if given.part in (None, "table"):
            strategies = given.strategy or ("auto", "bo", "greedy")
            results["table"].append(table(task, rows, strategies, given.trials, given.repeats, given.shortlist))
            print_table(results["table"][-1])
        if given.part in (None, "pruning"):
            racing = given.strategy or ("bo", "auto", "random")
            results["pruning"].append(pruning(task, rows, racing, given.seeds, given.budget))
            print_pruning(results["pruning"][-1])
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Rounds against bits: what published and reconstructed models say of LoCoDL and DiLoCo, beside training at a small scale.

    python -m benchmarks.compression_tradeoffs                      all parts; some minutes on one core
    python -m benchmarks.compression_tradeoffs --part diloco --json tradeoffs.json

`locodl`: heterogeneous quadratics of a known condition number, and rand-k at several k through the real method; beside DIANA's
order, controlled averaging with one local step, which is its nearest relative here. `local`: local steps without compression.
`diloco`: local steps and fragments on handwritten digits, with the bandwidth that a model of 1e9 parameters would need.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, the package itself is not on the path

from scipy import stats  # noqa: E402

from evaluators.federated import tradeoffs  # noqa: E402
from evaluators.federated.compute_profile import ComputeProfile  # noqa: E402
from evaluators.federated.fleet import fleet  # noqa: E402
from evaluators.federated.methods import make_method  # noqa: E402
from evaluators.federated.methods.diloco import fragments  # noqa: E402
from evaluators.federated.settings import Settings  # noqa: E402
from evaluators.federated.tasks import load  # noqa: E402
from evaluators.federated.tasks.partition import Partition, dirichlet  # noqa: E402
from evaluators.federated.world import World  # noqa: E402
from evaluators.training_layout.diloco import Exchange, needed_gbit_s, utilisation  # noqa: E402

Row = dict[str, Any]

DEVICES, SIZE = 10, 128
KEPT = (128, 64, 32, 16, 8, 4)
KAPPAS = (10.0, 30.0, 100.0)
GAIN = 1e-4  # of the squared distance to the optimum
MOST = 6_000  # rounds

LOCAL_STEPS, FRAGMENTS = (1, 5, 10, 20, 50), (1, 2, 4)
STEPS = 400  # gradient steps of a device
TARGET = 0.9  # accuracy
ALPHA = 0.3  # of the Dirichlet partition
SERVERS = {"plain": (1.0, 0.0), "nesterov": (0.7, 0.9)}  # rate and momentum; the second as in arXiv:2311.08105
PARAMETERS, STEP_S, BUSY = 1e9, 0.1, 0.95  # a row of arXiv:2501.18512, table 4


def locodl(kappa: float, seeds: Sequence[int]) -> list[Row]:
    """Rounds and traffic at every k, measured and by the models."""
    rows = []
    for kept in KEPT:
        omega = tradeoffs.omega_of(kept, SIZE)
        steps = tradeoffs.best_local_steps(omega, kappa, DEVICES)
        compressor = "rand-k" if kept < SIZE else "none"
        common: dict[str, Any] = {"compressor": compressor, "upload_keep": kept / SIZE, "batch": 0}
        ours = Settings("locodl", local_steps=steps, learning_rate=2 / (1 + kappa), **common)
        one_step = Settings("scallion", learning_rate=1 / (kappa * (1 + 2 * omega / DEVICES)), **common)
        found, other = (_rounds(kappa, settings, seeds) for settings in (ours, one_step))
        rows.append({
            "kappa": kappa, "kept": kept, "omega": omega, "local_steps": steps, "rounds": found,
            "models_sent": None if found is None else found * kept / SIZE,
            "published_order": tradeoffs.rounds(omega, kappa),
            "published_order_sent": tradeoffs.floats(omega, kappa),
            "modelled_rounds": tradeoffs.locodl_rounds(omega, kappa, DEVICES, steps, GAIN),
            "modelled_sent": tradeoffs.locodl_rounds(omega, kappa, DEVICES, steps, GAIN) * kept / SIZE,
            "one_step_rounds": other, "one_step_order": tradeoffs.compressed_gradients(omega, kappa, DEVICES),
        })  # fmt: skip
    return rows


def local(kappa: float, seeds: Sequence[int]) -> list[Row]:
    """Rounds without compression, by the mean number of local steps."""
    rows = []
    for steps in (1, 2, 4, 7, 10, 20, 40):
        settings = Settings("locodl", local_steps=steps, learning_rate=2 / (1 + kappa), batch=0)
        rows.append({
            "kappa": kappa, "local_steps": steps, "rounds": _rounds(kappa, settings, seeds),
            "order": tradeoffs.local_training(kappa, steps),
            "modelled_rounds": tradeoffs.locodl_rounds(0.0, kappa, DEVICES, steps, GAIN),
        })  # fmt: skip
    return rows


def _rounds(kappa: float, settings: Settings, seeds: Sequence[int]) -> float | None:
    """Mean rounds over problems; None where one of them took too many."""
    found = []
    for seed in seeds:
        learner = tradeoffs.conditioned(DEVICES, SIZE, kappa, seed)
        method = make_method(tradeoffs.world_of(learner, [2] * DEVICES, seed=seed), settings)
        found.append(tradeoffs.rounds_to(method, learner.optimum(), GAIN, MOST))
    some = [rounds for rounds in found if rounds is not None]
    return statistics.fmean(some) if len(some) == len(found) else None


def diloco(seeds: Sequence[int]) -> list[Row]:
    """Bytes by the model and measured, and what local steps and fragments cost in accuracy."""
    task = load("digits", hidden=(64, 64))
    rows = []
    for steps in LOCAL_STEPS:
        for count in FRAGMENTS:
            layout = task.learner.tensors
            sizes = [layout.part(first, end).size for first, end in fragments(layout, count)]
            row: Row = {
                "local_steps": steps, "fragments": count,
                "bytes_per_step": tradeoffs.bytes_per_step(sizes, steps), "peak_bytes": tradeoffs.peak_bytes(sizes),
                "gbit_s": _bandwidth(steps, count),
            }  # fmt: skip
            for name, (rate, momentum) in SERVERS.items():
                settings = Settings(
                    "diloco",
                    local_steps=steps,
                    fragments=count,
                    learning_rate=task.learning_rate,
                    batch=task.batch,
                    server_rate=rate,
                    server_momentum=momentum,
                )
                row |= _trained(name, [_world(task, seed) for seed in seeds], settings)
            rows.append(row)
    return rows


def _world(task: Any, seed: int) -> World:
    parts = dirichlet(task.data.groups, DEVICES, ALPHA, seed)
    profile = ComputeProfile(task.name, task.learner.tensors.size, (64,), 1e-3, 1e-5, "made", 1.0)
    return World(task, Partition.of(parts), fleet(DEVICES, 0), profile, seed=seed)


def _trained(name: str, worlds: Sequence[World], settings: Settings) -> Row:
    """Steps to the target, final accuracy, and bytes of one device in the last turn of fragments, means over worlds."""
    reached: list[int | None] = []
    final, turns, peaks = [], [], []
    for world in worlds:
        method, data = make_method(world, settings), world.task.data
        rounds = STEPS // settings.local_steps
        first, accuracy, sent = None, 0.0, [0.0]
        for round_ in range(rounds):
            method.round(round_)
            accuracy = world.task.learner.evaluate(method.model, data.test_x, data.test_y).accuracy
            sent.append(float((method.ledger.up_bytes + method.ledger.down_bytes)[0]))
            if first is None and accuracy >= TARGET:
                first = (round_ + 1) * settings.local_steps
        reached.append(first)
        final.append(accuracy)
        by_round = [after - before for before, after in itertools.pairwise(sent)]
        turns.append(sum(by_round[-settings.fragments :]) / (settings.fragments * settings.local_steps))
        peaks.append(max(by_round))
    some = [steps for steps in reached if steps is not None]
    return {
        f"{name}_steps": statistics.fmean(some) if len(some) == len(reached) else None,
        f"{name}_accuracy": statistics.fmean(final),
        "measured_bytes_per_step": statistics.fmean(turns),
        "measured_peak_bytes": max(peaks),
    }


def _bandwidth(steps: int, count: int) -> float:
    """Gbit/s that keep devices computing, for the large model; a fragment's turn is `count` rounds."""
    exchange = Exchange.STREAMING if count > 1 else Exchange.WHOLE
    return needed_gbit_s(
        lambda gbit_s: utilisation(PARAMETERS, STEP_S, count * steps, gbit_s, exchange=exchange, fragments=count), BUSY
    )


# ---------------------------------------------------------------------------------------- shown


def _table(title: str, columns: Sequence[tuple[str, str, str]], rows: Sequence[Row]) -> None:
    """Columns are (key, heading, format)."""
    print(f"\n{title}\n")
    print("  ".join(f"{heading:>{max(9, len(heading))}}" for _, heading, _ in columns))
    for row in rows:
        cells = [("-" if row[key] is None else format(row[key], form)) for key, _, form in columns]
        print(
            "  ".join(f"{cell:>{max(9, len(heading))}}" for cell, (_, heading, _) in zip(cells, columns, strict=True))
        )


def _agreement(rows: Sequence[Row], measured: str, modelled: str, unit: str) -> str:
    known = [row for row in rows if row[measured] is not None]
    a, b = [row[measured] for row in known], [row[modelled] for row in known]
    rank = float(stats.spearmanr(a, b).statistic)
    places = a.index(min(a)), b.index(min(b))
    return (
        f"{unit}: rank correlation {rank:.2f}; least at place {places[0] + 1} measured, {places[1] + 1} modelled, "
        f"of {len(known)}; model over measured {min(y / x for x, y in zip(a, b, strict=True)):.2f} to "
        f"{max(y / x for x, y in zip(a, b, strict=True)):.2f}"
    )


def show_locodl(rows: Sequence[Row]) -> None:
    columns = [
        ("kept", "k", "d"), ("omega", "omega", ".0f"), ("local_steps", "1/p", "d"), ("rounds", "rounds", ".0f"),
        ("modelled_rounds", "by rate", ".0f"), ("published_order", "published", ".0f"), ("models_sent", "sent", ".1f"),
        ("modelled_sent", "by rate", ".1f"), ("published_order_sent", "published", ".2f"),
        ("one_step_rounds", "one step", ".0f"), ("one_step_order", "DIANA", ".0f"),
    ]  # fmt: skip
    for kappa in sorted({row["kappa"] for row in rows}):
        some = [row for row in rows if row["kappa"] == kappa]
        title = f"LoCoDL, {DEVICES} devices, d = {SIZE}, kappa = {kappa:g}, to {GAIN:g} (sent: models, by one device)"
        _table(title, columns, some)
        print(_agreement(some, "rounds", "modelled_rounds", "\nrounds by the rate"))
        print(_agreement(some, "models_sent", "modelled_sent", "traffic by the rate"))
        print(_agreement(some, "rounds", "published_order", "rounds by the published order"))
        print(_agreement(some, "models_sent", "published_order_sent", "traffic by the published order"))
        few = [row for row in some if row["omega"] <= DEVICES]
        print(_agreement(few, "models_sent", "published_order_sent", f"the same for omega up to {DEVICES}"))
        print(_agreement(some, "one_step_rounds", "one_step_order", "one step by DIANA's order"))


def show_local(rows: Sequence[Row]) -> None:
    columns = [("kappa", "kappa", "g"), ("local_steps", "1/p", "d"), ("rounds", "rounds", ".0f"),
               ("modelled_rounds", "by rate", ".0f"), ("order", "order", ".0f")]  # fmt: skip
    _table("Local steps without compression", columns, rows)
    print(_agreement(rows, "rounds", "modelled_rounds", "\nrounds by the rate"))
    print(_agreement(rows, "rounds", "order", "rounds by the order"))


def show_diloco(rows: Sequence[Row]) -> None:
    columns = [
        ("local_steps", "H", "d"), ("fragments", "F", "d"), ("bytes_per_step", "B/step", ".0f"),
        ("measured_bytes_per_step", "measured", ".0f"), ("peak_bytes", "peak B", "d"),
        ("measured_peak_bytes", "measured", ".0f"), ("gbit_s", "Gbit/s", ".1f"), ("plain_steps", "to target", ".0f"),
        ("plain_accuracy", "final", ".3f"), ("nesterov_steps", "Nesterov", ".0f"), ("nesterov_accuracy", "final", ".3f"),
    ]  # fmt: skip
    title = (
        f"DiLoCo on digits, {DEVICES} devices, alpha {ALPHA:g}: gradient steps to {TARGET:.0%} and accuracy after {STEPS}; "
        f"Gbit/s for {BUSY:.0%} of 1e9 parameters' time"
    )
    _table(title, columns, rows)
    exact = all(row["bytes_per_step"] == row["measured_bytes_per_step"] for row in rows)
    peaks = all(row["peak_bytes"] == row["measured_peak_bytes"] for row in rows)
    print(f"\nbytes are {'exactly' if exact and peaks else 'not'} as the model says")


PARTS: dict[str, tuple[Callable[[Sequence[int]], list[Row]], Callable[[Sequence[Row]], None]]] = {
    "locodl": (lambda seeds: [row for kappa in KAPPAS for row in locodl(kappa, seeds)], show_locodl),
    "local": (lambda seeds: local(100.0, seeds), show_local),
    "diloco": (diloco, show_diloco),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), help="all without it")
    parser.add_argument("--seeds", type=int, default=2, help="problems and partitions that numbers are means over")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    given = parser.parse_args()
    results = {}
    for name in [given.part] if given.part else list(PARTS):
        measure, show = PARTS[name]
        results[name] = measure(range(given.seeds))
        show(results[name])
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

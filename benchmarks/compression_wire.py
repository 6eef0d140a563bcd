"""Compressed training over real processes and slow links, beside what the simulation says of it.

python -m benchmarks.compression_wire [--task digits] [--devices 4] [--rounds 15] [--topology server peers]
    [--compressors none top-k ...] [--keep 0.1] [--feedback ef] [--local-steps 5] [--link lte] [--json FILE]

Each line is a run of so many processes of this machine, with one thread each. Bytes are exact on both sides. Seconds are of a
round: what the simulation's clock says, the same with compressing and waiting as they were measured, the median of the real
rounds with its quartiles, and what the slowest process did in them. On a machine with fewer free cores than devices computing
takes longer than one device alone would; it was measured in the same processes, all at work at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from evaluators.federated.compressors import COMPRESSORS
from evaluators.federated.device_classes import LINKS
from evaluators.federated.settings import FEEDBACKS, Settings
from evaluators.federated.wire.comparison import Row, compare
from evaluators.federated.wire.run import TOPOLOGIES, Link, WireRun

_LEARNING_RATE = 0.25


def runs(given: argparse.Namespace, topology: str) -> list[WireRun]:
    """One for each compressor."""
    known = LINKS[given.link]
    link = Link(known.up_mbit_s, known.down_mbit_s, known.latency_ms)
    return [
        WireRun(
            Settings(
                compressor=name,
                upload_keep=given.keep,
                feedback=given.feedback,
                local_steps=1 if topology == "peers" else given.local_steps,
                learning_rate=_LEARNING_RATE,
            ),
            task=given.task,
            devices=given.devices,
            rounds=given.rounds,
            topology=topology,
            links=(link,),
            calibrations=9,
        )
        for name in given.compressors
    ]


def table(rows: Sequence[Row]) -> str:
    """One line for each run."""
    lines = [
        f"{'topology':9}{'compressor':11}{'bytes':>10}{'predicted':>10} | {'TCP':>10} | {'s simulated':>11}{'predicted':>10}"
        f"{'real':>8}{'quartiles':>16}{'error':>8} | {'compute':>8}{'pack':>8}{'exchange':>9}{'mean':>8} | {'weights':>8} of"
    ]
    for row in rows:
        low, high = row.seconds_quartiles
        lines.append(
            f"{row.topology:9}{row.compressor:11}{row.bytes_real:10,d}{row.bytes_predicted:10,d} | {row.tcp_bytes or 0:10,d} | "
            f"{row.seconds_simulated:11.4f}{row.seconds_predicted:10.4f}{row.seconds_real:8.4f}{low:8.4f}{high:8.4f}"
            f"{row.seconds_error:8.1%} | {row.compute_s:8.4f}{row.pack_s:8.4f}{row.exchange_s:9.4f}{row.mean_s:8.4f} | "
            f"{row.weights_difference:8.1e} {row.weights_change:.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", choices=("digits", "text"))
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--topology", nargs="+", default=list(TOPOLOGIES), choices=TOPOLOGIES)
    parser.add_argument("--compressors", nargs="+", default=list(COMPRESSORS), choices=list(COMPRESSORS))
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--feedback", default="ef", choices=list(FEEDBACKS))
    parser.add_argument("--local-steps", type=int, default=5)
    parser.add_argument("--link", default="lte", choices=list(LINKS), help="class of every device's link")
    parser.add_argument("--limit", type=float, default=900.0, metavar="SECONDS", help="for the runs of one topology")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    given = parser.parse_args()
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(machine)
    rows = [row for topology in given.topology for row in compare(runs(given, topology), given.limit)]
    print(table(rows))
    if given.json:
        values = [{**asdict(row), "seconds_error": row.seconds_error} for row in rows]
        given.json.write_text(json.dumps({"machine": machine, "rows": values}, indent=1))


if __name__ == "__main__":
    main()

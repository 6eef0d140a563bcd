"""A small recorded space on disk, in the layout of the recorded kernels."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

VALUES = {"block": [16, 32, 64], "unroll": [1, 2], "layout": ["row", "column"]}
# 10 of 12 combinations: the space's own rule was `not (block == 64 and unroll == 2)`.
TIMES = {
    (16, 1, "row"): 8.0, (16, 1, "column"): 9.0, (16, 2, "row"): 4.0, (16, 2, "column"): 5.0, (32, 1, "row"): 2.0,
    (32, 1, "column"): 3.0, (32, 2, "row"): 1.0, (32, 2, "column"): None, (64, 1, "row"): 6.0, (64, 1, "column"): 7.0,
}  # fmt: skip


def write(folder: Path, name: str = "toy_gpu1") -> Path:
    """Write the space below a folder; returns the description's path."""
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / f"{name}.json"
    objective = {"name": "time_ms", "direction": "minimize"}
    kernel = {"name": name, "device": "GPU 1", "kernel": "toy", "parameters": VALUES, "objective": objective}
    description.write_text(json.dumps(kernel))
    lines = ["block,unroll,layout,time_ms,time_std_ms,failure"]
    for (block, unroll, layout), time in TIMES.items():
        measured = f"{time},0.1," if time is not None else ",,RuntimeFailedConfig"
        lines.append(f"{float(block)},{unroll},{layout},{measured}")
    with gzip.open(folder / f"{name}.csv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    return description

"""A tiled matrix product in numpy: what a small benchmark that prints its metrics as JSON looks like.

python bench.py --tile 64 --order ijk --dtype float32 --pack --panels=2
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np


def tiled_product(a: np.ndarray, b: np.ndarray, tile: int, order: str, panels: int) -> np.ndarray:
    """``a @ b`` for square matrices, tile by tile; `panels` tiles of `b` at a time are copied together first (0: none)."""
    n = len(a)
    out = np.zeros_like(a)
    starts = range(0, n, tile)
    width = max(1, panels) * tile
    for x in range(0, n, width):
        for k in starts:
            panel = b[k : k + tile, x : x + width]
            if panels:
                panel = np.ascontiguousarray(panel)
            if order == "ijk":
                for i in starts:
                    out[i : i + tile, x : x + width] += a[i : i + tile, k : k + tile] @ panel
            else:
                out[:, x : x + width] += a[:, k : k + tile] @ panel
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--tile", type=int, required=True)
    parser.add_argument("--order", choices=["ijk", "kij"], default="ijk")
    parser.add_argument("--dtype", choices=["float16", "float32", "float64"], default="float64")
    parser.add_argument("--pack", action="store_true")
    parser.add_argument("--panels", type=int, default=1)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    exact_a, exact_b = rng.standard_normal((2, args.n, args.n))
    a, b = exact_a.astype(args.dtype), exact_b.astype(args.dtype)
    samples = []
    for _ in range(5):
        start = time.perf_counter()
        product = tiled_product(a, b, args.tile, args.order, args.panels if args.pack else 0)
        samples.append(1e3 * (time.perf_counter() - start))
    exact = exact_a @ exact_b
    error = float(np.abs(product - exact).max() / np.abs(exact).max())
    # Not getrusage's ru_maxrss: after vfork it still holds the peak of the process that started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    rss_mib = int(peak.split()[1]) / 1024
    print(json.dumps({"time_ms": samples, "relative_error": error, "rss_mib": rss_mib, "numpy": np.__version__}))


if __name__ == "__main__":
    main()

"""Measured LLM serving points as recorded spaces: one for each model and request shape.

Knobs are GPU, precision, backend, batch size and parallelism of aggregated serving. The throughput per GPU is that of decoding,
``batch / TPOT / (tp * pp)``: every one of ``attention_dp`` replicas of the attention decodes its own batch, on its own share
of the GPUs.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evaluators.recorded.table import RecordedTable, record

_WORKLOAD = ["model_path", "isl", "osl"]
_CHOICES = ["system", "precision", "backend"]
_SIZES = ["batch_size", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size"]
_KNOBS = [*_CHOICES, *_SIZES]


def read_serving(table: Path, minimum: int = 100) -> list[RecordedTable]:
    """Read ``serving_points.csv.gz``.

    Where a configuration was measured with several versions of a backend, or more than once, the mean is replayed.

    Args:
        table: the file.
        minimum: leave out spaces with fewer configurations; a search of a few dozen points says nothing.

    Returns:
        Spaces with the objectives `ttft_ms` (minimised) and `tokens_per_s_per_gpu` (maximised), the largest first.
    """
    frame = pd.read_csv(table)
    frame = frame[frame["mode"] == "agg"].copy()
    frame = frame.dropna(subset=["batch_size", "tp_size", "pp_size"])
    frame[_SIZES] = frame[_SIZES].fillna(1).astype(int)
    frame[_CHOICES] = frame[_CHOICES].fillna("unspecified")
    frame["tokens_per_s_per_gpu"] = 1000.0 * frame["batch_size"] / frame["silicon_tpot_ms"] / (
        frame["tp_size"] * frame["pp_size"]
    )  # fmt: skip
    found = []
    for workload, points in frame.groupby(_WORKLOAD):
        merged = points.groupby(_KNOBS, as_index=False)[["silicon_ttft_ms", "tokens_per_s_per_gpu"]].mean()
        if len(merged) < minimum:
            continue
        model, isl, osl = workload
        short = str(model).rpartition("/")[2]
        found.append(
            record(
                f"serving_{short}_{isl}_{osl}",
                {knob: sorted(merged[knob].unique().tolist()) for knob in _KNOBS},
                list(merged[_KNOBS].itertuples(index=False, name=None)),
                {
                    "ttft_ms": merged["silicon_ttft_ms"].to_numpy(),
                    "tokens_per_s_per_gpu": merged["tokens_per_s_per_gpu"].to_numpy(),
                },
                ["minimize ttft_ms", "maximize tokens_per_s_per_gpu"],
                family=f"serving {short}",
                device="several",
            )
        )
    return sorted(found, key=lambda space: (-len(space), space.name))

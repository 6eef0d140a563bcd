"""Tabular benchmarks of neural networks: NAS-Bench-201 (Dong and Yang, ICLR 2020) and the FCNet tables of HPOBench
(Klein and Hutter, arXiv:1905.04970; Eggensperger et al., arXiv:2109.06716).

A row's ``key`` has one digit a parameter, the index into ``search_spaces.json``; columns that end in ``_s0``, ``_s1``, ...
are repeats with other seeds, of which the mean is replayed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autotune.errors import UsageError
from evaluators.recorded.table import RecordedTable, record

# By the first word of a file's name: the key in search_spaces.json and the usual objective.
_SPACES = {"nasbench201": ("nasbench201", "minimize val_error"), "hpolib": ("hpolib", "minimize val_loss")}


def read_tabular(table: Path) -> RecordedTable:
    """Read ``nasbench201_*.csv.gz`` or ``hpolib_*.csv.gz``; ``search_spaces.json`` lies beside it.

    The metrics are the recorded ones, `latency_ms` in place of seconds, and `val_error` (100 - accuracy, percent).

    Raises:
        UsageError: for another file.
    """
    name = table.name.removesuffix(".csv.gz")
    kind = name.partition("_")[0]
    if kind not in _SPACES:
        raise UsageError(f"{table} is no tabular benchmark; known names start with: {', '.join(_SPACES)}")
    key, objective = _SPACES[kind]
    values: Mapping[str, list[Any]] = json.loads((table.parent / "search_spaces.json").read_text())[key]
    frame = pd.read_csv(table, dtype={"key": str})
    listed = list(values.items())
    rows = [tuple(choices[int(digit)] for (_, choices), digit in zip(listed, k, strict=True)) for k in frame["key"]]
    metrics: dict[str, Any] = {}
    for metric in dict.fromkeys(c.rpartition("_s")[0] for c in frame.columns if c != "key"):
        repeats = [c for c in frame.columns if c.rpartition("_s")[0] == metric]
        metrics[metric] = frame[repeats].to_numpy(dtype=float).mean(axis=1)
    if "latency" in metrics:
        metrics["latency_ms"] = 1000.0 * metrics.pop("latency")
    if "val_acc" in metrics:
        metrics["val_error"] = 100.0 - np.asarray(metrics["val_acc"])
    return record(name, values, rows, metrics, objective, family=kind, device=name.partition("_")[2])

"""Kernel and collective times: measured tables of the package aiconfigurator-core, or peak figures where a GPU has none.

The tables (Apache-2.0, NVIDIA) hold forward kernels of serving engines and NCCL's collectives inside one node. Between
measured shapes the *rate* (operations or bytes per second) is interpolated on logarithmic axes, as it changes far less than
the time does; beyond them the nearest rate counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.training_layout.gpus import GPUS, Gpu
from evaluators.training_layout.grids import Grid, grid_of, transfer_s
from evaluators.training_layout.layouts import Floats

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = "aiconfigurator_core"
_WAY_OUT = "install it with: pip install 'autotune[gpu-tables]'"
# Names of number formats here and, in order of preference, in the tables.
_GEMM_TYPES: Mapping[str, tuple[str, ...]] = {
    "bf16": ("bfloat16",),
    "fp8": ("fp8",),
    "fp8-block": ("fp8_block", "fp8"),
    "mxfp8": ("fp8_block", "fp8"),
    "fp4": ("nvfp4",),
    "fp32": (),
}
# Formats that are the same to the matrix units of a GPU and differ in their scales.
SAME_UNITS: Mapping[str, str] = {"fp8-block": "fp8", "mxfp8": "fp8"}
COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce", "alltoall")

# What kernels reach of peak figures where nothing was measured: a share of the peak for products large in every dimension, and
# the operations of a product that reaches half of it. Seen in the A100 and H100 tables.
_OF_PEAK = 0.78
_HALF_RATE_FLOPS = 2e9
_ATTENTION_OF_PEAK = 0.55
_LINK_OF_PEAK = 0.8
_LINK_LATENCY_S = 1e-5
_MEMORY_OF_PEAK = 0.8


class KernelTimes(Protocol):
    """What one GPU, and one node of them, takes for the parts of a training step. All times are of forward kernels, in
    seconds; arguments broadcast."""

    @property
    def source(self) -> str:
        """Where they come from, for people."""

    def gemm_s(self, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike, kind: str) -> Floats:
        """Of a product ``m x k`` by ``k x n`` in a number format."""

    def attention_s(self, shape: AttentionShape, batch: npt.ArrayLike, sequence: npt.ArrayLike) -> Floats:
        """Of causal attention over whole sequences."""

    def node_collective_s(self, operation: str, gpus: int, nbytes: npt.ArrayLike) -> Floats:
        """Of a collective among GPUs of one node, whose whole result (or, of a reduce-scatter, input) has so many bytes."""


@dataclass(frozen=True)
class AttentionShape:
    """Heads of one GPU, and the window where attention looks back only so far."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0

    def flops(self, batch: npt.ArrayLike, sequence: npt.ArrayLike) -> Floats:
        """Of the forward pass: two products over the positions that a token sees."""
        b, s = np.asarray(batch, dtype=np.float64), np.asarray(sequence, dtype=np.float64)
        seen = s / 2 if not self.window else np.minimum(s / 2, self.window * (1 - np.minimum(self.window / s, 1) / 2))
        return 4.0 * b * s * seen * self.heads * self.head_dim


class PeakTimes:
    """From a GPU's data sheet, at the share of it that kernels are known to reach.

    Args:
        why: nothing measured is used, for people.
    """

    def __init__(self, gpu: Gpu, why: str = "") -> None:
        self._gpu = gpu
        reason = f": {why}" if why else ""
        self.source = f"peak figures of {gpu.name} ({gpu.source}); nothing measured{reason}"

    def gemm_s(self, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike, kind: str) -> Floats:
        flops = 2.0 * np.asarray(m, np.float64) * np.asarray(n, np.float64) * np.asarray(k, np.float64)
        peak = peak_flops(self._gpu, kind)
        return (flops + _HALF_RATE_FLOPS * peak / self._gpu.flops["bf16"]) / (_OF_PEAK * peak)

    def attention_s(self, shape: AttentionShape, batch: npt.ArrayLike, sequence: npt.ArrayLike) -> Floats:
        return (shape.flops(batch, sequence) + _HALF_RATE_FLOPS) / (_ATTENTION_OF_PEAK * self._gpu.flops["bf16"])

    def node_collective_s(self, operation: str, gpus: int, nbytes: npt.ArrayLike) -> Floats:
        level = sum(gpus > joined for joined in self._gpu.level_gpus[:-1])
        return _LINK_LATENCY_S + bus_bytes(operation, gpus, nbytes) / (_LINK_OF_PEAK * self._gpu.level_bytes_s[level])


class TableTimes:
    """From a GPU's measured tables.

    Args:
        gpu: that has some.
        root: folder of the systems' tables.

    Raises:
        UsageError: when the tables are not there.
    """

    def __init__(self, gpu: Gpu, root: Path) -> None:
        assert gpu.tables is not None
        self._gpu = gpu
        self._folder = root / "data" / gpu.tables
        self._peak = PeakTimes(gpu)
        self._lacking: set[str] = set()
        if not self._folder.is_dir():
            raise UsageError(f"the tables of {gpu.name} are not in {root}; {_WAY_OUT}")
        self._version = _version()

    @property
    def source(self) -> str:
        """Where times come from, and for what there was no table until now."""
        lacking = f"; peak figures for {', '.join(sorted(self._lacking))}" if self._lacking else ""
        return f"tables of {self._gpu.tables} in {PACKAGE} {self._version}{lacking}"

    def gemm_s(self, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike, kind: str) -> Floats:
        rates = _gemm_rates(self._folder, kind)
        if rates is None:
            self._lacking.add(f"{kind} products")
            return self._peak.gemm_s(m, n, k, kind)
        mm, nn, kk = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (m, n, k)))
        seconds: Floats = 2.0 * mm * nn * kk / rates(mm, nn, kk)
        return seconds

    def attention_s(self, shape: AttentionShape, batch: npt.ArrayLike, sequence: npt.ArrayLike) -> Floats:
        rates = _attention_rates(self._folder, shape.head_dim)
        if rates is None:
            self._lacking.add("attention")
            return self._peak.attention_s(shape, batch, sequence)
        b, s = np.broadcast_arrays(np.asarray(batch, dtype=np.float64), np.asarray(sequence, dtype=np.float64))
        return shape.flops(b, s) / rates(b * shape.heads, s)

    def node_collective_s(self, operation: str, gpus: int, nbytes: npt.ArrayLike) -> Floats:
        curve = _collective_curve(self._folder, operation, gpus)
        if curve is None:
            self._lacking.add(f"{operation} in a node")
            return self._peak.node_collective_s(operation, gpus, nbytes)
        return transfer_s(*curve, nbytes)


def kernel_times(gpu: Gpu, *, measured: bool = True) -> TableTimes | PeakTimes:
    """The tables of a GPU where it has some and the package is installed, else its peak figures; `source` says which.

    Args:
        measured: whether tables are wanted at all.
    """
    if not measured:
        return PeakTimes(gpu)
    if gpu.tables is None:
        known = ", ".join(name for name, one in GPUS.items() if one.tables is not None)
        return PeakTimes(gpu, f"there are tables of {known}; measure one of yours with autotune kernels")
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return PeakTimes(gpu, f"its tables are in {PACKAGE.replace('_', '-')}; {_WAY_OUT}")
    return TableTimes(gpu, Path(next(iter(found.submodule_search_locations))) / "systems")


def peak_flops(gpu: Gpu, kind: str) -> float:
    """Peak operations per second in a number format.

    Raises:
        UsageError: for one that the GPU does not compute in.
    """
    name = SAME_UNITS.get(kind, kind)
    if name not in gpu.flops:
        raise UsageError(f"{gpu.name} does not compute in {kind}; it does in: {', '.join(gpu.flops)}")
    return gpu.flops[name]


def bus_bytes(operation: str, gpus: int, nbytes: npt.ArrayLike) -> Floats:
    """Bytes that every GPU sends in a ring: ``(g - 1) / g`` of the whole, twice that for an all-reduce."""
    share = (gpus - 1) / gpus * (2.0 if operation == "all_reduce" else 1.0)
    return np.asarray(nbytes, dtype=np.float64) * share


# ------------------------------------------------------------------------------------------------------- reading tables


@lru_cache(maxsize=64)
def _gemm_rates(folder: Path, kind: str) -> Grid | None:
    table = _read(folder / "gemm", "gemm_perf", ("gemm_dtype", "m", "n", "k", "latency"))
    if table is None:
        return None
    for name in _GEMM_TYPES[kind]:
        rows = table[table["gemm_dtype"] == name]
        if len(rows):
            # Small shapes are timed by their launch; training has none.
            rows = rows[(rows["n"] >= 128) & (rows["k"] >= 128) & (rows["m"] >= 64)]
            return _grid(rows, ["m", "n", "k"], 2e3 * rows["m"].astype(float) * rows["n"] * rows["k"] / rows["latency"])
    return None


@lru_cache(maxsize=64)
def _attention_rates(folder: Path, head_dim: int) -> Grid | None:
    columns = (
        "batch_size",
        "isl",
        "num_heads",
        "num_key_value_heads",
        "head_dim",
        "window_size",
        "attn_dtype",
        "latency",
    )
    table = _read(folder / "attention", "context_attention_perf", columns)
    if table is None:
        return None
    rows = table[(table["attn_dtype"] == "bfloat16") & (table["isl"] >= 256) & (table["window_size"] == 0)]
    dims = rows["head_dim"].unique()
    if not len(dims):
        return None
    rows = rows[rows["head_dim"] == dims[np.argmin(np.abs(dims - head_dim))]].copy()
    rows["streams"] = rows["batch_size"] * rows["num_heads"]
    flops = 2.0 * rows["streams"].astype(float) * rows["isl"].astype(float) ** 2 * rows["head_dim"]
    return _grid(rows, ["streams", "isl"], 1e3 * flops / rows["latency"])


@lru_cache(maxsize=256)
def _collective_curve(folder: Path, operation: str, gpus: int) -> tuple[Floats, Floats] | None:
    table = _read(
        folder / "comm" / "nccl", "nccl_perf", ("op_name", "nccl_dtype", "num_gpus", "message_size", "latency")
    )
    if table is None:
        return None
    rows = table[(table["op_name"] == operation) & (table["nccl_dtype"] == "half")]
    known = rows["num_gpus"].unique()
    if not len(known):
        return None
    nearest = int(known[np.argmin(np.abs(np.log2(known) - np.log2(gpus)))])
    rows = rows[rows["num_gpus"] == nearest].groupby("message_size")["latency"].median().sort_index()
    sizes = 2.0 * rows.index.to_numpy(dtype=np.float64)  # the tables count elements of two bytes
    seconds = np.maximum.accumulate(rows.to_numpy(dtype=np.float64)) / 1e3
    # A group of another size moves another share of the bytes.
    return sizes, seconds * float(bus_bytes(operation, gpus, 1.0) / bus_bytes(operation, nearest, 1.0))


def _grid(rows: pd.DataFrame, axes: Sequence[str], rates: pd.Series[float]) -> Grid:
    keyed = rates.groupby([rows[name] for name in axes]).median()
    return grid_of(np.array(keyed.index.to_list(), dtype=np.float64), np.asarray(keyed, dtype=np.float64))


@lru_cache(maxsize=64)
def _read(folder: Path, name: str, columns: tuple[str, ...]) -> Any:
    """The table of the preferred engine and its newest version; None where there is none."""
    found = sorted(
        folder.rglob(f"{name}.parquet"), key=lambda path: ("trtllm" in path.parts, _number(path.parent.name))
    )
    if not found:
        return None
    import pandas as pd  # noqa: PLC0415

    return pd.read_parquet(found[-1], columns=list(columns))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415

    return version(PACKAGE.replace("_", "-"))

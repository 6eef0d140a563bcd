"""Kernel and collective times of this machine, measured by oneself: a file of them, and `OwnTimes`, which predicts from it.

    autotune kernels --out my-gpu.json

For GPUs that `tables` knows nothing of. Between measured shapes the rate is interpolated on logarithmic axes, beyond them the
nearest counts, as there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autotune.errors import UsageError
from autotune.hardware import current_environment
from evaluators.training_layout.grids import Grid, grid_of, transfer_s
from evaluators.training_layout.layouts import Floats
from evaluators.training_layout.tables import COLLECTIVES, SAME_UNITS, AttentionShape, bus_bytes

_COMMAND = "autotune kernels"
# Starting processes takes some ten seconds, all sizes of all collectives among eight GPUs some more.
_COLLECTIVES_LIMIT_S = 900.0
_KERNELS_LIMIT_S = 3600.0  # a minute on a machine whose every core is another's thread, and more on slow ones
_MOST_ON_CPUS = 8  # processes of collectives on CPUs; a process for each of more cores measures the scheduler
_SMALLEST, _LARGEST = 12, 27  # bytes of collectives, as powers of 2: from the latency's to the bandwidth's

_Size = Annotated[int, Field(ge=1)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OwnTables(BaseModel):
    """The file. Times are medians, in seconds.

    Attributes:
        format, version: what file this is.
        device: `cpu` or `cuda`.
        name: of the GPU or the processor.
        processes: among which the machine's processors were shared out, all of them measuring at once.
        environment: see `autotune.hardware.Environment`.
        gemm: by number format, ``(m, n, k, seconds)`` of products ``m x k`` by ``k x n``.
        attention_kind: number format of attention.
        attention: by width of a head, ``(streams, tokens, seconds)`` of causal attention; streams are sequences times heads.
        memory_bytes_s: that a large copy reads and writes.
        collectives: by operation and number of processes, ``(bytes, seconds)``; bytes of the whole result, or of the input of a
            reduce-scatter. Empty on a machine of one GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["autotune kernel times"] = "autotune kernel times"
    version: Literal[1] = 1
    device: Literal["cpu", "cuda"]
    name: str
    processes: _Size = 1
    torch: str
    created_at: datetime
    environment: dict[str, Any]
    gemm: dict[str, list[tuple[_Size, _Size, _Size, _Seconds]]]
    attention_kind: str
    attention: dict[_Size, list[tuple[_Size, _Size, _Seconds]]]
    memory_bytes_s: _Seconds
    collectives: dict[
        Literal["all_gather", "reduce_scatter", "all_reduce", "alltoall"], dict[_Size, list[tuple[_Size, _Seconds]]]
    ]

    @model_validator(mode="after")
    def _spans_grids(self) -> OwnTables:
        tables = {f"gemm of {kind}": rows for kind, rows in self.gemm.items()}
        grids: dict[str, Sequence[tuple[float, ...]]] = {
            **tables,
            **{f"attention of width {width}": rows for width, rows in self.attention.items()},
        }
        if not tables or not self.attention:
            raise ValueError("gemm and attention need at least one table each")
        for what, rows in grids.items():
            if not rows or any(len(set(axis)) < 2 for axis in list(zip(*rows, strict=True))[:-1]):
                raise ValueError(f"{what} needs at least two numbers along every axis")
        if any(not rows for by_size in self.collectives.values() for rows in by_size.values()):
            raise ValueError("collectives need at least one size each")
        if self.collectives and set(self.collectives) != set(COLLECTIVES):
            raise ValueError(f"collectives need all of {', '.join(COLLECTIVES)}")
        if len({frozenset(by_size) for by_size in self.collectives.values()}) > 1:
            raise ValueError("collectives need the same numbers of processes for every operation")
        return self

    @classmethod
    def read(cls, path: Path) -> OwnTables:
        """Read a file.

        Raises:
            UsageError: for one that is missing, broken, or something else.
        """
        again = f"measure one with: {_COMMAND} --out {path}"
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"kernel times {path} cannot be read ({error.strerror}); {again}") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "file"
            raise UsageError(f"{path} holds no kernel times ({field}: {first['msg']}); {again}") from None


class OwnTimes:
    """`tables.KernelTimes` from a file of one's own.

    Args:
        tables: what was measured.
        named: the file's name, for people.
    """

    def __init__(self, tables: OwnTables, named: str) -> None:
        self.tables = tables
        self.source = f"{tables.name}, measured on {tables.created_at:%Y-%m-%d} ({named})"

    @classmethod
    def read(cls, path: Path) -> OwnTimes:
        """From a file.

        Raises:
            UsageError: for one that is missing, broken, or something else.
        """
        return cls(OwnTables.read(path), path.name)

    @property
    def memory_bytes_s(self) -> float:
        """Bandwidth of the memory."""
        return self.tables.memory_bytes_s

    @property
    def kinds(self) -> tuple[str, ...]:
        """Number formats of products that were measured."""
        return tuple(self.tables.gemm)

    def gemm_s(self, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike, kind: str) -> Floats:
        """See `tables.KernelTimes`.

        Raises:
            UsageError: for a number format that was not measured.
        """
        rates = self._products.get(SAME_UNITS.get(kind, kind))
        if rates is None:
            raise UsageError(
                f"products in {kind} were not measured on {self.tables.name}; measured were: {', '.join(self.kinds)}; use one "
                "of these, or measure on a device that computes in it"
            )
        mm, nn, kk = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (m, n, k)))
        seconds: Floats = 2.0 * mm * nn * kk / rates(mm, nn, kk)
        return seconds

    def attention_s(self, shape: AttentionShape, batch: npt.ArrayLike, sequence: npt.ArrayLike) -> Floats:
        """See `tables.KernelTimes`; from the nearest width of a head that was measured."""
        width = min(self._attentions, key=lambda known: abs(known - shape.head_dim))
        b, s = np.broadcast_arrays(np.asarray(batch, dtype=np.float64), np.asarray(sequence, dtype=np.float64))
        return shape.flops(b, s) / self._attentions[width](b * shape.heads, s)

    def node_collective_s(self, operation: str, gpus: int, nbytes: npt.ArrayLike) -> Floats:
        """See `tables.KernelTimes`; from the nearest number of processes that was measured, which moves another share of bytes.

        Raises:
            UsageError: where none were measured.
        """
        by_size: Mapping[int, Any] = dict(self.tables.collectives).get(operation, {})  # type: ignore[call-overload]
        if not by_size:
            raise UsageError(
                f"collectives were not measured on {self.tables.name}, which had one GPU; set gpus_per_node=1, so that the "
                "network joins the GPUs, or measure on a machine of several"
            )
        nearest = min(by_size, key=lambda known: abs(np.log2(known) - np.log2(gpus)))
        sizes, seconds = np.array(sorted(by_size[nearest]), dtype=np.float64).T
        seconds = np.maximum.accumulate(seconds)  # more bytes never take less
        return transfer_s(sizes, seconds, nbytes) * float(
            bus_bytes(operation, gpus, 1.0) / bus_bytes(operation, nearest, 1.0)
        )

    @cached_property
    def _products(self) -> dict[str, Grid]:
        found = {}
        for kind, rows in self.tables.gemm.items():
            m, n, k, seconds = np.array(rows, dtype=np.float64).T
            found[kind] = grid_of(np.stack([m, n, k], axis=1), 2.0 * m * n * k / seconds)
        return found

    @cached_property
    def _attentions(self) -> dict[int, Grid]:
        found = {}
        for width, rows in self.tables.attention.items():
            streams, tokens, seconds = np.array(rows, dtype=np.float64).T
            flops = AttentionShape(1, 1, width).flops(streams, tokens)
            found[width] = grid_of(np.stack([streams, tokens], axis=1), flops / seconds)
        return found


def measure(
    *, device: str, processes: int = 1, quick: bool = False, report: Callable[[str], None] = lambda _: None
) -> OwnTables:
    """Measure this machine.

    Args:
        device: `cpu` or `cuda`.
        processes: of a training run on CPUs, which share out the processors.
        quick: fewer shapes and repeats, for a first look.
        report: called with what is measured next.

    Raises:
        UsageError: where there is no such device.
        Failure: when the processes of the collectives fail; see `real.launch`.
    """
    import torch  # noqa: PLC0415 - takes seconds that reading a file need not cost

    from evaluators.training_layout.real import kernels  # noqa: PLC0415
    from evaluators.training_layout.real.launch import launch  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda is absent: PyTorch sees no GPU here; measure with --device cpu")
    environment = current_environment()
    cores = len(os.sched_getaffinity(0))
    if device == "cpu" and processes > 1:
        # All at once: they share memory and, where cores have two threads each, the cores.
        report(f"products, attention and memory by {processes} processes at once")
        told = {"device": device, "quick": quick}
        found = launch(kernels.__name__, told, processes, _KERNELS_LIMIT_S, max(1, cores // processes))
    else:
        found = kernels.measure(device, quick, report)
    together = torch.cuda.device_count() if device == "cuda" else min(_MOST_ON_CPUS, max(2, cores))
    collectives = {}
    if together > 1:
        report(f"collectives of up to {together} processes")
        sizes = [2**power for power in range(_SMALLEST, _LARGEST + 1, 5 if quick else 1)]
        told = {"device": device, "sizes": sizes, "repeats": kernels.repeats(quick)}
        module = "evaluators.training_layout.real.collectives"
        collectives = launch(module, told, together, _COLLECTIVES_LIMIT_S, max(1, cores // together))
    name = torch.cuda.get_device_name() if device == "cuda" else environment.details["hardware"]["cpu"]["model"]
    return OwnTables.model_validate(
        {
            "device": device,
            "name": name,
            "processes": processes,
            "torch": torch.__version__,
            "created_at": datetime.now(UTC).replace(microsecond=0),
            "environment": environment.to_dict(),
            "collectives": collectives,
            **found,
        }
    )

"""Known GPUs and the clusters that they come in: memory, peak figures and link levels, from their makers' data sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from autotune.errors import UsageError

_GIB = 2**30
CLUSTER = "cluster"


@dataclass(frozen=True)
class Gpu:
    """One GPU and the links that its systems have.

    Attributes:
        name: of the product.
        memory_bytes, memory_bytes_s: capacity and bandwidth.
        flops: peak of dense matrix products per second, by number format.
        level_gpus: GPUs that a link level joins, from the nearest: those of a node, and of a rack where one switch joins all of
            them. What lies beyond is joined by the network.
        level_bytes_s: bandwidth of one GPU, one way, at each level, and at last of the network.
        host_bytes_s: bandwidth to host memory, one way.
        tables: name of its measured tables in the package aiconfigurator-core, where there are some.
        source: where the numbers come from.
    """

    name: str
    memory_bytes: float
    memory_bytes_s: float
    flops: Mapping[str, float]
    level_gpus: tuple[int, ...]
    level_bytes_s: tuple[float, ...]
    host_bytes_s: float
    tables: str | None = None
    source: str = field(default="", compare=False)

    @property
    def levels(self) -> dict[str, int]:
        """GPUs that each link level joins, by the level's name, from the nearest; ``cluster``, which joins all, has none."""
        return {_level(count): count for count in self.level_gpus}


def _level(count: int) -> str:
    return "pair" if count == 2 else "node" if count <= 16 else "rack"


def _gpu(
    name: str,
    memory_gib: float,
    memory_gb_s: float,
    tflops: Mapping[str, float],
    links_gb_s: Mapping[int, float],
    network_gb_s: float,
    host_gb_s: float,
    tables: str | None,
    source: str,
) -> Gpu:
    return Gpu(
        name,
        memory_gib * _GIB,
        memory_gb_s * 1e9,
        MappingProxyType({kind: peak * 1e12 for kind, peak in tflops.items()}),
        tuple(links_gb_s),
        (*(speed * 1e9 for speed in links_gb_s.values()), network_gb_s * 1e9),
        host_gb_s * 1e9,
        tables,
        source,
    )


# Of float32 with tensor cores (TF32) where there are some.
_A100 = {"bf16": 312.0, "fp32": 156.0}
_H100 = {"bf16": 989.0, "fp8": 1979.0, "fp32": 494.5}
_B200 = {"bf16": 2250.0, "fp8": 4500.0, "fp4": 9000.0}
_GB200 = {"bf16": 2500.0, "fp8": 5000.0, "fp4": 10000.0}
_B300 = {"bf16": 2250.0, "fp8": 4500.0, "fp4": 13500.0}
_GB300 = {"bf16": 2500.0, "fp8": 5000.0, "fp4": 15000.0}

_GPUS = (
    _gpu("v100", 32, 900, {"bf16": 125.0}, {8: 150}, 12.5, 16, None, "V100 SXM2 data sheet; half precision for bf16"),
    _gpu("a100-40gb", 40, 1555, _A100, {8: 300}, 25, 32, "a100_sxm", "A100 SXM data sheet; DGX A100: HDR, a port a GPU"),
    _gpu("a100", 80, 2039, _A100, {8: 300}, 25, 32, "a100_sxm", "A100 SXM 80 GB data sheet; DGX A100: HDR, a port a GPU"),
    _gpu("h100", 80, 3350, _H100, {8: 450}, 50, 64, "h100_sxm", "H100 SXM data sheet; DGX H100: NDR, a port a GPU"),
    _gpu("h200", 141, 4800, _H100, {8: 450}, 50, 64, "h200_sxm", "H200 SXM data sheet"),
    _gpu("b200", 180, 7700, _B200, {8: 900}, 50, 64, "b200_sxm", "DGX B200 data sheet: NDR, a port a GPU"),
    _gpu("b300", 270, 7700, _B300, {8: 900}, 100, 128, "b300_sxm", "DGX B300 data sheet: XDR, a port a GPU"),
    _gpu("gb200", 185, 8000, _GB200, {4: 900, 72: 900}, 50, 450, "gb200", "GB200 NVL72 data sheet"),
    _gpu("gb300", 277, 8000, _GB300, {4: 900, 72: 900}, 100, 450, "gb300", "GB300 NVL72 data sheet"),
    _gpu("l40s", 48, 864, {"bf16": 362.0, "fp8": 733.0}, {8: 25}, 25, 32, "l40s", "L40S data sheet; PCIe between GPUs"),
    _gpu("rtx4090", 24, 1008, {"bf16": 165.2, "fp8": 330.3}, {8: 25}, 12.5, 25, None, "Ada whitepaper; PCIe between GPUs"),
    _gpu("mi250x", 64, 1638, {"bf16": 191.5}, {2: 200, 8: 100}, 12.5, 36, None, "MI250X data sheet, one of two dies"),
)  # fmt: skip

GPUS: Mapping[str, Gpu] = MappingProxyType({gpu.name: gpu for gpu in _GPUS})


def gpu(name: str) -> Gpu:
    """A known GPU by name, whatever its case.

    Raises:
        UsageError: when it is unknown; the message lists the known.
    """
    found = GPUS.get(name.strip().lower())
    if found is None:
        raise UsageError(f"GPU {name!r} is unknown; known are: {', '.join(GPUS)}")
    return found

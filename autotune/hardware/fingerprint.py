"""Which machine is this? A digest of the hardware that decides measured times, and what else is worth knowing.

The fingerprint answers "may yesterday's measurement be reused?": it covers the processor, its instruction sets, the cores
that this process may use, the memory, the GPUs with their driver, and the disk under the scratch folder. It leaves out
whatever changes without changing a measured time by much: the kernel, the host's name, library versions. Those are in
`Environment.details`, so that a surprising number can still be traced to them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

_SOFTWARE = ("autotune", "torch", "numpy")
_GIB = 2**30

# Only instruction sets that numerical kernels choose by. The kernel adds and renames the other flags from release to
# release (mitigations, timers, virtualisation), so that they would change the fingerprint of an unchanged machine.
_ISA_FLAG = re.compile(
    r"sse|ssse|avx|amx|fma|f16c|vnni|bmi|adx|gfni"  # x86
    r"|asimd|sve|sme|neon|fphp|bf16|i8mm"  # Arm
)


@dataclass(frozen=True)
class Environment:
    """The machine and the software that measurements were made with.

    Attributes:
        fingerprint: 16 hexadecimal digits; equal on two machines means that measured times may be shared.
        details: JSON-ready facts: `hardware` (exactly what the fingerprint digests), `software` (versions), `os`, `hostname`.
    """

    fingerprint: str
    details: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Disk:
    """The filesystem of a folder and the block device under it, as far as the kernel tells.

    `model` is the drive's own name, or else the device's (a virtual disk has no model). `size_gib` is rounded.
    """

    filesystem: str
    model: str
    size_gib: int
    rotational: bool | None


def current_environment(scratch: Path | None = None) -> Environment:
    """Describe this machine.

    Args:
        scratch: an existing folder whose disk is going to be measured. None leaves the disk out of the fingerprint, as is
            right for measurements that never touch one.
    """
    hardware = hardware_facts(scratch)
    details = {
        "hardware": hardware,
        "software": {"python": platform.python_version(), **{name: _version(name) for name in _SOFTWARE}},
        "os": platform.platform(),
        "hostname": platform.node(),
    }
    return Environment(fingerprint_of(hardware), details)


def fingerprint_of(hardware: Mapping[str, Any]) -> str:
    """Digest of facts about hardware, independent of the order in which they are given."""
    canonical = json.dumps(hardware, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def hardware_facts(scratch: Path | None = None) -> dict[str, Any]:
    """The facts that the fingerprint digests, as plain JSON types."""
    facts: dict[str, Any] = {
        "cpu": cpu_facts(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")),
        "cores": {"machine": os.cpu_count(), "usable": len(os.sched_getaffinity(0))},
        "memory_gib": round_memory_gib(psutil.virtual_memory().total),
        "gpus": _gpus(),
    }
    if scratch is not None:
        facts["disk"] = asdict(disk_of(scratch))
    return facts


def cpu_facts(cpuinfo: str) -> dict[str, str]:
    """The processor's model and a digest of its numerical instruction sets, from the text of ``/proc/cpuinfo``."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    flags = sorted({flag for flag in fields.get("flags", fields.get("Features", "")).split() if _ISA_FLAG.search(flag)})
    # Arm names the core by numbers, x86 by name; the x86 family and model tell apart what hypervisors rename.
    name = fields.get("model name") or " ".join(
        fields[key] for key in ("CPU implementer", "CPU part", "CPU variant") if key in fields
    )
    numbers = "/".join(fields[key] for key in ("cpu family", "model", "stepping") if key in fields)
    return {
        "model": name or platform.machine(),
        "family_model_stepping": numbers,
        "isa_digest": hashlib.sha256(" ".join(flags).encode()).hexdigest()[:12],
    }


def round_memory_gib(nbytes: int) -> float:
    """Memory in GiB, to within a sixteenth: what the kernel reserves differs from boot to boot by some MiB."""
    if nbytes <= 0:
        return 0.0
    step = 2.0 ** (math.floor(math.log2(nbytes)) - 4)
    return round(nbytes / step) * step / _GIB


def disk_of(folder: Path) -> Disk:
    """The filesystem and the drive that hold an existing folder."""
    filesystem, source = _mount_of(folder)
    device = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # A partition's directory lies inside its drive's, which holds `queue` and `device`.
    drive = next((d for d in (block.resolve(), block.resolve().parent) if (d / "queue").is_dir()), None)
    model = _read(drive / "device" / "model") if drive else None
    rotational = _read(drive / "queue" / "rotational") if drive else None
    return Disk(
        filesystem=filesystem,
        model=model or Path(source).name,
        size_gib=round(shutil.disk_usage(folder).total / _GIB),
        rotational=None if rotational is None else rotational == "1",
    )


def _mount_of(folder: Path) -> tuple[str, str]:
    """Filesystem type and source of the mount that holds a folder, from the longest mount point above it."""
    resolved = folder.resolve()
    best = ("unknown", "unknown")
    longest = -1
    for mount in psutil.disk_partitions(all=True):
        point = Path(mount.mountpoint)
        # Later mounts hide earlier ones on the same point, hence >=.
        if resolved.is_relative_to(point) and len(point.parts) >= longest:
            longest = len(point.parts)
            best = (mount.fstype, mount.device)
    return best


def _gpus() -> list[dict[str, Any]]:
    """Name, memory and driver of each NVIDIA GPU, without importing torch, which would cost seconds."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    # nvidia-smi without a loaded driver fails: the machine then has no GPU that anything could be measured on.
    return gpu_facts(done.stdout) if done.returncode == 0 else []


def gpu_facts(listing: str) -> list[dict[str, Any]]:
    """GPUs from the lines ``name, memory in MiB, driver version`` that nvidia-smi prints."""
    gpus = []
    for line in listing.strip().splitlines():
        name, memory, driver = (part.strip() for part in line.rsplit(",", 2))
        gib = round_memory_gib(int(memory) * 2**20) if memory.isdigit() else None
        gpus.append({"name": name, "memory_gib": gib, "driver": driver})
    return gpus


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

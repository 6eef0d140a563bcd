"""A machine that is easy to reason about, as a hardware profile: the tests' results do not depend on where they run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from autotune.hardware import ComputeEntry, Curve, DenseShape, Environment, FfnShape, HardwareProfile, LinkEntry
from evaluators.moe_cache.machine import LayerWork
from evaluators.moe_cache.presets import preset

NAME = "made-for-tests"
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_BYTES = tuple(2**power for power in range(12, 27))


def curve(x: Sequence[int], ms: Sequence[float]) -> Curve:
    n = len(x)
    return Curve(
        x=tuple(x),
        ms=tuple(ms),
        half_width_ms=(0.0,) * n,
        samples=(9,) * n,
        set_aside=(0,) * n,
        contended=(False,) * n,
    )


def made_profile(models: Sequence[str] = ("tiny-moe",), context: int = 512) -> HardwareProfile:
    """A disk of 2 GiB/s with 0.05 ms latency; experts at 0.05 ms and dense parts at 0.07 ms plus a little per token."""
    shapes = [shape for name in models for shape in LayerWork.of(preset(name), context).shapes]
    return HardwareProfile(
        name=NAME,
        tier_pair="ram<-disk",
        environment=Environment(fingerprint="0" * 16, details={"cpu": "made for tests"}),
        links=(LinkEntry(depth=1, curve=curve(_BYTES, [0.05 + size / 2**31 * 1e3 for size in _BYTES])),),
        compute=tuple(
            ComputeEntry(shape=shape, device="cpu", curve=curve(_TOKENS, [_first(shape) + 0.001 * n for n in _TOKENS]))
            for shape in dict.fromkeys(shapes)
        ),
        created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        command="tests",
    )


def _first(shape: FfnShape | DenseShape) -> float:
    return 0.05 if isinstance(shape, FfnShape) else 0.07


def write_profile(folder: Path) -> Path:
    """The made profile as a file, for ``--set hardware=FILE``."""
    path = folder / "machine.json"
    path.write_text(made_profile().to_json())
    return path

"""What this machine's memories and processors can do, measured: fingerprint, tier pairs, profiles and their cache."""

from autotune.hardware.cache import (
    Step,
    cache_folder,
    known_names,
    load_cached,
    load_named,
    load_or_measure,
    scratch_folder,
)
from autotune.hardware.fingerprint import Environment, current_environment
from autotune.hardware.profile import ComputeEntry, Curve, HardwareProfile, LinkEntry
from autotune.hardware.shapes import DEFAULT_SHAPES, DenseShape, FfnShape, parse_shape
from autotune.hardware.tiers import DiskLink, HostToGpuLink, Link, TierPair

__all__ = [
    "DEFAULT_SHAPES",
    "ComputeEntry",
    "Curve",
    "DenseShape",
    "DiskLink",
    "Environment",
    "FfnShape",
    "HardwareProfile",
    "HostToGpuLink",
    "Link",
    "LinkEntry",
    "Step",
    "TierPair",
    "cache_folder",
    "current_environment",
    "known_names",
    "load_cached",
    "load_named",
    "load_or_measure",
    "parse_shape",
    "scratch_folder",
]

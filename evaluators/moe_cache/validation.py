"""Configurations to compare predictions with real runs by, and the correction that some of those runs give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.hardware import HardwareProfile, cache_folder
from autotune.hardware.cache import write_atomically
from autotune.space import Categorical, Config, SearchSpace
from autotune.store import TrialRecord
from autotune.validation import Corrected
from evaluators.moe_cache.correction import CLOCKS, Clocks, Correction
from evaluators.moe_cache.machine import LayerWork
from evaluators.moe_cache.plan import Costs
from evaluators.moe_cache.profiled import MIB, Profiled
from evaluators.moe_cache.solver import Memory
from evaluators.moe_cache.trace import RoutingTrace

METRICS = (
    "token_latency_ms",
    "token_latency_p50_ms",
    "token_latency_p99_ms",
    "tokens_per_s",
    "hit_rate",
    "hit_rate_all",
    "prefetch_precision",
    "moved_mib",
    "wasted_mib",
    "dense_ms",
    "expert_compute_ms",
    "exposed_transfer_ms",
    "cpu_wait_ms",
    "cpu_expert_share",
    "prefill_ms",
    "fast_memory_gib",
)

# Shares of the fast memory, splits (None: a different one in each layer) that are worth telling apart.
_SHARES = (0.08, 0.16, 0.3, 0.5, 0.75, 1.0)
_SPLITS = (1.0, 1.0, 0.75, 0.5, 0.25, None)


def configurations(space: SearchSpace, default: Config, memory: Memory, count: int, seed: int) -> Iterator[Config]:
    """Feasible configurations over budgets, splits, policies and prefetching.

    Every factor takes each of its values about as often as its others, in an order of its own (a Latin hypercube), so that
    few configurations cover much. Half of them share the memory out unevenly.

    Args:
        default: gives what is not varied.
        count: how many.
    """
    rng = np.random.default_rng(seed)
    names = {p.name: p for p in space.parameters}
    policy, depths = names["policy"], int(names["prefetch_depth"].high)  # type: ignore[attr-defined]
    assert isinstance(policy, Categorical)
    layers = len(default["budget_mib"])
    factors = (_SHARES, _SPLITS, tuple(policy.choices), tuple(range(depths + 1)), (False, True))
    rows = zip(*(_dealt(len(values), count, rng) for values in factors), strict=True)
    for share, split, which, depth, uneven in rows:
        theta = _SPLITS[split]
        weight = rng.dirichlet(np.full(layers, 2.0)) if uneven else np.full(layers, 1.0 / layers)
        available = memory.for_caches(depth) * _SHARES[share]
        most = names["budget_mib"].high  # type: ignore[attr-defined]
        config: Config = {
            "budget_mib": [float(min(most, b)) for b in np.floor(available * weight) / MIB],
            "theta": [
                float(t) for t in (rng.choice((0.25, 0.5, 0.75, 1.0), layers) if theta is None else [theta] * layers)
            ],
            "policy": policy.choices[which],
            "prefetch_depth": depth,
        }
        for name, parameter in names.items():
            if name not in config:
                if isinstance(parameter, Categorical):
                    config[name] = parameter.choices[int(rng.integers(len(parameter.choices)))]
                elif name == "cpu_threshold_tokens":
                    config[name] = int(rng.integers(0, 3))
                else:
                    config[name] = parameter.default
        yield space.repair(config, seed)


def _dealt(values: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` numbers below `values`, each about as often as the others, shuffled."""
    return [int(v) for v in rng.permutation(np.resize(rng.permutation(values), count))]


def named(configs: Sequence[Config], word: str) -> dict[str, Config]:
    """Configurations under names that can be told apart."""
    return {f"{word} {number}": config for number, config in enumerate(configs, 1)}


# ------------------------------------------------------------------------------------------------------ the correction


def correcting(
    trace: RoutingTrace,
    costs: Costs,
    profile: HardwareProfile,
    work: LayerWork,
    link_mib_s: float | None = None,
    *,
    keep: bool,
) -> Callable[[Sequence[TrialRecord]], Corrected]:
    """How completed real trials correct the profiled evaluator on this machine.

    Args:
        link_mib_s: that the link of costs and runs is held to.
        keep: whether the correction can be kept; one of a profile that was given by name or file is not.
    """

    def correct(trials: Sequence[TrialRecord]) -> Corrected:
        clocks = [Clocks.from_dict(trial.notes[CLOCKS]) for trial in trials]
        found = Correction.fit(clocks, costs)
        save = partial(save_correction, found, profile, work, link_mib_s) if keep else None
        return Corrected(Profiled(trace, found.of(costs)).predict, found.to_dict(), save)

    return correct


def correction_path(profile: HardwareProfile, work: LayerWork, link_mib_s: float | None = None) -> Path:
    """Where a machine's correction for these shapes, and a link held to such a speed, is kept, beside its hardware profile."""
    held = [] if link_mib_s is None else [link_mib_s]
    shapes = json.dumps([profile.best_depth, *map(str, work.shapes), *held])
    digest = hashlib.sha256(shapes.encode()).hexdigest()[:12]
    name = f"{profile.environment.fingerprint}-{profile.tiers.slug}-moe-cache-{digest}.json"
    return cache_folder() / name


def save_correction(
    correction: Correction, profile: HardwareProfile, work: LayerWork, link_mib_s: float | None = None
) -> Path:
    """Keep a correction for later searches on this machine.

    Raises:
        UsageError: the cache folder cannot be written.
    """
    path = correction_path(profile, work, link_mib_s)
    document = {
        "correction": correction.to_dict(),
        "tier_pair": profile.tier_pair,
        "shapes": [str(shape) for shape in work.shapes],
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise UsageError(
            f"cache folder {path.parent} cannot be written ({error.strerror}); set AUTOTUNE_CACHE_DIR to another"
        ) from error
    return path


def load_correction(
    profile: HardwareProfile, work: LayerWork, link_mib_s: float | None = None
) -> Mapping[str, Any] | None:
    """What `save_correction` kept, ``correction`` among it; None where nothing was.

    Raises:
        UsageError: for a file that cannot be read.
    """
    path = correction_path(profile, work, link_mib_s)
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        Correction.from_dict(document["correction"])
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise UsageError(
            f"{path} is no readable correction ({error}); delete it, or make it anew with: autotune validate moe-cache"
        ) from error
    found: Mapping[str, Any] = document
    return found

"""Curves of time against size: link against bytes, compute against tokens, each point with its uncertainty.

The points of a curve are measured in turns, in an order shuffled anew every round, so that a disturbance of the machine
spreads over all of them instead of bending the curve. A point leaves the turns when its median is known precisely enough;
all stop when the time budget is spent, and what is still imprecise then is flagged (`Curve.noisy`), not hidden.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import psutil

from autotune.errors import UsageError
from autotune.hardware.compute import COLD_BYTES, timer, work_of
from autotune.hardware.contention import is_contended, run_delay_ms
from autotune.hardware.profile import ComputeEntry, Curve, HardwareProfile, LinkEntry
from autotune.hardware.shapes import DenseShape, FfnShape
from autotune.hardware.threads import compute_threads, leaving_a_core
from autotune.hardware.tiers import Link
from autotune.measurement import Metric, Protocol, median_interval, summarise

LINK_SIZES = tuple(2**k for k in range(12, 27))  # 4 KiB to 64 MiB
TOKENS = tuple(2**k for k in range(10))  # 1 to 512
# A twentieth is what shared machines reach in seconds; two hundred repeats bound what a hopeless point may take.
PROTOCOL = Protocol(warmup=1, min_repeats=6, max_repeats=200, target=0.05)

# A machine is called quiet when its processors were this idle for that long.
_QUIET_PERCENT = 15.0
_QUIET_S = 1.0

K = TypeVar("K")


@dataclass(frozen=True)
class Point:
    """One measured point.

    Attributes:
        metric: the median (ms), its half-width and the samples.
        set_aside: samples left out because another process took a core meanwhile (see `contention`): what a profile
            should tell is the time of this machine's hardware, not of this minute's neighbours.
        contended: no sample was free of that, so the median is of slowed ones.
    """

    metric: Metric
    set_aside: int = 0
    contended: bool = False


# Precision is judged at these counts only: every look at the data is one more chance to stop by luck.
_LOOK_GROWTH = 1.35


@dataclass(frozen=True)
class Budget:
    """Seconds for one link (all its queue depths together) and for each compute curve.

    The first round of a curve is always finished, so a slow machine may take longer.
    """

    link_s: float = 8.0
    curve_s: float = 5.0

    def __post_init__(self) -> None:
        for name, value in (("link_s", self.link_s), ("curve_s", self.curve_s)):
            if not value > 0:
                raise UsageError(f"budget {name}={value} must be a positive number of seconds")

    @classmethod
    def share(cls, total_s: float, curves: int) -> Budget:
        """Divide a total: two fifths to the link (all of it without curves), the rest equally to the curves."""
        link_s = 0.4 * total_s if curves else total_s
        return cls(link_s, 0.6 * total_s / max(1, curves))

    @classmethod
    def curves(cls, total_s: float, count: int) -> Budget:
        """Divide a total equally between compute curves, for a link that is already known."""
        return cls(curve_s=total_s / count)


def method_notes() -> dict[str, Any]:
    """What a reader must know of how the curves came about, beside the machine."""
    return {
        "cold_weight_bytes": COLD_BYTES,
        "torch_threads": compute_threads(),
        "contention_watched": run_delay_ms() is not None,
    }


def measure_link(
    link: Link, sizes: Sequence[int] = LINK_SIZES, protocol: Protocol = PROTOCOL, budget_s: float = 8.0
) -> tuple[LinkEntry, ...]:
    """Transfer time against size for every queue depth of a link; curves in milliseconds.

    Raises:
        UsageError: where the sizes are not positive and increasing.
    """
    _check_increasing("sizes", sizes)
    samplers: dict[tuple[int, int], Callable[[], float]] = {
        (depth, size): _transfer_ms(link, size, depth) for depth in link.depths for size in sizes
    }
    # Parallel readers wait for each other's cores, which the scheduler counts just as it counts other processes' turns;
    # and a transfer needs a core so little that contention hardly moves its median.
    measured = measure_points(samplers, protocol, budget_s, watch_contention=False)
    return tuple(
        LinkEntry(depth=depth, curve=_curve(sizes, [measured[depth, size] for size in sizes], protocol))
        for depth in link.depths
    )


def measure_compute(
    shape: FfnShape | DenseShape,
    device: str,
    tokens: Sequence[int] = TOKENS,
    protocol: Protocol = PROTOCOL,
    budget_s: float = 5.0,
) -> ComputeEntry:
    """Milliseconds of an expert or of a layer's dense part against tokens, on cold weights, with a core left alone (`threads`).

    Raises:
        UsageError: the device or its memory does not suffice, or the tokens are not positive and increasing.
    """
    _check_increasing("tokens", tokens)
    deadline = time.monotonic() + budget_s
    with leaving_a_core():
        work = work_of(shape, device)
        samplers = {n: timer(work, shape, n, device) for n in tokens}
        measured = measure_points(samplers, protocol, max(0.0, deadline - time.monotonic()))
    return ComputeEntry(shape=shape, device=device, curve=_curve(tokens, [measured[n] for n in tokens], protocol))


def measure_noisy_again(profile: HardwareProfile, patience_s: float, budget_s: float = 5.0) -> HardwareProfile:
    """Measure compute curves with noisy points again, whenever the machine is quiet, for at most `patience_s` seconds.

    A curve is replaced by one with fewer noisy points. What is chosen by is the flag, never the time itself.

    Args:
        profile: of this machine.
        patience_s: for waiting and measuring together; 0 returns the profile as it is.
        budget_s: seconds for each curve.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        noisy = [entry for entry in profile.compute if any(entry.curve.noisy)]
        if not noisy:
            break
        for entry in noisy:
            while psutil.cpu_percent(interval=_QUIET_S) > _QUIET_PERCENT and time.monotonic() < deadline:
                pass  # asking takes the interval, so this is the wait itself
            if time.monotonic() >= deadline:
                break
            again = measure_compute(entry.shape, entry.device, entry.curve.x, budget_s=budget_s)
            if sum(again.curve.noisy) < sum(entry.curve.noisy):
                now = datetime.now(UTC).replace(microsecond=0)
                profile = profile.merge([again]).model_copy(update={"created_at": now})
    return profile


def measure_points(
    samplers: Mapping[K, Callable[[], float]],
    protocol: Protocol,
    budget_s: float,
    *,
    watch_contention: bool = True,
    seed: int = 0,
) -> dict[K, Point]:
    """Sample every point in turns until each median is precise, its repeats are spent, or the time is.

    Args:
        samplers: by point, a function that measures it once and returns milliseconds.
        protocol: warm-up, repeats and the wanted relative half-width.
        budget_s: seconds; every point is sampled once even when they do not suffice.
        watch_contention: set aside the samples during which other processes took a core.
        seed: of the order of the turns.
    """
    rng = np.random.default_rng(seed)
    points = {key: _Sampling(sampler, protocol, watch_contention) for key, sampler in samplers.items()}
    deadline = time.monotonic() + budget_s
    unfinished = list(points.values())
    while unfinished:
        for index in rng.permutation(len(unfinished)):
            point = unfinished[int(index)]
            if not point.attempts or time.monotonic() < deadline:
                point.sample()
        if time.monotonic() >= deadline:
            break
        unfinished = [point for point in unfinished if not point.done()]
    return {key: point.result() for key, point in points.items()}


class _Sampling:
    """The samples of one point so far."""

    def __init__(self, sampler: Callable[[], float], protocol: Protocol, watch: bool) -> None:
        self._sampler = sampler
        self._protocol = protocol
        self._watch = watch
        self._clean: list[float] = []
        self._contended: list[float] = []
        self._next_look = protocol.min_repeats

    @property
    def attempts(self) -> int:
        return len(self._clean) + len(self._contended)

    def sample(self) -> None:
        for _ in range(0 if self.attempts else self._protocol.warmup):
            self._sampler()
        before = run_delay_ms() if self._watch else None
        ms = self._sampler()
        contended = self._watch and is_contended(ms, before, run_delay_ms())
        (self._contended if contended else self._clean).append(ms)

    def done(self) -> bool:
        count = len(self._clean)
        if self.attempts >= self._protocol.max_repeats:
            return True
        if count < self._next_look:
            return False
        self._next_look = max(count + 1, int(count * _LOOK_GROWTH))
        if self._protocol.target is None:
            return True
        low, high, coverage = median_interval(self._clean, self._protocol.confidence)
        precise = (high - low) / 2.0 <= self._protocol.target * float(np.median(self._clean))
        return coverage >= self._protocol.confidence and precise

    def result(self) -> Point:
        confidence = self._protocol.confidence
        if not self._clean:
            return Point(summarise(self._contended, confidence), contended=True)
        return Point(summarise(self._clean, confidence), set_aside=len(self._contended))


def _transfer_ms(link: Link, size: int, depth: int) -> Callable[[], float]:
    return lambda: link.transfer(size, depth) * 1e3


def _curve(x: Sequence[int], points: Sequence[Point], protocol: Protocol) -> Curve:
    return Curve(
        x=tuple(x),
        ms=tuple(point.metric.value for point in points),
        half_width_ms=tuple(point.metric.half_width for point in points),
        samples=tuple(len(point.metric.samples) for point in points),
        set_aside=tuple(point.set_aside for point in points),
        contended=tuple(point.contended for point in points),
        target=protocol.target,
    )


def _check_increasing(name: str, values: Sequence[int]) -> None:
    if not values or values[0] <= 0 or any(b <= a for a, b in itertools.pairwise(values)):
        raise UsageError(f"{name}={list(values)} must be positive and increasing")

"""Runs that others measured on their devices: fitted from a few of them, predicted for the rest.

The table is BigMoeOnEdge's (github.com/Helldez/BigMoeOnEdge, Apache-2.0): a phone that runs Qwen3-30B-A3B and a desktop that
runs Qwen3.6-35B-A3B, both with experts read from flash into one least-recently-used cache over all layers. The model:

- *Look-ups that miss*, per generated token, are ``f * m(g * C)``: m is the miss rate of the recorded routing trace, replayed
  with one cache of C bytes over all layers; f and g say how other prompts, or another number of experts per token, differ.
  For another model, C is taken as a share of all expert bytes.
- *Hits* are counted by the device over prompt and generation together; the prompt's look-ups find an empty cache.
- *Seconds per token* are ``compute + exposure * (MiB read per token)``. Whoever reads ahead while computing (overlap) is
  exposed to less of the reading.

What the model has no term for (experts dropped or speculated on, the system's page cache) it does not predict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from autotune.errors import UsageError
from evaluators.moe_cache.replay import replay, replay_global
from evaluators.moe_cache.trace import RoutingTrace

_MIB = 2**20
_STEP_MIB = 100
_COLUMNS = ("run", "tokens", "s/tok", "compute_s/tok", "stall_s/tok", "cache_hit_pct", "read_MiB", "header")
_LEAST_MISSES = 1e-4  # of the look-ups; a short trace in a large cache may show none, which no device does


@dataclass(frozen=True)
class Device:
    """A device and the model that it runs.

    expert_mib is the mean over layers; None takes the routing trace's own bytes.
    """

    name: str
    n_layers: int
    n_experts: int
    expert_mib: float | None


PHONE = Device("phone", n_layers=48, n_experts=128, expert_mib=None)
DESKTOP = Device("desktop", n_layers=40, n_experts=256, expert_mib=581.2 / 320)  # token_demand_MiB of the table, top 8


@dataclass(frozen=True)
class DeviceRun:
    """One measured run: its settings, then what was measured.

    Attributes:
        name: as in the table, ``date/run``.
        device: where.
        top_k: experts per token and layer.
        cache_mib: budget of the expert cache; None reads every expert at every use.
        overlap: whether reading goes on while experts compute.
        policy: ``lru`` over all layers, or ``lfu`` within each layer.
        variant: what else the run was started with: threads, readers, read-ahead of another sort. The model ignores it.
        beyond: what the run does that the model has no term for; None where there is nothing.
        tokens: generated.
        hit_rate: share of all look-ups; None without a cache.
        seconds_per_token, compute_seconds, read_mib: per generated token.
    """

    name: str
    device: Device
    top_k: int
    cache_mib: float | None
    overlap: bool
    policy: str
    variant: str
    beyond: str | None
    tokens: int
    hit_rate: float | None
    seconds_per_token: float
    compute_seconds: float
    read_mib: float

    @property
    def kind(self) -> tuple[str, bool, int]:
        """What the model has coefficients of its own for: the device, overlap and the experts per token."""
        return self.device.name, self.overlap, self.top_k

    @property
    def settings(self) -> tuple[object, ...]:
        """All that is known of how it was started: runs of equal settings should measure alike."""
        return (*self.kind, self.cache_mib, self.policy, self.variant, self.beyond)

    @property
    def lookups(self) -> int:
        """Look-ups of the generated tokens."""
        return self.tokens * self.device.n_layers * self.top_k


def read_runs(path: Path) -> list[DeviceRun]:
    """The runs of ``measured_runs.csv`` in the order of the file; rows that repeat an earlier one's numbers are left out.

    Settings are taken from the header column where the run wrote one, else from the budget column and the run's name
    (``c2000`` and ``5k`` are budgets, 4000 MiB where none is named; ``k6`` is the number of experts, 8 where none is named).
    A run without ``ov`` in its name that stalled did overlap.

    Raises:
        UsageError: for a file that is not such a table.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = str(error).replace("\n", " ").strip()
        raise UsageError(f"device runs {path} cannot be read ({reason}); give measured_runs.csv") from None
    absent = [name for name in (*_COLUMNS, "cache_budget_MiB") if name not in table.columns]
    if absent:
        raise UsageError(
            f"device runs {path} lack the column {absent[0]!r}; give measured_runs.csv as it was published"
        )
    runs = [_run({str(name): value for name, value in row.items()}) for row in table.to_dict("records")]
    measured = [(run.settings, run.seconds_per_token, run.compute_seconds, run.read_mib) for run in runs]
    return [run for i, run in enumerate(runs) if measured[i] not in measured[:i]]


def _run(row: dict[str, object]) -> DeviceRun:
    name, header = str(row["run"]), row["header"] if isinstance(row["header"], str) else ""
    short = name.rsplit("/", 1)[1]
    settings = dict(re.findall(r"(\w+)=(\S+)", header))
    desktop = "desktop" in name
    no_cache = short.startswith(("qwen_stream", "qwen_mmap"))
    named = re.search(r"_k(\d)", short)
    tokens = int(_number(row["tokens"]))
    hits = _number(row["cache_hit_pct"])
    return DeviceRun(
        name=name,
        device=DESKTOP if desktop else PHONE,
        top_k=int(settings["n_expert_used"]) if "n_expert_used" in settings else int(named[1]) if named else 8,
        cache_mib=None if no_cache else _budget(row, short),
        overlap=settings["overlap"] == "1"
        if "overlap" in settings
        else "_ov" in short or _number(row["stall_s/tok"]) > 0,
        policy="lfu" if settings.get("cache_policy") == "layer-lfu" else "lru",
        variant=_variant(short, settings),
        beyond=_beyond(short, settings),
        tokens=tokens,
        hit_rate=hits / 100.0 if hits >= 0 else None,
        seconds_per_token=_number(row["s/tok"]),
        compute_seconds=_number(row["compute_s/tok"]),
        read_mib=_number(row["read_MiB"]) / tokens,
    )


def _number(value: object) -> float:
    return float(str(value))


def _budget(row: dict[str, object], short: str) -> float:
    given = _number(row["cache_budget_MiB"])
    if math.isfinite(given):
        return given
    named = re.search(r"_c(\d+)", short)
    if named:
        return float(named[1])
    return 5000.0 if "5k" in short else 4000.0


def _variant(short: str, settings: dict[str, str]) -> str:
    """Threads and readers are four where the run names none."""
    readers = re.search(r"_l(\d)", short)
    other = re.search(r"_(pf\d)|(warmup)_", short)
    parts = [
        f"threads {settings.get('threads', 4)}",
        f"readers {settings.get('io_threads', readers[1] if readers else 4)}",
    ]
    return ", ".join([*parts, *([other[1] or other[2]] if other else [])])


def _beyond(short: str, settings: dict[str, str]) -> str | None:
    if "mmap" in short:
        return "the system's page cache"
    if "_sg" in short:
        return "speculative reads"
    return "dropped experts" if float(settings.get("drop_cold_frac", 0)) > 0 else None


@dataclass(frozen=True, eq=False)
class TraceCurve:
    """Miss rate of the recorded trace's generated tokens, by policy and cache size."""

    trace: RoutingTrace

    @cached_property
    def sizes(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        if self.trace.expert_bytes is None:
            raise UsageError(f"trace {self.trace.model!r} has no expert_bytes, so a cache cannot be counted in bytes")
        return self.trace.expert_bytes

    @property
    def all_mib(self) -> float:
        return float(self.sizes.sum()) * self.trace.n_experts / _MIB

    @property
    def expert_mib(self) -> float:
        return float(self.sizes.mean()) / _MIB

    def misses(self, policy: str, cache_mib: float) -> float:
        """Share of the generated tokens' look-ups that miss; at least 1 in 10,000.

        Replayed at the multiples of 100 MiB around, and linear between them: a short trace is not known more finely.
        """
        step, part = divmod(cache_mib / _STEP_MIB, 1.0)
        below, above = (_misses(self, policy, (int(step) + i) * _STEP_MIB) for i in (0, 1))
        return below + (above - below) * part


@cache
def _misses(curve: TraceCurve, policy: str, cache_mib: int) -> float:
    batches, sizes = curve.trace.passes(), curve.sizes
    if policy == "lru":
        found = replay_global(batches, "lru", cache_mib * _MIB, sizes)
    else:
        found = replay(batches, policy, (cache_mib * _MIB / len(sizes) // sizes).astype(np.int64))
    return max(1.0 - found.decode_hit_rate, _LEAST_MISSES)


@dataclass(frozen=True)
class HitModel:
    """``misses = factor * m(stretch * cache)``, and the prompt's look-ups, which all miss."""

    factor: float
    stretch: float
    prompt_lookups: float


@dataclass(frozen=True)
class Prediction:
    """Of one run; hit_rate is None without a cache."""

    hit_rate: float | None
    seconds_per_token: float


@dataclass(frozen=True)
class DeviceModel:
    """What is known of the devices after fitting. Keys are `DeviceRun.kind` or parts of it."""

    curve: TraceCurve
    hits: dict[tuple[str, int], HitModel]
    compute: dict[tuple[str, bool, int], float]
    exposure: dict[tuple[str, bool], float]

    @classmethod
    def fit(cls, runs: Sequence[DeviceRun], curve: TraceCurve) -> DeviceModel:
        """Fit from runs with a cache that do nothing beyond the model.

        `stretch` is fitted where the runs of a device and number of experts have two budgets, and is 1 where they have one.

        Raises:
            UsageError: for a run that cannot be fitted to.
        """
        for run in runs:
            if run.beyond or run.cache_mib is None or run.hit_rate is None:
                raise UsageError(
                    f"run {run.name} has {run.beyond or 'no cache'}, which the model has no term for; fit others"
                )
        kinds = {run.kind for run in runs}
        return cls(
            curve=curve,
            hits={
                key: _fit_hits([run for run in runs if (run.device.name, run.top_k) == key], curve)
                for key in {(device, top_k) for device, _, top_k in kinds}
            },
            compute={kind: _mean([run.compute_seconds for run in runs if run.kind == kind]) for kind in kinds},
            exposure={
                key: _mean(
                    [
                        (r.seconds_per_token - r.compute_seconds) / r.read_mib
                        for r in runs
                        if (r.kind[0], r.overlap) == key
                    ]
                )
                for key in {(device, overlap) for device, overlap, _ in kinds}
            },
        )

    def predict(self, run: DeviceRun) -> Prediction | None:
        """From the run's settings alone; None where the model has no term, or was fitted to no run of its kind."""
        if run.beyond or run.kind not in self.compute:
            return None
        found = self.hits[run.device.name, run.top_k]
        misses = 1.0
        hit_rate = None
        if run.cache_mib is not None:
            misses = min(1.0, found.factor * _trace_misses(run, self.curve, found.stretch))
            hit_rate = run.lookups * (1.0 - misses) / (run.lookups + found.prompt_lookups)
        read_mib = misses * _demand_mib(run, self.curve)
        seconds = self.compute[run.kind] + self.exposure[run.kind[0], run.overlap] * read_mib
        return Prediction(hit_rate, seconds)


def first_of_each_kind(runs: Sequence[DeviceRun]) -> list[DeviceRun]:
    """The rule by which runs to fit are chosen: the table's first run of every kind that the model has coefficients for."""
    chosen: dict[tuple[str, bool, int], DeviceRun] = {}
    for run in runs:
        if can_fit(run):
            chosen.setdefault(run.kind, run)
    return list(chosen.values())


def can_fit(run: DeviceRun) -> bool:
    """Whether the run has a cache of the plain policy and does nothing beyond the model."""
    return run.beyond is None and run.hit_rate is not None and run.policy == "lru"


def noise_floor(runs: Sequence[DeviceRun], tolerance: float) -> tuple[int, int]:
    """Of the runs whose settings were measured more than once, how many a constant for each setting could get right.

    Args:
        tolerance: the relative error in seconds per token that counts as right.

    Returns:
        how many of them lie within the tolerance of the best constant, and how many they are.
    """
    groups: dict[object, list[float]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run.seconds_per_token)
    right = total = 0
    for seconds in groups.values():
        if len(seconds) > 1:
            # The best constant can be moved up until the lowest run within its reach is just within.
            right += max(sum(within(low * (1.0 + tolerance), s, tolerance) for s in seconds) for low in seconds)
            total += len(seconds)
    return right, total


def within(predicted: float, measured: float, tolerance: float) -> bool:
    """Whether a prediction is off by at most this share of what was measured."""
    return abs(predicted - measured) <= tolerance * measured * (1.0 + 1e-12)


def _fit_hits(runs: Sequence[DeviceRun], curve: TraceCurve) -> HitModel:
    measured = np.log([run.read_mib / _demand_mib(run, curve) for run in runs])
    stretches = np.arange(0.4, 1.61, 0.01) if len({run.cache_mib for run in runs}) > 1 else np.ones(1)
    gaps = [measured - np.log([_trace_misses(run, curve, stretch) for run in runs]) for stretch in stretches]
    best = int(np.argmin([gap.var() for gap in gaps]))
    prompt = [_prompt_lookups(run, curve) for run in runs]
    return HitModel(float(np.exp(gaps[best].mean())), float(stretches[best]), max(0.0, _mean(prompt)))


def _prompt_lookups(run: DeviceRun, curve: TraceCurve) -> float:
    """Look-ups of the prompt, all of which miss, from the hit rate over everything and the bytes read while generating."""
    hit_rate = run.hit_rate or 0.0
    missed = run.lookups * run.read_mib / _demand_mib(run, curve)
    return ((1.0 - hit_rate) * run.lookups - missed) / max(hit_rate, 1e-9)


def _trace_misses(run: DeviceRun, curve: TraceCurve, stretch: float) -> float:
    all_mib = run.device.n_layers * run.device.n_experts * _expert_mib(run, curve)
    cache_mib = (run.cache_mib or 0.0) * curve.all_mib / all_mib
    return curve.misses(run.policy, cache_mib * stretch)


def _demand_mib(run: DeviceRun, curve: TraceCurve) -> float:
    """What a token's experts weigh."""
    return run.device.n_layers * run.top_k * _expert_mib(run, curve)


def _expert_mib(run: DeviceRun, curve: TraceCurve) -> float:
    return curve.expert_mib if run.device.expert_mib is None else run.device.expert_mib


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

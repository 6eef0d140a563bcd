"""A hardware profile: measured curves of one machine, and the times that follow from them for any size in between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autotune.errors import UsageError
from autotune.hardware.fingerprint import Environment
from autotune.hardware.shapes import DenseShape, FfnShape, Shape
from autotune.hardware.tiers import PairName, TierPair

_GIB = 2**30
# Below this many samples no distribution-free 95 % interval of a median exists (see autotune.measurement.Protocol).
_MIN_SAMPLES = 6
# Transfers of experts are this large; the queue depth that is best for them is the one that counts.
_EXPERT_BYTES = 2**20

FloatArray = npt.NDArray[np.float64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Curve(_Frozen):
    """Median times at increasing sizes.

    Attributes:
        x: sizes, in bytes or in tokens.
        ms: medians, milliseconds.
        half_width_ms: half-widths of the medians' confidence intervals; None for a point sampled once.
        samples: how many samples each median is of.
        set_aside: how many samples were left out because other processes took a core meanwhile.
        contended: where every sample was disturbed so, and the median is of disturbed ones.
        target: the relative half-width that was aimed at, or None.
    """

    x: tuple[int, ...]
    ms: tuple[float, ...]
    half_width_ms: tuple[float | None, ...]
    samples: tuple[int, ...]
    set_aside: tuple[int, ...]
    contended: tuple[bool, ...]
    target: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Curve:
        columns = (self.ms, self.half_width_ms, self.samples, self.set_aside, self.contended)
        if not self.x or any(len(column) != len(self.x) for column in columns):
            raise ValueError(
                "x, ms, half_width_ms, samples, set_aside and contended must be equally long and not empty"
            )
        if self.x[0] <= 0 or any(b <= a for a, b in itertools.pairwise(self.x)):
            raise ValueError("x must be positive and increasing")
        if not all(math.isfinite(ms) and ms > 0 for ms in self.ms):
            raise ValueError("ms must be positive and finite")
        return self

    @property
    def noisy(self) -> tuple[bool, ...]:
        """Which points missed the wanted precision, have too few samples for an interval, or were contended."""
        columns = zip(self.ms, self.half_width_ms, self.samples, self.contended, strict=True)
        return tuple(
            contended or width is None or count < _MIN_SAMPLES or (self.target is not None and width > self.target * ms)
            for ms, width, count, contended in columns
        )

    def isotonic(self) -> Curve:
        """The nearest curve that never falls: least squares of log time, weighted by samples (pool adjacent violators,
        Barlow et al. 1972). A larger transfer cannot really take less time; where it seems to, that is noise."""
        from scipy import optimize  # noqa: PLC0415 - takes longer to import than most verbs to run

        fitted = optimize.isotonic_regression(np.log(self.ms), weights=np.asarray(self.samples, dtype=float)).x
        return self.model_copy(update={"ms": tuple(float(ms) for ms in np.exp(fitted))})

    def at(self, x: FloatArray) -> FloatArray:
        """Milliseconds at any sizes, of any shape.

        Straight lines between points on logarithmic axes; the first point's time below it, where fixed costs rule; the
        last point's rate above it; 0 at 0.
        """
        known = np.asarray(self.x, dtype=float)
        times = np.asarray(self.ms, dtype=float)
        inside = np.exp(np.interp(np.log(np.maximum(x, known[0])), np.log(known), np.log(times)))
        result = inside * np.maximum(x / known[-1], 1.0)
        return np.where(x == 0, 0.0, result)


class LinkEntry(_Frozen):
    """Transfer time against bytes, in `depth` parallel parts."""

    depth: int = Field(gt=0)
    curve: Curve


class ComputeEntry(_Frozen):
    """Time against tokens of one shape on one device."""

    shape: Shape
    device: str
    curve: Curve

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the entry in a profile."""
        return str(self.shape), self.device


class HardwareProfile(_Frozen):
    """What was measured of one machine's tier pair.

    Attributes:
        name: the named profile's name, or the fingerprint's.
        tier_pair: ``ram<-disk`` or ``gpu<-host``.
        environment: the machine and the software.
        links: one curve per queue depth.
        compute: one curve per shape and device.
        created_at: when the last of it was measured, UTC.
        command: what was run to measure it.
        notes: facts about the method (size of the scratch file, threads, bytes of cold weights).
    """

    schema_version: Literal[1] = 1
    name: str
    tier_pair: PairName
    environment: Environment
    links: tuple[LinkEntry, ...] = Field(min_length=1)
    compute: tuple[ComputeEntry, ...] = ()
    created_at: datetime
    command: str
    notes: dict[str, Any] = Field(default_factory=dict)

    @property
    def tiers(self) -> TierPair:
        """The tier pair itself."""
        return TierPair.parse(self.tier_pair)

    @property
    def best_depth(self) -> int:
        """The queue depth whose transfers of 1 MiB and more are fastest, by geometric mean."""

        def slowness(entry: LinkEntry) -> float:
            large = [ms / x for x, ms in zip(entry.curve.x, entry.curve.ms, strict=True) if x >= _EXPERT_BYTES]
            return float(np.mean(np.log(large or [entry.curve.ms[-1] / entry.curve.x[-1]])))

        return min(self.links, key=slowness).depth

    @overload
    def link_ms(self, nbytes: float, depth: int | None = None) -> float: ...
    @overload
    def link_ms(self, nbytes: npt.NDArray[Any], depth: int | None = None) -> FloatArray: ...
    def link_ms(self, nbytes: float | npt.NDArray[Any], depth: int | None = None) -> float | FloatArray:
        """Milliseconds to move some bytes from the slow tier to the fast one.

        Args:
            nbytes: a number, or an array of any shape.
            depth: in how many parallel parts; None takes `best_depth`.

        Returns:
            A float, or an array of the shape of `nbytes`; never falling in `nbytes` (see `Curve.isotonic`).

        Raises:
            UsageError: a negative size, or a depth that was not measured.
        """
        return _evaluate(self._link(depth).isotonic(), nbytes, "nbytes")

    def bandwidth_gib_s(self, nbytes: float, depth: int | None = None) -> float:
        """Bytes per second, in GiB, that transfers of this size reach one after another."""
        if not nbytes > 0:
            raise UsageError(f"nbytes={nbytes} must be positive to have a bandwidth")
        return nbytes / _GIB / (self.link_ms(nbytes, depth) / 1e3)

    @overload
    def compute_ms(self, shape: FfnShape | DenseShape, tokens: float, device: str | None = None) -> float: ...
    @overload
    def compute_ms(
        self, shape: FfnShape | DenseShape, tokens: npt.NDArray[Any], device: str | None = None
    ) -> FloatArray: ...
    def compute_ms(
        self, shape: FfnShape | DenseShape, tokens: float | npt.NDArray[Any], device: str | None = None
    ) -> float | FloatArray:
        """Milliseconds that a shape takes for some tokens, as measured: a kernel for more tokens may well be faster.

        Args:
            shape: one that was measured.
            tokens: a number, or an array of any shape.
            device: None takes the fast tier's device.

        Raises:
            UsageError: negative tokens, or a shape that was not measured on that device; the message tells how to.
        """
        return _evaluate(self._entry(shape, device or self.tiers.fast_device).curve, tokens, "tokens")

    @overload
    def ffn_ms(self, shape: FfnShape, tokens: float, device: str | None = None) -> float: ...
    @overload
    def ffn_ms(self, shape: FfnShape, tokens: npt.NDArray[Any], device: str | None = None) -> FloatArray: ...
    def ffn_ms(
        self, shape: FfnShape, tokens: float | npt.NDArray[Any], device: str | None = None
    ) -> float | FloatArray:
        """`compute_ms` of one expert."""
        return self.compute_ms(shape, tokens, device)

    @overload
    def dense_ms(self, shape: DenseShape, tokens: float, device: str | None = None) -> float: ...
    @overload
    def dense_ms(self, shape: DenseShape, tokens: npt.NDArray[Any], device: str | None = None) -> FloatArray: ...
    def dense_ms(
        self, shape: DenseShape, tokens: float | npt.NDArray[Any], device: str | None = None
    ) -> float | FloatArray:
        """`compute_ms` of the dense part of a layer."""
        return self.compute_ms(shape, tokens, device)

    def has(self, shape: FfnShape | DenseShape, device: str | None = None) -> bool:
        """Whether a shape was measured on a device (None: the fast tier's)."""
        return (str(shape), device or self.tiers.fast_device) in {entry.key for entry in self.compute}

    def merge(self, entries: Iterable[ComputeEntry]) -> HardwareProfile:
        """This profile with more compute curves; a shape and device measured before is replaced."""
        by_key = {entry.key: entry for entry in (*self.compute, *entries)}
        return self.model_copy(update={"compute": tuple(by_key.values())})

    def only(self, shapes: Iterable[FfnShape | DenseShape]) -> HardwareProfile:
        """This profile without the compute curves of other shapes."""
        wanted = {str(shape) for shape in shapes}
        return self.model_copy(update={"compute": tuple(e for e in self.compute if str(e.shape) in wanted)})

    def published(self, name: str) -> HardwareProfile:
        """This profile under a name, without the host's name: fit to be given to others."""
        details = {key: value for key, value in self.environment.details.items() if key != "hostname"}
        environment = Environment(self.environment.fingerprint, details)
        return self.model_copy(update={"name": name, "environment": environment})

    def warnings(self) -> list[str]:
        """One sentence for each curve with points that are not to be trusted, empty where all are precise."""
        curves = [(f"link at depth {link.depth}", "B", link.curve) for link in self.links]
        curves += [(f"{entry.shape} on {entry.device}", "tokens", entry.curve) for entry in self.compute]
        said = []
        for what, unit, curve in curves:
            noisy = [f"{x}" for x, is_noisy in zip(curve.x, curve.noisy, strict=True) if is_noisy]
            if noisy:
                cause = "other processes took the cores" if any(curve.contended) else "too few or too spread samples"
                said.append(
                    f"{what}: imprecise at {', '.join(noisy)} {unit} ({cause}); measure again on a quiet machine"
                )
        return said

    def summary(self) -> list[dict[str, Any]]:
        """Rows of one table, a measured point each: `what`, `on`, `size`, `unit`, `ms`, `half_width_ms`, `samples`,
        `set_aside`, `noisy`, and `gib_s` for transfers (None for compute)."""
        rows = []
        for link in self.links:
            for row in _rows(link.curve):
                rate = row["size"] / _GIB / (row["ms"] / 1e3)
                rows.append({"what": "link", "on": f"depth {link.depth}", "unit": "B", "gib_s": rate, **row})
        for entry in self.compute:
            rows += [
                {"what": str(entry.shape), "on": entry.device, "unit": "tokens", "gib_s": None, **row}
                for row in _rows(entry.curve)
            ]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; `from_dict` reads it back."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """Indented JSON text; `from_json` reads it back."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> HardwareProfile:
        """Read what `to_json` wrote.

        Raises:
            UsageError: naming the first field that is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _unreadable(error) from None

    @classmethod
    def from_dict(cls, payload: dict[str, Any]) -> HardwareProfile:
        """Read what `to_dict` returned.

        Raises:
            UsageError: naming the first field that is wrong.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            raise _unreadable(error) from None

    def _link(self, depth: int | None) -> Curve:
        wanted = self.best_depth if depth is None else depth
        for link in self.links:
            if link.depth == wanted:
                return link.curve
        known = ", ".join(str(link.depth) for link in self.links)
        raise UsageError(f"queue depth {depth} is not in hardware profile {self.name!r}; it has: {known}")

    def _entry(self, shape: FfnShape | DenseShape, device: str) -> ComputeEntry:
        for entry in self.compute:
            if entry.key == (str(shape), device):
                return entry
        raise UsageError(
            f"hardware profile {self.name!r} has no time for {shape} on {device}; measure it on that machine with "
            f"'autotune hardware --tier-pair \"{self.tier_pair}\" --shape {shape}'"
        )


def _rows(curve: Curve) -> list[dict[str, Any]]:
    names = ("size", "ms", "half_width_ms", "samples", "set_aside", "noisy")
    columns = (curve.x, curve.ms, curve.half_width_ms, curve.samples, curve.set_aside, curve.noisy)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _evaluate(curve: Curve, sizes: float | npt.NDArray[Any], name: str) -> float | FloatArray:
    values = np.asarray(sizes, dtype=float)
    if not np.all(values >= 0) or np.any(np.isinf(values)):
        raise UsageError(f"{name}={sizes} must be finite and not negative")
    result = curve.at(values)
    return result if isinstance(sizes, np.ndarray) else float(result)


def _unreadable(error: ValidationError) -> UsageError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    return UsageError(f"hardware profile: {where}: {first['msg']}")

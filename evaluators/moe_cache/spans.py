"""What compute and link did in one decode pass, as a note of a few kilobytes that a picture is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.measurement import as_number
from evaluators.moe_cache import kernels
from evaluators.moe_cache.plan import Floats

NOTE = "timeline"
_LETTERS = {
    kernels.DENSE: "d", kernels.EXPERTS: "e", kernels.WAIT: "w", kernels.DEMAND: "m", kernels.PREFETCH: "p", kernels.CPU: "c",
}  # fmt: skip
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_MOST = 240  # spans, which are about 3 KiB
_TICKS = 20_000  # of the time that is kept


@dataclass(frozen=True)
class Span:
    """One thing that was done: `kind` is one of `kernels.DENSE` to `kernels.CPU`; times in ms since the pass began."""

    kind: int
    layer: int
    begin_ms: float
    end_ms: float


@dataclass(frozen=True)
class PassPicture:
    """One decode pass.

    Attributes:
        number, passes: which of the trace's decode passes, from 0, and of how many.
        latency_ms: of this pass.
        shown_ms: up to when spans are kept; all of it unless it has too many of them.
    """

    number: int
    passes: int
    latency_ms: float
    shown_ms: float
    spans: tuple[Span, ...]


def noted(rows: Floats, number: int, passes: int, latency_ms: float) -> dict[str, Any]:
    """A pass as JSON: spans by their begin, in ticks, each begin as what it is after the one before.

    Args:
        rows: ``(S, 4)`` as `TimelineResult.spans`. Spans of one kind and layer that touch become one.
    """
    merged: list[list[float]] = []
    last: dict[tuple[float, float], list[float]] = {}
    for kind, layer, begin, end in sorted(rows.tolist(), key=lambda row: (row[2], row[3])):
        before = last.get((kind, layer))
        if before is not None and begin <= before[3] * (1 + 1e-9):
            before[3] = max(before[3], end)
        else:
            merged.append([kind, layer, begin, end])
            last[kind, layer] = merged[-1]
    shown = merged[_MOST][2] if len(merged) > _MOST else latency_ms
    kept = merged[:_MOST]
    tick = max([shown, *(row[3] for row in kept)]) / _TICKS or 1.0
    begins = [round(row[2] / tick) for row in kept]
    return {
        "pass": number,
        "passes": passes,
        "ms": float(f"{latency_ms:.6g}"),
        "shown_ms": float(f"{shown:.6g}"),
        "tick_ms": float(f"{tick:.9g}"),
        "kinds": "".join(_LETTERS[int(row[0])] for row in kept),
        "layers": [int(row[1]) for row in kept],
        "begins": [begin - before for begin, before in zip(begins, [0, *begins], strict=False)],
        "ticks": [round(row[3] / tick) - begin for row, begin in zip(kept, begins, strict=True)],
    }


def pass_of(notes: Mapping[str, Any]) -> PassPicture | None:
    """The pass that a trial noted; None where it noted none, or another version's."""
    found = notes.get(NOTE)
    if not isinstance(found, Mapping):
        return None
    single = [as_number(found.get(name)) for name in ("pass", "passes", "ms", "shown_ms", "tick_ms")]
    kinds = found.get("kinds")
    if not isinstance(kinds, str) or not set(kinds) <= _KINDS.keys() or None in single:
        return None
    layers, begins, ticks = (_whole(found.get(name), len(kinds)) for name in ("layers", "begins", "ticks"))
    if layers is None or begins is None or ticks is None:
        return None
    number, passes, latency, shown, tick = (float(value) for value in single if value is not None)
    spans, begin = [], 0
    for letter, layer, after, length in zip(kinds, layers, begins, ticks, strict=True):
        begin += after
        spans.append(Span(_KINDS[letter], layer, begin * tick, (begin + length) * tick))
    return PassPicture(int(number), int(passes), latency, shown, tuple(spans))


def _whole(values: object, length: int) -> list[int] | None:
    """A list of so many whole numbers; None for anything else."""
    fits = isinstance(values, list) and len(values) == length and all(isinstance(value, int) for value in values)
    return values if fits and isinstance(values, list) else None

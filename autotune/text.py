"""Numbers, times and values as short text. Plain text: whoever shows it on a page escapes it there."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

NOTHING = "–"
_RUNS_SHOWN = 6  # of a vector of names, before the rest is only counted
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"))  # seconds


def number(value: float | None, unit: str = "") -> str:
    """Four significant digits (more for large whole parts), with the unit behind; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    return _digits(value) + (f" {unit}" if unit else "")


def _digits(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3e}"
    shown = f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def percent(gain: float | None) -> str:
    """A relative gain with its sign, ``+12.3 %``."""
    # Adding zero makes of a negative zero a positive one.
    return NOTHING if gain is None else f"{round(gain * 100, 1) + 0.0:+.1f} %"


def age(then: dt.datetime | None, now: dt.datetime) -> str:
    """How long ago, in the largest unit that is not zero."""
    if then is None:
        return NOTHING
    seconds = max(0.0, (now - then).total_seconds())
    for size, unit in _AGES:
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def bar(value: float | None, most: float, width: int, *, unicode: bool) -> str:
    """A bar of `width` columns at `most`, in eighths of a column where block characters can be shown."""
    if value is None or not most > 0.0:
        return " " * width
    eighths = round(8 * width * min(1.0, max(0.0, value) / most))
    if not unicode:
        return ("#" * round(eighths / 8)).ljust(width)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width)


def is_numeric_vector(value: Any) -> bool:
    """Whether a configuration's value is a list of two or more numbers, which a small bar chart shows best."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    )


def value_text(value: Any) -> str:
    """A parameter's value: numbers by `number`, a vector by its range or by its runs of equal values."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if not isinstance(value, list):
        return str(value)
    runs = [(first, len(list(same))) for first, same in groupby(value)]
    if is_numeric_vector(value) and len(runs) > 1:
        return f"{value_text(min(value))} … {value_text(max(value))}, mean {number(sum(value) / len(value))}"
    shown = ", ".join(
        f"{value_text(first)} ×{times}" if times > 1 else value_text(first) for first, times in runs[:_RUNS_SHOWN]
    )
    return shown + (f", … ({len(value)} values)" if len(runs) > _RUNS_SHOWN else "")


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``3 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listing(parts: Sequence[str]) -> str:
    """Parts that are not empty, with a dot between."""
    return " · ".join(part for part in parts if part)

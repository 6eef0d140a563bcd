"""Reading metrics from what a command printed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autotune.checks import is_name
from autotune.execution.process import last_line
from autotune.measurement import Failure, FailureKind, Measurement, Metric, as_number, summarise
from autotune.reports import LAST_STEP, NAME_LENGTH


def from_json(text: str, required: Sequence[str]) -> Measurement:
    """Metrics from the JSON object on the last line that is not blank.

    Numbers and truth values (as 1 and 0) are metrics, a list of numbers is samples of one metric, summarised by its
    median, and null is how JSON says NaN where the metric is required; all else becomes a note.

    Raises:
        Failure: `crash` when there is no such line.
    """
    lines = text.strip().splitlines()
    try:
        printed = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        printed = None
    if not isinstance(printed, dict):
        raise _missing("the last line of the output is no JSON object", text)
    metrics: dict[str, Metric] = {}
    notes: dict[str, Any] = {}
    for name, value in printed.items():
        if _is_number(value):
            metrics[name] = Metric(float(value))
        elif value is None and name in required:
            metrics[name] = Metric(math.nan)
        elif isinstance(value, list) and value and all(_is_number(one) for one in value):
            metrics[name] = summarise(value)
        else:
            notes[name] = value
    return Measurement(metrics, notes)


def from_patterns(text: str, patterns: Mapping[str, str], required: Sequence[str]) -> Measurement:
    """Metrics from the last match of each pattern's one group. A metric that is not required may be absent.

    Raises:
        Failure: `crash` when a required pattern does not match, or its group is no number.
    """
    metrics: dict[str, Metric] = {}
    for name, pattern in patterns.items():
        found = None
        for match in re.finditer(pattern, text, re.MULTILINE):
            found = match[1]
        if found is None:
            if name in required:
                raise _missing(f"metric {name!r} is not in the output: nothing matches {pattern!r}", text)
            continue
        try:
            metrics[name] = Metric(float(found))
        except ValueError:
            raise _missing(f"metric {name!r} is no number: {pattern!r} found {found!r}", text) from None
    return Measurement(metrics)


def reports_in(lines: Sequence[str], before: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Intermediate reports among lines of output: JSON objects with a whole number ``step`` that counts up.

    The object's other numbers are what is reported; null is NaN, and anything else is left out. A line that is no such object,
    or whose step does not count up, is ordinary output.

    Args:
        before: the step of the report before, -1 without one.
    """
    for line in lines:
        if not line.lstrip().startswith("{"):
            continue
        try:
            printed = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = printed.get("step") if isinstance(printed, dict) else None
        if not isinstance(step, int) or isinstance(step, bool) or not before < step <= LAST_STEP:
            continue
        before = step
        values = {name: math.nan if value is None else as_number(value) for name, value in printed.items()}
        yield (
            step,
            {name: v for name, v in values.items() if v is not None and name != "step" and is_name(name, NAME_LENGTH)},
        )


def require(measured: Measurement, required: Sequence[str], text: str) -> None:
    """Check that what objectives and outcome constraints need is there.

    Raises:
        Failure: `crash` for an absent metric, `nan` for one that is not finite.
    """
    for name in required:
        if name not in measured.metrics:
            known = ", ".join(measured.metrics) or "none"
            raise _missing(f"metric {name!r} is not in the output, which has: {known}", text)
        value = measured.metrics[name].value
        if not math.isfinite(value):
            raise Failure(FailureKind.NAN, f"metric {name} is {value}")


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def _missing(reason: str, text: str) -> Failure:
    last = last_line(text)
    failure = Failure(FailureKind.CRASH, f"{reason}; its last line: {last}" if last else f"{reason}, as it is empty")
    if text.strip():
        failure.add_note(text[-4096:])
    return failure

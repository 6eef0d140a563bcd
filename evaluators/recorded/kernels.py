"""Recorded GPU kernel spaces: ``NAME.json`` (parameters, objective) beside ``NAME.csv.gz`` (one row a configuration)."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import UsageError
from evaluators.recorded.table import RecordedTable, record

_FAILURE = "failure"


def discover(folder: Path) -> list[Path]:
    """The descriptions of all recorded spaces under a folder, at any depth, sorted by name."""
    found = [path for path in folder.rglob("*.json") if path.with_name(f"{path.stem}.csv.gz").is_file()]
    return sorted(found, key=lambda path: (path.stem, path))


def read_kernel(description: Path) -> RecordedTable:
    """Read one recorded space.

    Args:
        description: the JSON file; the table lies beside it.

    Raises:
        UsageError: naming the file and what it lacks.
    """
    try:
        given = json.loads(description.read_text())
        values: dict[str, list[Any]] = dict(given["parameters"])
        objective = given["objective"]
        goal = f"{objective['direction']} {objective['name']}"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{description} does not describe a recorded space ({type(error).__name__}: {error}); it needs parameters "
            "with their values, and an objective with name and direction"
        ) from None
    path = description.with_name(f"{description.stem}.csv.gz")
    with gzip.open(path, "rt", newline="") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
        columns = list(reader.fieldnames or [])
    missing = [name for name in (*values, objective["name"]) if name not in columns]
    if missing:
        raise UsageError(f"{path} lacks the column {missing[0]!r}; it has: {', '.join(columns)}")
    words = {name: {_word(value): value for value in listed} for name, listed in values.items()}
    rows = [tuple(_value(path, words, name, line[name]) for name in values) for line in lines]
    metrics = {
        name: [_number(line[name]) for line in lines] for name in columns if name not in values and name != _FAILURE
    }
    failures = {i: line[_FAILURE] for i, line in enumerate(lines) if line.get(_FAILURE)}
    return record(
        str(given.get("name", description.stem)),
        values,
        rows,
        metrics,
        goal,
        family=str(given.get("kernel", "")),
        device=str(given.get("device") or description.stem.rpartition("_")[2]),
        failures=failures,
    )


def _word(value: Any) -> str:
    """How a table writes a value: numbers without regard to 16, 16.0 and 1.6e1."""
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        return str(value)


def _value(path: Path, words: Mapping[str, Mapping[str, Any]], name: str, text: str) -> Any:
    try:
        return words[name][_word(text)]
    except KeyError:
        raise UsageError(f"{path}: {name}={text!r} is not among its values {list(words[name].values())}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

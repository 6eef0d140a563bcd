"""Rows of a long benchmark, kept one JSON object a line as they come, so that one that was broken off is gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """What was measured, in the order in which it was.

    Args:
        file: that the rows are kept in, and were kept in before; None keeps them in memory alone.
        key: the fields that tell what a row is of.
    """

    def __init__(self, file: Path | None, key: tuple[str, ...]) -> None:
        self._file = file
        self._key = key
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        self._known: dict[tuple[Any, ...], Row] = {self._of(row): row for row in map(json.loads, lines)}

    def _of(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self._key)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._known.values())

    def row(self, of: Row, measure: Callable[[], Row]) -> Row:
        """As it is known, or measured now; with what it is of."""
        key = self._of(of)
        if key not in self._known:
            self._known[key] = {**of, **measure()}
            if self._file is not None:
                with self._file.open("a") as file:
                    file.write(json.dumps(self._known[key]) + "\n")
        return self._known[key]

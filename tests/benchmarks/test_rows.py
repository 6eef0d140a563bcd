"""Rows that a benchmark keeps: measured once, and known to the next process."""

from __future__ import annotations

from pathlib import Path

from benchmarks.rows import Rows

KEY = ("trace", "round")


def test_a_row_is_measured_once_and_known_to_the_next_process(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows, measured = Rows(file, KEY), []

    def measure() -> dict[str, float]:
        measured.append(1)
        return {"ms": float(len(measured))}

    assert rows.row({"trace": "a", "round": 0}, measure) == {"trace": "a", "round": 0, "ms": 1.0}
    assert rows.row({"trace": "a", "round": 0}, measure)["ms"] == 1.0
    assert rows.row({"trace": "a"}, measure)["ms"] == 2.0  # a field that is left out tells them apart too
    again = Rows(file, KEY)
    assert list(again) == list(rows)
    assert again.row({"trace": "a", "round": 0}, measure)["ms"] == 1.0
    assert len(measured) == 2


def test_without_a_file_rows_are_kept_in_memory() -> None:
    rows = Rows(None, KEY)
    assert rows.row({"trace": "a"}, lambda: {"ms": 1.0})["ms"] == 1.0
    assert [row["ms"] for row in rows] == [1.0]

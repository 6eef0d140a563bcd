"""The fake peer as one that needs the whole table, as simulations do."""

from __future__ import annotations

from tests.benchmarks.fake_peer import refuses, search, version

NEEDS_TABLE = True

__all__ = ["NEEDS_TABLE", "refuses", "search", "version"]

"""Measurements that somebody recorded, as an evaluator: a table answers instead of the machine."""

from __future__ import annotations

from evaluators.recorded.kernels import discover, read_kernel
from evaluators.recorded.serving import read_serving
from evaluators.recorded.table import RecordedTable
from evaluators.recorded.tabular import read_tabular

__all__ = ["RecordedTable", "discover", "read_kernel", "read_serving", "read_tabular"]

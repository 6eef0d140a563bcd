"""A domain's predictions beside tables of measurements that others made.

A domain may have a method ``compare(folder, calibrate, seed)``, which reads the tables of a folder, predicts what they hold,
and says how well, before and after a calibration by a share of their rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from autotune.domain import load_domain
from autotune.errors import UsageError

ALL = "all"  # the group that is a whole table

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """How well the rows that judge were predicted; errors are fractions, NaN where undefined.

    Attributes:
        rows, answered: rows that judge, and those of them that the model has an answer for.
        median_ape_uncalibrated, median_ape_calibrated: median of ``|predicted / measured - 1|``.
        spearman_uncalibrated, spearman_calibrated: rank correlation; NaN where one side does not vary.
    """

    rows: int
    answered: int
    median_ape_uncalibrated: float
    median_ape_calibrated: float
    spearman_uncalibrated: float
    spearman_calibrated: float

    @classmethod
    def of(cls, rows: int, measured: Floats, uncalibrated: Floats, calibrated: Floats) -> Score:
        """Of the rows that have an answer, ``(answered,)`` each, among so many."""
        errors = [_median_ape(predicted, measured) for predicted in (uncalibrated, calibrated)]
        ranks = [_spearman(predicted, measured) for predicted in (uncalibrated, calibrated)]
        return cls(rows, len(measured), *errors, *ranks)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; None for what is undefined."""
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class Unanswered:
    """A row that the model has no answer for, and why."""

    table: str
    line: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All tables of a folder.

    Attributes:
        overall: over all rows that judge.
        groups: by table and group of it; the group `ALL` is the whole table.
        calibrating: rows that calibrated, and do not judge.
        unanswered: rows without an answer.
        facts: what the predictions rest on, for people.
    """

    overall: Score
    groups: Mapping[tuple[str, str], Score]
    calibrating: int
    unanswered: tuple[Unanswered, ...]
    facts: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {
            "overall": self.overall.to_dict(),
            "groups": [{"table": table, "group": group, **s.to_dict()} for (table, group), s in self.groups.items()],
            "calibrating_rows": self.calibrating,
            "unanswered": [asdict(row) for row in self.unanswered],
            "facts": dict(self.facts),
        }


@runtime_checkable
class Comparing(Protocol):
    """A domain whose predictions can be compared with tables."""

    def compare(self, folder: Path, calibrate: float, seed: int) -> Comparison: ...


def compare(domain: str, folder: str | Path, *, calibrate: float = 0.0, seed: int = 0) -> Comparison:
    """A domain's predictions beside the measured tables of a folder.

    Args:
        calibrate: share of every table's rows that calibrate the model, at least three; 0 for none. They do not judge.
        seed: of their choice.

    Raises:
        UsageError: for a domain that has no such tables, a folder without any, or a share outside 0 to 1.
    """
    found = load_domain(domain)
    if not isinstance(found, Comparing):
        raise UsageError(
            f"domain {domain!r} reads no tables of measurements; leave --data out to measure on this machine"
        )
    if not 0.0 <= calibrate < 1.0:
        raise UsageError(f"calibrate is {calibrate}; it must be at least 0 and below 1")
    return found.compare(Path(folder).expanduser(), calibrate, seed)


def _median_ape(predicted: Floats, measured: Floats) -> float:
    return float(np.median(np.abs(predicted / measured - 1.0))) if len(measured) else math.nan


def _spearman(predicted: Floats, measured: Floats) -> float:
    if len(measured) < 2 or np.ptp(measured) == 0.0 or np.ptp(predicted) == 0.0:
        return math.nan
    from scipy import stats  # noqa: PLC0415 - slow to import

    return float(stats.spearmanr(predicted, measured).statistic)

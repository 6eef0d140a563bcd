"""How a study's predictor was borne out: what it said of each trial, kept with the trial, beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.predictors.base import Predictor
from autotune.predictors.calibration import Calibration, calibrate, rank_agreement
from autotune.space import Config

if TYPE_CHECKING:
    from autotune.store.records import TrialRecord

PREDICTED = "predicted"  # the note of a trial that holds its predictions by metric


@dataclass(frozen=True)
class Agreement:
    """Predictions of one metric beside its measurements.

    Attributes:
        pairs: that it rests on.
        rank: Kendall's tau-b, see `rank_agreement`; NaN where it is undefined.
        calibration: the line through measurements over predictions.
        median_error: median of ``|predicted - measured| / |measured|``, of the predictions as they were, before any
            calibration; NaN where every measurement is 0.
    """

    pairs: int
    rank: float
    calibration: Calibration
    median_error: float

    @classmethod
    def of(cls, predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Agreement:
        """Of vectors of the same shape ``(n,)``; pairs in which one is not finite are left out.

        Raises:
            UsageError: when the shapes differ, or no pair is left.
        """
        x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest there is nothing to tell
            line, rank = calibrate(x, y), rank_agreement(x, y)
            told = np.isfinite(x) & np.isfinite(y) & (y != 0.0)
            errors = np.abs(x[told] / y[told] - 1.0)
        return cls(line.n, rank, line, float(np.median(errors)) if len(errors) else math.nan)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; None for what is undefined."""
        numbers = {
            "rank_agreement": self.rank,
            "scale": self.calibration.scale,
            "offset": self.calibration.offset,
            "r2": self.calibration.r2,
            "median_error": self.median_error,
        }
        return {
            "pairs": self.pairs,
            "log": self.calibration.log,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        }


def foretold(predictor: Predictor | None, configs: Sequence[Config]) -> list[dict[str, float]]:
    """What a predictor says of each configuration, by metric; what is not finite is left out."""
    said: Mapping[str, npt.NDArray[np.float64]] = {} if predictor is None else predictor.predict(configs)
    return [
        {metric: float(values[i]) for metric, values in said.items() if math.isfinite(values[i])}
        for i in range(len(configs))
    ]


def agreements(trials: Iterable[TrialRecord], metrics: Iterable[str]) -> dict[str, Agreement]:
    """By metric, of completed trials; a metric of which no measurement has a prediction beside it is lacking."""
    completed = [(_predictions(trial), trial.values) for trial in trials]
    found: dict[str, Agreement] = {}
    for metric in metrics:
        pairs = [(said[metric], values[metric]) for said, values in completed if metric in said and metric in values]
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
        if pairs:
            predicted, measured = zip(*pairs, strict=True)
            found[metric] = Agreement.of(predicted, measured)
    return found


def _predictions(trial: TrialRecord) -> dict[str, float]:
    """Of one trial; an evaluator may have written another note of that name over them."""
    said = trial.notes.get(PREDICTED)
    if not isinstance(said, Mapping):
        return {}
    return {k: float(v) for k, v in said.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}

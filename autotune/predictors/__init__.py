"""Cheap models of what an evaluation would give. A search trusts one as far as its measurements bear it out."""

from autotune.predictors.agreement import Agreement, agreements
from autotune.predictors.base import Predictor
from autotune.predictors.calibration import Calibration, calibrate, rank_agreement
from autotune.predictors.guarded import Guarded, PredictorLike, PredictorWarning, guarded

__all__ = [
    "Agreement",
    "Calibration",
    "Guarded",
    "Predictor",
    "PredictorLike",
    "PredictorWarning",
    "agreements",
    "calibrate",
    "guarded",
    "rank_agreement",
]

"""Cheap models of what an evaluation would give. A search trusts one as far as its measurements bear it out."""

from autotune.predictors.base import Predictor

__all__ = ["Predictor"]

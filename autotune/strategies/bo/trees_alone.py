"""The Bayesian engine without its Gaussian process."""

from __future__ import annotations

from typing import ClassVar

from autotune.strategies.bo.strategy import BayesianOptimisation


class TreesAlone(BayesianOptimisation):
    """`bo` believing trees alone: step functions of many knobs, where a smooth model is only in the way."""

    name: ClassVar[str] = "trees"
    summary: ClassVar[str] = "the engine of bo with extremely randomised trees as the only model of a metric"
    models: ClassVar[tuple[str, ...]] = ("trees",)

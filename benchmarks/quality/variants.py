"""Strategy `bo` with a part left out or exchanged, to tell what each part is worth: searchers ``bo-NAME``."""

from __future__ import annotations

from typing import ClassVar

from autotune.strategies.bo.strategy import BayesianOptimisation


class PlaceAlone(BayesianOptimisation):
    """Ordered parameters are seen by their place alone."""

    views: ClassVar[tuple[str, ...]] = ()


class PlaceAndLogarithm(BayesianOptimisation):
    """Without alignment."""

    views: ClassVar[tuple[str, ...]] = ("logarithm",)


class PlaceAndAlignment(BayesianOptimisation):
    """Without the logarithm."""

    views: ClassVar[tuple[str, ...]] = ("alignment",)


class WithoutTrees(BayesianOptimisation):
    """The Gaussian process alone."""

    models: ClassVar[tuple[str, ...]] = ("gp",)


class WithoutRegion(BayesianOptimisation):
    """No trust region, however long it stagnates."""

    trust_region: ClassVar[bool] = False


VARIANTS: dict[str, type[BayesianOptimisation]] = {
    "bo-place": PlaceAlone,
    "bo-logarithm": PlaceAndLogarithm,
    "bo-alignment": PlaceAndAlignment,
    "bo-gp": WithoutTrees,
    "bo-everywhere": WithoutRegion,
}

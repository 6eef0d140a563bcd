"""The Bayesian engine: what is believed of a space, what a candidate promises, and which one is proposed."""

from autotune.strategies.bo.settings import BayesianSettings
from autotune.strategies.bo.strategy import BayesianOptimisation
from autotune.strategies.bo.trees_alone import TreesAlone

__all__ = ["BayesianOptimisation", "BayesianSettings", "TreesAlone"]

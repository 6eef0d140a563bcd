"""Trials that end early: curves of what they report, the rules that read them, and what a study keeps of its pruner."""

from autotune.pruning.curves import Curve, Trace
from autotune.pruning.plan import PRUNERS, Declared, Pruning
from autotune.pruning.rules import (
    Asha,
    AshaSettings,
    Bound,
    Incumbent,
    Median,
    MedianSettings,
    PrunerSettings,
    Race,
    RaceSettings,
    Rule,
    Scene,
)

__all__ = [
    "PRUNERS",
    "Asha",
    "AshaSettings",
    "Bound",
    "Curve",
    "Declared",
    "Incumbent",
    "Median",
    "MedianSettings",
    "PrunerSettings",
    "Pruning",
    "Race",
    "RaceSettings",
    "Rule",
    "Scene",
    "Trace",
]

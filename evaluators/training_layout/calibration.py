"""Corrections of predicted times from a few measured runs: what the model got wrong, shared among runs that are alike.

The logarithm of measured over predicted time is taken as a sum of effects, each a priori small and independent: of every
component of the time (by its share), of the GPU, the number format, the model, the software, and of chance. What
measurements say of these effects is their mean given the measurements (best linear unbiased prediction; Henderson, Biometrics
31, 1975), so that a run of another model on the same GPUs is corrected by what the two share, and no more. Chance has heavy
tails (Student's t), so that one odd run does not move the others. How far software that is new to the model is off as a whole
is
not known beforehand: of several deviations the one is taken under which the measurements are the likeliest (empirical Bayes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from evaluators.training_layout.layouts import Floats

PARTS, CHANCE = "parts", "chance"
# Standard deviations of the effects, in logarithms. How well experts are served differs by model and GPU more than all else.
DEVIATIONS: Mapping[str, float] = MappingProxyType(
    {
        PARTS: 0.05, "stack": 0.02, "gpu": 0.02, "kind": 0.03, "model": 0.05, "sparse model": 0.15,
        "sparse model on gpu": 0.5, CHANCE: 0.12,
    }
)  # fmt: skip
# Tried for software; the least where measurements say nothing.
_SOFTWARE = "stack"
_TRIED = (0.02, 0.05, 0.1, 0.2)
_FREEDOM = 2.0  # degrees of it, of chance
_STEPS = 12  # of reweighting; the weights hardly move after ten


@dataclass(frozen=True)
class Case:
    """What effects a run has.

    Attributes:
        labels: by name of the effect, which of its values the run has; "" for none.
        parts: shares of the components of its predicted time.
    """

    labels: Mapping[str, str]
    parts: Sequence[float]


class Calibration:
    """Fitted to measured runs.

    Args:
        cases: the runs.
        errors: ``(n,)`` logarithms of measured over predicted time.
        deviations: see `DEVIATIONS`; that of the software is chosen by the runs.
    """

    def __init__(self, cases: Sequence[Case], errors: Floats, deviations: Mapping[str, float] = DEVIATIONS) -> None:
        self._cases = list(cases)
        self._deviations = deviations
        if not cases:
            return
        measured = np.asarray(errors, dtype=np.float64)
        fits = []
        for tried in _TRIED:
            self._deviations = {**deviations, _SOFTWARE: tried}
            fits.append((*self._fit(measured), self._deviations))
        _, self._pull, self._deviations = max(fits, key=lambda fit: fit[0])

    def _fit(self, measured: Floats) -> tuple[float, Floats]:
        """Logarithm of the likelihood but for a constant, chance as normal draws of gamma-distributed precision; and ``(n,)``
        what the expected errors are made of."""
        between, chance = self._between(self._cases, self._cases), self._deviations[CHANCE] ** 2
        weights = np.ones(len(measured))
        for _ in range(_STEPS):
            left = measured - between @ cho_solve(cho_factor(between + np.diag(chance / weights)), measured)
            weights = (_FREEDOM + 1.0) / (_FREEDOM + left**2 / chance)
        factor = cho_factor(between + np.diag(chance / weights))
        pull: Floats = cho_solve(factor, measured)
        likelihood = -0.5 * measured @ pull - np.log(np.diag(factor[0])).sum()
        return float(likelihood + 0.5 * _FREEDOM * np.sum(np.log(weights) - weights)), pull

    def errors(self, cases: Sequence[Case]) -> Floats:
        """``(n,)`` expected logarithms of measured over predicted time; 0 where nothing was measured."""
        if not self._cases or not cases:
            return np.zeros(len(cases))
        found: Floats = self._between(cases, self._cases) @ self._pull
        return found

    def _between(self, some: Sequence[Case], others: Sequence[Case]) -> Floats:
        """Covariances of the errors of runs, chance apart."""
        parts = np.array([c.parts for c in some]) @ np.array([c.parts for c in others]).T
        found: Floats = self._deviations[PARTS] ** 2 * parts
        for name, deviation in self._deviations.items():
            if name not in (PARTS, CHANCE):
                a, b = (np.array([c.labels.get(name, "") for c in group], dtype=object) for group in (some, others))
                found += deviation**2 * ((a[:, None] == b[None, :]) & (a[:, None] != ""))
        return found

"""Which configurations fail: learned from those that did and those that did not.

How much risk a proposal may take is learned too. Where the best lies just beyond what completes, expected improvement times
probability keeps stepping over the edge, and the candidate that is picked is the one whose probability is most overrated. So a
proposal must reach a least probability, which every failure raises and every success lowers, such that in the long run a set
share of proposals fails: adaptive conformal inference (Gibbs and Candes, Adaptive Conformal Inference Under Distribution Shift,
NeurIPS 2021, eq. 2, with a step of 1). In other words failures are a budget: each proposal adds to it, a failure is paid from
it, and what has been saved may be spent on one daring candidate instead of many that are nearly safe and promise nothing.

Trees see a limit on memory as what it is, a step along a product of knobs; a Gaussian process on the labels (least-squares
classification, Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 6.5) sees that failures lie
together. They are stacked like the surrogates of a metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from autotune.strategies.bo.gp import FitError, GaussianProcess, fit
from autotune.strategies.bo.surrogate import MODEL_POINTS, Points, Shape, stack
from autotune.strategies.bo.trees import TREES, TreeEnsemble

Floats = npt.NDArray[np.float64]

_LEAST = 1e-3  # probability: nothing is certain after so few trials
_PRIOR = 1.0  # trees' worth of the base rate
_TARGET = 0.1  # share of proposals that may fail in the long run
_SAVED = (-3.0, 1.0, 2.0)  # failures that may be owed, may happen before anything is learned, and may be saved up
_RISK = (0.1, 0.99)  # the least probability stays between these
_BEYOND = 1e3  # a candidate short of the least probability comes behind all that reach it, the likeliest of them first


def least_probability(failed: Iterable[bool]) -> float:
    """What a proposal must reach, after proposals of which these failed, in order."""
    least, saved, most = _SAVED
    for one in failed:
        saved = min(max(saved + _TARGET - (1.0 if one else 0.0), least), most)
    return min(max(1.0 - saved, _RISK[0]), _RISK[1])


class FailureModel:
    """The probability that a configuration completes.

    Args:
        completed, failed: points of either kind, at least one of each.
        shape: of the features.
        seed: of the trees.
        least: the probability that a proposal must reach, see `least_probability`.
    """

    def __init__(self, completed: Points, failed: Points, shape: Shape, seed: int, least: float = 0.0) -> None:
        self._least = math.log(max(least, _LEAST))
        label = np.concatenate([np.ones(len(completed)), np.zeros(len(failed))])
        # The latest of either kind tell most; what is far back has been built upon already.
        half = MODEL_POINTS // 2
        keep = np.concatenate(
            [
                np.arange(len(completed))[-(MODEL_POINTS - min(len(failed), half)) :],
                len(completed) + np.arange(len(failed))[-(MODEL_POINTS - min(len(completed), half)) :],
            ]
        )
        label = label[keep]
        points = Points(
            np.concatenate([completed.features, failed.features])[keep],
            np.concatenate([completed.interactions, failed.interactions])[keep],
            np.zeros((len(keep), 0)),
        )
        self._rate = float(label.mean())
        self._trees = TreeEnsemble(points.for_trees(), label, seed)
        self._gp: GaussianProcess | None = None
        target = 2.0 * label - 1.0
        try:
            learned, _ = fit(points.features, target, shape.groups, dims=shape.dims)
            self._gp = GaussianProcess(points.features, target, shape.groups, learned)
        except FitError:
            self._gp = None  # the trees are the lower rung
        members = [self._smooth(self._trees.leave_one_out[0])]
        if self._gp is not None:
            members.append(_probit(*self._gp.leave_one_out))
        right = [np.where(label > 0.5, p, 1.0 - p) for p in members]
        self._weights = stack(np.log(np.array(right)))

    def score(self, points: Points, *, rough: bool = False) -> Floats:
        """`log_success`, far lower where it is short of the least probability; to be added to a log acquisition."""
        log = self.log_success(points, rough=rough)
        return log + _BEYOND * np.minimum(log - self._least, 0.0)

    def log_success(self, points: Points, *, rough: bool = False) -> Floats:
        """Logarithm of the probability of completing, shape ``(m,)``; by the trees alone where `rough`."""
        bare = Points(points.features, points.interactions, np.zeros((len(points), 0)))
        probability = self._smooth(self._trees.predict(bare.for_trees())[0])
        if self._gp is not None and not rough:
            probability *= self._weights[0]
            probability += self._weights[1] * _probit(*self._gp.predict(bare.features))
        log: Floats = np.log(np.clip(probability, _LEAST, 1.0))
        return log

    def _smooth(self, share: Floats) -> Floats:
        smoothed: Floats = np.clip((share * TREES + _PRIOR * self._rate) / (TREES + _PRIOR), _LEAST, 1.0 - _LEAST)
        return smoothed


def _probit(mean: Floats, variance: Floats) -> Floats:
    """P(latent > 0) of a target that is 1 or -1."""
    probability: Floats = np.clip(ndtr(mean / np.sqrt(np.maximum(variance, 1e-12))), _LEAST, 1.0 - _LEAST)
    return probability

"""What is believed of one metric: a Gaussian process and trees, each with the say that its leave-one-out predictions earn.

The two are stacked (Yao, Vehtari, Simpson and Gelman, Using Stacking to Average Bayesian Predictive Distributions, Bayesian
Analysis 13, 2018): weights maximise the log score of the mixture on points that were left out. A weight of 1 for the likelier
model, which a product of likelihoods nearly always gives, would throw away what only the other one sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from autotune.predictors.calibration import rank_agreement
from autotune.strategies.bo.gp import FitError, GaussianProcess, Hyperparameters, fit
from autotune.strategies.bo.trees import TreeEnsemble
from autotune.strategies.bo.warp import Warp, candidates

Floats = npt.NDArray[np.float64]

FIT_POINTS = 200  # that hyperparameters are learned from; what they say changes little beyond it
MODEL_POINTS = 500  # that a model holds; keeps the cost of a proposal bounded
_WARP_FROM = 6
_STEPS = 30  # of the expectation maximisation of weights
_PRIOR = 2.0  # observations' worth of belief that both models are as good
_ROUGH_TREES = 15
_NO_NEWS = 1e6  # times the variance of all targets: a target with more noise than that tells nothing
_TELLING = 5  # measurements, from which on a guide must order them better than chance


@dataclass(frozen=True)
class Points:
    """Rows of the same things, n of them.

    Attributes:
        features: shape ``(n, f)``, for the Gaussian process.
        interactions: shape ``(n, g)``, further columns for trees.
        guides: shape ``(n, k)``, cheap predictions of one metric or another, NaN where one is silent.
    """

    features: Floats
    interactions: Floats
    guides: Floats

    def __len__(self) -> int:
        return len(self.features)

    def take(self, places: npt.NDArray[np.intp]) -> Points:
        return Points(self.features[places], self.interactions[places], self.guides[places])

    def joined(self, other: Points) -> Points:
        """These rows and then those."""
        return Points(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.interactions, other.interactions]),
            np.concatenate([self.guides, other.guides]),
        )

    def for_trees(self) -> Floats:
        return np.concatenate([self.features, self.interactions, self.guides], axis=1)


@dataclass(frozen=True)
class Shape:
    """What a Gaussian process must know of the features: the length scale of each, and how many dimensions there are."""

    groups: npt.NDArray[np.intp]
    dims: int


@dataclass(frozen=True)
class Component:
    """What one model says of some points, warped: means and variances ``(m,)``, and its weight in the mixture."""

    mean: Floats
    variance: Floats
    weight: float


@dataclass(frozen=True)
class Belief:
    """A mixture over some points, in warped units; a loss becomes comparable by `warp`."""

    components: tuple[Component, ...]
    warp: Warp

    @property
    def mean(self) -> Floats:
        total: Floats = sum((c.weight * c.mean for c in self.components), np.zeros(1))
        return total

    @property
    def variance(self) -> Floats:
        """Of the mixture, by the law of total variance."""
        second: Floats = sum((c.weight * (c.variance + c.mean**2) for c in self.components), np.zeros(1))
        return np.maximum(second - self.mean**2, 1e-18)


class Surrogate:
    """Models of one metric, fitted to losses.

    Where guides predict the metric, a Gaussian process that leans on them stands beside one that does not, and trees may cut
    along them; a guide that orders the measurements no better than chance is left out.

    Args:
        points: what was measured.
        losses: to be minimised, finite, shape ``(n,)``.
        shape: of the features.
        seed: of the trees.
        variance: of the measurement noise where it is known, in units of the losses squared, 0 elsewhere; shape ``(n,)``.
        guides: the columns of guides that predict this metric.
        members: which models, of `gp` and `trees`.
        like: an earlier surrogate of the metric, whose warp, trusted guides and hyperparameters are taken over, so that none
            of them is learned again; the data may be others.

    Attributes:
        weights: by model (`gp`, `guided gp`, `trees`), in the mixture.
        trusted: the columns of guides that were not left out.
        ladder: what was given up on the way, for people; empty when everything could be fitted.
    """

    def __init__(
        self,
        points: Points,
        losses: Floats,
        shape: Shape,
        seed: int,
        variance: Floats | None = None,
        guides: Sequence[int] = (),
        members: Sequence[str] = ("gp", "trees"),
        like: Surrogate | None = None,
    ) -> None:
        self.ladder: list[str] = [] if like is None else list(like.ladder)
        self.warp: Warp = choose_warp(points, losses, shape) if like is None else like.warp
        y = self.warp.forward(losses)
        noise = None if variance is None else warped_noise(self.warp, losses, variance, float(y.var()))
        if like is None:
            self.trusted = tuple(g for g in guides if _tells(points.guides[:, g], y))
            self._guide_scale = _scale_of(points.guides[:, list(self.trusted)])
        else:
            self.trusted, self._guide_scale = like.trusted, like._guide_scale
        points = self._heard(points)
        kept = most_telling(y, MODEL_POINTS)
        self._shape = shape
        self._points, self._y = points.take(kept), y[kept]
        self._noise = None if noise is None else noise[kept]
        self._models: dict[str, GaussianProcess | TreeEnsemble] = {}
        if "gp" in members or len(kept) < 2:
            self._add_gp("gp", guided=False, like=like)
            if self.trusted:
                self._add_gp("guided gp", guided=True, like=like)
        if len(kept) >= 2 and ("trees" in members or not self._models):
            self._models["trees"] = TreeEnsemble(self._points.for_trees(), self._y, seed)
        scores = [_log_density(self._y, *model.leave_one_out) for model in self._models.values()]
        self.weights = dict(zip(self._models, stack(np.array(scores)).tolist(), strict=True))

    @property
    def size(self) -> int:
        """Measured points that the models hold."""
        return len(self._y)

    def _heard(self, points: Points) -> Points:
        """With the trusted guides alone, standardised as over the measured points; silence says what all say on average."""
        centre, spread = self._guide_scale
        columns = np.nan_to_num((points.guides[:, list(self.trusted)] - centre) / spread, nan=0.0)
        return Points(points.features, points.interactions, columns)

    def _add_gp(self, name: str, *, guided: bool, like: Surrogate | None) -> None:
        """Fit, or fall down the ladder: one length scale for all and more noise, then no Gaussian process."""
        points, groups = self._points, self._shape.groups
        guides = points.guides if guided else points.guides[:, :0]
        common = np.zeros_like(groups)
        plain = Hyperparameters(np.zeros(min(1, len(groups))), -2.0, np.full(guides.shape[1], -2.0))
        before = None if like is None else like._models.get(name)
        if like is None:
            learned, groups = self._learned(name, guides) or (plain, common)
        elif isinstance(before, GaussianProcess):
            learned, groups = before.learned, before.groups
        else:
            return  # it could not be fitted then
        for candidate, of in ((learned, groups), (plain, common)):
            try:
                self._models[name] = GaussianProcess(points.features, self._y, of, candidate, guides, self._noise)
                return
            except FitError as error:
                self.ladder.append(f"{name} with {'common' if candidate is plain else 'its'} length scales: {error}")

    def _learned(self, name: str, guides: Floats) -> tuple[Hyperparameters, npt.NDArray[np.intp]] | None:
        """Hyperparameters, with the length scale of each feature; None where they cannot be learned."""
        some = most_telling(self._y, FIT_POINTS)
        noise = None if self._noise is None else self._noise[some]
        shape = self._shape
        try:
            learned, _ = fit(self._points.features[some], self._y[some], shape.groups, guides[some], noise, shape.dims)
        except FitError as error:
            self.ladder.append(f"{name}: {error}")
            return None
        return learned, shape.groups

    @property
    def gp(self) -> GaussianProcess | None:
        """The Gaussian process of most weight, None where none could be fitted or none was wanted."""
        name = self._gp_name
        model = None if name is None else self._models[name]
        return model if isinstance(model, GaussianProcess) else None

    def gp_columns(self, points: Points) -> tuple[Floats, Floats]:
        """Features and guides of points as `gp` wants them, shapes ``(m, f)`` and ``(m, k)``."""
        guides = self._heard(points).guides
        return points.features, guides if self._gp_name == "guided gp" else guides[:, :0]

    @property
    def _gp_name(self) -> str | None:
        names = [name for name, model in self._models.items() if isinstance(model, GaussianProcess)]
        return max(names, key=lambda name: self.weights[name], default=None)

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """Mean of each measured point when it is left out, and what was measured there; both warped, shapes ``(n,)``."""
        mean = sum((self.weights[n] * m.leave_one_out[0] for n, m in self._models.items()), np.zeros(len(self._y)))
        return mean, self._y

    def predict(self, points: Points, *, rough: int = 0) -> Belief:
        """What is believed of other points.

        Args:
            points: m of them.
            rough: where it is not 0, Gaussian processes hold the most telling so many points only, and few trees are asked.
        """
        heard = self._heard(points)
        found = []
        for name, model in self._models.items():
            if isinstance(model, TreeEnsemble):
                mean, variance = model.predict(heard.for_trees(), _ROUGH_TREES if rough else None)
            else:
                guides = heard.guides if name == "guided gp" else heard.guides[:, :0]
                if rough:
                    mean, variance = self._rough(name, rough).predict(heard.features, guides)
                else:
                    mean, variance = model.predict(heard.features, guides)
            found.append(Component(mean, variance, self.weights[name]))
        return Belief(tuple(found), self.warp)

    def _rough(self, name: str, limit: int) -> GaussianProcess:
        model = self._models[name]
        assert isinstance(model, GaussianProcess)
        some = most_telling(self._y, limit)
        guides = self._points.guides if name == "guided gp" else self._points.guides[:, :0]
        noise = None if self._noise is None else self._noise[some]
        return GaussianProcess(
            self._points.features[some], self._y[some], model.groups, model.learned, guides[some], noise
        )


def _scale_of(guides: Floats) -> tuple[Floats, Floats]:
    """Centre and spread of each column, shapes ``(k,)``, over rows in which it is not silent."""
    if not len(guides):
        return np.zeros(0), np.ones(0)
    spread = np.nanstd(guides, axis=0)
    return np.nanmean(guides, axis=0), np.where(spread > 0.0, spread, 1.0)


def _tells(guide: Floats, y: Floats) -> bool:
    """Whether a guide orders what was measured better than chance; given the benefit of the doubt while that is little."""
    spoken = np.isfinite(guide)
    n = int(spoken.sum())
    if n < _TELLING:
        return n > 0
    agreement = rank_agreement(guide[spoken], y[spoken])
    # Standard error of Kendall's tau under independence (Kendall and Gibbons, Rank Correlation Methods, 1990, chapter 4).
    return bool(agreement > math.sqrt(2.0 * (2.0 * n + 5.0) / (9.0 * n * (n - 1.0))))


def warped_noise(warp: Warp, losses: Floats, variance: Floats, spread: float) -> Floats:
    """Variance of the noise of warped losses, by the slope of the warp; bounded, where it says no more than nothing.

    Args:
        losses, variance: shape ``(n,)``.
        spread: variance of all warped losses.
    """
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        log_noise = np.log(variance) + 2.0 * warp.log_slope(losses)
        noise: Floats = np.minimum(np.exp(log_noise), _NO_NEWS * (spread or 1.0))
    return noise


def choose_warp(points: Points, losses: Floats, shape: Shape) -> Warp:
    """The member of the family under which a Gaussian process finds the losses likeliest.

    Looked at anew whenever the number of points has doubled, on the first so many: it depends on the history alone, and
    most proposals cost no further fits.
    """
    family = candidates(losses)
    n = _WARP_FROM
    if len(losses) < n or float(np.ptp(family[0].forward(losses))) <= 0.0:
        return family[0]
    while 2 * n <= len(losses):
        n *= 2
    n = min(n, FIT_POINTS)
    first = candidates(losses[:n])
    if len(first) != len(family):  # a sign has turned up that the first points had not
        first = candidates(losses)
    best, best_score = family[0], -np.inf
    features = np.ascontiguousarray(points.features[:n])
    for place, warp in enumerate(first):
        if not (warp.fits(losses[:n]) and family[place].fits(losses)):
            continue
        score = _warped_likelihood(
            features.tobytes(), losses[:n].tobytes(), shape.groups.tobytes(), features.shape[1], shape.dims, warp
        )
        if score > best_score:
            best, best_score = family[place], score
    return best


@lru_cache(maxsize=256)
def _warped_likelihood(features: bytes, losses: bytes, groups: bytes, columns: int, dims: int, warp: Warp) -> float:
    y = np.frombuffer(losses)
    x = np.frombuffer(features).reshape(len(y), columns)
    warped = warp.forward(y)
    try:
        _, likelihood = fit(x, warped, np.frombuffer(groups, dtype=np.intp), dims=dims)
    except FitError:
        return -np.inf
    return likelihood + float(warp.log_slope(y).sum())


def most_telling(y: Floats, limit: int) -> npt.NDArray[np.intp]:
    """Places of at most `limit` targets: the best half, and of the others as many at even steps of rank; ascending."""
    if len(y) <= limit:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    best = limit // 2
    rest = order[best:]
    steps = np.linspace(0, len(rest) - 1, limit - best).round().astype(np.intp)
    return np.sort(np.concatenate([order[:best], rest[steps]]))


def stack(scores: Floats) -> Floats:
    """Weights of models that maximise the log score of their mixture, with a Dirichlet prior; by expectation maximisation.

    Args:
        scores: log density of each left-out point by model, shape ``(models, n)``.

    Returns:
        Shape ``(models,)``, summing to 1.
    """
    models, n = scores.shape
    weights = np.full(models, 1.0 / models)
    density = np.exp(scores - scores.max(axis=0))
    for _ in range(_STEPS):
        share = weights[:, None] * density
        share /= share.sum(axis=0)
        weights = (share.sum(axis=1) + _PRIOR) / (n + models * _PRIOR)
    return weights


def _log_density(y: Floats, mean: Floats, variance: Floats) -> Floats:
    variance = np.maximum(variance, 1e-18)
    density: Floats = -0.5 * (np.log(2.0 * np.pi * variance) + (y - mean) ** 2 / variance)
    return density

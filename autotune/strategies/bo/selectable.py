"""Acquisitions that a user may select, and how each meets the chance that a candidate completes within the limits.

Those of the first kind are scored on the mixture of models over the whole feasible set. The others need joint distributions of
the Gaussian process: log expected improvement (with that chance) makes a shortlist, random feasible candidates join it, and the
acquisition decides. See docs/strategies.md for the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from autotune.strategies.bo.acquisition import log_expected_improvement, log_probability_below
from autotune.strategies.bo.candidates import Candidates, Pool, Score
from autotune.strategies.bo.gp import FitError
from autotune.strategies.bo.settings import DEFAULT, Acquisition
from autotune.strategies.bo.several import contenders
from autotune.strategies.bo.surrogate import Belief, Points, Surrogate

Floats = npt.NDArray[np.float64]

_DEVIATIONS = 2.0  # below the mean that `ucb` hopes for
_NOTHING = 1e-300  # in the place of 0, which has no logarithm
_HOPELESS = 500.0  # a logarithm of a chance below minus that: only the chance counts
_BEHIND = 1e250  # what is hopeless comes behind all that is not
_SHORTLIST = 256  # candidates by log expected improvement, and as many random ones
# The same of `ts`, whose one draw should be of as much of the space as can be, and of what looks at every draw of a front.
_COUNTS: dict[str, int] = {"ts": 1000, "qlognehvi": 64}


class Scale(Enum):
    """How an acquisition is combined with a probability p of counting at all.

    `LOG`: log p is added. `POSITIVE`: multiplied by p, in logarithms. `SIGNED`: multiplied by p above zero and divided by it
    below, so that what is unlikely is worse on either side. `DRAW`: candidates compete that come through a draw of their own.
    """

    LOG = "log"
    POSITIVE = "positive"
    SIGNED = "signed"
    DRAW = "draw"


SCALES: dict[Acquisition, Scale] = {
    "logei": Scale.LOG, "pi": Scale.LOG, "ucb": Scale.SIGNED, "kg": Scale.LOG, "mes": Scale.POSITIVE,
    "jes": Scale.POSITIVE, "ts": Scale.DRAW, "qlogei": Scale.LOG, "qlognei": Scale.LOG, "qlognehvi": Scale.LOG,
    "qlognparego": Scale.LOG,
}  # fmt: skip


def promise(acquisition: Acquisition, belief: Belief, incumbent: float, log_chance: Floats) -> Floats:
    """Scores over the whole feasible set, shape ``(m,)``; for the others, what their shortlist is made by.

    Args:
        acquisition: by name.
        belief: about the candidates.
        incumbent: in warped units.
        log_chance: logarithm of the probability that each completes within the limits, shape ``(m,)``.
    """
    if acquisition == "pi":
        return log_probability_below(belief, incumbent) + log_chance
    if acquisition == "ucb":
        hoped = incumbent - (belief.mean - _DEVIATIONS * np.sqrt(belief.variance))
        return combined(Scale.SIGNED, hoped, log_chance)
    return log_expected_improvement(belief, incumbent) + log_chance


def combined(scale: Scale, values: Floats, log_chance: Floats, rng: np.random.Generator | None = None) -> Floats:
    """Values of an acquisition together with the probability of counting, shape ``(m,)``; see `Scale`.

    Args:
        rng: for `DRAW` only.
    """
    if scale is Scale.LOG:
        return values + log_chance
    if scale is Scale.POSITIVE:  # in logarithms, where a small product is still in order
        return np.log(np.maximum(values, _NOTHING)) + log_chance
    chance: Floats = np.exp(np.maximum(log_chance, -_HOPELESS))
    if scale is Scale.SIGNED:
        signed = np.where(values >= 0.0, values * chance, values / chance)
        return np.where(log_chance > -_HOPELESS, signed, _BEHIND * log_chance)
    assert rng is not None
    through = rng.random(len(values)) < chance
    return np.where(through, values, -np.inf) if through.any() else log_chance


@dataclass(frozen=True)
class Decision:
    """What a shortlisted acquisition needs to know besides the pool.

    Attributes:
        surrogates: of the objectives.
        goal: what is to be beaten in each, in warped units, see `Promise`.
        feasible: measured points within the limits.
        pending: points under way; looked at by those that are joint.
        score: that makes the shortlist.
        log_chance: as for `promise`.
        guided: adds what cheaper evaluators say to points.
    """

    surrogates: Sequence[Surrogate]
    goal: tuple[float, ...]
    feasible: Points
    pending: Points
    score: Score
    log_chance: Callable[[Points], Floats]
    guided: Callable[[Points], Points]


def decide(
    acquisition: Acquisition, asked: Decision, pool: Pool, used: Floats, centres: Floats, rng: np.random.Generator
) -> tuple[Candidates, list[str]]:
    """The best candidate of a shortlist, or none where nothing is left; and what was given up on the way, for people.

    Args:
        used, centres, rng: as for `Pool.best`.
    """
    gps = [surrogate.gp for surrogate in asked.surrogates]
    fitted = [gp for gp in gps if gp is not None]
    if len(fitted) < len(gps):
        found = pool.best(asked.score, 1, used, centres, rng)
        return found, [f"{acquisition} needs a Gaussian process: {DEFAULT} decided"]
    count = _COUNTS.get(acquisition, _SHORTLIST)
    shortlist = pool.shortlist(asked.score, count, count, used, centres, rng)
    if not len(shortlist):
        return shortlist, []
    # BoTorch takes seconds to import, and who keeps to the default never needs it.
    from autotune.strategies.bo.botorch_acquisitions import Question, answer  # noqa: PLC0415
    from autotune.strategies.bo.botorch_model import gain_models, side_by_side  # noqa: PLC0415

    model, gains = gain_models(fitted)
    feasible = asked.feasible
    if len(fitted) > 1:
        said = [gp.predict(*one.gp_columns(feasible)) for gp, one in zip(fitted, asked.surrogates, strict=True)]
        feasible = feasible.take(contenders(*np.stack(said, axis=2)))
    candidates, baseline, pending = (
        side_by_side([surrogate.gp_columns(points) for surrogate in asked.surrogates])
        for points in (asked.guided(shortlist.points), feasible, asked.pending)
    )
    goal = tuple(float(one.gains(loss)) for one, loss in zip(gains, asked.goal, strict=True))
    question = Question(model, candidates, baseline, pending, goal, int(rng.integers(2**31)))
    try:
        values = answer(acquisition, question)
    except FitError as error:
        return shortlist.take(np.zeros(1, dtype=np.intp)), [f"{acquisition}: {error}: {DEFAULT} decided"]
    scores = combined(SCALES[acquisition], values, asked.log_chance(asked.guided(shortlist.points)), rng)
    return shortlist.take(np.array([np.argmax(scores)])), []

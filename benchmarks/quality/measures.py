"""What a run is worth: incumbents, the expected trajectory of random search, and the methodology's score.

The score follows Willemsen, van Nieuwpoort and van Werkhoven, "A methodology for comparing optimization algorithms for
auto-tuning", Future Generation Computer Systems 159, 2024: performance over random search at each point of the budget,
``P_t = (B_t - F_t) / (B_t - optimum)``, averaged over the points up to the cut-off, then over spaces. It is 0 for random
search, 1 for a searcher that starts at the optimum. Four differences, all for exactness or for comparing evaluations:

- The budget is counted in evaluations, of which a failure is one, not in seconds of compilation and measurement.
- ``F_t`` is the mean over seeds of the incumbent's loss, and ``B_t`` the exact expectation of the best of t draws without
  replacement (the paper takes the value at the expected rank), so that random search scores exactly 0 in expectation.
- Before anything was measured successfully, the incumbent counts as the worst loss of the space, in both.
- The points are the evaluations after the shared initial design, up to the budget of the run. The paper stops where random
  search is expected to have come 95 % of the way from the median to the optimum, which on spaces with a long tail of bad
  configurations is after some ten evaluations, before any searcher has begun.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from autotune.errors import UsageError
from benchmarks.quality.problem import Problem

Floats = npt.NDArray[np.float64]

_SIMULATIONS = 200  # random searches that the expected hypervolume is averaged over
_NEGLIGIBLE = 1e-12  # of the range of losses; random search has arrived at the optimum


def expected_best(losses: npt.ArrayLike, draws: int, *, worst: float, replacement: bool) -> Floats:
    """Expectation of the least of k random draws, for k = 1 .. draws.

    Without replacement ``P(best is beyond the i-th smallest) = C(n - i, k) / C(n, k)``; with replacement ``(1 - i/n)^k``.

    Args:
        losses: shape ``(n,)``; NaN for what fails, which counts as `worst`.
        draws: at most that many; beyond n draws without replacement the least of all remains.
        worst: see above.
        replacement: whether a draw may repeat.

    Returns:
        Shape ``(draws,)``.
    """
    ordered = np.sort(np.where(np.isnan(np.asarray(losses, dtype=float)), worst, losses))
    n = len(ordered)
    steps = np.diff(ordered)  # E[best] = x_1 + sum over i of P(best beyond x_i) * (x_(i+1) - x_i)
    i = np.arange(1, n, dtype=float)
    result = np.empty(draws)
    for k in range(1, draws + 1):
        if replacement:
            beyond = (1.0 - i / n) ** k
        else:
            left = n - i
            possible = left >= k
            beyond = np.zeros(len(i))
            left = left[possible]
            beyond[possible] = np.exp(
                gammaln(left + 1) - gammaln(left - k + 1) - (gammaln(n + 1.0) - gammaln(n - k + 1.0))
            )
        result[k - 1] = ordered[0] + float(beyond @ steps)
    return result


def baseline(problem: Problem, draws: int) -> Floats:
    """The expected trajectory of random search: loss of the incumbent, or missing hypervolume; shape ``(draws,)``."""
    if not problem.several:
        return expected_best(problem.population[:, 0], draws, worst=problem.worst, replacement=not problem.complete)
    rng = np.random.default_rng(0)
    n = len(problem.population)
    total = np.zeros(draws)
    for _ in range(_SIMULATIONS):
        chosen = rng.permutation(n)[:draws] if problem.complete else rng.integers(0, n, draws)
        missing = problem.scale.missing(problem.population[chosen])
        total += np.concatenate([missing, np.full(draws - len(missing), missing[-1])])
    return total / _SIMULATIONS


def trajectory(
    problem: Problem, seen: Sequence[Sequence[float] | None], true: Sequence[Sequence[float] | None], length: int
) -> Floats:
    """What the searcher would hand over after each evaluation: true loss of the incumbent, or missing hypervolume.

    Args:
        problem: decides which.
        seen: losses as observed, by evaluation; None for a failure. The incumbent is chosen by these.
        true: losses without noise.
        length: a run that ended early keeps its last incumbent until then.

    Returns:
        Shape ``(length,)``.
    """
    result = np.full(length, problem.worst)
    if problem.several:
        rows = [[np.nan] * len(problem.objectives) if one is None else list(one) for one in true[:length]]
        if rows:
            missing = problem.scale.missing(np.array(rows))
            result[: len(missing)] = missing
            result[len(missing) :] = missing[-1]
        return result
    best, held = np.inf, problem.worst
    for t in range(length):
        if t < len(seen):
            observed, actual = seen[t], true[t]
            if observed is not None and actual is not None and observed[0] < best:
                best, held = observed[0], actual[0]
        result[t] = held
    return result


def score(problem: Problem, found: Floats, expected: Floats, start: int = 0) -> Floats:
    """The methodology's score of each run (see above).

    Args:
        problem: gives the optimum.
        found: trajectories of shape ``(runs, t)``.
        expected: of random search, shape ``(t,)``.
        start: evaluations of the shared initial design, which do not count.

    Returns:
        Shape ``(runs,)``; its mean is the score of the searcher on this space.
    """
    possible = expected[start:] - problem.optimum
    counted = possible > _NEGLIGIBLE * max(abs(problem.worst - problem.optimum), 1e-300)
    if not counted.any():
        raise UsageError(
            f"problem {problem.name!r} has no evaluation after the initial design of {start} in which random search is short "
            "of the optimum; run it with a larger budget or a smaller initial design"
        )
    performance = (expected[start:] - found[:, start:])[:, counted] / possible[counted]
    scores: Floats = performance.mean(axis=1)
    return scores

"""The integer program of ExFlow (arXiv:2401.08383) with HiGHS: experts over interchangeable parts at the least cut.

ExFlow has a binary x[n, c] for every expert n and part c, each layer shared out evenly over the parts, and for every token
and step a binary ``cost[k, s] >= |x[e_s, c] - x[e_s+1, c]|``; it minimises the mean cost. Two things are done otherwise
here, and neither changes the optimum:

- Tokens that take the same step are counted (`Affinity`) and share a variable, weighted by their number.
- The cut is what is not together: ``same[u, v, c] <= x[u, c]`` and ``<= x[v, c]`` for pairs that occur, the weighted sum of
  which is maximised. As a part has ``M / parts`` experts of a layer, no expert is together with more of the next one:
  ``sum_v same[u, v, c] <= (M / parts) x[u, c]``, likewise for v. That bounds the relaxation, which without it is 0.

Parts are interchangeable, so expert i of the first layer is kept off the parts beyond i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from evaluators.expert_placement.cluster import Floats, Ints, Placement
from evaluators.expert_placement.routing import Affinity
from evaluators.expert_placement.solvers.base import NoSolutionError

_OPTIMAL, _LIMIT = 0, 1  # states of scipy.optimize.milp that may come with a solution


@dataclass(frozen=True, eq=False)
class Cut:
    """Experts over parts.

    Attributes:
        parts: ``(L, M)`` the part of each expert.
        weight: copies of tokens that go from one part to another.
        bound: no balanced cut has less weight.
        optimal: whether the two were proved equal within HiGHS's tolerance (1e-4 of the uncut weight).
    """

    parts: Placement
    weight: float
    bound: float
    optimal: bool

    @property
    def gap(self) -> float:
        """How far the cut may be from the least one, as a share of its weight."""
        return max(0.0, self.weight - self.bound) / self.weight if self.weight > 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of experts with their weights: first and second are numbers ``layer * M + expert``."""

    first: Ints
    second: Ints
    weight: Floats

    @classmethod
    def of(cls, affinity: Affinity) -> _Pairs:
        m = affinity.n_experts
        s, u, v = np.nonzero(affinity.across)
        folded = np.triu(affinity.within + affinity.within.transpose(0, 2, 1), k=1)
        s2, u2, v2 = np.nonzero(folded)
        return cls(
            np.concatenate((s * m + u, s2 * m + u2)),
            np.concatenate(((s + 1) * m + v, s2 * m + v2)),
            np.concatenate((affinity.across[s, u, v], folded[s2, u2, v2])),
        )


def size(affinity: Affinity, parts: int) -> int:
    """Number of variables of the program."""
    return (affinity.n_layers * affinity.n_experts + len(_Pairs.of(affinity).weight)) * parts


def least_cut(affinity: Affinity, parts: int, seconds: float) -> Cut:
    """Share out the experts of every layer evenly over interchangeable parts so that the fewest copies cross.

    Args:
        affinity: of ``M`` experts per layer, M a multiple of `parts`.
        parts: at least 2.
        seconds: limit; what is best by then is returned with its bound.

    Raises:
        NoSolutionError: where the time was up before there was any solution.
    """
    layers, members = affinity.n_layers, affinity.n_experts
    pairs = _Pairs.of(affinity)
    n_x, n_same = layers * members * parts, len(pairs.weight) * parts
    upper = np.ones(n_x + n_same)
    for expert in range(min(members, parts - 1)):
        upper[expert * parts + expert + 1 : (expert + 1) * parts] = 0.0
    result = milp(
        np.concatenate((np.zeros(n_x), -np.repeat(pairs.weight, parts))),
        integrality=np.concatenate((np.ones(n_x), np.zeros(n_same))),
        bounds=Bounds(0.0, upper),
        constraints=[*_balanced(layers, members, parts, n_same), *_together(pairs, layers, members, parts)],
        options={"time_limit": seconds},
    )
    if result.x is None or result.status not in (_OPTIMAL, _LIMIT):
        raise NoSolutionError(
            f"HiGHS had no placement of {layers} x {members} experts over {parts} parts after {seconds:g} s"
        )
    chosen = result.x[:n_x].reshape(layers, members, parts).argmax(axis=2).astype(np.int64)
    whole = float(pairs.weight.sum())
    bound = 0.0 if result.mip_dual_bound is None else max(0.0, whole + float(result.mip_dual_bound))
    weight = affinity.cost(chosen, 1 - np.eye(parts, dtype=np.int64))
    return Cut(chosen, weight, min(bound, weight), result.status == _OPTIMAL)


def _balanced(layers: int, members: int, parts: int, n_same: int) -> list[LinearConstraint]:
    """Every expert on one part, every part with its share of every layer."""
    one = sparse.kron(sparse.eye(layers * members), np.ones((1, parts)))
    share = sparse.kron(sparse.eye(layers), sparse.kron(np.ones((1, members)), sparse.eye(parts)))
    rows = sparse.hstack((sparse.vstack((one, share)), sparse.csr_array((layers * (members + parts), n_same))))
    right = np.concatenate((np.ones(layers * members), np.full(layers * parts, members // parts)))
    return [LinearConstraint(rows.tocsr(), right, right)]


def _together(pairs: _Pairs, layers: int, members: int, parts: int) -> list[LinearConstraint]:
    """What holds of experts that are counted as together."""
    n_x, n_pairs = layers * members * parts, len(pairs.weight)
    if n_pairs == 0:
        return []
    same = sparse.eye(n_pairs * parts)
    columns = np.arange(parts)
    found = []
    for end, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        own = (end[:, None] * parts + columns).ravel()
        x = sparse.csr_array((np.ones(len(own)), (np.arange(len(own)), own)), shape=(len(own), n_x))
        found.append(LinearConstraint(sparse.hstack((-x, same)).tocsr(), -np.inf, 0.0))
        # One row for an expert, a neighbouring layer (or its own) and a part: the companions that there is room for.
        group, index = np.unique(end * layers + other // members, return_inverse=True)
        expert, layer = group // layers, group % layers
        room = members // parts - (expert // members == layer)
        row = (np.arange(len(group))[:, None] * parts + columns).ravel()
        held = sparse.csr_array(
            (-np.repeat(room, parts).astype(float), (row, (expert[:, None] * parts + columns).ravel())),
            shape=(len(row), n_x),
        )
        counted = sparse.csr_array(
            (np.ones(n_pairs * parts), ((index[:, None] * parts + columns).ravel(), np.arange(n_pairs * parts))),
            shape=(len(row), n_pairs * parts),
        )
        found.append(LinearConstraint(sparse.hstack((held, counted)).tocsr(), -np.inf, 0.0))
    return found

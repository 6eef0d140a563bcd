"""What placing experts needs of a routing trace: picks, batches, loads, and which experts follow which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.expert_placement.cluster import Floats, Ints, Placement
from evaluators.moe_cache.trace import RoutingTrace

SplitBy = Literal["tokens", "turns"]


@dataclass(frozen=True, eq=False)
class Affinity:
    """How many copies of tokens travel between experts, where each pick's copy is counted by itself.

    Attributes:
        across: ``(L - 1, N, N)``; ``across[s, u, v]``: tokens whose best expert is u at layer s and that pick v at
            layer s + 1. For top-1 this is ExFlow's count of transitions.
        within: ``(L, N, N)``; ``within[s, u, v]``: tokens whose best expert is u at layer s and that pick v there too.
    """

    across: Floats
    within: Floats

    @property
    def n_layers(self) -> int:
        return len(self.within)

    @property
    def n_experts(self) -> int:
        return int(self.within.shape[1])

    def among(self, members: Ints) -> Affinity:
        """The same among some experts of each layer alone, ``members`` being ``(L, M)`` expert ids."""
        rows, columns = members[:, :, None], members[:, None, :]
        layer = np.arange(self.n_layers)[:, None, None]
        return Affinity(
            self.across[layer[:-1], rows[:-1], columns[1:]],
            self.within[layer, rows, columns],
        )

    def cost(self, placement: Placement, hop_cost: Ints) -> float:
        """Summed cost of all copies under a placement."""
        first, second = placement[:-1], placement[1:]
        across = (self.across * hop_cost[first[:, :, None], second[:, None, :]]).sum()
        within = (self.within * hop_cost[placement[:, :, None], placement[:, None, :]]).sum()
        return float(across + within)


@dataclass(frozen=True, eq=False)
class Routing:
    """The expert choices of some tokens of a trace, in batches.

    Attributes:
        picks: ``(T, L, k)`` experts, best first; -1 where a token skipped a layer.
        n_experts: N.
        batch: ``(T,)`` index of the batch that a token is computed in, from 0 and without gaps.
    """

    picks: npt.NDArray[np.int16]
    n_experts: int
    batch: Ints

    @classmethod
    def of(cls, trace: RoutingTrace, tokens: npt.NDArray[np.bool_], batch_tokens: int) -> Routing:
        """Some tokens of a trace, in batches of about `batch_tokens` consecutive ones (none smaller by more than half).

        Raises:
            UsageError: where these tokens were routed through no layer.
        """
        picks = np.ascontiguousarray(trace.experts[tokens])
        if not (picks >= 0).any():
            raise UsageError(f"trace {trace.model!r} has a part of {len(picks)} tokens without any pick; record more")
        batches = max(1, round(len(picks) / batch_tokens))
        return cls(picks, trace.n_experts, np.arange(len(picks), dtype=np.int64) * batches // len(picks))

    @property
    def n_tokens(self) -> int:
        return len(self.picks)

    @property
    def n_layers(self) -> int:
        return int(self.picks.shape[1])

    @property
    def top_k(self) -> int:
        return int(self.picks.shape[2])

    @cached_property
    def shares(self) -> Floats:
        """``(L, B, N)``: the share of a batch's picks in a layer that goes to each expert (A_mb of arXiv:2303.06182).

        All zero where fewer than half of the batch's tokens were routed through the layer, as engines compute the last
        layer for the last token of a prompt alone: the few that are left say nothing of balance.
        """
        tokens = np.bincount(self.batch)
        layers, batches = self.n_layers, len(tokens)
        token, layer, slot = np.nonzero(self.picks >= 0)
        cell = (layer * batches + self.batch[token]) * self.n_experts + self.picks[token, layer, slot]
        counts = np.bincount(cell, minlength=layers * batches * self.n_experts)
        counts = counts.reshape(layers, batches, self.n_experts)
        total = counts.sum(axis=2, keepdims=True)
        enough = 2 * total >= self.top_k * tokens[None, :, None]
        return np.where(enough, counts / np.maximum(total, 1), 0.0)

    @cached_property
    def mean_load(self) -> Floats:
        """``(L, N)``: the share of all picks of a layer that goes to each expert."""
        routed = [picks[picks >= 0] for picks in self.picks.transpose(1, 0, 2)]
        return np.stack([np.bincount(one, minlength=self.n_experts) / max(1, len(one)) for one in routed])

    @cached_property
    def affinity(self) -> Affinity:
        """Pairs of experts that copies of tokens travel between."""
        n, layers = self.n_experts, self.n_layers
        across, within = np.zeros((layers - 1, n, n)), np.zeros((layers, n, n))
        for layer in range(layers):
            here = self.picks[self.picks[:, layer, 0] >= 0]
            best = here[:, layer, 0]
            for slot in range(1, self.top_k):
                np.add.at(within[layer], (best, here[:, layer, slot]), 1.0)
            if layer + 1 < layers:
                on = here[:, layer + 1, 0] >= 0
                for slot in range(self.top_k):
                    np.add.at(across[layer], (best[on], here[on, layer + 1, slot]), 1.0)
        return Affinity(across, within)


def split(
    trace: RoutingTrace, train_share: float, by: SplitBy = "tokens", batch_tokens: int = 32
) -> tuple[Routing, Routing]:
    """The part of a trace that placements are computed on, and the held-out part that they are judged by.

    Args:
        trace: at least two layers.
        train_share: of the tokens, between 0 and 1.
        by: ``tokens``: the first tokens of every turn are trained on; ``turns``: the first turns, so that the held-out
            part is other text.
        batch_tokens: tokens that are computed together, for the loads.

    Raises:
        UsageError: for a trace of one layer, or one that cannot be split so.
    """
    if trace.n_layers < 2:
        raise UsageError(
            f"trace {trace.model!r} has one layer, so no token goes from one layer's experts to the next one's; "
            "give a trace of at least two mixture-of-experts layers"
        )
    train = _first_tokens(trace, train_share) if by == "tokens" else _first_turns(trace, train_share)
    if train.all() or not train.any():
        raise UsageError(
            f"train_share is {train_share:g}, which leaves no token of {trace.n_tokens} for "
            f"{'testing' if train.all() else 'training'}; give a share nearer to one half or a longer trace"
        )
    return Routing.of(trace, train, batch_tokens), Routing.of(trace, ~train, batch_tokens)


def _first_tokens(trace: RoutingTrace, share: float) -> npt.NDArray[np.bool_]:
    _, first, turn, counts = np.unique(trace.turn, return_index=True, return_inverse=True, return_counts=True)
    place_in_turn = np.arange(trace.n_tokens) - first[turn]
    return np.asarray(place_in_turn < np.round(share * counts)[turn])


def _first_turns(trace: RoutingTrace, share: float) -> npt.NDArray[np.bool_]:
    if len(np.unique(trace.turn)) < 2:
        raise UsageError(
            f"held_out is 'turns', but trace {trace.model!r} has one turn; give held_out=tokens or a trace of several turns"
        )
    in_order = trace.turn[np.concatenate(([0], np.flatnonzero(np.diff(trace.turn)) + 1))]
    taken = min(len(in_order) - 1, max(1, round(share * len(in_order))))
    return np.isin(trace.turn, in_order[:taken])

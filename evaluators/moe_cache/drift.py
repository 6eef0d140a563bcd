"""Whether two pieces of routing of one model are of the same routing, told with a stated rate of false alarms.

Letters: A and B the pieces, L layers, N experts per layer, K blocks of both pieces.

Compared are the generated tokens alone (token latency is about those), in two respects:

- *popularity*: the Jensen-Shannon divergence (Lin, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory
  37, 1991, eq. 4.1 with equal weights) between the shares p and q of a layer's experts, in bits, from 0 to 1;
- *reuse*: the share of a token's experts that the token before it used too, which is what a small cache lives on.

Two finite pieces of one routing differ as well, and the more the longer choices last. So what is tested is the *excess*, an
estimate whose mean is 0 for pieces of one routing: to second order the divergence is ``sum (p - q)^2 / (8 ln 2 m)`` with m
the mean of p and q, and the square is estimated without bias by products of different blocks of tokens, neighbours left out too
(Chen and Qin, A two-sample test for high-dimensional data, Ann. Statist. 38, 2010; Ayyala, Park and Roy, Mean vector
testing for high-dimensional dependent observations, J. Multivariate Anal. 153, 2017). Its distribution for one routing is
found by dealing the blocks out to two pieces again, at random, many times (Kirch, Block permutation principles for the change
analysis of dependent data, J. Stat. Plan. Inference 137, 2007); the p-value is the share of dealings with at least the observed
excess, the observed one among them (Davison and Hinkley, Bootstrap Methods and their Application, 1997, eq. 4.11). Routing
has drifted where one of the two p-values is at most half of `alpha` (Bonferroni).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.errors import UsageError
from evaluators.moe_cache.token_blocks import Blocks, Bools, Floats, Ints, Piece, find_block
from evaluators.moe_cache.trace import RoutingTrace

ALPHA = 0.05
DEALINGS = 1999
_STATISTICS = 2  # that may each raise the alarm
_LEAST_BLOCKS = 3  # of a piece: of three, two are no neighbours
_MOST_BLOCKS = 150  # of a piece; more take time and tell little
_TURN_DEALINGS = 199
_TURNS_ALPHA = 0.1  # of calling turns of one piece different that are not; the price is blocks longer than needed
_CHUNK = 256  # dealings at a time, which bounds the memory
_TIE = 1e-12  # below, two values differ by rounding


@dataclass(frozen=True, eq=False)
class Drift:
    """What sets two pieces of routing apart.

    Attributes:
        divergence_bits: mean over layers of the Jensen-Shannon divergence of popularity, as the pieces have it.
        excess_bits: of it, what pieces of one routing do not explain; negative values are chance.
        popularity_p, reuse_p: p-values of the two respects.
        layer_divergence_bits, layer_excess_bits: ``(L,)`` both by layer.
        layer_p: ``(L,)`` p-value of each layer's excess, adjusted for there being L of them (max-T: Westfall and Young,
            Resampling-Based Multiple Testing, 1993): the share of dealings in which any layer stands out as much.
        layer_reuse_before, layer_reuse_after: ``(L,)`` share of a token's experts that the token before it used; NaN where no
            token has one before it.
        tokens, blocks: generated tokens of A and of B, and the blocks that they were cut into.
        block_tokens: tokens of a block; a block never reaches over the end of a turn.
        alpha: accepted share of false alarms.
        resolution: smallest p-value that so many blocks and dealings can give.
    """

    divergence_bits: float
    excess_bits: float
    popularity_p: float
    reuse_p: float
    layer_divergence_bits: Floats
    layer_excess_bits: Floats
    layer_p: Floats
    layer_reuse_before: Floats
    layer_reuse_after: Floats
    tokens: tuple[int, int]
    blocks: tuple[int, int]
    block_tokens: int
    alpha: float
    resolution: float

    @property
    def p(self) -> float:
        """The p-value of both respects together (Bonferroni)."""
        return min(1.0, _STATISTICS * min(self.popularity_p, self.reuse_p))

    @property
    def drifted(self) -> bool | None:
        """The verdict; None where the pieces have too few blocks for any verdict at this `alpha`."""
        return None if _STATISTICS * self.resolution > self.alpha else self.p <= self.alpha

    @property
    def most(self) -> Ints:
        """``(L,)`` layers by their excess, the largest first."""
        return np.argsort(-self.layer_excess_bits, kind="stable")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in plain.items()}
        return {"drifted": self.drifted, "p": self.p, **values}


def drift(
    before: RoutingTrace,
    after: RoutingTrace,
    *,
    alpha: float = ALPHA,
    block_tokens: int | None = None,
    dealings: int = DEALINGS,
    seed: int = 0,
) -> Drift:
    """Compare two pieces of routing of one model.

    Args:
        block_tokens: tokens of a block; None finds out over how many tokens choices stay correlated (`find_block`), and takes
            whole turns where the turns of one piece differ among each other: then only another mix of turns is drift. A
            number beyond all turns asks for whole turns.
        dealings: how often the blocks are dealt out again.

    Raises:
        UsageError: for traces of different models or without generated tokens, and for settings outside their range.
    """
    check_same_model(before, after)
    for trace in (before, after):
        if trace.pass_index is not None:
            raise UsageError(
                f"the trace of {trace.model!r} is batched; drift is told from traces as they were recorded"
            )
    if not 0.0 < alpha < 1.0:
        raise UsageError(f"alpha is {alpha}; a share of false alarms lies between 0 and 1, such as {ALPHA}")
    if block_tokens is not None and block_tokens < 1:
        raise UsageError(f"block_tokens is {block_tokens}; a block has at least one token")
    if dealings < 1:
        raise UsageError(f"dealings is {dealings}; deal out at least once")
    pieces = [Piece.of(before), Piece.of(after)]
    rng = np.random.default_rng(seed)
    length = max(
        find_block(pieces) if block_tokens is None else block_tokens,
        math.ceil(max(piece.n_tokens for piece in pieces) / _MOST_BLOCKS),
    )
    sides = [piece.blocks(length) for piece in pieces]
    if block_tokens is None and _turns_differ(sides, rng):
        length = max(int(piece.turn_lengths.max()) for piece in pieces)
        sides = [piece.blocks(length) for piece in pieces]
    sizes = (len(sides[0]), len(sides[1]))
    deals = _deal(sizes, dealings, rng)
    apart = _apart(sides)
    popularity = _excess(deals, *_popularity(sides), apart)
    reuse = _excess(deals, *_reuse(sides), apart)
    shares = [side.picks.sum(axis=0) / side.picks.sum(axis=(0, 2))[:, None] for side in sides]
    divergence = jensen_shannon_bits(*shares)
    few = min(sizes) < _LEAST_BLOCKS
    return Drift(
        divergence_bits=float(divergence.mean()),
        excess_bits=float(popularity[0].mean()),
        popularity_p=_p(popularity.mean(axis=1)),
        reuse_p=_p(reuse.mean(axis=1)),
        layer_divergence_bits=divergence,
        layer_excess_bits=popularity[0],
        layer_p=_layer_p(popularity),
        layer_reuse_before=_rate(sides[0]),
        layer_reuse_after=_rate(sides[1]),
        tokens=(pieces[0].n_tokens, pieces[1].n_tokens),
        blocks=sizes,
        block_tokens=length,
        alpha=alpha,
        resolution=1.0 if few else _resolution(sizes, dealings),
    )


def check_same_model(before: RoutingTrace, after: RoutingTrace) -> None:
    """Refuse traces that cannot be of one model, or have no generated token.

    Raises:
        UsageError: in one sentence.
    """
    shapes = [(trace.n_layers, trace.n_experts, trace.top_k) for trace in (before, after)]
    if shapes[0] != shapes[1]:
        told = ["{} layers of {} experts, top {}".format(*shape) for shape in shapes]
        raise UsageError(
            f"the trace of {after.model!r} has {told[1]}, but that of {before.model!r} has {told[0]}; give a trace of the "
            "same model"
        )
    for trace in (before, after):
        if trace.decode_tokens == 0:
            raise UsageError(
                f"the trace of {trace.model!r} has no decode token, and drift is told from generated tokens; record some "
                "generation"
            )


def jensen_shannon_bits(p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon divergence in bits of distributions along the last axis, with equal weights (Lin 1991, eq. 4.1)."""
    return np.maximum(_entropy_bits((p + q) / 2.0) - (_entropy_bits(p) + _entropy_bits(q)) / 2.0, 0.0)


def _entropy_bits(shares: Floats) -> Floats:
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0.0)
    return np.asarray(-(shares * logs).sum(axis=-1))


# ------------------------------------------------------------------------------------------------- the two respects


def _popularity(sides: list[Blocks]) -> tuple[Floats, Floats]:
    """``(K, L, N)`` sums over blocks such that squared differences of their means are bits, and ``(K,)`` their weights."""
    picks = np.concatenate([side.picks for side in sides])
    tokens = np.concatenate([side.tokens for side in sides])
    share = picks.sum(axis=0) / picks.sum(axis=(0, 2))[:, None]
    per_token = picks.sum(axis=2, keepdims=True) / tokens[:, None, None]  # k
    around = picks / per_token - tokens[:, None, None] * share
    scale = np.divide(1.0, np.sqrt(8.0 * math.log(2.0) * share), out=np.zeros_like(share), where=share > 0.0)
    return around * scale, tokens


def _reuse(sides: list[Blocks]) -> tuple[Floats, Floats]:
    """``(K, L, 1)`` reuse around its mean, summed over blocks, and ``(K,)`` the tokens that it is of."""
    reused = np.concatenate([side.reused for side in sides])
    followers = np.concatenate([side.followers for side in sides])
    mean = reused.sum(axis=0) / max(float(followers.sum()), 1.0)
    return (reused - followers[:, None] * mean)[:, :, None], followers


def _rate(side: Blocks) -> Floats:
    pairs = float(side.followers.sum())
    return np.asarray(side.reused.sum(axis=0) / pairs if pairs else np.full(side.reused.shape[1], np.nan))


# ----------------------------------------------------------------------------------------------------------- dealings


def _apart(sides: list[Blocks]) -> Bools:
    """``(K, K)``: which blocks may be multiplied: different ones that are no neighbours in a turn."""
    turn = np.concatenate((sides[0].turn, sides[1].turn + len(sides[0])))
    index = np.arange(len(turn))
    near = (np.abs(index[:, None] - index) <= 1) & (turn[:, None] == turn)
    return np.asarray(~near)


def _turns_differ(sides: list[Blocks], rng: np.random.Generator) -> bool:
    """Whether blocks of one turn are more alike than blocks of different turns of the same piece.

    Judged by the popularity of experts, against blocks that are dealt out to the turns of their piece at random.
    """
    if all(side.turn[-1] == 0 for side in sides):
        return False
    sums, weights = _popularity(sides)
    apart = _apart(sides)
    flat = sums.reshape(len(sums), -1)
    products = flat @ flat.T * apart
    pairs = np.outer(weights, weights) * apart
    first = len(sides[0])
    turn = np.concatenate((sides[0].turn, sides[1].turn + first))  # of no block of the other piece
    piece = np.arange(len(turn)) >= first
    own_piece = piece[:, None] == piece

    def alike(turns: Ints) -> float:
        same = turns[:, None] == turns
        other = own_piece & ~same
        inside, outside = float(pairs[same].sum()), float(pairs[other].sum())
        if not inside or not outside:
            return 0.0
        return float(products[same].sum()) / inside - float(products[other].sum()) / outside

    dealt = [
        np.concatenate((rng.permutation(turn[:first]), rng.permutation(turn[first:]))) for _ in range(_TURN_DEALINGS)
    ]
    values = np.array([alike(turn), *(alike(turns) for turns in dealt)])
    return _p(values) <= _TURNS_ALPHA


def _deal(sizes: tuple[int, int], dealings: int, rng: np.random.Generator) -> Bools:
    """``(1 + dealings, K)``: which blocks are dealt to A, as many as A has; the observed dealing first."""
    observed = np.arange(sum(sizes)) < sizes[0]
    order = np.argsort(rng.random((dealings, sum(sizes))), axis=1)
    return np.concatenate((observed[None], order < sizes[0]))


def _excess(deals: Bools, sums: Floats, weights: Floats, apart: Bools) -> Floats:
    """``(dealings, L)`` estimates without bias of the squared difference between the means of either side.

    ``<A, A> + <B, B> - 2 <A, B>``, each the mean product of two tokens of blocks that are apart; 0 where there are none.
    """
    blocks, layers, _ = sums.shape
    products = np.einsum("iln,jln->ijl", sums, sums, optimize=True) * apart[:, :, None]
    flat = products.reshape(blocks, blocks * layers)
    pairs = np.outer(weights, weights) * apart
    found = np.empty((len(deals), layers))
    for start in range(0, len(deals), _CHUNK):
        first = deals[start : start + _CHUNK].astype(np.float64)
        second = 1.0 - first
        with_first = (first @ flat).reshape(-1, blocks, layers)
        with_second = products.sum(axis=0) - with_first
        found[start : start + _CHUNK] = (
            _mean(first, with_first, first @ pairs)
            + _mean(second, with_second, second @ pairs)
            - 2.0 * _mean(second, with_first, first @ pairs)
        )
    return found


def _mean(side: Floats, products: Floats, pairs: Floats) -> Floats:
    """``(dealings, L)`` sums of products over those of token pairs; both are ``(dealings, K, …)`` sums over one side."""
    count = (pairs * side).sum(axis=1)[:, None]
    total = np.einsum("dk,dkl->dl", side, products)
    return np.asarray(np.divide(total, count, out=np.zeros_like(total), where=count > 0.0))


def _p(values: Floats) -> float:
    """Share of values not below the first, the observed one, which is among them."""
    return float(np.mean(values >= values[0] - _TIE))


def _layer_p(excess: Floats) -> Floats:
    spread = excess[1:].std(axis=0)
    standing = (excess - excess[1:].mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
    highest = standing.max(axis=1)
    return np.array([(1 + np.count_nonzero(highest[1:] >= own - _TIE)) / len(highest) for own in standing[0]])


def _resolution(sizes: tuple[int, int], dealings: int) -> float:
    """Sides with equally many blocks give the same value when exchanged, so that the observed dealing counts twice."""
    same = 2 if sizes[0] == sizes[1] else 1
    return max(1.0 / (1 + dealings), same / math.comb(sum(sizes), sizes[0]))

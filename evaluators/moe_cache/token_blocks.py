"""The generated tokens of a trace in blocks that are long enough to be nearly independent of one another.

Letters: T generated tokens, L layers, N experts per layer, k experts per token, K blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.moe_cache.trace import DECODE, RoutingTrace

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MISSED = 0.1  # share of the long-run variance that the variance over blocks may miss
_LEAST = 4  # tokens: weak correlation that lasts is below chance in a short piece
_QUIET_LAGS = 5  # without correlation: the last lag with it lies before them (Politis and White 2004, K_N)
_SIGMAS = 2.0  # times sqrt(log10 T) is chance (Politis and White 2004, c)
_TOKENS_LOOKED_AT = 1024  # for the correlation, which costs their cube


@dataclass(frozen=True, eq=False)
class Blocks:
    """Sums over blocks of consecutive tokens of one turn.

    Attributes:
        picks: ``(K, L, N)`` tokens that chose an expert.
        tokens: ``(K,)``.
        reused: ``(K, L)`` experts per k that the token before chose too, summed over the tokens that have one before them.
        followers: ``(K,)`` tokens that have one before them in their turn.
        turn: ``(K,)`` the turn, by its place.
    """

    picks: Floats
    tokens: Floats
    reused: Floats
    followers: Floats
    turn: Ints

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Piece:
    """The generated tokens of a trace: ``(T, L, N)`` chosen or not, and the tokens of each turn that has any."""

    chosen: Bools
    turn_lengths: Ints
    top_k: int

    @classmethod
    def of(cls, trace: RoutingTrace) -> Piece:
        decode = trace.phase == DECODE
        picks, turn = trace.experts[decode], trace.turn[decode]
        chosen = np.zeros((*picks.shape[:2], trace.n_experts), dtype=bool)
        np.put_along_axis(chosen, picks.astype(np.int64), True, axis=2)
        starts = np.flatnonzero(np.concatenate(([True], turn[1:] != turn[:-1])))
        return cls(chosen, np.diff(np.append(starts, len(turn))).astype(np.int64), trace.top_k)

    @property
    def n_tokens(self) -> int:
        return len(self.chosen)

    def blocks(self, length: int) -> Blocks:
        """Every turn in equal blocks of about that length (its blocks differ by a token at most), one at least."""
        starts: list[int] = []
        turn_of: list[int] = []
        begins = np.zeros(self.n_tokens, dtype=bool)
        at = 0
        for turn, tokens in enumerate(self.turn_lengths.tolist()):
            parts = max(1, round(tokens / length))
            starts += [at + tokens * part // parts for part in range(parts)]
            turn_of += [turn] * parts
            begins[at] = True
            at += tokens
        reused = np.zeros(self.chosen.shape[:2])
        reused[1:] = (self.chosen[1:] & self.chosen[:-1]).sum(axis=2) / self.top_k
        reused[begins] = 0.0  # the token before belongs to another turn
        return Blocks(
            picks=np.add.reduceat(self.chosen, starts, axis=0, dtype=np.float64),
            tokens=np.diff(np.append(starts, self.n_tokens)).astype(np.float64),
            reused=np.add.reduceat(reused, starts, axis=0),
            followers=np.add.reduceat((~begins).astype(np.float64), starts),
            turn=np.array(turn_of, dtype=np.int64),
        )


def find_block(pieces: Sequence[Piece]) -> int:
    """Tokens of a block that blocks of one routing need to be nearly independent.

    The variance of a mean over blocks of b tokens misses a share ``G / (b g)`` of the long-run variance, with
    ``g = sum R(h)`` and ``G = sum |h| R(h)`` over all lags h (Künsch, The jackknife and the bootstrap for general stationary
    observations, Ann. Statist. 17, 1989); b is chosen so that this is a tenth, and longer than the last lag with correlation.
    R(h) is ``tr(C C_h)`` of the covariance C and autocovariance C_h of the choices around the mean of their piece: directions
    in which choices vary much decide about the statistic, whose variance goes with ``tr(C C)``. Its window is the flat-top of
    Politis and White (Automatic block-length selection for the dependent bootstrap, Econometric Reviews 23, 2004), whose width
    they derive from the last lag that correlates more than chance.
    """
    longest = max(int(piece.turn_lengths.max()) for piece in pieces)
    correlation, chance = _autocorrelation(pieces)
    reach = len(correlation) // 2  # of more lags too few pairs are left
    least = min(_LEAST, longest)
    if reach < 1:
        return least
    loud = correlation[1 : reach + 1] > chance
    last = 0
    for lag in range(1, reach + 1):
        if loud[lag - 1]:
            last = lag
        elif lag - last >= _QUIET_LAGS:
            break
    if last == 0:
        return least
    if last > reach - min(_QUIET_LAGS, reach // 2):
        return longest
    lags = np.arange(1, min(2 * last, reach) + 1)
    window = np.minimum(1.0, 2.0 - lags / last) * correlation[lags]
    long_run = 1.0 + 2.0 * float(window.sum())
    missed = 2.0 * float((lags * window).sum())
    needed = math.ceil(missed / (_MISSED * long_run)) if long_run > 0.0 else 0
    return min(longest, max(needed, last + 1, least))


def _autocorrelation(pieces: Sequence[Piece]) -> tuple[Floats, float]:
    """Correlation ``tr(C C_h) / tr(C C)`` of choices by lag h from 0, of all pieces together, and what a lag has by chance.

    Without correlation that of a lag has the variance ``1 / (T d)`` for d equally strong independent directions, and
    ``d = tr(C C)^2 / |C C|^2``.
    """
    heads = [_heads(piece) for piece in pieces]
    sums = np.zeros(max(int(lengths.max()) for _, lengths in heads))
    tokens, squares = 0, 0.0
    for chosen, lengths in heads:
        flat = chosen.reshape(len(chosen), -1).astype(np.float32)
        flat -= flat.mean(axis=0)
        gram = flat @ flat.T
        gram = gram @ gram / len(flat)  # products of the choices weighted by C
        squares += float(np.square(gram, dtype=np.float64).sum())
        tokens += len(chosen)
        end = 0
        for length in lengths.tolist():
            own = gram[end : end + length, end : end + length]
            sums[:length] += [float(np.trace(own, offset=lag, dtype=np.float64)) for lag in range(length)]
            end += length
    if sums[0] <= 1e-6 * tokens:  # every token chooses the same
        return np.ones(1), 0.0
    sigma = math.sqrt(squares) / sums[0] / math.sqrt(tokens)
    return sums / sums[0], _SIGMAS * math.sqrt(math.log10(max(tokens, 10))) * sigma


def _heads(piece: Piece) -> tuple[Bools, Ints]:
    """The first tokens of every turn, as many of each as may be looked at, and how many these are."""
    each = max(2, _TOKENS_LOOKED_AT // len(piece.turn_lengths))
    kept = np.minimum(piece.turn_lengths, each)
    starts = np.cumsum(piece.turn_lengths) - piece.turn_lengths
    chosen = np.concatenate([piece.chosen[s : s + n] for s, n in zip(starts.tolist(), kept.tolist(), strict=True)])
    return chosen, kept

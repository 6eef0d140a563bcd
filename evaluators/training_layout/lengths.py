"""`Lengths`: documents of mixed lengths, packed into sequences, and how unevenly that loads data-parallel GPUs.

Packed sequences have the same tokens, but attention inside documents costs by the square of their lengths, so that GPUs with
long documents are waited for. Dynamic groups (ByteScale, arXiv:2502.21231) give every document as many GPUs as it needs, so
that short ones are not sent around, and balance what GPUs compute. A reconstruction: the paper's own cost model was not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from autotune.errors import UsageError
from evaluators.training_layout.layouts import Bools, Floats, Ints

_POOL = 4096  # packed sequences that are drawn
_DRAWS = 16  # steps at least, for the expected load of the slowest GPU


@dataclass(frozen=True)
class Lengths:
    """A mixture of document lengths.

    Attributes:
        tokens: of a document, by kind.
        weights: how often each kind comes, in documents; positive.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def read(cls, text: str) -> Lengths:
        """From ``TOKENS:WEIGHT,TOKENS:WEIGHT,...``, or a file with the tokens of one document a line.

        Raises:
            UsageError: for what is neither.
        """
        path = Path(text).expanduser()
        try:
            if path.is_file():
                tokens, counts = np.unique([int(line) for line in path.read_text().split()], return_counts=True)
                found = cls(tuple(int(t) for t in tokens), tuple(float(c) for c in counts))
            else:
                pairs = [part.split(":") for part in text.split(",")]
                found = cls(tuple(int(t) for t, _ in pairs), tuple(float(w) for _, w in pairs))
        except ValueError:
            raise UsageError(
                f"lengths {text!r} is neither a file with the tokens of one document a line, nor "
                "TOKENS:WEIGHT,TOKENS:WEIGHT,..."
            ) from None
        if not found.tokens or min(found.tokens) < 1 or not all(0 < w < float("inf") for w in found.weights):
            raise UsageError(f"lengths {text!r}: documents have at least one token, and weights are positive")
        return found

    def cut(self, sequence: int) -> Lengths:
        """The same documents, none longer than a sequence: longer ones are cut into sequences and a rest."""
        kinds: dict[int, float] = {}
        for tokens, weight in zip(self.tokens, self.weights, strict=True):
            whole, rest = divmod(tokens, sequence)
            for piece, times in ((sequence, whole), (rest, 1)):
                if piece and times:
                    kinds[piece] = kinds.get(piece, 0.0) + weight * times
        return Lengths(tuple(kinds), tuple(kinds.values()))


class Packing:
    """Documents packed into sequences of a given length, one after the other, cut where a sequence is full.

    Args:
        lengths: of the documents.
        sequence: tokens of a sequence.
    """

    def __init__(self, lengths: Lengths, sequence: int) -> None:
        self._sequence = sequence
        cut = lengths.cut(sequence)
        self._tokens = np.array(cut.tokens, dtype=np.float64)
        weights = np.array(cut.weights)
        self._often = weights / weights.sum()

    @cached_property
    def _loads(self) -> Floats:
        """``(_POOL,)`` attention of packed sequences over that of one whole document as long."""
        drawn = np.random.default_rng(0)
        mean = float(self._often @ self._tokens)
        count = int(_POOL * self._sequence / mean * 1.1) + _POOL
        ends = np.cumsum(drawn.choice(self._tokens, size=count, p=self._often))
        edges = np.union1d(ends, np.arange(1, _POOL + 1) * float(self._sequence))
        pieces = np.diff(np.concatenate(([0.0], edges)))
        which = ((edges - 0.5) // self._sequence).astype(np.int64)
        return np.bincount(which, weights=pieces**2, minlength=_POOL)[:_POOL] / float(self._sequence) ** 2

    @cached_property
    def mean(self) -> float:
        """Mean attention of a packed sequence over that of one whole document as long."""
        return float(self._loads.mean())

    def attention_share(self, copies: Ints, microbatches: Ints, micro_batch: Ints, cp: Ints, dynamic: Bools) -> Floats:
        """``(n,)`` attention of the slowest GPU over that of whole sequences.

        Args:
            copies: data-parallel copies, the slowest of which is waited for.
            dynamic: whether groups are dynamic: no GPU has more than the mean, unless one document alone is more; and never
                more than without.
        """
        found = np.empty(len(copies))
        several = microbatches * micro_batch
        longest = np.ceil(self._tokens.max() * cp / (micro_batch * self._sequence))
        alone = (self._tokens.max() / self._sequence) ** 2 * cp / np.maximum(longest, 1.0) / several
        for n, m in {(int(a), int(b)) for a, b in zip(copies, several, strict=True)}:
            rows = (copies == n) & (several == m)
            found[rows] = self._slowest(n, m)
        return np.where(dynamic, np.minimum(np.maximum(self.mean, alone), found), found)

    def context_share(self, micro_batch: Ints, cp: Ints, dynamic: Bools) -> Floats:
        """``(n,)`` context-parallel traffic over that of whole sequences: with dynamic groups, of the documents alone that do
        not fit on one GPU, among as many as they need."""
        needed = np.ceil(self._tokens[:, None] * cp / (micro_batch * self._sequence))
        among = np.clip((needed - 1.0) / np.maximum(cp - 1, 1), 0.0, 1.0)
        weighted = self._often * self._tokens
        return np.where(dynamic, (weighted @ among) / weighted.sum(), 1.0)

    def _slowest(self, copies: int, sequences: int) -> float:
        """Expected mean load of the slowest of several copies, each with so many sequences."""
        if copies == 1:
            return self.mean
        drawn = np.random.default_rng(copies * 1_000_003 + sequences)
        steps = max(_DRAWS, _POOL // (copies * sequences))
        # Of many sequences the mean is as good as normal.
        if sequences > 64:
            means = drawn.normal(self.mean, self._loads.std() / np.sqrt(sequences), size=(steps, copies))
        else:
            means = drawn.choice(self._loads, size=(steps, copies, sequences)).mean(axis=2)
        return max(self.mean, float(means.max(axis=1).mean()))

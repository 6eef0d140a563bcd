"""Made-up routing with stated properties, for studies of what a configuration is worth where.

Letters: T tokens, L layers, N experts per layer, k experts per token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace


@dataclass(frozen=True)
class SyntheticRouting:
    """How experts are chosen. Layers are independent; within a layer:

    - *Skew.* A fresh choice of k distinct experts takes them one by one with probabilities proportional to
      ``rank ** -skew`` (Zipf). Each layer shuffles which expert has which rank. 0 is flat; one number for all layers or
      one for each.
    - *Locality.* Each of a token's k slots repeats, with probability `locality`, what the same slot held in one of the
      sequence's last `memory` tokens (each equally likely), and is chosen afresh otherwise. Repeats that coincide leave
      their slots to fresh choices. 0 knows no past; with ``memory=1`` every expert of a token stays on for the next with
      that probability.

    Both leave the popularity over many sequences as Zipf's law has it; within one sequence, locality makes it more skewed.

    Attributes:
        n_experts, top_k, n_layers: N, k and L.
        decode_tokens: generated tokens of each sequence.
        prompt_tokens: tokens of each sequence's prompt; 0 leaves the prompts out.
        sequences: turns of the trace. They share the popularity, not the past.
        skew, locality, memory: as above.
        accuracy: probability that a needed expert is predicted, one layer ahead and further; None records no predictions.
        seed: of everything; traces that differ in accuracy alone have the same routing.

    Raises:
        UsageError: for numbers that cannot be.
    """

    n_experts: int
    top_k: int
    n_layers: int
    decode_tokens: int
    prompt_tokens: int = 0
    sequences: int = 1
    skew: float | tuple[float, ...] = 0.0
    locality: float = 0.0
    memory: int = 8
    accuracy: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("n_experts", "top_k", "n_layers", "decode_tokens", "sequences", "memory")
        for name in counts:
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} makes no routing; give at least 1")
        if self.top_k > self.n_experts:
            raise UsageError(
                f"top_k={self.top_k} is more than n_experts={self.n_experts}; a token's experts are distinct"
            )
        if self.prompt_tokens < 0:
            raise UsageError(f"prompt_tokens={self.prompt_tokens} is negative; 0 leaves the prompts out")
        if not 0.0 <= self.locality <= 1.0:
            raise UsageError(f"locality={self.locality} is a probability; give 0 to 1")
        if len(self.skews) != self.n_layers:
            raise UsageError(
                f"skew has {len(self.skews)} numbers for {self.n_layers} layers; give one, or one for each layer"
            )
        if not all(np.isfinite(s) and s >= 0.0 for s in self.skews):
            raise UsageError(f"skew={self.skew} must be finite and at least 0; 0 is flat routing")

    @property
    def skews(self) -> tuple[float, ...]:
        """Zipf's exponent of each layer."""
        return (self.skew,) * self.n_layers if isinstance(self.skew, int | float) else tuple(self.skew)

    def popularity(self) -> npt.NDArray[np.float64]:
        """``(L, N)`` probability that a single fresh choice takes each expert."""
        rng = np.random.default_rng([self.seed, 0])
        ranks = np.stack([rng.permutation(self.n_experts) + 1.0 for _ in range(self.n_layers)])
        weights = ranks ** -np.asarray(self.skews)[:, None]
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def trace(self) -> RoutingTrace:
        """Make the trace: for each sequence its prompt, then its generated tokens."""
        length = self.prompt_tokens + self.decode_tokens
        rng = np.random.default_rng([self.seed, 1])
        log_popularity = np.log(self.popularity())
        experts = np.concatenate([self._sequence(log_popularity, length, rng) for _ in range(self.sequences)])
        phase = np.repeat(np.array([PREFILL, DECODE], dtype=np.int8), [self.prompt_tokens, self.decode_tokens])
        routing = {name: value for name, value in asdict(self).items() if name != "accuracy"}
        trace = RoutingTrace(
            model=f"synthetic {self.n_layers}x{self.n_experts} top {self.top_k}",
            n_experts=self.n_experts,
            top_k=self.top_k,
            experts=experts,
            turn=np.repeat(np.arange(self.sequences, dtype=np.int32), length),
            phase=np.tile(phase, self.sequences),
            turn_names=tuple(f"sequence {i}" for i in range(self.sequences)),
            provenance={"synthetic": routing},
        )
        return trace if self.accuracy is None else with_accuracy(trace, self.accuracy, self.seed)

    def _sequence(
        self, log_popularity: npt.NDArray[np.float64], length: int, rng: np.random.Generator
    ) -> npt.NDArray[np.int16]:
        """``(length, L, k)``. Choosing the k largest ``log p + Gumbel noise`` is choosing k without replacement by p."""
        shape = (self.n_layers, self.top_k)
        layers = np.arange(self.n_layers)[:, None]
        picks = np.empty((length, *shape), dtype=np.int16)
        for token in range(length):
            scores = log_popularity + rng.gumbel(size=log_popularity.shape)
            back = rng.integers(1, self.memory + 1, size=shape)
            repeated = (rng.random(shape) < self.locality) & (back <= token)
            source = picks[token - np.minimum(back, token), layers, np.arange(self.top_k)]
            for slot in range(self.top_k):
                at = np.flatnonzero(repeated[:, slot])
                scores[at, source[at, slot]] = np.inf
            picks[token] = np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k]
        return picks

"""Which experts a later layer will need, told while a model runs: the predictors of `evaluators.moe_cache.predict`, live.

Letters: L layers, N experts per layer, k of them per token, T tokens of a pass.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autotune.errors import UsageError
from evaluators.moe_cache.predict import Predictor, learn_successors, likely_successors, most_popular
from evaluators.moe_cache.trace import Int16, RoutingTrace

Counts = npt.NDArray[np.int64]


class Foresight(abc.ABC):
    """What to prefetch after each layer's choice: for the layer `depth` ahead, and from layer 0 for all nearer ones too."""

    def __init__(self, n_layers: int, depth: int, top_k: int) -> None:
        self.n_layers = n_layers
        self.depth = depth
        self.top_k = top_k
        self.chosen: Int16 = np.empty(
            (0, n_layers, top_k), dtype=np.int16
        )  # of the running pass, as far as it is known

    def begin_pass(self, n_tokens: int) -> None:
        """Say that a forward pass of so many tokens begins."""
        self.chosen = np.full((n_tokens, self.n_layers, self.top_k), -1, dtype=np.int16)

    def saw(self, layer: int, picks: Int16) -> None:
        """Say what a layer's router chose, ``(T, k)``, each token's best first."""
        self.chosen[:, layer] = picks

    @abc.abstractmethod
    def predict(self, layer: int, distance: int) -> Int16:
        """``(T, k)`` experts of `layer`, told `distance` layers before it; -1 is none."""

    def ahead(self, layer: int) -> list[tuple[int, int]]:
        """Layers and experts to prefetch, in order, after the choice of `layer` is known."""
        found: list[tuple[int, int]] = []
        nearest = layer + (1 if layer == 0 else self.depth)
        for target in range(nearest, min(layer + self.depth, self.n_layers - 1) + 1):
            # In the order of first appearance, each once.
            wanted = dict.fromkeys(self.predict(target, target - layer).ravel().tolist())
            found.extend((target, expert) for expert in wanted if expert >= 0)
        return found


class RouterForesight(Foresight):
    """This layer's activations through the later layer's router (Eliseev and Mazur, arXiv:2312.17238, section 3.2)."""

    def __init__(self, n_layers: int, depth: int, top_k: int, ask: Callable[[int, int], Tensor]) -> None:
        super().__init__(n_layers, depth, top_k)
        self._ask = ask

    def predict(self, layer: int, distance: int) -> Int16:
        return self._ask(layer, distance).cpu().numpy().astype(np.int16)


class _Learning(Foresight):
    """Learns from a pass's choices when the next begins."""

    def begin_pass(self, n_tokens: int) -> None:
        for token in self.chosen:
            self.learn(token)
        super().begin_pass(n_tokens)

    @abc.abstractmethod
    def learn(self, chosen: Int16) -> None:
        """Count one token's choices, ``(L, k)``."""


class AffinityForesight(_Learning):
    """What followed this layer's choice before; see `predict.affinity_predictions`."""

    def __init__(self, n_layers: int, depth: int, n_experts: int, top_k: int) -> None:
        super().__init__(n_layers, depth, top_k)
        self._learned = 0
        shape = (n_layers, n_experts)
        self._counts: dict[int, tuple[Counts, Counts, Counts]] = {
            d: (np.zeros((*shape, n_experts), np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
            for d in range(1, depth + 1)
        }
        # Compiled, or loaded, before anything is timed; nothing is counted.
        nothing = np.full((n_layers, top_k), -1, dtype=np.int16)
        for distance, counts in self._counts.items():
            learn_successors(nothing, distance, *counts)
            likely_successors(nothing[0], *(one[0] for one in counts), 1, nothing[0])

    def learn(self, chosen: Int16) -> None:
        self._learned += 1
        for distance, counts in self._counts.items():
            learn_successors(chosen, distance, *counts)

    def predict(self, layer: int, distance: int) -> Int16:
        sources = self.chosen[:, layer - distance]
        out = np.full(sources.shape, -1, dtype=np.int16)
        if self._learned:
            followed, seen, popular = self._counts[distance]
            for row, chosen in zip(out, sources, strict=True):
                likely_successors(chosen, followed[layer], seen[layer], popular[layer], self._learned, row)
        return out


class PopularityForesight(_Learning):
    """The layer's most used experts so far; see `predict.popularity_predictions`."""

    def __init__(self, n_layers: int, depth: int, n_experts: int, top_k: int) -> None:
        super().__init__(n_layers, depth, top_k)
        self._counts = np.zeros((n_layers, n_experts), dtype=np.int64)
        self._layers = np.arange(n_layers)[:, None]
        self.predict(0, 1)  # compiled, or loaded, before anything is timed

    def learn(self, chosen: Int16) -> None:
        self._counts[self._layers, chosen] += 1  # a token's experts are distinct

    def predict(self, layer: int, distance: int) -> Int16:
        out = np.full((1, self.top_k), -1, dtype=np.int16)
        most_popular(self._counts[layer], out[0])
        return out


class OracleForesight(Foresight):
    """What a trace of this very generation says will be chosen."""

    def __init__(self, n_layers: int, depth: int, trace: RoutingTrace) -> None:
        super().__init__(n_layers, depth, trace.top_k)
        self._trace = trace
        self._at = self._next = 0

    def begin_pass(self, n_tokens: int) -> None:
        super().begin_pass(n_tokens)
        self._at, self._next = self._next, self._next + n_tokens
        if self._next > self._trace.n_tokens:
            raise UsageError(
                f"the oracle's trace ends after {self._trace.n_tokens} tokens and the generation goes on; give a trace of this "
                "very generation"
            )

    def predict(self, layer: int, distance: int) -> Int16:
        return self._trace.experts[self._at : self._next, layer]


def foresight(
    predictor: str,
    depth: int,
    shape: tuple[int, int, int],
    ask: Callable[[int, int], Tensor],
    oracle: RoutingTrace | None,
) -> Foresight | None:
    """The live predictor of a plan; None where nothing is prefetched.

    Args:
        shape: L, N and k.
        ask: ``(layer, distance)`` to the ``(T, k)`` experts that the layer's router chooses for the activations `distance`
            layers before it.
        oracle: a trace of the generation that is about to run.

    Raises:
        UsageError: for an oracle without a trace.
    """
    n_layers, n_experts, top_k = shape
    if depth == 0:
        return None
    chosen = Predictor.parse(predictor)
    if chosen is Predictor.RECORDED:
        return RouterForesight(n_layers, depth, top_k, ask)
    if chosen is Predictor.AFFINITY:
        return AffinityForesight(n_layers, depth, n_experts, top_k)
    if chosen is Predictor.POPULARITY:
        return PopularityForesight(n_layers, depth, n_experts, top_k)
    if oracle is None:
        raise UsageError(
            "predictor 'oracle' reads the future from a trace of this very generation; give one, or another predictor"
        )
    return OracleForesight(n_layers, depth, oracle)

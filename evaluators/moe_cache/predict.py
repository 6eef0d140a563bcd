"""Which experts a later layer will need: recorded predictions, causal predictors, an oracle, and a fixed accuracy."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from numba import njit

from autotune.errors import UsageError
from evaluators.moe_cache.trace import Batches, Int16, RoutingTrace

Counts = npt.NDArray[np.int64]


class Predictor(enum.StrEnum):
    """Where predictions come from. All but `ORACLE` know only what a running engine would."""

    RECORDED = "recorded"  # this layer's activations through the later layer's router (arXiv:2312.17238, section 3.2)
    AFFINITY = "affinity"  # what followed this layer's choice before
    POPULARITY = "popularity"  # the later layer's most used experts so far
    ORACLE = "oracle"  # the trace's own future, for limits: nobody can deploy it

    @classmethod
    def parse(cls, name: str) -> Predictor:
        try:
            return cls(name)
        except ValueError:
            raise UsageError(f"predictor {name!r} is unknown; use one of: {', '.join(cls)}") from None


def offered(trace: RoutingTrace) -> tuple[Predictor, ...]:
    """The predictors that an engine could run and that this trace can replay, its own recordings first."""
    causal = (Predictor.AFFINITY, Predictor.POPULARITY)
    return (Predictor.RECORDED, *causal) if _recorded_depths(trace) else causal


@dataclass(frozen=True, eq=False)
class Lookahead:
    """The experts predicted for every layer, as batches.

    Layer l is predicted from ``min(l, depth)`` layers before it, so layer 0 has none. `predictors` names, for each depth
    from 1, where its predictions came from: a `Predictor`.
    """

    batches: Batches
    predictors: tuple[str, ...]


_CACHE: WeakKeyDictionary[RoutingTrace, dict[tuple[int, Predictor], Lookahead]] = WeakKeyDictionary()
_AFFINITY: WeakKeyDictionary[RoutingTrace, dict[int, Int16]] = WeakKeyDictionary()
_POPULARITY: WeakKeyDictionary[RoutingTrace, Int16] = WeakKeyDictionary()


def lookahead(trace: RoutingTrace, depth: int, predictor: str = Predictor.RECORDED) -> Lookahead:
    """Predictions for prefetching `depth` layers ahead (at least 1). Computed once per trace, depth and predictor.

    For ``recorded``, depths that the trace has not recorded are predicted by ``affinity``.

    Raises:
        UsageError: for an unknown predictor.
    """
    chosen = Predictor.parse(predictor)
    known = _CACHE.setdefault(trace, {})
    if (depth, chosen) not in known:
        picks = np.full(trace.experts.shape, -1, dtype=np.int16)
        names = tuple(_used(trace, chosen, d).value for d in range(1, depth + 1))
        for d in range(1, min(depth, trace.n_layers - 1) + 1):
            layers = slice(d, None) if d == depth else slice(d, d + 1)
            picks[:, layers] = _picks(trace, _used(trace, chosen, d), d)[:, layers]
        known[depth, chosen] = Lookahead(trace.batches_of(picks), names)
    return known[depth, chosen]


def _recorded_depths(trace: RoutingTrace) -> int:
    return 0 if trace.predicted is None else len(trace.predicted)


def _used(trace: RoutingTrace, predictor: Predictor, depth: int) -> Predictor:
    """What really predicts at a depth: recordings end somewhere."""
    missing = predictor is Predictor.RECORDED and depth > _recorded_depths(trace)
    return Predictor.AFFINITY if missing else predictor


def _picks(trace: RoutingTrace, predictor: Predictor, depth: int) -> Int16:
    """``(T, L, k)``; what stands at layers below `depth` is no prediction."""
    if predictor is Predictor.RECORDED:
        assert trace.predicted is not None
        return np.asarray(trace.predicted[depth - 1], dtype=np.int16)
    if predictor is Predictor.AFFINITY:
        return affinity_predictions(trace, depth)
    return popularity_predictions(trace) if predictor is Predictor.POPULARITY else trace.experts


def affinity_predictions(trace: RoutingTrace, depth: int) -> Int16:
    """``(T, L, k)`` experts predicted for layer l from the choice at layer ``l - depth``, best first; -1 is none.

    Causal: pass p is predicted from passes before p alone. Expert j scores the sum over the token's experts i of the
    share of tokens with i at ``l - depth`` that had j at l; the popularity of j breaks ties. A prefill token that skips
    layer l is not predicted there.
    """
    known = _AFFINITY.setdefault(trace, {})
    if depth not in known:
        picks = np.full(trace.experts.shape, -1, dtype=np.int16)
        _predict_by_affinity(trace.experts, trace.token_pass, trace.n_experts, depth, picks)
        known[depth] = picks
    return known[depth]


def popularity_predictions(trace: RoutingTrace) -> Int16:
    """``(T, L, k)``: the experts of each layer that most tokens of the passes before went to, most first; -1 is none.

    Among equals the lower index. The same for every token of a pass, but a prefill token that skips a layer has none there.
    """
    if trace not in _POPULARITY:
        picks = np.full(trace.experts.shape, -1, dtype=np.int16)
        _predict_by_popularity(trace.experts, trace.token_pass, trace.n_experts, picks)
        _POPULARITY[trace] = picks
    return _POPULARITY[trace]


def with_accuracy(trace: RoutingTrace, accuracy: float, seed: int, depths: int = 3) -> RoutingTrace:
    """The trace with made-up predictions for studies: each true expert is predicted with probability `accuracy`.

    Otherwise an expert that the token does not use takes its place. With one seed, what a lower accuracy predicts
    rightly a higher one does too.

    Raises:
        UsageError: unless ``0 <= accuracy <= 1`` and ``depths >= 1``.
    """
    if not 0.0 <= accuracy <= 1.0 or depths < 1:
        raise UsageError(
            f"accuracy={accuracy}, depths={depths}: give an accuracy from 0 to 1 and a depth of at least 1"
        )
    rng = np.random.default_rng(seed)
    predicted = np.full((depths, *trace.experts.shape), -1, dtype=np.int16)
    for d in range(1, min(depths, trace.n_layers - 1) + 1):
        for token, experts in enumerate(trace.experts[:, d:]):
            right = rng.random(experts.shape) < accuracy
            order = rng.random((len(experts), trace.n_experts))
            routed = experts >= 0
            np.put_along_axis(order, np.where(routed, experts, 0), 2.0, axis=1)
            wrong = np.argsort(order, axis=1)[:, : trace.top_k]
            # Where few experts are left unused, there is nothing wrong to predict in some slots.
            unused = np.arange(trace.top_k) < trace.n_experts - trace.top_k
            predicted[d - 1, token, d:] = np.where(routed, np.where(right, experts, np.where(unused, wrong, -1)), -1)
    note = {"predictions": f"made up: accuracy {accuracy}, seed {seed}"}
    return replace(trace, predicted=predicted, provenance={**trace.provenance, **note})


@njit(cache=True, nogil=True)
def learn_successors(chosen: Int16, depth: int, followed: Counts, seen: Counts, popular: Counts) -> None:
    """Count one token, ``(L, k)``: which experts followed which, `depth` layers later."""
    n_layers, top_k = chosen.shape
    for layer in range(depth, n_layers):
        if chosen[layer, 0] < 0 or chosen[layer - depth, 0] < 0:
            continue
        for a in range(top_k):
            popular[layer, chosen[layer, a]] += 1
            source = chosen[layer - depth, a]
            seen[layer, source] += 1
            for b in range(top_k):
                followed[layer, source, chosen[layer, b]] += 1


@njit(cache=True, nogil=True)
def likely_successors(
    sources: Int16, followed: Counts, seen: Counts, popular: Counts, learned: int, out: Int16
) -> None:
    """Write the ``(k,)`` experts that most likely follow a token's `sources`, best first, by one layer's counts.

    Args:
        followed, seen, popular: of the layer: ``(N, N)``, ``(N,)``, ``(N,)``.
        learned: tokens counted so far, at least 1.
        out: ``(k,)``; where fewer were ever seen, the rest is left as it is.
    """
    top_k = len(sources)
    # Far below any share, so that it decides between experts that are else equal or unseen.
    score = popular / (1e3 * top_k * learned * learned)
    for source in sources:
        if seen[source] > 0:
            score += followed[source] / seen[source]
    for b in range(top_k):
        best = np.argmax(score)
        if score[best] <= 0.0:
            break
        out[b] = best
        score[best] = -1.0


@njit(cache=True, nogil=True)
def most_popular(counts: Counts, out: Int16) -> None:
    """Write the experts with the largest of ``(N,)`` counts, as many as `out` holds; never one without any."""
    left = counts.copy()
    for b in range(len(out)):
        best = np.argmax(left)
        if left[best] <= 0:
            break
        out[b] = best
        left[best] = -1


@njit(cache=True, nogil=True)
def _predict_by_affinity(
    experts: Int16, token_pass: npt.NDArray[np.int32], n_experts: int, depth: int, out: Int16
) -> None:
    n_tokens, n_layers, _ = experts.shape
    followed = np.zeros((n_layers, n_experts, n_experts), dtype=np.int64)
    seen = np.zeros((n_layers, n_experts), dtype=np.int64)
    popular = np.zeros((n_layers, n_experts), dtype=np.int64)
    learned = 0
    for token in range(n_tokens):
        while token_pass[learned] < token_pass[token]:
            learn_successors(experts[learned], depth, followed, seen, popular)
            learned += 1
        for layer in range(depth, n_layers):
            if experts[token, layer, 0] < 0 or experts[token, layer - depth, 0] < 0 or learned == 0:
                continue
            likely_successors(
                experts[token, layer - depth], followed[layer], seen[layer], popular[layer], learned, out[token, layer]
            )


@njit(cache=True, nogil=True)
def _predict_by_popularity(experts: Int16, token_pass: npt.NDArray[np.int32], n_experts: int, out: Int16) -> None:
    n_tokens, n_layers, top_k = experts.shape
    count = np.zeros((n_layers, n_experts), dtype=np.int64)
    most = np.full((n_layers, top_k), -1, dtype=np.int16)
    learned = 0
    for token in range(n_tokens):
        if token_pass[learned] < token_pass[token]:
            while token_pass[learned] < token_pass[token]:
                for layer in range(n_layers):
                    for a in range(top_k):
                        if experts[learned, layer, a] >= 0:
                            count[layer, experts[learned, layer, a]] += 1
                learned += 1
            for layer in range(n_layers):
                most_popular(count[layer], most[layer])
        for layer in range(n_layers):
            if experts[token, layer, 0] >= 0:
                out[token, layer] = most[layer]

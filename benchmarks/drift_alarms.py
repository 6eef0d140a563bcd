"""How often `autotune trace drift` calls two pieces of one made routing drifted, against the 5 % that it states.

    python benchmarks/drift_alarms.py [--pairs 300]

Three kinds of routing, 6 layers of 16 experts, top 4, Zipf exponent 0.8: *layers hold* (each layer keeps the last token's
experts with some probability, on its own), *tokens repeat* (all layers together), and *topics wander* (three topics, whose
weights follow a first-order autoregression, make experts more or less likely). Beside it: the same with single tokens dealt
out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from evaluators.moe_cache.drift import drift
from evaluators.moe_cache.token_blocks import Ints
from evaluators.moe_cache.trace import DECODE, RoutingTrace

LAYERS, EXPERTS, TOP_K = 6, 16, 4
SIZES = ((64, 64), (200, 100))

Make = Callable[[np.random.Generator, int], Ints]


def layers_hold(stay: float) -> Make:
    def make(rng: np.random.Generator, tokens: int) -> Ints:
        source = _held(rng.random((tokens, LAYERS)) < stay)
        return np.take_along_axis(_fresh(rng, tokens), source[:, :, None], axis=0)

    return make


def tokens_repeat(stay: float) -> Make:
    def make(rng: np.random.Generator, tokens: int) -> Ints:
        return _fresh(rng, tokens)[_held(rng.random((tokens, 1)) < stay)[:, 0]]

    return make


def topics_wander(persistence: float) -> Make:
    liking = 0.7 * np.random.default_rng(0).normal(size=(3, LAYERS, EXPERTS))

    def make(rng: np.random.Generator, tokens: int) -> Ints:
        weight = rng.normal(size=(tokens, 3))
        for token in range(1, tokens):
            weight[token] = persistence * weight[token - 1] + np.sqrt(1 - persistence**2) * weight[token]
        scores = np.einsum("td,dln->tln", weight, liking) + rng.gumbel(size=(tokens, LAYERS, EXPERTS))
        return np.argsort(-scores, axis=2)[:, :, :TOP_K]

    return make


KINDS: dict[str, Make] = {
    "independent tokens": layers_hold(0.0),
    "layers hold, 0.3": layers_hold(0.3),
    "layers hold, 0.6": layers_hold(0.6),
    "tokens repeat, 0.3": tokens_repeat(0.3),
    "tokens repeat, 0.6": tokens_repeat(0.6),
    "topics wander, 0.5": topics_wander(0.5),
    "topics wander, 0.8": topics_wander(0.8),
    "topics wander, 0.9": topics_wander(0.9),
}


def _fresh(rng: np.random.Generator, tokens: int) -> Ints:
    """``(tokens, L, k)`` experts without replacement, by Gumbel noise on log popularity."""
    liking = -0.8 * np.log(np.arange(EXPERTS) + 1.0)
    return np.argsort(-(liking + rng.gumbel(size=(tokens, LAYERS, EXPERTS))), axis=2)[:, :, :TOP_K]


def _held(hold: np.ndarray) -> Ints:
    """For every token the last one that did not hold; the first never does."""
    hold[0] = False
    return np.maximum.accumulate(np.where(hold, 0, np.arange(len(hold))[:, None]), axis=0)


def trace_of(picks: Ints) -> RoutingTrace:
    tokens = len(picks)
    phase = np.full(tokens, DECODE, dtype=np.int8)
    return RoutingTrace("made", EXPERTS, TOP_K, picks.astype(np.int16), np.zeros(tokens, dtype=np.int32), phase)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    pairs = parser.parse_args().pairs
    print("| routing | tokens | blocks, median tokens | drifted | no verdict | drifted, single tokens dealt out |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, make in KINDS.items():
        for sizes in SIZES:
            seeds = [np.random.default_rng([seed, side]) for seed in range(pairs) for side in (0, 1)]
            traces = [trace_of(make(rng, sizes[i % 2])) for i, rng in enumerate(seeds)]
            both = list(zip(traces[::2], traces[1::2], strict=True))
            found = [drift(a, b, dealings=199, seed=i) for i, (a, b) in enumerate(both)]
            single = [drift(a, b, dealings=199, seed=i, block_tokens=1) for i, (a, b) in enumerate(both)]
            print(
                f"| {kind} | {sizes[0]} and {sizes[1]} | {np.median([f.block_tokens for f in found]):.0f} | "
                f"{np.mean([bool(f.drifted) for f in found]):.1%} | {np.mean([f.drifted is None for f in found]):.1%} | "
                f"{np.mean([bool(f.drifted) for f in single]):.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

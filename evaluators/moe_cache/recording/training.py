"""Training of the tiny model on the standard library's text, and its held-out loss in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from autotune.errors import UsageError
from evaluators.moe_cache.recording.corpus import Document, Kind, joined
from evaluators.moe_cache.recording.tiny_moe import TinyMoE, TinyMoEConfig

# Tables and docstrings are small; drawn by size alone they would hardly be seen, and such turns would be noise.
MIXTURE: Mapping[Kind, float] = {"source": 0.55, "docs": 0.2, "docstrings": 0.15, "tables": 0.1}


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps of ``batch`` windows of the model's context.
        learning_rate: peak of a linear warm-up over ``warmup`` steps and a linear decay to zero.
        balance_weight: factor of the load-balancing loss (Switch Transformer uses 0.01).
    """

    steps: int = 1000
    batch: int = 8
    learning_rate: float = 2e-3
    warmup: int = 60
    weight_decay: float = 0.05
    balance_weight: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise UsageError(f"steps={self.steps} and batch={self.batch} must both be at least 1")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = (step + 1) / max(1, self.warmup)
        falling = (self.steps - step) / max(1, self.steps - self.warmup)
        return self.learning_rate * min(1.0, rising, falling)


@dataclass(frozen=True)
class Progress:
    """State of a training run after a step: mean training loss since the last report, in bits per byte."""

    step: int
    steps: int
    bits_per_byte: float
    balance: float


def train(
    documents: Sequence[Document],
    config: TinyMoEConfig,
    options: TrainingOptions,
    report: Callable[[Progress], None],
    every: int = 50,
) -> TinyMoE:
    """Train a model from scratch.

    Under `torch.use_deterministic_algorithms` the same seed, thread count and machine give the same weights.

    Args:
        report: called each `every` steps and after the last.
    """
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    texts = {kind: joined(documents, kind, held_out=False) for kind in MIXTURE}
    model = TinyMoE(config)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)
    losses: list[float] = []
    balances: list[float] = []
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = options.rate(step)
        tokens = _windows(texts, rng, options.batch, config.context + 1)
        # bfloat16 products are four times faster than float32 ones on CPUs that have them; master weights stay float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, balance, _ = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        (loss + options.balance_weight * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        balances.append(float(balance.detach()))
        if (step + 1) % every == 0 or step + 1 == options.steps:
            report(Progress(step + 1, options.steps, float(np.mean(losses)) / math.log(2), float(np.mean(balances))))
            losses, balances = [], []
    return model.eval()


@torch.no_grad()
def held_out_bits_per_byte(
    model: TinyMoE, documents: Sequence[Document], windows: int = 48, seed: int = 1
) -> dict[Kind, float]:
    """Mean cross-entropy of the next byte on windows of held-out documents, by kind of text, in bits per byte."""
    rng = np.random.default_rng(seed)
    result: dict[Kind, float] = {}
    for kind in MIXTURE:
        tokens = _windows({kind: joined(documents, kind, held_out=True)}, rng, windows, model.config.context + 1)
        logits, _, _ = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        result[kind] = float(loss) / math.log(2)
    return result


def _windows(texts: Mapping[Kind, npt.NDArray[np.uint8]], rng: np.random.Generator, count: int, length: int) -> Tensor:
    """Random windows, int64 ``count x length``, their kinds drawn by `MIXTURE`."""
    kinds = list(texts)
    shares = np.array([MIXTURE[kind] for kind in kinds])
    for kind, text in texts.items():
        if len(text) < length:
            raise UsageError(f"the corpus holds {len(text)} bytes of {kind}, but a window needs {length}")
    drawn = rng.choice(len(kinds), size=count, p=shares / shares.sum())
    starts = [int(rng.integers(0, len(texts[kinds[i]]) - length + 1)) for i in drawn]
    rows = [texts[kinds[i]][start : start + length] for i, start in zip(drawn, starts, strict=True)]
    return torch.from_numpy(np.stack(rows).astype(np.int64))

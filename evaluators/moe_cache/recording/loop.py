"""Runs a mixture-of-experts model over prompts, generates, and collects every routing decision into a trace.

The loop knows nothing of any model library: a `RoutedModel` runs one forward pass and says what its routers chose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotune.errors import UsageError
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace


@dataclass(frozen=True)
class Turn:
    """One prompt: its name in the trace and its tokens."""

    name: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    """How to generate, and what to record besides the choices.

    Attributes:
        decode_tokens: tokens to generate after each prompt.
        temperature: of the sampling; 0 takes the likeliest token.
        seed: of the sampling. Turn i draws from its own stream, so that adding a turn leaves the others as they are.
        depths: record predictions from 1..depths layers ahead; 0 records none.
        stop_at_end: end a turn when the model emits its end-of-text token.
    """

    decode_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    depths: int = 3
    stop_at_end: bool = True

    def __post_init__(self) -> None:
        for name in ("decode_tokens", "temperature", "depths"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value}; give a number from 0 up")


@dataclass(frozen=True)
class PassRecord:
    """One forward pass of N tokens through L layers.

    Attributes:
        logits: float ``(vocab,)`` of the last token.
        experts, weights: ``(N, L, k)``, each token's chosen experts and their router weights.
        predicted: ``(D, N, L, k)``; -1 where no earlier layer lies that far back.
    """

    logits: Tensor
    experts: npt.NDArray[np.int16]
    weights: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.int16]


class RoutedModel(Protocol):
    """A mixture-of-experts model that can be run one pass at a time and tells its routing."""

    @property
    def name(self) -> str: ...

    @property
    def n_experts(self) -> int: ...

    @property
    def context(self) -> int | None:
        """Most positions that the model can attend to; None where it has no limit."""

    @property
    def end_tokens(self) -> frozenset[int]: ...

    @property
    def expert_bytes(self) -> tuple[int, ...]: ...

    @property
    def dense_bytes(self) -> tuple[int, ...]: ...

    def begin_turn(self) -> None:
        """Forget everything before."""

    def forward(self, tokens: Sequence[int], depths: int) -> PassRecord:
        """Run the tokens after those of the turn so far."""


@dataclass(frozen=True)
class RecordingProgress:
    """Where a recording stands: `token` of `decode_tokens` generated in turn `turn` (from 0) of `turns`."""

    turn: int
    turns: int
    turn_name: str
    token: int
    decode_tokens: int


def pass_record(
    logits: Tensor,
    choices: Sequence[tuple[Tensor, Tensor]],
    predict: Callable[[int, int], Tensor],
    depths: int,
) -> PassRecord:
    """Stack what the layers chose into one record, the slots of each token by falling weight.

    Args:
        choices: per layer the experts and weights, each ``(N, k)``. Some routers do not sort their slots.
        predict: ``(layer, depth)`` to the predicted experts ``(N, k)``.
    """
    weights = torch.stack([weights.float() for _, weights in choices], dim=1)
    experts = torch.stack([experts for experts, _ in choices], dim=1)
    order = weights.argsort(dim=-1, descending=True, stable=True)
    weights, experts = weights.gather(-1, order), experts.gather(-1, order)
    predicted = np.full((depths, *experts.shape), -1, dtype=np.int16)
    for depth in range(1, depths + 1):
        for layer in range(depth, len(choices)):
            predicted[depth - 1, :, layer] = predict(layer, depth).cpu().numpy()
    return PassRecord(logits, experts.cpu().numpy().astype(np.int16), weights.cpu().numpy(), predicted)


@torch.no_grad()
def record_turns(
    model: RoutedModel,
    turns: Sequence[Turn],
    generation: Generation,
    provenance: Mapping[str, Any],
    progress: Callable[[RecordingProgress], None] | None = None,
) -> RoutingTrace:
    """Prefill each prompt in one pass, generate token by token, and return the routing of it all.

    A generated token is in the trace once it has been fed back, so a turn has at most ``decode_tokens`` decode tokens.

    Raises:
        UsageError: for no turn, an empty prompt, or one that leaves the context no room to generate.
    """
    if not turns:
        raise UsageError("there is no text to record; give at least one prompt")
    for turn in turns:
        _check_fits(turn, generation.decode_tokens, model.context)
    records: list[PassRecord] = []
    phases: list[int] = []
    indices: list[int] = []
    for index, turn in enumerate(turns):
        sampler = torch.Generator().manual_seed(generation.seed * 1_000_003 + index)
        model.begin_turn()
        feed: Sequence[int] = turn.tokens
        for token in range(generation.decode_tokens + 1):
            record = model.forward(feed, generation.depths)
            records.append(record)
            phases += [DECODE if token else PREFILL] * len(feed)
            indices += [index] * len(feed)
            if progress is not None:
                progress(RecordingProgress(index, len(turns), turn.name, token, generation.decode_tokens))
            feed = [_sample(record.logits, generation.temperature, sampler)]
            if generation.stop_at_end and feed[0] in model.end_tokens:
                break
    experts = np.concatenate([record.experts for record in records])
    return RoutingTrace(
        model=model.name,
        n_experts=model.n_experts,
        top_k=experts.shape[2],
        experts=experts,
        turn=np.array(indices, dtype=np.int32),
        phase=np.array(phases, dtype=np.int8),
        weights=np.concatenate([record.weights for record in records]),
        predicted=np.concatenate([record.predicted for record in records], axis=1) if generation.depths else None,
        expert_bytes=np.array(model.expert_bytes, dtype=np.int64),
        dense_bytes=np.array(model.dense_bytes, dtype=np.int64),
        turn_names=tuple(turn.name for turn in turns),
        provenance={**provenance, "generation": asdict(generation)},
    )


def _check_fits(turn: Turn, decode_tokens: int, context: int | None) -> None:
    if not turn.tokens:
        raise UsageError(f"text {turn.name!r} is empty; give one with at least one token")
    needed = len(turn.tokens) + decode_tokens
    if context is not None and needed > context:
        raise UsageError(
            f"text {turn.name!r} has {len(turn.tokens)} tokens, which with {decode_tokens} to generate exceeds the "
            f"model's context of {context}; shorten the prompt or decode fewer tokens"
        )


def _sample(logits: Tensor, temperature: float, sampler: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    chances = (logits.double().cpu() / temperature).softmax(dim=-1)
    return int(torch.multinomial(chances, 1, generator=sampler))

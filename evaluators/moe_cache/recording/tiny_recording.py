"""Records the tiny model: its prompts, taken from held-out text of several kinds, and its view as a `RoutedModel`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from autotune.errors import UsageError
from evaluators.moe_cache.recording.corpus import Document, Kind
from evaluators.moe_cache.recording.loop import PassRecord, Turn, pass_record
from evaluators.moe_cache.recording.tiny_moe import KVCache, TinyMoE, TinyMoEConfig

# Six conversations whose text differs enough for the popular experts to change between them.
TURN_KINDS: tuple[Kind, ...] = ("source", "docs", "tables", "source", "docstrings", "docs")
_MARGIN = 4  # documents shorter than this many prompts have no middle to cut one from


def held_out_prompts(
    documents: Sequence[Document], length: int, kinds: Sequence[Kind] = TURN_KINDS
) -> tuple[Turn, ...]:
    """One prompt per kind of text, each from another held-out document, cut at the start of a line in its middle.

    Args:
        length: bytes per prompt.

    Raises:
        UsageError: when a kind has too few held-out documents that are long enough.
    """
    turns: list[Turn] = []
    for index, kind in enumerate(kinds):
        rank = list(kinds[:index]).count(kind)
        long = [d for d in documents if d.kind == kind and d.held_out and len(d.text) >= _MARGIN * length]
        # From the middle outwards by size: neither boilerplate nor the one giant of its kind.
        ordered = sorted(long, key=lambda d: (len(d.text), d.name))
        ordered = ordered[len(ordered) // 2 :] + ordered[: len(ordered) // 2]
        if rank >= len(ordered):
            raise UsageError(
                f"the corpus has {len(ordered)} held-out documents of kind {kind!r} with {_MARGIN * length} bytes, but "
                f"{rank + 1} prompts need one each; ask for shorter or fewer prompts"
            )
        text = ordered[rank].text
        start = text.find(b"\n", len(text) // 2) + 1
        start = min(start or len(text) // 2, len(text) - length)
        turns.append(Turn(f"{kind}: {ordered[rank].name.removeprefix('topic:')}", tuple(text[start : start + length])))
    return tuple(turns)


class TinyRoutedModel:
    """The tiny model as the recording loop sees it."""

    name = "tiny-moe"
    end_tokens: frozenset[int] = frozenset()

    def __init__(self, model: TinyMoE) -> None:
        self._model = model
        self._cache = KVCache(model.config.n_layers)
        self.n_experts = model.config.n_experts
        self.context = model.config.context
        self.expert_bytes = tuple(block.moe.expert_bytes for block in model.layers())
        self.dense_bytes = tuple(model.dense_bytes())

    def begin_turn(self) -> None:
        self._cache = KVCache(self._model.config.n_layers)

    def forward(self, tokens: Sequence[int], depths: int) -> PassRecord:
        device = self._model.embedding.weight.device
        logits, _, routings = self._model(torch.tensor([list(tokens)], device=device), self._cache)
        choices = [(routing.experts, routing.weights) for routing in routings]
        return pass_record(
            logits[0, -1], choices, lambda layer, depth: self._model.predict(routings, layer, depth), depths
        )


def save_tiny(model: TinyMoE, path: Path, trained: Mapping[str, Any]) -> None:
    """Keep trained weights, their architecture and what is to be told of the training."""
    torch.save({"state": model.state_dict(), "config": asdict(model.config), "trained": dict(trained)}, path)


def load_tiny(path: Path) -> TinyMoE:
    """The model that `save_tiny` kept.

    Raises:
        UsageError: when the file is none of these.
    """
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        model = TinyMoE(TinyMoEConfig(**kept.get("config", {})))
        model.load_state_dict(kept["state"])
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{path} does not hold the tiny model ({what}); make it with scripts/train_tiny_moe.py --weights, or give the "
            "folder of a Hugging Face checkpoint"
        ) from error
    return model.eval()

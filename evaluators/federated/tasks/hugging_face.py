"""A local Hugging Face checkpoint with LoRA adapters (arXiv:2106.09685), of which only the adapters are trained and sent."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotune.checks import positive, whole
from autotune.errors import UsageError
from evaluators.federated.tasks.corpus import own_text
from evaluators.federated.tasks.data import LEAST_TESTED, LEAST_TRAINED, Ints, text_data
from evaluators.federated.tasks.learner import SequentialLearner
from evaluators.federated.tasks.task import Task
from evaluators.moe_cache.recording.checkpoint import byte_codec, check_folder, load_codec, load_model

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")
_BYTES = 256
_TESTED_SHARE = 0.1


class Scores(nn.Module):
    """A causal language model of transformers that gives its logits and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Token ids ``(b, t)`` to scores ``(b, t, vocabulary)`` of the next."""
        logits: Tensor = self.model(input_ids=x, use_cache=False).logits
        return logits.float()


class AdapterLearner(SequentialLearner):
    """Trains the adapters alone; the checkpoint is loaded once and shared by all devices."""

    def __init__(self, model: nn.Module) -> None:
        """`model` is a `peft.PeftModel` whose adapters are the only trained parameters."""
        super().__init__(partial(Scores, model))

    def initial(self, seed: int) -> Tensor:
        """Adapters that change nothing yet: one factor drawn by the seed as LoRA does, the other zero."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.module.modules():
                reset = getattr(module, "reset_lora_parameters", None)
                if callable(reset):
                    reset("default", True)
        return self.tensors.flat(dict(self.module.named_parameters()))


def hugging_face(
    model: str | Path,
    path: str | Path,
    rank: int = 8,
    context: int = 64,
    tokens: int = 200_000,
    seed: int = 0,
    learning_rate: float = 0.1,
    target_accuracy: float | None = None,
) -> Task:
    """Next tokens of a user's text by a checkpoint with adapters on all its linear layers.

    Args:
        model: folder of the checkpoint. Text is cut by its own tokenizer, and into bytes where it has none.
        path: of the text, a file or a folder; see `corpus.own_text`.
        rank: of the adapters, which are scaled by 1.
        context: tokens of a sample.
        tokens: to take of the text, evenly over its sources.
        seed: decides which windows are tested on.

    Raises:
        UsageError: when packages are missing, the folder is no checkpoint, or there is too little text.
    """
    peft = _import_peft()
    folder = Path(model).expanduser()
    check_folder(folder)
    whole("rank", rank, 1)
    whole("context", context, 1)
    whole("tokens", tokens, 1)
    loaded: Any = load_model(folder, "cpu", "float32")
    longest = getattr(loaded.config, "max_position_embeddings", None)
    if longest is not None and context > longest:
        raise UsageError(f"context is {context}, and model {folder} reads {longest} tokens; use at most as many")
    vocabulary = int(loaded.get_input_embeddings().num_embeddings)
    parts = _tokenised(folder, Path(path).expanduser(), vocabulary)
    size, needed = min(tokens, sum(map(len, parts.values()))), 2 * context * (LEAST_TRAINED + LEAST_TESTED)
    if size < needed:
        raise UsageError(f"text {str(path)!r} gives {size} tokens; give at least {needed} for contexts of {context}")
    tested = max(LEAST_TESTED, int(_TESTED_SHARE * size) // context)
    data = text_data(parts, context, tokens, tested, whole("seed", seed, 0))
    adapters = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    learner = AdapterLearner(peft.get_peft_model(loaded, adapters))
    rate = positive("learning_rate", learning_rate)
    return Task("hugging-face", data, learner, rate, batch=4, local_steps=5, target_accuracy=target_accuracy)


def _import_peft() -> Any:
    try:
        import peft  # noqa: PLC0415  # optional, and slow to import
        import transformers  # noqa: F401, PLC0415
    except ImportError:
        raise UsageError(
            'training adapters of a checkpoint needs transformers and peft; install them with pip install "autotune[hf]"'
        ) from None
    return peft


def _tokenised(folder: Path, path: Path, vocabulary: int) -> dict[str, Ints]:
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if not has_tokenizer and vocabulary < _BYTES:
        raise UsageError(
            f"model {folder} has no tokenizer, and with {vocabulary} tokens it cannot read bytes; add its tokenizer's files"
        )
    codec = load_codec(folder) if has_tokenizer else byte_codec()
    texts = own_text(path)
    parts = {
        source: np.asarray(codec.encode(text.decode(errors="replace")), dtype=np.int64)
        for source, text in texts.items()
    }
    highest = max(int(part.max(initial=0)) for part in parts.values())
    if highest >= vocabulary:
        raise UsageError(
            f"the tokenizer of {folder} gives token {highest}, and the model has {vocabulary}; use the tokenizer of this model"
        )
    return parts

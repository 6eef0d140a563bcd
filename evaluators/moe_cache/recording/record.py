"""`record`: the routing trace of a local Hugging Face checkpoint on given texts."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from autotune.errors import UsageError
from evaluators.moe_cache.recording.checkpoint import (
    byte_codec,
    check_folder,
    import_transformers,
    load_codec,
    load_model,
)
from evaluators.moe_cache.recording.hugging_face import HuggingFaceRoutedModel
from evaluators.moe_cache.recording.loop import Generation, RecordingProgress, Turn, record_turns
from evaluators.moe_cache.trace import RoutingTrace

Tokenization = Literal["model", "bytes"]


def record(
    model_dir: str | Path,
    text_files: Sequence[str | Path],
    generation: Generation | None = None,
    *,
    prompt_tokens: int | None = None,
    tokenization: Tokenization = "model",
    device: str = "cpu",
    dtype: str = "auto",
    name: str | None = None,
    progress: Callable[[RecordingProgress], None] | None = None,
) -> RoutingTrace:
    """Run a local mixture-of-experts checkpoint over texts and record its routing, weights and predictions.

    Each file is one turn: its text is prefilled in one pass, then tokens are generated with a key-value cache. Only
    layers with experts are traced; `provenance["layers"]` says which decoder layers they are. The network is
    never asked.

    Args:
        model_dir: a folder written by ``save_pretrained``.
        text_files: UTF-8 texts.
        generation: how to generate; the defaults of `Generation` if None.
        prompt_tokens: prefill only so many tokens of each text; all if None.
        tokenization: ``model`` uses the folder's tokenizer, ``bytes`` feeds UTF-8 bytes as token ids.
        device, dtype: where and in what precision to run; ``auto`` is the checkpoint's own precision.
        name: of the model in the trace; the folder's name if None.
        progress: called after every forward pass.

    Raises:
        UsageError: one sentence that names what cannot be used.
    """
    generation = Generation() if generation is None else generation
    folder = Path(model_dir)
    import_transformers()
    check_folder(folder)
    if tokenization not in ("model", "bytes"):
        raise UsageError(f"tokenization {tokenization!r} is unknown; use model or bytes")
    if prompt_tokens is not None and prompt_tokens < 1:
        raise UsageError(f"prompt_tokens is {prompt_tokens}; give at least 1, or leave it out for the whole text")
    texts = _read_texts(text_files)
    encode = (byte_codec() if tokenization == "bytes" else load_codec(folder)).encode
    turns = [Turn(turn_name, tuple(encode(text)[:prompt_tokens])) for turn_name, text in texts]
    model = load_model(folder, device, dtype)
    _check_vocabulary(turns, model)
    routed = HuggingFaceRoutedModel(model, name or folder.resolve().name, predictions=generation.depths > 0)
    provenance = {
        "recorder": "autotune trace record",
        "model_type": str(getattr(model.config, "model_type", "")),
        "layers": list(routed.layer_indices),
        "tokenization": tokenization,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": import_transformers().__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    return record_turns(routed, turns, generation, provenance, progress)


def _read_texts(text_files: Sequence[str | Path]) -> list[tuple[str, str]]:
    texts: list[tuple[str, str]] = []
    for file in text_files:
        path = Path(file)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"text {path} cannot be read ({error.strerror}); give a text file") from None
        except UnicodeDecodeError:
            raise UsageError(f"text {path} is not UTF-8; give a text file in UTF-8") from None
        if not text.strip():
            raise UsageError(f"text {path} is empty; give a file with some text")
        texts.append((path.name, text))
    if not texts:
        raise UsageError("no text file was given; give at least one")
    return texts


def _check_vocabulary(turns: Sequence[Turn], model: Any) -> None:
    size = int(model.get_input_embeddings().weight.shape[0])
    for turn in turns:
        if turn.tokens and max(turn.tokens) >= size:
            raise UsageError(
                f"text {turn.name!r} has token {max(turn.tokens)}, but the model's vocabulary has {size}; "
                "use the tokenizer that belongs to the model"
            )

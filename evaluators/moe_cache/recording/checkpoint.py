"""Loads a local Hugging Face checkpoint and its tokenizer; never asks the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autotune.errors import UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(folder: Path, device: str, dtype: str) -> nn.Module:
    """Load a causal language model from a local folder; the network is never asked.

    Raises:
        UsageError: when transformers is missing, the folder is absent or no checkpoint, or the device or dtype unknown.
    """
    transformers = import_transformers()
    check_folder(folder)
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError):
        raise UsageError(
            f"device {device!r} is not available here; use cpu, or cuda on a machine that has it"
        ) from None
    logging = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the caller shows progress in its own way
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            dtype=dtype,
            output_loading_info=True,
        )
    except Exception as error:  # a damaged checkpoint breaks transformers, torch and safetensors in any way it likes
        raise UsageError(
            f"model {folder} cannot be loaded ({_first_line(error)}); give a folder written by save_pretrained"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    # transformers fills absent weights with random numbers and only warns; a trace of those would be noise.
    absent = sorted(report["missing_keys"])
    if absent:
        raise UsageError(
            f"model {folder} lacks {len(absent)} weights, {absent[0]} the first; give a complete checkpoint"
        )
    loaded: nn.Module = model.to(target).eval()
    return loaded


def import_transformers() -> Any:
    """The transformers module, or a UsageError that names the extra."""
    try:
        import transformers  # noqa: PLC0415  # optional, and slow to import
    except ImportError:
        raise UsageError(
            'recording a checkpoint needs transformers; install it with pip install "autotune[hf]"'
        ) from None
    return transformers


def check_folder(folder: Path) -> None:
    """Raise a UsageError unless the folder holds a checkpoint's config.json."""
    if not folder.is_dir():
        raise UsageError(f"model folder {folder} does not exist; give the local folder of a Hugging Face checkpoint")
    if not (folder / "config.json").is_file():
        raise UsageError(f"model folder {folder} has no config.json; give a folder written by save_pretrained")


@dataclass(frozen=True)
class Codec:
    """Text to token ids and back."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def byte_codec() -> Codec:
    """UTF-8 bytes as token ids; what is no UTF-8 shows as the replacement character, and ids beyond a byte too."""
    return Codec(
        lambda text: list(text.encode()),
        lambda tokens: b"".join(bytes([t]) if t < 256 else b"\xff" for t in tokens).decode(errors="replace"),
    )


def load_codec(folder: Path) -> Codec:
    """The folder's own tokenizer.

    Raises:
        UsageError: when transformers is missing or the folder has no tokenizer that it can read.
    """
    transformers = import_transformers()
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above: tokenizer files of any kind are parsed by several libraries
        raise UsageError(
            f"the tokenizer of {folder} cannot be loaded ({_first_line(error)}); add its files to the folder, or ask for "
            "tokenization by bytes"
        ) from error
    return Codec(
        lambda text: [int(token) for token in tokenizer(text)["input_ids"]],
        lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True)),
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

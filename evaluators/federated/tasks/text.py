"""Next bytes of text by a small transformer: of the standard library's source, or of text of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from autotune.checks import positive, whole
from autotune.errors import UsageError
from evaluators.federated.tasks.corpus import VOCABULARY, own_text, standard_library, symbols
from evaluators.federated.tasks.data import LEAST_TESTED, LEAST_TRAINED, text_data
from evaluators.federated.tasks.learner import VectorisedLearner
from evaluators.federated.tasks.networks import ByteTransformer
from evaluators.federated.tasks.task import Task

_TESTED = 1024  # windows
_TESTED_SHARE = 0.1  # of a small text


def text(
    layers: int = 1, width: int = 32, heads: int = 2, context: int = 32, megabytes: float = 1.5, seed: int = 0
) -> Task:
    """Python's own source code, whose groups are families of modules.

    It differs between versions of Python, and results with it; `Data.sha256` tells which text it was.

    Args:
        layers, width, heads, context: of the transformer; its feed-forward networks are four times as wide.
        megabytes: of text, evenly over the families.
        seed: decides which windows are tested on.
    """
    return _task("text", standard_library(), layers, width, heads, context, megabytes, seed, 0.42)


def text_files(
    path: str | Path,
    layers: int = 1,
    width: int = 32,
    heads: int = 2,
    context: int = 32,
    megabytes: float = 1.5,
    seed: int = 0,
    target_accuracy: float | None = None,
) -> Task:
    """A user's own text; see `corpus.own_text` for what it may be and `text` for the rest.

    Raises:
        UsageError: where there is no text, or too little of it.
    """
    sources = own_text(Path(path).expanduser())
    size, needed = sum(map(len, sources.values())), 2 * context * (LEAST_TRAINED + LEAST_TESTED)
    if size < needed:
        raise UsageError(f"text {str(path)!r} has {size} bytes; give at least {needed} for contexts of {context}")
    return _task("text-files", sources, layers, width, heads, context, megabytes, seed, target_accuracy)


def _task(
    name: str,
    sources: Mapping[str, bytes],
    layers: int,
    width: int,
    heads: int,
    context: int,
    megabytes: float,
    seed: int,
    target: float | None,
) -> Task:
    whole("context", context, 1)
    budget = int(positive("megabytes", megabytes) * 1e6)
    parts = {source: symbols(part) for source, part in sources.items()}
    windows = min(budget, sum(map(len, parts.values()))) // context
    tested = min(_TESTED, max(LEAST_TESTED, int(_TESTED_SHARE * windows)))
    data = text_data(parts, context, budget, tested, whole("seed", seed, 0))
    learner = VectorisedLearner(partial(ByteTransformer, VOCABULARY, context, width, layers, heads))
    return Task(name, data, learner, learning_rate=1.0, batch=16, local_steps=10, target_accuracy=target)

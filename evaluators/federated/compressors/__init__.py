"""Compressors of vectors, by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from types import MappingProxyType

from autotune.errors import UsageError
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.fedzip import FedZip
from evaluators.federated.compressors.half import Half
from evaluators.federated.compressors.low_rank import LowRank
from evaluators.federated.compressors.none import Uncompressed
from evaluators.federated.compressors.nonuniform import Nonuniform
from evaluators.federated.compressors.quantise import Uniform
from evaluators.federated.compressors.rand_k import RandK
from evaluators.federated.compressors.sign import Sign
from evaluators.federated.compressors.top_k import TopK
from evaluators.federated.tensors import Tensors

__all__ = ["COMPRESSORS", "Compressor", "Sent", "make"]

_ALL: tuple[type[Compressor], ...] = (Uncompressed, Half, TopK, RandK, Sign, Uniform, Nonuniform, FedZip, LowRank)
COMPRESSORS: Mapping[str, type[Compressor]] = MappingProxyType({kind.name: kind for kind in _ALL})


def make(name: str, tensors: Tensors, **options: object) -> Compressor:
    """The compressor of that name.

    Args:
        name: of `COMPRESSORS`.
        tensors: of the model whose vectors are sent; at least one number.
        options: of the compressor, such as ``scaled`` of rand-k and ``clusters`` of fedzip.

    Raises:
        UsageError: for an unknown name or option, a value that cannot be, and tensors without a number.
    """
    if name not in COMPRESSORS:
        raise UsageError(
            f"compressor {name!r} is unknown{_hint(name, COMPRESSORS)}; known are: {', '.join(COMPRESSORS)}"
        )
    if tensors.size < 1:
        raise UsageError("tensors is empty; give at least one tensor with a number")
    kind = COMPRESSORS[name]
    parameters = inspect.signature(kind).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            way_out = f"{_hint(option, known)}; known are: {', '.join(known)}" if known else "; it has none"
            raise UsageError(f"option {option!r} of compressor {name!r} is unknown{way_out}")
    return kind(tensors, **options)


def _hint(given: str, known: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

"""How long one expert, or the dense part of a layer, takes on a device: the work itself, ready to be timed.

Weights are cold, as they are when a model streams through many experts: each call uses the next of several copies that
together exceed every processor cache. Kernels are eager PyTorch; on CUDA a sample is the mean of several calls launched
back to back, so that it includes launch overhead exactly where that is the bottleneck.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import psutil
import torch
import torch.nn.functional as F

from autotune.errors import UsageError
from autotune.hardware.shapes import DenseShape, FfnShape

# Bytes of weights in rotation. Four times and more the last-level cache of common server parts (32 to 64 MiB that a
# core can reach) and of an H200 (50 MiB); a single expert above this size is cold by itself.
COLD_BYTES = 2**28
_CUDA_CALLS = 8
_AT_ONCE = 256  # copies of a rotation
_GIB = 2**30


class Work(Protocol):
    """Some layer's work on cold weights."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs and outputs are ``tokens x hidden``."""


def work_of(shape: FfnShape | DenseShape, device: str) -> Work:
    """Allocate the weights of a shape on a device.

    Raises:
        UsageError: where the device lacks the memory, is absent, or cannot compute in the shape's dtype.
    """
    copies = max(1, math.ceil(COLD_BYTES / shape.weight_bytes))
    _check_device(shape, device, copies)
    make: Callable[..., Work] = _Ffn if isinstance(shape, FfnShape) else _Dense
    work = make(shape, device, copies)
    try:
        with torch.inference_mode():
            work(_inputs(shape, 1, device))
    except (RuntimeError, NotImplementedError) as error:
        first_line = str(error).splitlines()[0]
        raise UsageError(f"dtype {shape.dtype} does not work on {device} ({first_line}); use another dtype") from error
    return work


def timer(work: Work, shape: FfnShape | DenseShape, tokens: int, device: str) -> Callable[[], float]:
    """A function that does the work once for `tokens` tokens and returns milliseconds."""
    x = _inputs(shape, tokens, device)

    def on_cpu() -> float:
        with torch.inference_mode():
            begin = time.perf_counter()
            work(x)
            return (time.perf_counter() - begin) * 1e3

    def on_cuda() -> float:
        before, after = cuda_events()
        with torch.inference_mode():
            before.record()
            for _ in range(_CUDA_CALLS):
                work(x)
            after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / _CUDA_CALLS

    return on_cuda if device == "cuda" else on_cpu


def cuda_events() -> tuple[Any, Any]:
    """Two CUDA events that remember when they passed."""
    event: Any = torch.cuda.Event  # untyped in torch
    return event(enable_timing=True), event(enable_timing=True)


class _Ffn:
    """SwiGLU expert; see `FfnShape`."""

    def __init__(self, shape: FfnShape, device: str, copies: int) -> None:
        up = _weight(shape.inter, shape.hidden, shape.dtype, device)
        down = _weight(shape.hidden, shape.inter, shape.dtype, device)
        self._experts = _rotated((up, up, down), copies)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        w1, w3, w2 = next(self._experts)
        return F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2)


class _Dense:
    """Attention projections, attention over the cached context, router; see `DenseShape`."""

    def __init__(self, shape: DenseShape, device: str, copies: int) -> None:
        self._shape = shape
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        qkv = _weight(width + 2 * kv_width, shape.hidden, shape.dtype, device)
        out = _weight(shape.hidden, width, shape.dtype, device)
        router = _weight(shape.experts, shape.hidden, shape.dtype, device)
        cached = _weight(2 * shape.kv_heads * shape.context, shape.head_dim, shape.dtype, device)
        cached = cached.view(2, 1, shape.kv_heads, shape.context, shape.head_dim)
        self._layers = _rotated((qkv, out, router, cached), copies)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shape = self._shape
        qkv, out, router, cached = next(self._layers)
        n = x.shape[0]
        projected = F.linear(x, qkv)
        # The new keys and values would be written to the cache; that is n rows, nothing beside reading the context.
        queries = projected[:, : shape.heads * shape.head_dim]
        # Without a mask, the queries of a group's heads are just more queries on the group's one head: exact GQA.
        grouped = queries.view(n, shape.kv_heads, -1, shape.head_dim).transpose(0, 1)
        grouped = grouped.reshape(1, shape.kv_heads, -1, shape.head_dim)
        attended = F.scaled_dot_product_attention(grouped, cached[0], cached[1])
        attended = attended.view(shape.kv_heads, n, -1).transpose(0, 1).reshape(n, -1)
        hidden = F.linear(attended, out) + x
        F.linear(hidden, router)
        return hidden


def _weight(rows: int, columns: int, dtype: str, device: str) -> torch.Tensor:
    """Random weights scaled so that activations stay of order one: no infinities, no slow denormals."""
    bound = math.sqrt(3.0 / columns)
    return torch.empty(rows, columns, dtype=getattr(torch, dtype), device=device).uniform_(-bound, bound)


def _rotated(weights: Sequence[torch.Tensor], copies: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """So many sets of the same weights in turn, without end, each in memory of its own.

    Small weights have ten thousands of copies: they lie in one block each, and a few hundred at a time are made tensors, which
    falls on one call in as many.
    """
    blocks = [w.expand(copies, *w.shape).clone() for w in weights]
    while True:
        for first in range(0, copies, _AT_ONCE):
            yield from list(zip(*(block[first : first + _AT_ONCE].unbind() for block in blocks), strict=True))


def _inputs(shape: FfnShape | DenseShape, tokens: int, device: str) -> torch.Tensor:
    return torch.randn(tokens, shape.hidden, device=device).to(getattr(torch, shape.dtype))


def _check_device(shape: FfnShape | DenseShape, device: str, copies: int) -> None:
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is unknown; use cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda is absent: torch sees no CUDA device here; measure on cpu")
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    # One copy more than in rotation exists while the copies are made.
    wanted = shape.weight_bytes * (copies + 1)
    if wanted > free:
        raise UsageError(
            f"shape {shape} needs {wanted / _GIB:.1f} GiB on {device} to be measured and {free / _GIB:.1f} GiB are free; "
            "free memory or measure a smaller shape"
        )

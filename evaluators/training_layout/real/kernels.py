"""Times of products, attention and copies on this machine's GPU or CPUs."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from autotune.hardware.compute import cuda_events
from evaluators.training_layout.real.process import serve

# Calls of a sample are so many that it takes this long: launches and clocks are microseconds.
_SAMPLE_S = 2e-3
_MOST_CALLS = 100
_MEMORY_SHARE = 0.25  # of what is free, for one measurement
_FP8_CAPABILITY = (8, 9)  # of the first GPUs that multiply in it


@dataclass(frozen=True)
class _Shapes:
    """What is measured: all combinations.

    Attributes:
        product: m, n and k.
        streams, tokens, widths: of attention.
        copied: bytes of a copy, beyond every cache.
    """

    product: tuple[int, ...]
    streams: tuple[int, ...]
    tokens: tuple[int, ...]
    widths: tuple[int, ...]
    copied: int


# Factors of 4 between neighbours: rates change by less than half from one to the next where kernels are busy.
_SHAPES = {
    ("cuda", False): _Shapes(
        (128, 512, 2048, 8192, 32768), (1, 8, 64, 256), (512, 2048, 8192, 32768), (64, 128), 2**30
    ),
    ("cuda", True): _Shapes((512, 2048, 8192), (8, 64), (1024, 8192), (128,), 2**30),
    ("cpu", False): _Shapes((64, 256, 1024, 4096), (1, 4, 16), (256, 1024, 4096), (64, 128), 2**29),
    ("cpu", True): _Shapes((64, 256, 1024), (1, 4), (128, 512), (64,), 2**27),
}


def repeats(quick: bool) -> int:
    """Samples of a median."""
    return 3 if quick else 7


def measure(device: str, quick: bool, report: Callable[[str], None]) -> dict[str, Any]:
    """The fields `gemm`, `attention_kind`, `attention` and `memory_bytes_s` of `own_tables.OwnTables`.

    Args:
        report: called with what is measured next.
    """
    shapes = _SHAPES[device, quick]
    kinds = {"fp32": _plain(torch.float32)} if device == "cpu" else {"bf16": _plain(torch.bfloat16)}
    if device == "cuda" and torch.cuda.get_device_capability() >= _FP8_CAPABILITY:
        kinds["fp8"] = _product_fp8
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as float32 is trained in on GPUs that have it
        kinds["fp32"] = _plain(torch.float32)
    kind, dtype = next(iter(kinds)), torch.float32 if device == "cpu" else torch.bfloat16
    with torch.inference_mode():
        products: dict[str, list[tuple[int, int, int, float]]] = {}
        for name, product in kinds.items():
            report(f"products in {name}")
            products[name] = [
                (m, n, k, _seconds(product(m, n, k, device), device, quick))
                for m, n, k in itertools.product(shapes.product, repeat=3)
                if torch.float32.itemsize * (m * n + n * k + m * k) < _MEMORY_SHARE * _free(device)
            ]
        report(f"attention in {kind}")
        attention = {
            width: [
                (streams, tokens, _seconds(_attention(streams, tokens, width, dtype, device), device, quick))
                for streams, tokens in itertools.product(shapes.streams, shapes.tokens)
                if 4 * dtype.itemsize * streams * tokens * width < _MEMORY_SHARE * _free(device)
            ]
            for width in shapes.widths
        }
        report("memory")
        source = torch.zeros(shapes.copied, dtype=torch.uint8, device=device)
        target = torch.zeros_like(source)
        bandwidth = 2 * shapes.copied / _seconds(lambda: target.copy_(source), device, quick)
    return {"gemm": products, "attention_kind": kind, "attention": attention, "memory_bytes_s": bandwidth}


def _plain(dtype: torch.dtype) -> Callable[[int, int, int, str], Callable[[], Tensor]]:
    def product(m: int, n: int, k: int, device: str) -> Callable[[], Tensor]:
        # As a linear layer has them: weights are ``n x k``.
        x, weight = _drawn((m, k), dtype, device), _drawn((n, k), dtype, device)
        return lambda: functional.linear(x, weight)

    return product


def _product_fp8(m: int, n: int, k: int, device: str) -> Callable[[], Tensor]:
    x, weight = (_drawn(size, torch.bfloat16, device).to(torch.float8_e4m3fn) for size in ((m, k), (n, k)))
    scale = torch.ones((), device=device)

    def call() -> Tensor:
        out: Tensor = torch._scaled_mm(x, weight.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)
        return out

    return call


def _attention(streams: int, tokens: int, width: int, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    q, k, v = (_drawn((1, streams, tokens, width), dtype, device) for _ in range(3))
    return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _drawn(size: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    # Zeros would let a GPU clock higher than data does.
    return torch.randn(size, dtype=dtype, device=device)


def _free(device: str) -> float:
    return float(torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available)


def _seconds(call: Callable[[], Any], device: str, quick: bool) -> float:
    """Median seconds of a call, over samples of several calls each where they are short."""
    call()
    once = _sample(call, 1, device)
    calls = int(min(_MOST_CALLS, max(1.0, _SAMPLE_S / max(once, 1e-9))))
    return statistics.median(_sample(call, calls, device) for _ in range(repeats(quick)))


def _sample(call: Callable[[], Any], calls: int, device: str) -> float:
    if device == "cuda":
        before, after = cuda_events()
        before.record()
        for _ in range(calls):
            call()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3 / calls
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


if __name__ == "__main__":
    serve(lambda told: measure(told["device"], told["quick"], lambda _: None))

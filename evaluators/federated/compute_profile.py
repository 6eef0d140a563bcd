"""How long a training step takes on one core of a machine that was measured."""

from __future__ import annotations

import functools
import importlib.resources
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.hardware.fingerprint import cpu_facts
from evaluators.federated.tasks.task import Task

_BATCHES = (1, 4, 16, 64, 256)
_REPEATS = 31
_PRODUCT = 768  # rows and columns of the matrices whose product tells the peak
_LEAST_SAMPLE_S = 1e-9  # no sample is free, whatever noise says


@dataclass(frozen=True)
class ComputeProfile:
    """Seconds of a gradient step of one device: ``fixed_s + sample_s * batch``.

    Attributes:
        task: name of what was trained.
        parameters: numbers that are trained.
        sample_shape: of a sample.
        fixed_s, sample_s: fitted to `seconds`.
        machine: whose core was measured.
        gflops: of float32 matrix products on that core, in 1e9 operations per second.
        batches, seconds: the medians that were measured.
    """

    task: str
    parameters: int
    sample_shape: tuple[int, ...]
    fixed_s: float
    sample_s: float
    machine: str
    gflops: float
    batches: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def fits(self, task: Task) -> bool:
        """Whether it is of that task, with a model and samples of the same size."""
        asked = (task.name, task.learner.tensors.size, tuple(task.data.x.shape[1:]))
        return (self.task, self.parameters, self.sample_shape) == asked

    def to_json(self) -> str:
        """As `read_profile` takes it."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ComputeProfile:
        """What `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("sample_shape", "batches", "seconds")}
        return cls(**{**values, **lists})


def profile_of(task: Task) -> ComputeProfile:
    """The shipped profile where it fits, so that results are the same everywhere; else one that is measured now, here."""
    return next((profile for profile in shipped() if profile.fits(task)), None) or measure(task)


@functools.cache
def shipped() -> tuple[ComputeProfile, ...]:
    """The profiles that come with the package."""
    folder = importlib.resources.files("evaluators.federated") / "profiles"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(ComputeProfile.from_json(file.read_text(encoding="utf-8")) for file in files)


def measure(task: Task, batches: Sequence[int] = _BATCHES, repeats: int = _REPEATS) -> ComputeProfile:
    """Time gradient steps of one device, with the update, on one thread of this machine.

    Args:
        batches: samples of a step; at least two sizes.
        repeats: of each size, of which the median counts.
    """
    with _one_thread():
        gflops = _peak_gflops(repeats)
        seconds = [_median(_step(task, batch), repeats) for batch in batches]
    fixed_s, sample_s = _line(batches, seconds)
    cpu = cpu_facts(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    machine = f"one core of {cpu.get('model', 'an unknown processor')}, torch {torch.__version__}"
    return ComputeProfile(
        task.name,
        task.learner.tensors.size,
        tuple(task.data.x.shape[1:]),
        fixed_s,
        sample_s,
        machine,
        gflops,
        tuple(batches),
        tuple(seconds),
    )


def _line(batches: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Fixed part and part of a sample, neither below zero, of the least squared relative error."""
    times = np.asarray(seconds)
    columns = np.stack([np.ones(len(times)), np.asarray(batches, dtype=np.float64)], axis=1)
    from scipy.optimize import nnls  # noqa: PLC0415 - takes seconds that a shipped profile need not cost

    (fixed_s, sample_s), _ = nnls(columns / times[:, None], np.ones(len(times)))
    return float(fixed_s), max(float(sample_s), _LEAST_SAMPLE_S)


def _step(task: Task, batch: int) -> Callable[[], None]:
    learner, data = task.learner, task.data
    flat = learner.initial(0)
    weights = {name: value.clone().requires_grad_() for name, value in learner.tensors.named(flat).items()}
    rows = torch.arange(batch) % len(data.x)
    x, y, share = data.x[rows], data.y[rows], torch.full((batch,), 1.0 / batch)

    def step() -> None:
        gradients = learner.step(weights, x, y, share)
        with torch.no_grad():
            for value, gradient in zip(weights.values(), gradients, strict=True):
                value.sub_(gradient, alpha=1e-6)  # too small a rate to change what is computed

    return step


def _peak_gflops(repeats: int) -> float:
    a, b = torch.rand(_PRODUCT, _PRODUCT), torch.rand(_PRODUCT, _PRODUCT)
    return 2.0 * _PRODUCT**3 / _median(lambda: torch.mm(a, b), repeats) / 1e9


def _median(work: Callable[[], object], repeats: int) -> float:
    work()
    taken = []
    for _ in range(repeats):
        begin = time.thread_time()  # of this thread alone: what else runs on the machine adds little to it
        work()
        taken.append(time.thread_time() - begin)
    return statistics.median(taken)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

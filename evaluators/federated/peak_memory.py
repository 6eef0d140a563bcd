"""The memory that one device's training step really takes: measured by running it, not estimated."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autotune.checks import whole
from evaluators.federated.tasks.data import Data
from evaluators.federated.tasks.learner import Learner

_known: weakref.WeakKeyDictionary[Learner, dict[tuple[object, ...], int]] = weakref.WeakKeyDictionary()


def step_memory(learner: Learner, data: Data, batch: int, device: str = "cpu") -> int:
    """Peak bytes of one gradient step of one device: weights, what is frozen, the batch, and all that a step adds to them.

    The step adds activations, what autograd saves of them, and gradients. It is run once for each model, shape of samples and
    batch; later calls remember. On the CPU every tensor that an operation makes is counted while it lives, but not the
    scratch memory that a kernel frees before it returns; on CUDA the allocator's own count is taken, which has both, and the
    context of the process is in neither.

    Args:
        batch: samples of the step; more than there are repeat some.
        device: ``cpu``, or a CUDA device.
    """
    whole("batch", batch, 1)
    measured = _known.setdefault(learner, {})
    key = (batch, tuple(data.x.shape[1:]), tuple(data.y.shape[1:]), data.x.dtype, device)
    if key not in measured:
        measured[key] = _measure(learner, data, batch, torch.device(device))
    return measured[key]


def _measure(learner: Learner, data: Data, batch: int, device: torch.device) -> int:
    rows = torch.arange(batch) % len(data.x)
    flat = learner.initial(0)
    with learner.on(device):
        weights = {
            name: value.detach().clone().to(device).requires_grad_()
            for name, value in learner.tensors.named(flat).items()
        }
        x, y = data.x[rows].to(device), data.y[rows].to(device)
        share = torch.full((batch,), 1.0 / batch, device=device)
        held = learner.frozen_bytes + sum(int(value.nbytes) for value in (*weights.values(), x, y, share))
        if device.type == "cuda":
            return held + _added_on_cuda(learner, weights, x, y, share, device)
        living = _Living()
        with living:
            learner.step(weights, x, y, share)
        return held + living.peak


def _added_on_cuda(
    learner: Learner, weights: dict[str, Tensor], x: Tensor, y: Tensor, share: Tensor, device: torch.device
) -> int:
    learner.step(weights, x, y, share)  # libraries allocate their workspaces when they are first used
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = int(torch.cuda.memory_allocated(device))
    learner.step(weights, x, y, share)
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of storages that operations make, from the first sight of each to its end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bytes = 0
        self._living: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(value.untyped_storage()) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._see(value, given)
        self.peak = max(self.peak, self._bytes)
        return result

    def _see(self, value: Tensor, given: set[int]) -> None:
        storage = value.untyped_storage()
        key = id(storage)  # torch keeps one object for each storage as long as that lives
        if key not in self._living and key not in given:  # otherwise it is a view
            self._living[key] = storage.nbytes()
            self._bytes += storage.nbytes()
            weakref.finalize(storage, self._end, key)

    def _end(self, key: int) -> None:
        self._bytes -= self._living.pop(key)

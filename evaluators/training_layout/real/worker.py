"""One process of a short training run; torchrun starts one for every GPU.

    torchrun ... -m evaluators.training_layout.real.worker FOLDER OWNER

Pipelines are those of `torch.distributed.pipelining`, context parallelism is PyTorch's own; for the rest see `parallel`, and
for the folder `process`.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import set_rotate_method
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn import functional

from evaluators.training_layout.real.experts import Experts
from evaluators.training_layout.real.memory import Peak
from evaluators.training_layout.real.parallel import Meshes, dtype_name, make_chunk
from evaluators.training_layout.real.process import serve
from evaluators.training_layout.real.run import Run

_LEARNING_RATE = 1e-4


class Worker:
    """This process's share of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.device = torch.device(run.device)
        torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as everybody trains in float32
        self.meshes = Meshes(run)
        if run.cp > 1:
            # Keys and values go round a ring, instead of being gathered on every process.
            set_rotate_method("alltoall")
        rank = self.meshes.pipeline.get_local_rank()
        self.chunks = {number: make_chunk(run, self.meshes, number) for number in range(rank, run.chunks, run.pp)}
        self.experts = [m for part in self.chunks.values() for m in part.modules() if isinstance(m, Experts)]
        self.parameters = [p for part in self.chunks.values() for p in part.parameters()]
        self.optimizer = torch.optim.AdamW(self._groups(), lr=_LEARNING_RATE, fused=True)
        self.schedule = self._schedule() if run.pp > 1 else None

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by the mesh they are spread over, as one kernel cannot update those of several."""
        found: dict[Any, list[Tensor]] = {}
        for parameter in self.parameters:
            found.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
        return [{"params": group} for group in found.values()]

    def _schedule(self) -> Schedule1F1B | ScheduleInterleaved1F1B:
        run = self.run
        group = self.meshes.pipeline.get_group()
        stages = [
            PipelineStage(part, number, run.chunks, self.device, group=group) for number, part in self.chunks.items()
        ]
        if run.interleave > 1:
            return ScheduleInterleaved1F1B([*stages], run.microbatches, loss_fn=_loss)
        return Schedule1F1B(stages[0], run.microbatches, loss_fn=_loss)

    def step(self, number: int) -> tuple[float, float]:
        """One training step on the batch of that number; its seconds, and its loss."""
        inputs, targets = self._batch(number)
        self._wait()
        began = time.perf_counter()
        loss = self._passes(inputs, targets)
        self.optimizer.step()
        self._wait()
        seconds = time.perf_counter() - began
        self.optimizer.zero_grad(set_to_none=True)
        return seconds, float(loss)

    def first_step(self) -> tuple[float, float]:
        """The first step; its loss, and the norm of its gradients over all parameters."""
        inputs, targets = self._batch(0)
        loss = self._passes(inputs, targets)
        norm = self._gradient_norm()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss), norm

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets ``(rows, s)`` of this process; the same global batch however it is shared out."""
        run = self.run
        drawn = torch.Generator().manual_seed(number)
        tokens = torch.randint(run.shape.vocab, (run.dp * run.rows, run.sequence + 1), generator=drawn)
        mine = tokens[self.meshes.data_rank * run.rows :][: run.rows].to(self.device)
        return mine[:, :-1].contiguous(), mine[:, 1:].contiguous()

    def _passes(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward and backward passes of all micro-batches; the mean loss over all processes."""
        with self._split_sequence(inputs, targets), loss_parallel() if self.run.tp > 1 else contextlib.nullcontext():
            losses = self._accumulated(inputs, targets) if self.schedule is None else self._pipelined(inputs, targets)
        # All but the last stage have none.
        mean = torch.stack(losses).mean() if losses else torch.zeros((), device=self.device)
        shared = mean.double() / (self.run.processes // self.run.pp)
        dist.all_reduce(shared)
        # The gradients of experts are means over the replicas of an expert, as those of other weights over theirs; but an
        # expert has seen the tokens of many replicas of those.
        for module in self.experts:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.run.expert_replicas / self.run.replicas)
        return shared

    @contextlib.contextmanager
    def _split_sequence(self, inputs: Tensor, targets: Tensor) -> Iterator[None]:
        if self.run.cp == 1:
            yield
            return
        positions = [part.positions for part in self.chunks.values()]
        dimensions = [1, 1, *(0 for _ in positions)]
        with context_parallel(
            self.meshes.context,
            buffers=[inputs, targets, *positions],
            buffer_seq_dims=dimensions,
            no_restore_buffers={inputs, targets},
        ):
            yield

    def _pipelined(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        assert self.schedule is not None
        losses: list[Tensor] = []
        given = (inputs,) if 0 in self.chunks else ()
        last = self.run.chunks - 1 in self.chunks
        # Logits of all micro-batches at once would be the largest tensor of the step.
        known = inspect.signature(self.schedule.step).parameters
        quiet: dict[str, Any] = {"return_outputs": False} if "return_outputs" in known else {}
        self.schedule.step(*given, target=targets if last else None, losses=losses if last else None, **quiet)
        return [_whole(loss.detach()) for loss in losses]

    def _accumulated(self, inputs: Tensor, targets: Tensor) -> list[Tensor]:
        run = self.run
        [part] = self.chunks.values()
        losses = []
        for number in range(run.microbatches):
            if isinstance(part, FSDPModule):
                last = number == run.microbatches - 1
                part.set_requires_gradient_sync(last or run.zero >= 2)
                part.set_requires_all_reduce(last)
                part.set_reshard_after_backward(last or run.zero == 3)
            rows = slice(number * run.micro_batch, (number + 1) * run.micro_batch)
            loss = _loss(part(inputs[rows]), targets[rows])
            torch.autograd.backward(loss / run.microbatches)
            losses.append(_whole(loss.detach()))
        return losses

    def _gradient_norm(self) -> float:
        """Over all parameters of the model, each once."""
        stage = self.run.processes // self.run.pp
        experts = {id(p) for module in self.experts for p in module.parameters()}
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for parameter in self.parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            pieces = self.run.ep * self.run.etp if id(parameter) in experts else 1
            if isinstance(gradient, DTensor):
                pieces *= _pieces(gradient)
                gradient = gradient.to_local()
            # Every piece lies on as many processes of the stage as there are fewer pieces than processes.
            total += gradient.double().square().sum() * pieces / stage
        dist.all_reduce(total)
        return float(total.sqrt())

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier()


def _pieces(gradient: DTensor) -> int:
    """Into how many a spread tensor is split."""
    found = 1
    for placement, size in zip(gradient.placements, gradient.device_mesh.shape, strict=True):
        found *= 1 if placement.is_replicate() else size
    return found


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def measure(run: Run) -> dict[str, Any]:
    """Train for a few steps; what the slowest and the fullest process measured. Every process of the run has to call it."""
    peak = Peak(run.device)
    worker = Worker(run)
    peak.begin()
    first_loss, norm = worker.first_step()
    later = [worker.step(number) for number in range(1, run.warm_up + run.steps)]
    seconds = [taken for taken, _ in later[run.warm_up - 1 :]]
    everybody: list[list[float]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everybody, [peak.held(), peak.reserved(), *seconds])
    held, reserved, *slowest = (max(values) for values in zip(*everybody, strict=True))
    return {
        "step_s": slowest,
        "memory_bytes": held,
        "reserved_bytes": reserved,
        "losses": [first_loss, *(loss for _, loss in later)],
        "gradient_norm": norm,
        "dtype": dtype_name(run),
        "backend": dist.get_backend(),
        "device": torch.cuda.get_device_name() if run.device == "cuda" else "cpu",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    serve(lambda told: measure(Run.from_dict(told)))

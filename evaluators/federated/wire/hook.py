"""Compressed gradients in any script that trains by `torch.nn.parallel.DistributedDataParallel`: `register`, and no more.

What goes over the network is the compressor's payload, byte for byte, and nothing is simulated. Every process sends its payload
to every other (there is no server), decodes all, and averages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from autotune.checks import whole
from autotune.errors import UsageError
from evaluators.federated.compressors import Compressor, make
from evaluators.federated.feedback import Feedback, make_feedback
from evaluators.federated.rules import warmed
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import Tensors
from evaluators.federated.wire.ends import Receiver, Sender
from evaluators.federated.wire.network import UNLIMITED, Pace, Wire
from evaluators.federated.world import stream


@dataclass
class Step:
    """What one process did in a step, over all buckets.

    Attributes:
        payload_bytes: of its gradient, compressed.
        sent_bytes: handed to the network, which is the payload once for each other process.
        header_bytes: of lengths, beside that.
        pack_s: compressing.
        exchange_s: sending and receiving, the waiting for others included.
        mean_s: decoding all and averaging.
    """

    payload_bytes: int = 0
    sent_bytes: int = 0
    header_bytes: int = 0
    pack_s: float = 0.0
    exchange_s: float = 0.0
    mean_s: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How gradients are compressed.

    Attributes:
        compressor: for the tensors of a bucket.
        feedback: for so many numbers, of one device.
        keep: what this process keeps in a step, counted from 0.
        seed: by step, rank and bucket; the same in all processes.
        weights: ``(n,)`` of the processes; they sum to 1.
        plain_steps: the first ones, in which compressors without a ratio are not used.
        pace: of the link over which this process sends.
    """

    compressor: Callable[[Tensors], Compressor]
    feedback: Callable[[int], Feedback]
    keep: Callable[[int], float]
    seed: Callable[[int, int, int], int]
    weights: Tensor
    plain_steps: int = 0
    pace: Pace = UNLIMITED


class _Bucket:
    """Tensors that are exchanged together, in the order of the model, with the memories of both ends."""

    def __init__(self, places: Sequence[int], tensors: Tensors, recipe: Recipe) -> None:
        self.compressor = recipe.compressor(tensors)
        self.plain = make("none", tensors)
        self.sender = Sender(recipe.feedback(tensors.size))
        self.receiver = Receiver(tensors.size, recipe.weights, sums=self.sender.sums)
        self.parts: dict[int, slice] = {}
        begin = 0
        for place, size in zip(places, tensors.sizes, strict=True):
            self.parts[place] = slice(begin, begin + size)
            begin += size

    @property
    def memories(self) -> list[Tensor]:
        """Of both ends, ``(..., size)``."""
        known = self.receiver.known
        return [*self.sender.memories, *(() if known is None else (known,))]


class GradientExchange:
    """The state of a communication hook: compresses, exchanges and averages the gradients of every bucket.

    A call returns when its exchange is over, so that nothing of it runs behind the backward pass. Memories stay with their
    parameters when DDP arranges its buckets anew, which it does once, after the first step.

    Attributes:
        step: how many steps are over.
        last: what this process did in the step before; None before the first.
        wire: over which it sends, with sums over all steps.
    """

    def __init__(self, model: DistributedDataParallel, wire: Wire, recipe: Recipe) -> None:
        trained = [(name, value) for name, value in model.module.named_parameters() if value.requires_grad]
        self.wire = wire
        self.step = 0
        self.last: Step | None = None
        self._recipe = recipe
        self._names = [name for name, _ in trained]
        self._shapes = [tuple(value.shape) for _, value in trained]
        self._places = {id(value): place for place, (_, value) in enumerate(trained)}
        self._buckets: dict[tuple[int, ...], _Bucket] = {}
        self._homes: dict[int, _Bucket] = {}  # of each parameter, the bucket that holds its memories
        self._now = Step()

    def __call__(self, bucket: GradBucket) -> Future[Tensor]:
        """The averaged gradients of a bucket."""
        order = [self._places[id(parameter)] for parameter in bucket.parameters()]
        gradients = dict(zip(order, bucket.gradients(), strict=True))
        places = sorted(order)
        mine = torch.cat([gradients[place].detach().reshape(-1).float().cpu() for place in places])
        held = self._bucket(tuple(places))
        mean = self._averaged(held, mine, bucket.index())
        for place, part in held.parts.items():
            gradients[place].copy_(mean[part].view_as(gradients[place]))
        if bucket.is_last():
            self.step, self.last, self._now = self.step + 1, self._now, Step()
        buffer = bucket.buffer()
        done: Future[Tensor] = Future(devices=[buffer.device] if buffer.is_cuda else None)
        done.set_result(buffer)
        return done

    def _averaged(self, held: _Bucket, mine: Tensor, index: int) -> Tensor:
        wire, recipe, now = self.wire, self._recipe, self._now
        compressor = held.compressor
        if self.step < recipe.plain_steps and not compressor.rated:
            compressor = held.plain
        seeds = [recipe.seed(self.step, rank, index) for rank in range(wire.size)]
        sent, headers = wire.payload_bytes, wire.header_bytes
        began = time.perf_counter()
        payload = held.sender.pack(mine, compressor, recipe.keep(self.step), seeds[wire.rank])
        packed = time.perf_counter()
        payloads = wire.all_gather(payload, recipe.pace)
        received = time.perf_counter()
        mean = held.receiver.mean(payloads, compressor, seeds)
        now.payload_bytes += len(payload)
        now.sent_bytes += wire.payload_bytes - sent
        now.header_bytes += wire.header_bytes - headers
        now.pack_s += packed - began
        now.exchange_s += received - packed
        now.mean_s += time.perf_counter() - received
        return mean

    def _bucket(self, places: tuple[int, ...]) -> _Bucket:
        if places in self._buckets:
            return self._buckets[places]
        tensors = Tensors(tuple(self._names[place] for place in places), tuple(self._shapes[place] for place in places))
        made = _Bucket(places, tensors, self._recipe)
        for place, part in made.parts.items():
            before = self._homes.get(place)
            if before is not None:
                for new, old in zip(made.memories, before.memories, strict=True):
                    new[..., part] = old[..., before.parts[place]]
            self._homes[place] = made
        # Buckets that lost all their parameters to others will not come again.
        living = {id(home) for home in self._homes.values()}
        self._buckets = {key: held for key, held in self._buckets.items() if id(held) in living}
        self._buckets[places] = made
        return made


def install(model: DistributedDataParallel, recipe: Recipe, wire: Wire) -> GradientExchange:
    """Let a DDP model exchange gradients by a recipe; once, before the first backward pass."""
    exchange = GradientExchange(model, wire, recipe)
    model.register_comm_hook(exchange, lambda state, bucket: state(bucket))
    return exchange


def register(
    ddp_model: DistributedDataParallel,
    compressor: str = "top-k",
    keep: float = 0.01,
    feedback: str = "ef",
    seed: int = 0,
    *,
    strength: float = 1.0,
    momentum: float = 0.9,
    warmup_steps: int = 0,
    **options: object,
) -> GradientExchange:
    """Let a DDP model exchange compressed gradients; call it in every process, once, before the first backward pass.

    Gradients become float32 on the CPU, are compressed bucket by bucket (DDP's ``bucket_cap_mb`` says how large one is), and go
    over gloo: over the model's own process group where it has that backend, else over a new one of the same processes. They
    are the mean over processes, as without the hook. Memories are no part of ``state_dict``: a restart begins at zero.

    Example::

        import os
        import torch
        from torch import distributed as dist
        from torch.nn.parallel import DistributedDataParallel
        from evaluators.federated.wire.hook import register

        dist.init_process_group("gloo")  # started by: torchrun --nproc-per-node 2 script.py
        torch.manual_seed(0)
        model = DistributedDataParallel(torch.nn.Linear(256, 1))
        exchange = register(model, compressor="top-k", keep=0.1, feedback="ef", seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        torch.manual_seed(1 + dist.get_rank())  # data of its own
        for step in range(100):
            x = torch.randn(32, 256)
            loss = (model(x) - x.mean(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if dist.get_rank() == 0:
            print(f"loss {loss.item():.4f}, {exchange.last.payload_bytes} bytes a step instead of {4 * 257}")
        dist.destroy_process_group()

    Args:
        ddp_model: not yet trained.
        compressor: of `evaluators.federated.compressors.COMPRESSORS`.
        keep: share that is kept, in (0, 1]; see `Compressor`.
        feedback: of `evaluators.federated.settings.FEEDBACKS`: what becomes of what is dropped.
        seed: of compressors that draw; the same in every process.
        strength: of feedback `econtrol`, in (0, 1].
        momentum: of feedback `dgc`, at least 0 and below 1; do without the optimizer's then.
        warmup_steps: over which ratios fall from 1 to `keep`.
        options: of the compressor, such as ``clusters`` of fedzip.

    Returns:
        The exchange, which counts bytes and seconds.

    Raises:
        UsageError: for arguments that cannot be.
    """
    if not isinstance(ddp_model, DistributedDataParallel):
        raise UsageError(f"ddp_model is a {type(ddp_model).__name__}; give a torch.nn.parallel.DistributedDataParallel")
    whole("seed", seed, 0)
    if compressor == "rand-k":
        options = {"scaled": feedback == "none", **options}
    # The same ranges as in a configuration of the search.
    given = Settings(
        compressor=compressor,
        upload_keep=keep,
        feedback=feedback,
        feedback_strength=strength,
        momentum=momentum,
        warmup_rounds=warmup_steps,
    )
    named = {name: value for name, value in ddp_model.module.named_parameters() if value.requires_grad}
    make(compressor, Tensors.of(named), **options)  # refuses what cannot be before training begins
    wire = Wire(_gloo(ddp_model.process_group))
    most = torch.tensor([keep], dtype=torch.float64)
    recipe = Recipe(
        compressor=lambda tensors: make(compressor, tensors, **options),
        feedback=lambda size: make_feedback(feedback, 1, size, strength=strength, momentum=momentum),
        keep=lambda step: float(warmed(most, step, given.warmup_rounds)),
        seed=lambda step, rank, bucket: stream(seed, step, rank, bucket),
        weights=torch.full((wire.size,), 1.0 / wire.size),
        plain_steps=warmup_steps,
    )
    return install(ddp_model, recipe, wire)


def _gloo(group: dist.ProcessGroup) -> dist.ProcessGroup:
    """A group of the same processes that exchanges CPU tensors by gloo."""
    if "gloo" in dist.get_backend_config(group):
        return group
    ranks = dist.get_process_group_ranks(group)
    made = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    assert isinstance(made, dist.ProcessGroup)
    return made

"""Who takes part in a run: a device and the server of FedAvg, or a peer that trains by DistributedDataParallel."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from evaluators.federated.compressors import make
from evaluators.federated.feedback import Feedback, make_feedback
from evaluators.federated.methods.base import ServerStep
from evaluators.federated.tasks.learner import ModuleLearner, sample_losses
from evaluators.federated.uploads import Uploads, make_compressor
from evaluators.federated.wire.ends import Receiver, Sender
from evaluators.federated.wire.hook import Recipe, install
from evaluators.federated.wire.network import Stream, Wire
from evaluators.federated.wire.run import WireRun

_ONE_BUCKET_MB = 1 << 12
PHASES = ("compute_s", "pack_s", "exchange_s", "mean_s")


class Party:
    """What every process of a run has: the world, the compressor, and its seconds and bytes."""

    def __init__(self, run: WireRun) -> None:
        self.run = run
        self.settings = run.settings
        self.world = run.world()
        self.tensors = self.world.task.learner.tensors
        self.uploads = Uploads(self.world, run.settings, self.tensors)
        self.shares = self.world.volumes / self.world.volumes.sum()
        self.wire = Wire()
        self.rank = self.wire.rank
        self.model = self.world.initial()
        self.losses: list[float] = []
        self.up_bytes = 0
        self.phases: dict[str, list[float]] = {name: [] for name in PHASES}

    @property
    def trains(self) -> bool:
        """Whether it is a device."""
        return self.rank < self.run.devices

    @property
    def me(self) -> Tensor:
        return torch.tensor([self.rank])

    def sender(self) -> Sender:
        """With empty memories."""
        return Sender(self.feedback(self.tensors.size))

    def receiver(self) -> Receiver:
        """Likewise."""
        return Receiver(self.tensors.size, self.shares, sums=self.sender().sums)

    def feedback(self, size: int) -> Feedback:
        """With empty memories, of this device alone."""
        given = self.settings
        return make_feedback(given.feedback, 1, size, strength=given.feedback_strength, momentum=given.momentum)

    def keep(self, round_: int) -> float:
        """What this device keeps."""
        return float(self.uploads.keep(round_, self.world.everyone)[self.rank])

    def seeds(self, round_: int) -> list[int]:
        """Of all devices."""
        return [int(seed) for seed in self.world.seeds(round_, self.world.everyone)]

    def plain(self, round_: int) -> bool:
        """Whether it is too early for a compressor without a ratio."""
        return not self.uploads.compressor.rated and round_ < self.settings.warmup_rounds

    def batch(self) -> Tensor:
        """Samples of a step, as `World.samples` takes them."""
        return torch.tensor([self.settings.batch])

    def round(self, round_: int) -> None:
        """One round; leaves a second for each phase that this process has."""
        raise NotImplementedError

    def calibrate(self) -> dict[str, list[float]]:
        """Seconds of a round's phases but for the exchange, as often as asked for, while all others measure theirs."""
        raise NotImplementedError

    def timed(self, phase: str, began: float) -> float:
        """Note a phase that began then and ends now; when it ends."""
        ended = time.perf_counter()
        self.phases[phase].append(ended - began)
        return ended

    def repeated(self, work: Callable[[], object]) -> list[float]:
        """Seconds of work that all processes begin at once; the first time is not among them."""
        taken = []
        for _ in range(1 + self.run.calibrations):
            dist.barrier()
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
        return taken[1:]

    def nothing(self) -> None:
        """For processes that have no part in what the others measure."""

    def ping(self) -> None:
        """One byte, unpaced, over every link; to the server and back where there is one."""
        raise NotImplementedError


class Device(Party):
    """Trains locally, over a link to the server."""

    def __init__(self, run: WireRun) -> None:
        super().__init__(run)
        self.memory = self.sender()
        self.link = run.link(self.rank)

    def round(self, round_: int) -> None:
        """Receive the model, train, send what changed."""
        server = self.run.devices
        [came] = self.wire.exchange([], [server])
        start = torch.from_numpy(np.frombuffer(came, dtype="<f4").astype(np.float32))
        began = time.perf_counter()
        update, loss = self.update(start, round_)
        self.losses.append(loss)
        began = self.timed("compute_s", began)
        compressor = make("none", self.tensors) if self.plain(round_) else self.uploads.compressor
        payload = self.memory.pack(update, compressor, self.keep(round_), self.seeds(round_)[self.rank])
        began = self.timed("pack_s", began)
        self.up_bytes += len(payload)
        self.wire.exchange([Stream([(server, payload)], self.link.up)], [])
        self.timed("exchange_s", began)

    def update(self, start: Tensor, round_: int) -> tuple[Tensor, float]:
        given = self.settings
        end, loss = self.world.train(start[None], self.me, self.batch(), given.local_steps, given.learning_rate, round_)
        return start - end[0], float(loss)

    def calibrate(self) -> dict[str, list[float]]:
        """See `Party.calibrate`."""
        last = self.run.rounds - 1
        compute = self.repeated(lambda: self.update(self.model, last))
        update, keep, seed = self.update(self.model, last)[0], self.keep(last), self.seeds(last)[self.rank]
        pack = self.repeated(lambda: self.sender().pack(update, self.uploads.compressor, keep, seed))
        self.repeated(self.nothing)
        self.repeated(self.ping)
        return {"compute_s": compute, "pack_s": pack}

    def ping(self) -> None:
        """See `Party.ping`."""
        self.wire.exchange([], [self.run.devices])
        self.wire.exchange([Stream([(self.run.devices, b"!")])], [])


class Server(Party):
    """Sends the model and averages what comes back."""

    def __init__(self, run: WireRun) -> None:
        super().__init__(run)
        self.average = self.receiver()
        self.step = ServerStep(self.tensors.size, run.settings.server_rate, run.settings.server_momentum)

    def round(self, round_: int) -> None:
        """Send the model over every device's link, receive payloads, average."""
        model = self.model.numpy().astype("<f4").tobytes()
        devices = range(self.run.devices)
        self.wire.exchange([Stream([(device, model)], self.run.link(device).down) for device in devices], [])
        payloads = self.wire.exchange([], devices)
        began = time.perf_counter()
        compressor = make("none", self.tensors) if self.plain(round_) else self.uploads.compressor
        self.model = self.step(self.model, self.average.mean(payloads, compressor, self.seeds(round_)))
        self.timed("mean_s", began)

    def calibrate(self) -> dict[str, list[float]]:
        """See `Party.calibrate`."""
        last = self.run.rounds - 1
        self.repeated(self.nothing)
        self.repeated(self.nothing)
        mean = self.receiver()
        compressor, seeds = self.uploads.compressor, self.seeds(last)
        keep = self.uploads.keep(last, self.world.everyone).tolist()
        # Any vector will do; the devices' own are not known yet.
        payloads = [compressor.encode(self.model, *given) for given in zip(keep, seeds, strict=True)]
        took = self.repeated(lambda: mean.mean(payloads, compressor, seeds))
        return {"mean_s": took, "transport_s": [seconds / 2 for seconds in self.repeated(self.ping)]}

    def ping(self) -> None:
        """See `Party.ping`."""
        devices = range(self.run.devices)
        self.wire.exchange([Stream([(device, b"!")]) for device in devices], [])
        self.wire.exchange([], devices)


class Peer(Party):
    """DistributedDataParallel with the hook."""

    def __init__(self, run: WireRun) -> None:
        super().__init__(run)
        learner = self.world.task.learner
        assert isinstance(learner, ModuleLearner), "the tasks that can be named are modules"
        self.module = copy.deepcopy(learner.module)
        self.load(self.module)
        ddp = DistributedDataParallel(self.module, bucket_cap_mb=_ONE_BUCKET_MB, broadcast_buffers=False)
        recipe = Recipe(
            compressor=lambda tensors: make_compressor(self.settings, tensors, scaled=self.settings.feedback == "none"),
            feedback=self.feedback,
            keep=self.keep,
            seed=lambda round_, rank, bucket: int(self.world.seeds(round_, torch.tensor([rank]))[0]),
            weights=self.shares,
            plain_steps=self.settings.warmup_rounds,
            pace=run.link(self.rank).up,
        )
        self.ddp = ddp
        self.optimizer = self.sgd(self.module)
        self.exchange = install(ddp, recipe, self.wire)

    def load(self, module: nn.Module) -> None:
        """The initial model into a module."""
        with torch.no_grad():
            for name, value in self.tensors.named(self.model).items():
                module.get_parameter(name).copy_(value)

    def sgd(self, module: nn.Module) -> torch.optim.SGD:
        """The server's step, which everyone takes."""
        given = self.settings
        momentum = given.server_momentum
        trained = [value for value in module.parameters() if value.requires_grad]
        return torch.optim.SGD(trained, lr=given.server_rate, momentum=momentum, nesterov=momentum > 0)

    def backward(self, module: nn.Module, round_: int) -> float:
        """Gradients of the loss times the learning rate: what is exchanged is a step, as FedAvg's differences are."""
        x, y, share = self.world.samples(round_, 0, self.me, self.batch())
        loss = (sample_losses(module(x[0]), y[0]) * share[0]).sum()
        (self.settings.learning_rate * loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def round(self, round_: int) -> None:
        """One step."""
        began = time.perf_counter()
        self.losses.append(self.backward(self.ddp, round_))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        whole = time.perf_counter() - began
        last = self.exchange.last
        assert last is not None
        for name in PHASES[1:]:
            self.phases[name].append(getattr(last, name))
        self.phases["compute_s"].append(whole - last.pack_s - last.exchange_s - last.mean_s)
        self.up_bytes += last.payload_bytes
        self.model = self.tensors.flat(dict(self.module.named_parameters()))

    def calibrate(self) -> dict[str, list[float]]:
        """See `Party.calibrate`."""
        last = self.run.rounds - 1
        module = copy.deepcopy(self.module)
        optimizer = self.sgd(module)

        def step() -> None:
            self.backward(module, last)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        compute = self.repeated(step)
        self.load(module)
        self.backward(module, last)
        gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
        update, compressor, seeds = self.tensors.flat(gradients), self.uploads.compressor, self.seeds(last)
        pack = self.repeated(lambda: self.sender().pack(update, compressor, self.keep(last), seeds[self.rank]))
        payloads = [compressor.encode(update, self.keep(last), seed) for seed in seeds]
        mean = self.receiver()
        return {
            "compute_s": compute,
            "pack_s": pack,
            "mean_s": self.repeated(lambda: mean.mean(payloads, compressor, seeds)),
            "transport_s": self.repeated(self.ping),
        }

    def ping(self) -> None:
        """See `Party.ping`."""
        self.wire.all_gather(b"!")


def party_of(run: WireRun) -> Party:
    """What this process is in a run."""
    if run.topology == "peers":
        return Peer(run)
    return Device(run) if dist.get_rank() < run.devices else Server(run)

"""A short training run over real processes: what they are told, the same run simulated, and how they are started.

Two topologies. `server`: FedAvg; devices are processes 0 to n - 1, the server is one more; each device has a link of its own to
the server, over which the model comes down and its payload goes up. `peers`: DistributedDataParallel with the hook of `hook`,
which is FedAvg with one local step and all devices; there is no server, and each process sends its payload to all others, one
after another over its one link, while it receives theirs (full duplex).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from autotune.checks import whole
from autotune.errors import UsageError
from autotune.measurement import Failure, FailureKind
from evaluators.federated.compute_profile import ComputeProfile
from evaluators.federated.fleet import Fleet
from evaluators.federated.methods import make_method
from evaluators.federated.settings import Settings
from evaluators.federated.tasks import Task, load
from evaluators.federated.tasks.partition import Partition, dirichlet
from evaluators.federated.wire.network import Pace
from evaluators.federated.world import World
from evaluators.training_layout.real.launch import launch

WORKER = "evaluators.federated.wire.worker"
TOPOLOGIES = ("server", "peers")
DEFAULT_LIMIT_S = 300.0
_MOST_DEVICES = 15  # and a server; more processes on one machine say nothing of its links
_MBIT = 1e6 / 8  # bytes
_UNMEASURED_S = 1e-9  # of a step, before anything is known


@dataclass(frozen=True)
class Link:
    """Of one device: throughput from it and to it in 1e6 bits per second, and latency either way."""

    up_mbit_s: float = math.inf
    down_mbit_s: float = math.inf
    latency_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("up_mbit_s", "down_mbit_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)!r}; give a number above 0")
        if not 0 <= self.latency_ms < math.inf:
            raise UsageError(f"latency_ms is {self.latency_ms!r}; give a number of 0 or more")

    @property
    def up(self) -> Pace:
        return Pace(self.up_mbit_s * _MBIT, self.latency_ms / 1e3)

    @property
    def down(self) -> Pace:
        return Pace(self.down_mbit_s * _MBIT, self.latency_ms / 1e3)


@dataclass(frozen=True)
class WireRun:
    """One run.

    Attributes:
        settings: federated averaging with any compressor and feedback of what devices send.
        task: by name, with its `options`.
        devices: that train; all take part in every round.
        rounds: of training.
        alpha: of the Dirichlet partition; infinity for data that is alike everywhere.
        seed: of all chance.
        topology: `server` or `peers`.
        links: one for each device, or one for all.
        calibrations: how often the time of computing and compressing is measured before the first round.

    Raises:
        UsageError: for what is not run over the wire.
    """

    settings: Settings
    task: str = "digits"
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: int = 4
    rounds: int = 10
    alpha: float = math.inf
    seed: int = 0
    topology: str = "server"
    links: tuple[Link, ...] = (Link(),)
    calibrations: int = 5

    def __post_init__(self) -> None:
        whole("devices", self.devices, 2, _MOST_DEVICES)
        whole("rounds", self.rounds, 1)
        whole("calibrations", self.calibrations, 1)
        if self.topology not in TOPOLOGIES:
            raise UsageError(f"topology {self.topology!r} is unknown; use {', '.join(TOPOLOGIES)}")
        if len(self.links) not in (1, self.devices):
            raise UsageError(
                f"links are {len(self.links)}; give one for all, or one for each of {self.devices} devices"
            )
        steps = self.settings.local_steps
        if self.topology == "peers" and steps != 1:
            raise UsageError(f"local_steps is {steps}; with topology 'peers' it is 1, use 'server' for more")
        for name, value in (("method", "fedavg"), ("download", "none"), ("balanced", False), ("adapter_rank", 0)):
            if getattr(self.settings, name) != value:
                raise UsageError(f"{name} is {getattr(self.settings, name)!r}; over the wire it is {value!r}")

    @property
    def processes(self) -> int:
        return self.devices + (self.topology == "server")

    def link(self, device: int) -> Link:
        return self.links[device % len(self.links)]

    def loaded(self) -> Task:
        """The task; runs of one process share it."""
        return _loaded(self.task, json.dumps(dict(self.options), sort_keys=True))

    def world(self, calibration: Calibration | None = None) -> World:
        """The world of this run; computing and gloo itself take no time to speak of where they have not been measured."""
        task = self.loaded()
        compute_s = [_UNMEASURED_S] * self.devices if calibration is None else calibration.compute_s
        transport_s = 0.0 if calibration is None else calibration.transport_s
        seconds = torch.tensor(compute_s, dtype=torch.float64)
        links = [self.link(device) for device in range(self.devices)]
        nothing = torch.zeros(self.devices, dtype=torch.float64)

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64)

        # A step of the profile takes one second on a device of one unit of speed, whatever the batch.
        fleet = Fleet(
            gflops=1.0 / seconds,
            memory_bytes=nothing,
            down_bytes_s=column([link.down.bytes_s for link in links]),
            up_bytes_s=column([link.up.bytes_s for link in links]),
            latency_s=column([link.up.latency_s + transport_s for link in links]),
            busy_w=nothing,
            idle_w=nothing,
            radio_w=nothing,
            kind=torch.zeros(self.devices, dtype=torch.int64),
            kinds=("process",),
        )
        shape = tuple(task.data.x.shape[1:])
        profile = ComputeProfile(
            task.name, task.learner.tensors.size, shape, 1.0, 0.0, "processes of this machine", 1.0
        )
        parts = dirichlet(task.data.groups, self.devices, self.alpha, self.seed)
        return World(task, Partition.of(parts), fleet, profile, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WireRun:
        """What `to_dict` wrote."""
        links = tuple(Link(**link) for link in values["links"])
        return cls(**{**values, "settings": Settings(**values["settings"]), "links": links})


@functools.cache
def _loaded(name: str, options: str) -> Task:
    return load(name, **json.loads(options))


@dataclass(frozen=True)
class Calibration:
    """Medians measured in the processes of a run, all at work at once, before its first round.

    Attributes:
        compute_s: of a gradient step of each device.
        pack_s: of compressing, by device.
        mean_s: of decoding all payloads and averaging: the server's, or that of the slowest process.
        transport_s: of one byte, one way, over links that are not slowed down: what gloo and waking up take.
        late_s: how much longer the last process of a repetition took for computing, compressing and averaging than the slowest
            process does at the median. Nobody is always the last one where processes share cores.
    """

    compute_s: tuple[float, ...]
    pack_s: tuple[float, ...]
    mean_s: float
    transport_s: float
    late_s: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run did.

    Attributes:
        model: ``(size,)``, after the last round; of the server, or of process 0.
        replicas_agree: whether all processes that hold the model ended with the same, bit for bit.
        losses: mean over devices, by round.
        up_bytes: ``(n,)``, the payloads of each device, each counted once.
        sent_bytes: handed to the network by each process: models that the server sends, and payloads once for each receiver.
        header_bytes: likewise, of lengths.
        tcp_bytes: likewise, as the kernel counts it, with what gloo adds; None where it does not tell.
        round_s: wall-clock seconds by round, of the process that was last.
        phases: medians over rounds of the slowest process: `compute_s`, `pack_s`, `exchange_s` and `mean_s`.
        calibration: measured before.
    """

    model: Tensor
    replicas_agree: bool
    losses: tuple[float, ...]
    up_bytes: tuple[int, ...]
    sent_bytes: tuple[int, ...]
    header_bytes: tuple[int, ...]
    tcp_bytes: tuple[int, ...] | None
    round_s: tuple[float, ...]
    phases: Mapping[str, float]
    calibration: Calibration

    def check(self) -> Outcome:
        """This outcome.

        Raises:
            Failure: of kind `nan` where the run diverged.
        """
        wrong = next((place for place, loss in enumerate(self.losses) if not math.isfinite(loss)), None)
        if wrong is None and bool(torch.isfinite(self.model).all()):
            return self
        place = len(self.losses) - 1 if wrong is None else wrong
        raise Failure(
            FailureKind.NAN,
            f"training diverged by round {place + 1} of {len(self.losses)}: the loss is {self.losses[place]:g}; a smaller "
            "learning rate may help",
        )


def train(runs: Sequence[WireRun], limit_s: float = DEFAULT_LIMIT_S) -> list[Outcome]:
    """Train for real: start processes once, and let them do one run after another.

    Args:
        runs: of one topology, with as many devices each.
        limit_s: seconds for all, the start of the processes included.

    Raises:
        UsageError: where there is no run, or they differ in processes.
        Failure: see `launch.launch`. A run that diverges is an outcome; see `Outcome.check`.
    """
    if len({(run.topology, run.devices) for run in runs}) != 1:
        raise UsageError(f"runs are {len(runs)}; give at least one, all of one topology and as many devices")
    told = {"device": "cpu", "runs": [run.to_dict() for run in runs]}
    try:
        found = launch(WORKER, told, runs[0].processes, limit_s, 1)
    except Failure as failure:
        if failure.kind is not FailureKind.TIMEOUT:
            raise
        late = f"the runs gave no result within {limit_s:g} s; give them longer, or fewer rounds"
        raise Failure(FailureKind.TIMEOUT, late) from failure
    return [_outcome(entry) for entry in found]


def _outcome(entry: Mapping[str, Any]) -> Outcome:
    measured = entry["calibration"]
    calibration = Calibration(
        tuple(measured["compute_s"]),
        tuple(measured["pack_s"]),
        **{name: measured[name] for name in ("mean_s", "transport_s", "late_s")},
    )
    lists = {name: tuple(entry[name]) for name in ("losses", "up_bytes", "sent_bytes", "header_bytes", "round_s")}
    return Outcome(
        model=torch.tensor(entry["model"], dtype=torch.float32),
        replicas_agree=entry["replicas_agree"],
        tcp_bytes=None if None in entry["tcp_bytes"] else tuple(entry["tcp_bytes"]),
        phases=entry["phases"],
        calibration=calibration,
        **lists,
    )


@dataclass(frozen=True, eq=False)
class Simulated:
    """What the simulation tells of a run.

    Attributes:
        model: ``(size,)``, after the last round.
        up_bytes: ``(n,)``, of the ledger.
        round_s: mean seconds of a round: the simulation's clock, which knows links and computing.
        codec_s: what compressing, averaging and waiting for who is last at them add to it, as calibrated; 0 where nothing is
            known.
    """

    model: Tensor
    up_bytes: tuple[int, ...]
    round_s: float
    codec_s: float


def simulate(run: WireRun, calibration: Calibration | None = None) -> Simulated:
    """The same run, simulated in this process.

    The clock of `peers` is the simulation's time on a link of a device that sends its payload n - 1 times and waits for nobody
    before it may send.

    Raises:
        Failure: of kind `nan` where the simulated run diverges.
    """
    world = run.world(calibration)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes, so that sums are added in the same order
    try:
        method = make_method(world, run.settings)
        for round_ in range(run.rounds):
            if not math.isfinite(method.round(round_)):
                raise Failure(FailureKind.NAN, f"the simulated run diverged in round {round_ + 1} of {run.rounds}")
    finally:
        torch.set_num_threads(threads)
    up = method.ledger.up_bytes
    if run.topology == "server":
        seconds = method.ledger.seconds / run.rounds
    else:
        sent = (run.devices - 1) * up / run.rounds
        sending = world.sending_seconds(0, world.everyone, torch.zeros_like(sent), sent)
        batch = world.batches(world.everyone, run.settings.batch)
        seconds = float((sending + world.step_seconds(world.everyone, batch)).max())
    codec = 0.0 if calibration is None else max(calibration.pack_s) + calibration.mean_s + calibration.late_s
    return Simulated(method.model, tuple(int(value) for value in up), seconds, codec)

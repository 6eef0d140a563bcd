"""What a configuration will cost, before it is trained: bytes of a round counted, rounds to the target by a rule of thumb.

**Bytes** follow from who takes part, which does not depend on the configuration: a device is sent the whole model at first,
then what its download's ratio gives; it sends what its compressor makes of a first update. Ratios as they are searched are
encoded; those of ranks and warm-ups lie between encoded ones on a line.

**Rounds** are a rule of ours, of no paper: those of the run without compression (which is trained once, for comparison, in
any case), by a power law in local steps and the learning rate, times what compression costs, which is taken from how much
of that update is lost when it is encoded. **Final accuracy** is that of the same run at the round that is as far on its way,
less the noise that compression leaves. The constants were fitted to runs of the tasks `digits` and `text`, under a chance
that no published result uses. The rule is meant to order configurations, no more; strategies trust it as far as
measurements bear it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotune.errors import UsageError
from autotune.measurement import Failure
from autotune.space import Config
from evaluators.federated.compressors import COMPRESSORS, Sent
from evaluators.federated.job import Job
from evaluators.federated.low_deviation import LowDeviation
from evaluators.federated.reference import Reference
from evaluators.federated.rules import download_keep, upload_keep
from evaluators.federated.settings import LOW_DEVIATION, Settings
from evaluators.federated.tensors import FLOAT_BYTES, Tensors
from evaluators.federated.uploads import make_compressor

Floats = npt.NDArray[np.float64]

KNOWN = ("fedavg", "diloco", "scallion", "scafcom")  # methods with a server and a barrier, whose rounds are alike
METRICS = ("traffic_mib", "upload_mib", "download_mib", "time_s", "rounds", "accuracy_drop_points")
_MIB = 2**20
_SEED = 1
_NODES = np.geomspace(2.0**-9, 1.0, 19)  # ratios that are encoded where what is asked lies between
_BITS = np.arange(2, 33) / 32.0  # those of quantisers
_SAMPLES = 32  # of each step of the update that is encoded
_DEVICES = 200  # that seconds are computed of
_LEAST = 0.02  # of a message that is taken to survive; below, noise decides
_MOST_ROUNDS, _MOST_TURNS, _FEWEST = 300, 1_000_000, 4  # that are counted; later ones are like the last of these
_CONTROLLED = ("scallion", "scafcom")
_AT_ONCE = 2_000  # configurations, which bounds memory
_STALE = ("top-k", "fedzip", LOW_DEVIATION)  # downloads that send more to devices that were away
_QUANTISERS = ("quantise", "nonuniform")
_WHOLE = ("none", "half")  # downloads that need to know nothing of the device


@dataclass(frozen=True)
class Rule:
    """Constants of the rule of rounds; ours.

    Attributes:
        floor: share of the rounds without compression that no number of local steps saves.
        power: of local steps times learning rate, both over the task's own.
        most: rate over the task's own beyond which larger ones save nothing.
        kept: power of the share of an update that survives, with a feedback; `dropped`: without one.
        noise: rounds that the variance of unbiased compressors adds, a device.
        behind: power of the share of the same update that survives a download as differences or halves; `deviating`: of
            the share of the initial model that survives Caesar's.
        excess: power of econtrol's strength over the surviving share, where it is larger: beyond that it may diverge.
        gathered: power of how many updates DGC's momentum gathers where a number is sent seldom.
        balanced: times as many rounds with batches that are smaller on slower devices.
        points: of final accuracy that noise costs a run without compression; it is above 0 so that ratios tell.
        worse: power of how much more rounds compression takes, which these points are multiplied with.
    """

    floor: float = 0.33
    power: float = 1.0
    most: float = 1.6
    kept: float = 0.25
    dropped: float = 1.0
    noise: float = 1.0
    behind: float = 0.4
    deviating: float = 6.0
    excess: float = 1.0
    gathered: float = 0.05
    balanced: float = 2.5
    points: float = 0.05
    worse: float = 1.0


@dataclass(frozen=True)
class _Message:
    """One encoded vector: its length, and the share of its squared norm that is lost."""

    bytes: float
    lost: float


class _Encoded:
    """Messages of one compressor by ratio; of `nodes`, between which all else lies."""

    def __init__(self, measure: Callable[[float], _Message], nodes: Floats) -> None:
        self._measure = lru_cache(maxsize=None)(measure)
        self._ratios = nodes

    def at(self, keep: float) -> _Message:
        """Of one ratio, encoded."""
        return self._measure(keep)

    def between(self, keep: Floats) -> tuple[Floats, Floats]:
        """Bytes and losses of many ratios."""
        lengths, losses = self._nodes
        return np.interp(keep, self._ratios, lengths), np.interp(keep, self._ratios, losses)

    def everywhere(self, keep: float, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Bytes and losses where all have one ratio."""
        one = self.at(keep)
        return np.full(shape, one.bytes), np.full(shape, one.lost)

    @cached_property
    def _nodes(self) -> tuple[Floats, Floats]:
        found = [self.at(float(keep)) for keep in self._ratios]
        return np.array([m.bytes for m in found]), np.array([m.lost for m in found])


@dataclass(frozen=True)
class _Turns:
    """Who takes part in the first rounds, and whose updates arrive; ``(rounds, m)`` each.

    Attributes:
        who: devices.
        new: whether it is a device's first time.
        away: rounds since a device last took part; the round's number for new ones.
        arrived: whether its update arrives.
        place: 1 for the most important device that arrives, falling by rank to 0.
    """

    who: npt.NDArray[np.int64]
    new: npt.NDArray[np.bool_]
    away: Floats
    arrived: npt.NDArray[np.bool_]
    place: Floats


@dataclass(frozen=True)
class _Way:
    """One direction.

    Attributes:
        sums: bytes of all devices in the first so many rounds, ``(rounds + 1,)``.
        slower: how much less far than without compression each round goes, ``(rounds,)``.
    """

    sums: Floats
    slower: Floats


# What each direction depends on, and what else rounds and seconds do.
_DOWN = ("method", "download", "download_keep", "staleness", "fragments", "adapter_rank")
_UP = (
    "method",
    "compressor",
    "upload_keep",
    "importance_share",
    "warmup_rounds",
    "feedback",
    "feedback_strength",
    "momentum",
    "fragments",
    "clusters",
    "adapter_rank",
)
_down_of, _up_of = itemgetter(*_DOWN), itemgetter(*_UP)
_training_of = itemgetter("learning_rate", "local_steps", "batch", "balanced")


class Prediction:
    """A `Predictor` of the evaluator `trained`; see the module.

    Bytes are those of the job's first repeat. Methods without a server or a barrier, and `seeds`, get NaN: the rule of rounds
    has nothing to say of them; so does everything where training diverges without compression.

    Args:
        job: what is trained.
        reference: gives the runs without compression, trained when they are first asked for.
        rule: of rounds.

    Attributes:
        job: what is trained.
    """

    def __init__(self, job: Job, reference: Callable[[], Reference], rule: Rule | None = None) -> None:
        self.job = job
        self._reference = lru_cache(maxsize=None)(lambda: _unless_failed(reference))
        self._sensitivity = 1.0
        self._rule = rule or Rule()
        self._base = {**asdict(Settings()), **job.given}
        # A space has a few hundred of each, and millions of both together.
        self._down = lru_cache(maxsize=4096)(self._count_down)
        self._up = lru_cache(maxsize=4096)(self._count_up)
        self._encoded = lru_cache(maxsize=None)(self._make_encoded)
        self._vector = lru_cache(maxsize=None)(self._make_vector)

    def with_sensitivity(self, sensitivity: float) -> Prediction:
        """The same for a task that compression slows down by this power of what it slows others down; messages are shared."""
        found = copy(self)
        found._sensitivity = sensitivity
        return found

    def predict(self, configs: Sequence[Config]) -> Mapping[str, Floats]:
        """See `Predictor.predict`; NaN for what cannot be trained, and for methods that the rule does not know."""
        parts = [self._some(configs[i : i + _AT_ONCE]) for i in range(0, len(configs), _AT_ONCE)]
        found = np.concatenate([np.empty((0, len(METRICS))), *parts])
        return dict(zip(METRICS, found.T, strict=True))

    def round_bytes(self, config: Config) -> tuple[Floats, Floats]:
        """Bytes of all devices, down and up, of each of the first rounds, ``(rounds,)``; for methods that the rule knows."""
        values = self._base | config
        return np.diff(self._down(*_down_of(values)).sums), np.diff(self._up(*_up_of(values)).sums)

    # ------------------------------------------------------------------- rounds and seconds

    def _some(self, configs: Sequence[Config]) -> Floats:
        """Of configurations, ``(n, metrics)``."""
        found = np.full((len(configs), len(METRICS)), np.nan)
        reference = self._reference()
        if reference is None:
            return found
        places: list[int] = []
        ways: list[tuple[_Way, _Way]] = []
        training: list[tuple[Any, ...]] = []
        for place, config in enumerate(configs):
            values = self._base | config
            if values["method"] in KNOWN:
                try:
                    ways.append((self._down(*_down_of(values)), self._up(*_up_of(values))))
                except UsageError:
                    continue
                places.append(place)
                training.append(_training_of(values))
        if places:
            columns = np.array(training, dtype=np.float64).T
            slower = np.stack([down.slower * up.slower for down, up in ways]) ** self._sensitivity
            plain = reference.rounds_to_target * self._training(columns)
            rounds = _reached(plain[:, None] * slower)
            download, upload = (_until(np.stack([way[i].sums for way in ways]), rounds) for i in range(2))
            seconds = self._seconds(columns, download, upload, rounds)
            drop = self._drop(reference, columns, slower[:, -1])
            found[places] = np.stack(
                [(download + upload) / _MIB, upload / _MIB, download / _MIB, seconds, rounds, drop], axis=1
            )
        return found

    def _training(self, training: Floats) -> Floats:
        """Rounds to the target without compression, over those of the task's own steps and rate, ``(n,)``."""
        rule, usual = self._rule, self.job.plain
        rate, steps, _, balanced = training
        work = np.minimum(rate / usual.learning_rate, rule.most) * steps / usual.local_steps
        return np.asarray(
            np.where(balanced > 0.0, rule.balanced, 1.0) * (rule.floor + (1.0 - rule.floor) * work**-rule.power)
        )

    def _drop(self, reference: Reference, training: Floats, slower: Floats) -> Floats:
        """Points of accuracy that a configuration costs in the end, ``(n,)``: what it has not learnt yet, and noise."""
        rule = self._rule
        gone = self.job.rounds / (self._training(training) * slower)
        missing = 100.0 * np.maximum(reference.final_accuracy - reference.accuracy_after(gone), 0.0)
        noise = rule.points * (np.where(training[3] > 0.0, rule.balanced, 1.0) * slower) ** rule.worse
        return np.asarray(missing + noise)

    def _slower(self, compressor: str, feedback: str, options: tuple[float, float], lost: Floats) -> Floats:
        """How much more rounds are needed for what uploads lose, by round; `options` are econtrol's strength and momentum."""
        rule, (strength, momentum) = self._rule, options
        survives = np.maximum(1.0 - lost, _LEAST)
        if feedback == "none" and COMPRESSORS[compressor].unbiased:
            return np.asarray(1.0 + rule.noise * lost / self._turns.who.shape[1])
        slower = survives ** -(rule.dropped if feedback == "none" else rule.kept)
        if feedback == "econtrol":
            slower = slower * np.maximum(strength / survives, 1.0) ** rule.excess
        elif feedback == "dgc":
            slower = slower * (1.0 - momentum) ** -rule.gathered
        return np.asarray(slower)

    def _seconds(self, training: Floats, down: Floats, up: Floats, rounds: Floats) -> Floats:
        """Until the target, ``(n,)``: rounds times what the slowest device of one takes, about."""
        m = self._turns.who.shape[1]
        latency, down_s, up_s, fixed, sample, counts = self._devices
        _, steps, batch, balanced = training[:, :, None]
        sent = (rounds * m)[:, None]
        sending = 2.0 * latency + down[:, None] / sent / down_s + up[:, None] / sent / up_s
        taken = sending + steps * (fixed + np.where(batch > 0, batch, counts) * sample)
        least = sending + steps * (fixed + sample)
        taken = np.where(balanced > 0.0, np.maximum(taken.min(axis=1, keepdims=True), least), taken)
        return np.asarray(rounds * np.quantile(taken, m / (m + 1.0), axis=1))

    @cached_property
    def _devices(self) -> tuple[Floats, ...]:
        """Of some devices, evenly many of all: latency, bytes per second down and up, seconds of a step, samples."""
        world = self.job.worlds[0]
        fleet = world.fleet
        some = np.unique(np.linspace(0, fleet.n - 1, min(fleet.n, _DEVICES)).round().astype(np.int64))
        columns = (
            fleet.latency_s,
            fleet.down_bytes_s,
            fleet.up_bytes_s,
            *fleet.step_seconds(world.profile),
            world.partition.counts,
        )
        return tuple(np.asarray(column.double().numpy()[some]) for column in columns)

    # ------------------------------------------------------------------- bytes

    def _count_down(
        self, method: str, name: str, freshest: float, stale: bool, fragments: int, adapter_rank: int
    ) -> _Way:
        turns, rule = self._turns, self._rule
        message = self._encoded(name, True, Settings().clusters, adapter_rank)
        whole = float(FLOAT_BYTES * self._layout(adapter_rank).size)
        if stale and name in _STALE:
            counted = np.arange(1.0, len(turns.away) + 1.0)[:, None]
            keep = download_keep(freshest, torch.from_numpy(turns.away / counted), 1)
            bytes_, lost = message.between(keep.numpy())
        else:
            bytes_, lost = message.everywhere(freshest, turns.new.shape)
        new, missed = turns.new, np.ones(turns.new.shape)
        if method == "diloco":  # nobody is sent the initial model, and devices get the fragments that they missed
            at = np.arange(len(new))[:, None]
            missed = np.minimum(np.where(new, at, turns.away), fragments) / fragments
            new = new | (turns.away == at)
        if name not in _WHOLE:
            first = message.at(1.0).bytes if name == LOW_DEVIATION else whole
            bytes_, lost = np.where(new, first, bytes_), np.where(new, 0.0, lost)
        bytes_ = bytes_ * missed
        if method in _CONTROLLED:
            bytes_ = bytes_ + whole  # the server's control variate
        survives = np.maximum(1.0 - lost.mean(axis=1), _LEAST)
        return _Way(_summed(bytes_), survives ** -(rule.deviating if name == LOW_DEVIATION else rule.behind))

    def _count_up(
        self,
        method: str,
        name: str,
        most: float,
        share: float,
        warmup: int,
        feedback: str,
        strength: float,
        momentum: float,
        fragments: int,
        clusters: int,
        adapter_rank: int,
    ) -> _Way:
        turns = self._turns
        remembers = "ef" if method == "scafcom" else "none" if method in _CONTROLLED else feedback
        scaled = remembers == "none"
        message = self._encoded(name, scaled, clusters, adapter_rank)
        keep = most * (share + (1.0 - share) * turns.place)
        bytes_, lost = message.everywhere(most, keep.shape) if share == 1.0 else message.between(keep)
        early = min(warmup, len(keep))
        if early:
            falling = ((np.arange(early) + 1.0) / (warmup + 1.0))[:, None]
            begins = message if COMPRESSORS[name].rated else self._encoded("none", scaled, clusters, adapter_rank)
            bytes_[:early], lost[:early] = begins.between(keep[:early] ** falling)
        bytes_, lost = (np.where(turns.arrived, values, 0.0) for values in (bytes_, lost))
        lost = lost.sum(axis=1) / turns.arrived.sum(axis=1)
        exchanged = bytes_ / (fragments if method == "diloco" else 1)
        return _Way(_summed(exchanged), self._slower(name, remembers, (strength, momentum), lost))

    @cached_property
    def _turns(self) -> _Turns:
        world = self.job.worlds[0]
        m = len(world.participants(0))
        rounds = max(_FEWEST, min(self.job.rounds, _MOST_ROUNDS, _MOST_TURNS // m))
        last = np.full(world.n, -1)
        who = np.stack([world.participants(round_).numpy() for round_ in range(rounds)])
        new, arrived = np.zeros(who.shape, dtype=bool), np.zeros(who.shape, dtype=bool)
        away, place = np.zeros(who.shape), np.zeros(who.shape)
        for round_, some in enumerate(who):
            new[round_] = last[some] < 0
            away[round_] = np.where(new[round_], round_ + 1, round_ - last[some])
            last[some] = round_
            there = world.arrive(round_, torch.from_numpy(some))
            arrived[round_] = there.numpy()
            senders = torch.from_numpy(some)[there]
            place[round_, there.numpy()] = upload_keep(1.0, 0.0, world.importance[senders]).numpy()
        return _Turns(who, new, away, arrived, place)

    # ------------------------------------------------------------------- messages

    def _layout(self, adapter_rank: int) -> Tensors:
        whole = self.job.task.learner.tensors
        if not adapter_rank:
            return whole
        sides = [
            (name, min(adapter_rank, s[0], math.prod(s[1:])))
            for name, s in zip(whole.names, whole.shapes, strict=True)
            if len(s) > 1
        ]
        return Tensors(tuple(name for name, _ in sides), tuple((r, r) for _, r in sides))

    def _make_vector(self, adapter_rank: int) -> torch.Tensor:
        """What is encoded, ``(size,)``: a first update, of the task's own steps and rate; of adapters, random numbers."""
        generator = torch.Generator().manual_seed(_SEED)
        if adapter_rank:
            return torch.randn(self._layout(adapter_rank).size, generator=generator)
        world = self.job.worlds[0]
        data = world.task.data
        share = torch.full((1, _SAMPLES), 1.0 / _SAMPLES)
        initial, plain = world.initial(), self.job.plain
        model = initial.clone()
        # One gradient of a model that knows nothing may be all in a few numbers, such as a transformer's last bias.
        for _ in range(plain.local_steps):
            rows = torch.randint(len(data.x), (_SAMPLES,), generator=generator)
            _, gradient = world.task.learner.gradients(model[None], data.x[rows][None], data.y[rows][None], share)
            model -= plain.learning_rate * gradient[0].detach()
        return initial - model

    def _make_encoded(self, name: str, scaled: bool, clusters: int, adapter_rank: int) -> _Encoded:
        tensors, seeds = self._layout(adapter_rank), torch.tensor([_SEED])
        if name == LOW_DEVIATION:
            model = self.job.worlds[0].initial() if not adapter_rank else self._vector(adapter_rank)
            rule, old = LowDeviation(tensors), torch.zeros(1, tensors.size)
            return _Encoded(lambda keep: _message(model, rule.recover(model, old, _ratio(keep))), _NODES)
        vector = self._vector(adapter_rank)
        compressor = make_compressor(Settings(compressor=name, clusters=clusters), tensors, scaled=scaled)
        nodes = _BITS if name in _QUANTISERS else _NODES if compressor.rated else np.ones(1)
        return _Encoded(lambda keep: _message(vector, compressor.compress(vector[None], _ratio(keep), seeds)), nodes)


def _unless_failed(reference: Callable[[], Reference]) -> Reference | None:
    """None where training diverges; a failure that is thrown again would be trained again at every prediction."""
    try:
        return reference()
    except Failure:
        return None


def _ratio(keep: float) -> torch.Tensor:
    return torch.tensor([keep], dtype=torch.float64)


def _message(vector: torch.Tensor, sent: Sent) -> _Message:
    whole = float(vector.double().square().sum())
    lost = float((sent.values[0].double() - vector.double()).square().sum())
    return _Message(float(sent.bytes[0]), lost / whole if whole > 0.0 else 0.0)


def _summed(bytes_: Floats) -> Floats:
    """Of ``(rounds, m)``, bytes of all devices in the first so many rounds, ``(rounds + 1,)``."""
    return np.concatenate([[0.0], np.cumsum(bytes_.sum(axis=1))])


def _reached(slower: Floats) -> Floats:
    """Rounds until all of the way is gone, ``(n,)``, of which round t goes one part in ``slower[:, t]``; at least 1."""
    gone = np.concatenate([np.zeros((len(slower), 1)), np.cumsum(1.0 / slower, axis=1)], axis=1)
    whole = (gone[:, 1:] < 1.0).sum(axis=1)
    rows = np.arange(len(slower))
    return np.asarray(
        np.maximum(whole + (1.0 - gone[rows, whole]) * slower[rows, np.minimum(whole, slower.shape[1] - 1)], 1.0)
    )


def _until(sums: Floats, rounds: Floats) -> Floats:
    """Sums ``(n, rounds + 1)`` after so many rounds, ``(n,)``; beyond those that were counted, as the last half of them."""
    counted = sums.shape[1] - 1
    rows, whole = np.arange(len(sums)), np.nan_to_num(np.minimum(rounds, counted)).astype(np.int64)
    following = np.minimum(whole + 1, counted)
    late = (sums[:, counted] - sums[:, counted // 2]) / (counted - counted // 2)
    part = np.where(whole < counted, sums[rows, following] - sums[rows, whole], late)
    return np.asarray(sums[rows, whole] + (rounds - whole) * part)

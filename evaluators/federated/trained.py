"""Evaluator `trained`: trains under a configuration, over simulated devices and links; tells what a target accuracy cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from autotune.errors import UsageError
from autotune.measurement import Failure, FailureKind, Measurement, Metric
from evaluators.federated.job import Job
from evaluators.federated.peak_memory import step_memory
from evaluators.federated.reference import Reference
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import FLOAT_BYTES
from evaluators.federated.training import Point, Training

MIB = 2**20
# What a run costs up to the target; such sums only grow while it goes on.
COSTS = ("traffic_mib", "time_s", "energy_j", "upload_mib", "download_mib")
METRICS = (
    *COSTS,
    "rounds",
    "final_accuracy",
    "accuracy_drop_points",
    "memory_mib",
    "idle_share",
)
ACCURACY = "accuracy"
_CURVE = 100  # points of a run that are kept with its trial


class Trained:
    """Callable on configurations; see `__call__`. Runs of one configuration go side by side, round by round."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, config: Mapping[str, Any], report: Callable[..., None] | None = None) -> Measurement:
        """Train for all of the job's rounds.

        Reports, by round: the accuracy, and what the target has cost so far (of a run that has reached it: what it cost).

        Raises:
            Failure: `invalid` for settings that do not go together, `nan` where training diverges, and `timeout` where the
                target accuracy is not reached in the job's rounds.
        """
        try:
            settings = self.job.settings(config)
            runs = self._runs(settings)
        except UsageError as error:
            raise Failure(FailureKind.INVALID, str(error)) from error
        while not runs[0].done:
            points = [run.advance() for run in runs]
            if report is not None:
                spent = {name: _mean(_spent(run, name) for run in runs) for name in COSTS}
                report(points[0].round, **{ACCURACY: _mean(point.smoothed for point in points)}, **spent)
        return self._measured(settings, runs)

    @cached_property
    def reference(self) -> Reference:
        """Federated averaging without compression; trained once, if it was not measured before.

        Raises:
            Failure: `nan` where it diverges.
        """
        return Reference.of([run.finish() for run in self._runs(self.job.plain)])

    def memory_bytes(self, run: Training, settings: Settings) -> float:
        """Of the fullest device: a training step, measured; and what it keeps between rounds."""
        learner = run.method.world.task.learner
        batch = settings.batch or int(run.method.world.partition.counts.max())
        kept = run.method.memories * FLOAT_BYTES * learner.tensors.size
        return float(step_memory(learner, run.method.world.task.data, batch) + kept)

    def _runs(self, settings: Settings) -> list[Training]:
        job = self.job
        return [Training(w, settings, rounds=job.rounds, target=job.target, every=job.every) for w in job.worlds]

    def _measured(self, settings: Settings, runs: Sequence[Training]) -> Measurement:
        job = self.job
        if settings == job.plain:
            self.__dict__["reference"] = Reference.of(runs)
        missed = [run for run in runs if run.reached is None]
        if missed:
            best = _mean(max(point.smoothed for point in run.points) for run in runs)
            of = f"in {len(missed)} of {len(runs)} runs " if len(runs) > 1 else ""
            raise Failure(
                FailureKind.TIMEOUT,
                f"the target accuracy of {job.target:.1%} was not reached {of}in {job.rounds} rounds; the best was {best:.1%}",
            )
        reached = [run.reached for run in runs if run.reached is not None]
        final = [run.final_accuracy for run in runs]
        values: dict[str, Sequence[float]] = {name: [getattr(p, name) for p in reached] for name in COSTS}
        values["rounds"] = [float(point.round) for point in reached]
        values["idle_share"] = [point.idle_share for point in reached]
        values["final_accuracy"] = final
        metrics = {name: mean_of(samples) for name, samples in values.items()}
        metrics["accuracy_drop_points"] = Metric(100.0 * (self.reference.final_accuracy - _mean(final)))
        metrics["memory_mib"] = Metric(max(self.memory_bytes(run, settings) for run in runs) / MIB)
        return Measurement(metrics, {"curve": curve(runs), "devices": by_class(job, runs)})


def mean_of(samples: Sequence[float]) -> Metric:
    """The mean of runs, with the half-width of its 95 % interval (Student's t) where there are several."""
    values = [float(sample) for sample in samples]
    if len(values) == 1:
        return Metric(values[0])
    from scipy import stats  # noqa: PLC0415 - takes longer to import than a run to start

    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Metric(_mean(values), half, tuple(values))


def curve(runs: Sequence[Training]) -> dict[str, list[float]]:
    """Means over runs, by round: at most a hundred points, the last among them."""
    count = len(runs[0].points)
    chosen = sorted({round(place) for place in torch.linspace(count - 1, 0, min(count, _CURVE)).tolist()})
    names = ("round", "accuracy", "traffic_mib", "time_s", "energy_j")
    return {
        name: [round(_mean(float(getattr(run.points[place], name)) for run in runs), 5) for place in chosen]
        for name in names
    }


def by_class(job: Job, runs: Sequence[Training]) -> dict[str, dict[str, float]]:
    """Sums over all rounds by class of device, means over runs."""
    found = {}
    for place, name in enumerate(job.fleet.kinds):
        members = job.fleet.kind == place
        count = int(members.sum())
        if count:
            ledgers = [run.method.ledger for run in runs]

            def total(part: str, members: torch.Tensor = members, ledgers: Any = ledgers) -> float:
                return _mean(float(getattr(ledger, part)[members].sum()) for ledger in ledgers)

            found[name] = {
                "devices": count,
                "download_mib": total("down_bytes") / MIB,
                "upload_mib": total("up_bytes") / MIB,
                "computing_s": total("busy_s") / count,
                "sending_s": total("sending_s") / count,
                "waiting_s": total("waiting_s") / count,
                "energy_j": total("joules"),
            }
    return found


def _spent(run: Training, name: str) -> float:
    point: Point = run.reached or run.points[-1]
    return float(getattr(point, name))


def _mean(values: Any) -> float:
    return float(statistics.fmean(values))

"""What is exported: the settings of a configuration with the job that they were found for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from autotune.text import number, value_text
from evaluators.federated.compressors import make
from evaluators.federated.compressors.quantiser import Quantiser
from evaluators.federated.knobs import meaningful
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import Tensors


@dataclass(frozen=True)
class Subject:
    """A job, as far as programs want to know it.

    Attributes:
        task: what was trained.
        devices: that have data.
        fleet: their classes with shares, or the file that lists them.
        participation: share of the devices that take part in a round.
        dropout: probability that a device is lost in a round.
        alpha: of the Dirichlet partition.
        rounds: that every configuration was trained for.
        target: accuracy in (0, 1] that costs are counted up to; None for the task's own.
        fixed: settings that were not searched over, by name.
    """

    task: str
    devices: int
    fleet: str
    participation: float
    dropout: float
    alpha: float
    rounds: int
    target: float | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """One configuration of a job.

    Attributes:
        config: of the trial.
        metrics: of it, by name; empty where it was not measured.
    """

    subject: Subject
    config: Mapping[str, Any]
    metrics: Mapping[str, float]

    @cached_property
    def values(self) -> dict[str, Any]:
        """Settings that mean something beside the others, searched or not, by name."""
        return meaningful({**self.subject.fixed, **self.config})

    @cached_property
    def settings(self) -> Settings:
        """All of them; those that mean nothing have their defaults.

        Raises:
            UsageError: for a name that is no setting, or a value outside its range.
        """
        return Settings.of(self.values, {})

    @property
    def bits(self) -> int | None:
        """That a quantiser sends of every number; None for other compressors."""
        compressor = make(self.settings.compressor, Tensors(("any",), ((1,),)))
        if not isinstance(compressor, Quantiser):
            return None
        return int(compressor.bits(np.array([self.settings.upload_keep]))[0])

    def told(self) -> list[str]:
        """What it is, in lines of a comment."""
        job = self.subject
        lines = [
            f"found for task {job.task}: {job.devices} devices ({job.fleet}), {job.participation:.0%} of them a round, "
            f"{job.rounds} rounds",
            "settings: " + ", ".join(f"{name}={value_text(value)}" for name, value in self.values.items()),
        ]
        if "traffic_mib" in self.metrics:
            lines.append(
                f"measured: {number(self.metrics['traffic_mib'])} MiB of traffic and {number(self.metrics['time_s'])} s up to "
                f"the target accuracy, final accuracy {self.metrics['final_accuracy']:.1%}"
            )
        return lines


def commented(title: str, notes: list[str], cannot: tuple[str, ...]) -> list[str]:
    """Lines of a comment, without its signs."""
    lines = [title, *notes]
    return [*lines, "Not expressed:", *(f"- {sentence}" for sentence in cannot)] if cannot else lines


def by_device(chosen: Chosen, *, compressed: bool = True) -> list[str]:
    """What differs from device to device, and what only a server does: sentences for programs whose processes are all alike.

    Args:
        compressed: whether the program compresses what processes send.
    """
    settings = chosen.settings
    found = []
    if compressed and settings.importance_share != 1.0:
        found.append(
            f"importance_share={settings.importance_share:g}: every process sends the same share, upload_keep="
            f"{settings.upload_keep:g}"
        )
    if settings.balanced:
        found.append(f"balanced=true: every process has the same batch, {settings.batch}")
    if settings.download != "none":
        kept = f" with download_keep={settings.download_keep:g}" if "download_keep" in chosen.values else ""
        found.append(
            f"download={settings.download}{kept}: no server sends models; every process computes the same one from the mean"
        )
    if chosen.subject.participation < 1.0:
        found.append(f"participation={chosen.subject.participation:g}: every process takes part in every exchange")
    return found

"""A training layout in the formats of engines that people train with, one file for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune.exporting import Exported, Exporter, NoOptions
from autotune.store.records import TrialRecord
from evaluators.training_layout.exporters import bridge, deepspeed, megatron, torchtitan
from evaluators.training_layout.exporters.subject import Chosen, Subject

__all__ = ["Chosen", "Subject", "exporters"]

_Write = Callable[[Chosen, NoOptions], Exported]

_FORMATS: tuple[tuple[str, str, _Write], ...] = (
    (megatron.NAME, megatron.SUMMARY, megatron.write),
    (deepspeed.NAME, deepspeed.SUMMARY, deepspeed.write),
    (torchtitan.NAME, torchtitan.SUMMARY, torchtitan.write),
    (bridge.NAME, bridge.SUMMARY, bridge.write),
)


def exporters(subject: Subject) -> dict[str, Exporter]:
    """All formats by name."""

    def bound(write: _Write) -> Callable[[TrialRecord, Any, str], Exported]:
        return lambda trial, options, stem: write(Chosen(subject, dict(trial.config), trial.values), options)

    return {name: Exporter(name, summary, bound(write)) for name, summary, write in _FORMATS}

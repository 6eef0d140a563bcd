"""How a configuration communicates, for programs that train, one file for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune.exporting import Exported, Exporter
from autotune.store.records import TrialRecord
from evaluators.federated.exporters import deepspeed, flower, plan_json, torch_ddp
from evaluators.federated.exporters.subject import Chosen, Subject

__all__ = ["Chosen", "Subject", "exporters"]

_Write = Callable[[Chosen, str], Exported]

_FORMATS: tuple[tuple[str, str, _Write], ...] = (
    (plan_json.NAME, plan_json.SUMMARY, plan_json.write),
    (flower.NAME, flower.SUMMARY, flower.write),
    (torch_ddp.NAME, torch_ddp.SUMMARY, torch_ddp.write),
    (deepspeed.NAME, deepspeed.SUMMARY, deepspeed.write),
)


def exporters(subject: Subject) -> dict[str, Exporter]:
    """All formats by name."""

    def bound(write: _Write) -> Callable[[TrialRecord, Any, str], Exported]:
        return lambda trial, options, stem: write(Chosen(subject, dict(trial.config), trial.values), stem)

    return {name: Exporter(name, summary, bound(write)) for name, summary, write in _FORMATS}

"""A placement in the formats of programs that serve by it, one file for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from autotune.exporting import Exported, Exporter, NoOptions
from autotune.store.records import TrialRecord
from evaluators.expert_placement.cluster import Cluster
from evaluators.expert_placement.exporters import plan_json, sglang, vllm
from evaluators.expert_placement.exporters.placed import Placed

__all__ = ["Placed", "exporters"]

_Write = Callable[[Placed, Any], Exported]

_FORMATS: tuple[tuple[str, str, _Write, type[BaseModel]], ...] = (
    (plan_json.NAME, plan_json.SUMMARY, plan_json.write, NoOptions),
    (sglang.NAME, sglang.SUMMARY, sglang.write, sglang.Options),
    (vllm.NAME, vllm.SUMMARY, vllm.write, NoOptions),
)


def exporters(cluster: Cluster, trace: str) -> dict[str, Exporter]:
    """All formats by name. What is written is the placement that a trial noted; nothing is computed again."""

    def bound(write: _Write) -> Callable[[TrialRecord, Any, str], Exported]:
        return lambda trial, options, stem: write(Placed.of(trial, cluster, trace), options)

    return {name: Exporter(name, summary, bound(write), options) for name, summary, write, options in _FORMATS}

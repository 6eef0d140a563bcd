"""The whole configuration as plain JSON, with what each number means, for any program.

``schema`` and ``schema_version`` say what to expect; a version adds names and never changes what one means.
"""

from __future__ import annotations

import json
import math
from typing import Any

from autotune.exporting import Exported
from evaluators.federated.compressors import COMPRESSORS
from evaluators.federated.exporters.subject import Chosen
from evaluators.federated.knobs import CHOICES
from evaluators.federated.settings import FEEDBACKS, METHODS

NAME = "plan-json"
SUMMARY = "every setting as plain JSON, with its unit and meaning"

SCHEMA = "autotune.compression-plan"
_VERSION = 1

_UNITS = {
    "importance_share": "share of upload_keep, in (0, 1]",
    "feedback_strength": "share of the error, in (0, 1]",
    "momentum": "share of the old momentum, in [0, 1)",
    "warmup_rounds": "rounds",
    "download_keep": "share of the model that is kept, in (0, 1]",
    "local_steps": "gradient steps in a round",
    "batch": "samples of a step; 0: all that a device has",
    "server_momentum": "share of the old momentum, in [0, 1)",
    "fragments": "of the model",
    "gossip_steps": "exchanges in a round",
    "trust": "over the mean distance of neighbours' models",
    "interval": "rounds of the median device",
    "staleness_power": "exponent",
    "directions": "candidates",
    "adapter_rank": "rank; 0: all weights are trained",
    "clusters": "values that are told apart",
}
# What a share of an update is a share of.
_KEPT = {
    "top-k": "share of the elements that is kept, in (0, 1]",
    "rand-k": "share of the elements that is kept, in (0, 1]",
    "fedzip": "share of the elements that is kept, in (0, 1]",
    "quantise": "share of the 32 bits of an element that is kept, in (0, 1]",
    "nonuniform": "share of the 32 bits of an element that is kept, in (0, 1]",
    "low-rank": "share of a matrix's numbers that its two factors have, in (0, 1]",
}
_NAMED = {
    "method": METHODS,
    "feedback": FEEDBACKS,
    "compressor": {name: kind.summary for name, kind in COMPRESSORS.items()},
}
_METRIC_UNITS = {
    "traffic_mib": "MiB",
    "upload_mib": "MiB",
    "download_mib": "MiB",
    "memory_mib": "MiB",
    "time_s": "s",
    "energy_j": "J",
    "rounds": "rounds",
    "final_accuracy": "share",
    "accuracy_drop_points": "percentage points",
    "idle_share": "share",
}


def write(chosen: Chosen, stem: str) -> Exported:
    """Nothing is left out."""
    del stem
    return Exported(json.dumps(document(chosen), indent=2, allow_nan=False) + "\n", ".json")


def document(chosen: Chosen) -> dict[str, Any]:
    """The configuration as JSON values. ``measured`` is null where it was not measured, or failed."""
    job = chosen.subject
    return {
        "schema": SCHEMA,
        "schema_version": _VERSION,
        "job": {
            "task": job.task,
            "devices": job.devices,
            "fleet": job.fleet,
            "participation": job.participation,
            "dropout": job.dropout,
            "dirichlet_alpha": job.alpha if math.isfinite(job.alpha) else "inf",
            "rounds": job.rounds,
            "target_accuracy": job.target,
        },
        "settings": {name: _setting(chosen, name, value) for name, value in chosen.values.items()},
        "measured": {name: _metric(name, value) for name, value in chosen.metrics.items()} or None,
    }


def _setting(chosen: Chosen, name: str, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value}
    if (unit := _KEPT[chosen.settings.compressor] if name == "upload_keep" else _UNITS.get(name)) is not None:
        found["unit"] = unit
    found["meaning"] = _NAMED[name][value] if name in _NAMED else CHOICES[name].told
    if name == "upload_keep" and chosen.bits is not None:
        found["bits"] = chosen.bits
    return found


def _metric(name: str, value: float) -> dict[str, Any]:
    return {"value": value if math.isfinite(value) else None, "unit": _METRIC_UNITS.get(name, "")}

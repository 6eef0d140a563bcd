"""The whole placement as plain JSON, for any program. Its schema is `plan.schema.json`, beside this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from autotune.exporting import Exported, NoOptions
from evaluators.expert_placement.exporters.placed import Placed

NAME = "plan"
SUMMARY = "everything as plain JSON, with a documented schema"
SCHEMA = Path(__file__).with_name("plan.schema.json")

_VERSION = 1


def write(placed: Placed, options: NoOptions) -> Exported:
    """The GPU of every expert, what the placement was made by and what was measured of it."""
    del options
    return Exported(json.dumps(document(placed), indent=2) + "\n", ".json")


def document(placed: Placed) -> dict[str, Any]:
    """The placement as JSON values; `plan.schema.json` says what each is."""
    config, cluster = placed.config, placed.cluster
    weights = np.atleast_1d(config["load_weight"]).tolist() if config["sweeps"] else []
    return {
        "schema": "autotune/expert-placement-plan",
        "schema_version": _VERSION,
        "trace": placed.trace,
        "cluster": {
            "gpus": cluster.gpus,
            "gpus_per_node": cluster.gpus_per_node,
            "experts_per_gpu": cluster.experts_per_gpu(placed.n_experts),
        },
        "made_by": {"solver": config["solver"], "sweeps": config["sweeps"], "load_weight": weights},
        "metrics": dict(placed.metrics),
        "layers": [
            {
                "layer": layer,
                "gpu_of_expert": row.tolist(),
                "experts_of_gpu": [np.flatnonzero(row == gpu).tolist() for gpu in range(cluster.gpus)],
            }
            for layer, row in enumerate(placed.placement)
        ],
    }

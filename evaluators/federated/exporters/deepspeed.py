"""DeepSpeed: its JSON configuration with 1-bit Adam, the one compression of gradients with error feedback that it has.

Names and rules are those of `deepspeed/runtime/fp16/onebit/adam.py`, `deepspeed/runtime/config.py` and
`deepspeed/runtime/engine.py` of DeepSpeed 0.19.2: signs of the momentum with one scale, error feedback on both ends, after
`freeze_step` steps of Adam as it is; not with ZeRO. Releases from 0.19.7 on have no 1-bit optimizers. It needs a GPU, so that
no file was run here.
"""

from __future__ import annotations

import json
import math
from typing import Any

from autotune.errors import UsageError
from autotune.exporting import Exported
from evaluators.federated.exporters.subject import Chosen, by_device

NAME = "deepspeed"
SUMMARY = "a configuration file of DeepSpeed up to 0.19.6 (1-bit Adam), for signs with error feedback"

_METHODS = ("fedavg", "diloco")
_FROZEN_SHARE = 0.15  # of all steps that its tutorial has Adam warm up for, at least, where nothing else is known


def write(chosen: Chosen, stem: str) -> Exported:
    """1-bit Adam with the batch.

    Raises:
        UsageError: for anything but signs with error feedback.
    """
    del stem
    settings = chosen.settings
    if (settings.compressor, settings.feedback) != ("sign", "ef") or settings.method not in _METHODS:
        feedback = f" with feedback={settings.feedback}" if "feedback" in chosen.values else ""
        raise UsageError(
            f"DeepSpeed has compressor=sign with feedback=ef of method=fedavg alone (1-bit Adam), and this is method="
            f"{settings.method}, compressor={settings.compressor}{feedback}; export another trial, or as plan-json"
        )
    return Exported(json.dumps(document(chosen), indent=2) + "\n", ".json", limits(chosen))


def document(chosen: Chosen) -> dict[str, Any]:
    """The configuration as JSON values."""
    parameters = {"freeze_step": _freeze_step(chosen), "comm_backend_name": "nccl"}
    found: dict[str, Any] = {
        "optimizer": {"type": "OneBitAdam", "params": parameters},
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": 0},
    }
    if chosen.settings.batch:
        found["train_micro_batch_size_per_gpu"] = chosen.settings.batch
    return found


def _freeze_step(chosen: Chosen) -> int:
    settings = chosen.settings
    if settings.warmup_rounds:
        return settings.warmup_rounds * settings.local_steps
    return max(1, math.ceil(_FROZEN_SHARE * chosen.subject.rounds * settings.local_steps))


def limits(chosen: Chosen) -> tuple[str, ...]:
    """What it cannot express."""
    settings = chosen.settings
    found = [
        f"learning_rate={settings.learning_rate:g}: it is SGD's and says nothing of Adam's; add lr to params, of which the "
        "default is 0.001",
        "signs of updates with a scale for each tensor: 1-bit Adam sends signs of its momentum",
    ]
    if not settings.warmup_rounds:
        found.append(
            f"warmup_rounds=0: 1-bit Adam needs Adam's variance first; written {_freeze_step(chosen)} steps, "
            f"{_FROZEN_SHARE:.0%} of the job's, as its tutorial advises at least"
        )
    if settings.local_steps > 1:
        found.append(f"local_steps={settings.local_steps}: 1-bit Adam exchanges after every step")
    if not settings.batch:
        found.append("batch=0: all that a process has; add train_micro_batch_size_per_gpu")
    if settings.method == "diloco" and settings.fragments > 1:
        found.append(f"fragments={settings.fragments}: the whole model is exchanged")
    if settings.server_momentum or settings.server_rate != 1.0:
        found.append(
            f"server_rate={settings.server_rate:g} with server_momentum={settings.server_momentum:g}: the step is Adam's"
        )
    if settings.adapter_rank:
        found.append(f"adapter_rank={settings.adapter_rank}: adapters are the model's own")
    return (*found, *by_device(chosen))

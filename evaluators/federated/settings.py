"""How one training run communicates: every choice that can be searched, with what it means and where it may lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from autotune.errors import UsageError

METHODS: Mapping[str, str] = {
    "fedavg": "local steps, then the mean of what devices send (arXiv:1602.05629)",
    "diloco": "local steps, then Nesterov momentum on the mean, fragment by fragment (arXiv:2311.08105, arXiv:2501.18512)",
    "scallion": "controlled averaging with an unbiased compressor (arXiv:2308.08165)",
    "scafcom": "controlled averaging with local momentum and any compressor (arXiv:2308.08165)",
    "locodl": "local steps until a shared coin shows heads, compressed differences to a shared model (arXiv:2403.04348)",
    "fedfix": "no barrier: the server averages what has arrived, at fixed intervals (arXiv:2206.10189)",
    "gossip": "no server: devices average with their neighbours (DFedSAM's several steps, Papaya's trust)",
    "seeds": "one byte for a gradient along a direction that a shared seed gives (FedKSeed, arXiv:2312.06353)",
}
FEEDBACKS: Mapping[str, str] = {
    "none": "what is lost is lost",
    "ef": "what was lost is added to what is sent next (arXiv:1901.09847)",
    "ef21": "differences to what the server has of a device are sent (arXiv:2106.05203)",
    "econtrol": "both, with a strength (arXiv:2311.05645)",
    "dgc": "momentum on devices, masked where it was sent (Deep Gradient Compression, arXiv:1712.01887)",
}
DOWNLOADS = ("none", "half", "quantise", "top-k", "fedzip", "low-deviation")
TOPOLOGIES = ("ring", "random", "complete")
LOW_DEVIATION = "low-deviation"
UNBIASED_ONLY = ("scallion", "locodl")
# Methods whose devices each keep control variates of all others' models: everyone takes part in every round.
EVERYONE = ("locodl", "gossip")

# Where each number may lie: (least, most, whether the least itself is allowed).
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "upload_keep": (0.0, 1.0, False),
    "importance_share": (0.0, 1.0, False),
    "download_keep": (0.0, 1.0, False),
    "feedback_strength": (0.0, 1.0, False),
    "momentum": (0.0, 0.999, True),
    "warmup_rounds": (0, 100_000, True),
    "local_steps": (1, 10_000, True),
    "batch": (0, 65_536, True),
    "learning_rate": (0.0, 1e3, False),
    "server_rate": (0.0, 1e3, False),
    "server_momentum": (0.0, 0.999, True),
    "fragments": (1, 1_000, True),
    "gossip_steps": (1, 100, True),
    "trust": (0.0, 1e3, True),
    "interval": (0.0, 100.0, False),
    "staleness_power": (0.0, 10.0, True),
    "directions": (1, 1_000_000, True),
    "adapter_rank": (0, 4_096, True),
    "clusters": (2, 255, True),
}


@dataclass(frozen=True)
class Settings:
    """One configuration. Ratios are always what is kept; the papers' is often what is dropped.

    Attributes:
        method: of `METHODS`.
        compressor: of what devices send, by name (`evaluators.federated.compressors.COMPRESSORS`).
        upload_keep: that the most important device of a round keeps of its update.
        importance_share: of that, what the least important one keeps; those between by rank. 1 is one ratio for all.
        download: how the server's model reaches devices: whole, or by a compressor.
        download_keep: of the model, for a device that took part in the round before.
        staleness: whether devices that were away longer get more of it, up to the whole model (Caesar).
        feedback: of `FEEDBACKS`; what becomes of what a compressor drops.
        feedback_strength: of `econtrol`, the share of the old error that is sent again.
        momentum: on devices, for `dgc` and `scafcom`.
        warmup_rounds: over which ratios fall from 1 to what was chosen; compressors without a ratio start after them.
        local_steps: gradient steps of a device in a round; their mean where the method draws it.
        batch: samples of a step; 0 takes all that a device has.
        balanced: whether slower devices get smaller batches, such that all end with the fastest (Caesar).
        learning_rate: of local steps.
        server_rate, server_momentum: of the server's step along the mean update (1 and 0: plain averaging).
        fragments: of the model, one of which is exchanged in a round (Streaming DiLoCo).
        topology, gossip_steps, trust: of `gossip`; with trust above 0, neighbours with nearer models weigh more.
        interval: of `fedfix`, the time between averages over the median device's round.
        staleness_power: of `fedfix`; an update that is s rounds old weighs (1 + s) to the minus this.
        directions: of `seeds`: how many candidate directions the server offers in all.
        adapter_rank: trains square matrices of that rank between two frozen factors of every weight matrix (Fed-SB);
            0 trains the weights themselves.
        clusters: of `fedzip`.
    """

    method: str = "fedavg"
    compressor: str = "none"
    upload_keep: float = 1.0
    importance_share: float = 1.0
    download: str = "none"
    download_keep: float = 1.0
    staleness: bool = False
    feedback: str = "none"
    feedback_strength: float = 0.3  # above the compressor's contraction it may diverge
    momentum: float = 0.9
    warmup_rounds: int = 0
    local_steps: int = 1
    batch: int = 16
    balanced: bool = False
    learning_rate: float = 0.1
    server_rate: float = 1.0
    server_momentum: float = 0.0
    fragments: int = 1
    topology: str = "ring"
    gossip_steps: int = 1
    trust: float = 0.0
    interval: float = 1.0
    staleness_power: float = 0.5
    directions: int = 1024
    adapter_rank: int = 0
    clusters: int = 15

    def __post_init__(self) -> None:
        for name, (least, most, included) in _RANGES.items():
            value = getattr(self, name)
            inside = least <= value <= most if included else least < value <= most
            if not math.isfinite(value) or not inside:
                lower = f"at least {least:g}" if included else f"above {least:g}"
                raise UsageError(f"{name} is {value!r}; it must be {lower} and at most {most:g}")
        for name, known in (
            ("method", tuple(METHODS)),
            ("feedback", tuple(FEEDBACKS)),
            ("download", DOWNLOADS),
            ("topology", TOPOLOGIES),
        ):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; use {', '.join(known)}")

    @classmethod
    def of(cls, config: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
        """The settings of a configuration, the rest as `given`.

        Raises:
            UsageError: for a name that is no setting, or a value outside its range.
        """
        known = {f.name for f in fields(cls)}
        merged = {**given, **config}
        unknown = sorted(set(merged) - known)
        if unknown:
            raise UsageError(f"setting {unknown[0]!r} is unknown; use {', '.join(sorted(known))}")
        return cls(**merged)

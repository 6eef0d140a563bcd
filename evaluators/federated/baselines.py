"""What people use: each compressor at a fixed, published ratio; and Caesar's rules with their published constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from autotune.space import Config, Ordinal, SearchSpace
from evaluators.federated.knobs import config_of, plain
from evaluators.federated.settings import LOW_DEVIATION

# (0.6, 0.1, 0.6) dropped, as re-implementations of Caesar have its constants: 40 % of the model for fresh devices, 90 to 40 %
# of an update.
CAESAR: Mapping[str, Any] = MappingProxyType({
    "compressor": "top-k",
    "upload_keep": 0.9,
    "importance_share": 0.44,
    "feedback": "none",
    "download": LOW_DEVIATION,
    "download_keep": 0.4,
    "staleness": True,
    "balanced": True,
})  # fmt: skip

# What baselines do not do unless they say so: anything but one ratio for all devices, from the first round, upwards.
UNCOMPRESSED: Mapping[str, Any] = MappingProxyType({
    "importance_share": 1.0, "warmup_rounds": 0, "download": "none", "staleness": False, "balanced": False,
})  # fmt: skip

# Where ratios stand in a paper they are that paper's; 10 % is what most comparisons of sparsifiers take.
BASELINES: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "top-k 10 %": {"compressor": "top-k", "upload_keep": 0.1, "feedback": "ef"},
    "rand-k 10 %": {"compressor": "rand-k", "upload_keep": 0.1, "feedback": "none"},
    "sign": {"compressor": "sign", "feedback": "ef"},
    "quantise 8 bits": {"compressor": "quantise", "upload_keep": 0.25, "feedback": "none"},
    "nonuniform 8 bits": {"compressor": "nonuniform", "upload_keep": 0.25, "feedback": "none"},
    "fedzip 10 %": {"compressor": "fedzip", "upload_keep": 0.1, "feedback": "none"},
    "low-rank 25 %": {"compressor": "low-rank", "upload_keep": 0.25, "feedback": "ef"},
    "dgc 1 %": {"compressor": "top-k", "upload_keep": 0.01, "feedback": "dgc", "momentum": 0.9, "warmup_rounds": 20},
    "caesar": CAESAR,
})  # fmt: skip

# The constants of Caesar's rules, and what its authors leave to the user, the most telling for traffic first.
_CONSTANTS = ("download_keep", "upload_keep", "importance_share", "local_steps", "batch", "feedback", "learning_rate")


class Caesar:
    """Caesar's rules as a `RuleOfThumb` for the strategy `greedy`."""

    def __init__(self, settings: Mapping[str, tuple[Any, ...]], space: SearchSpace) -> None:
        self._settings = settings
        self._space = space

    def rules(self) -> Sequence[Config]:
        """The published constants."""
        return [config_of(self._settings, self._space, {**plain(self._settings), **CAESAR})]

    def constants(self) -> Sequence[tuple[str, Sequence[Any]]]:
        """See `RuleOfThumb.constants`."""
        found = []
        names = {parameter.name for parameter in self._space.parameters}
        for name in _CONSTANTS:
            if name in names:
                values = self._settings[name]
                found.append((name, sorted(values) if isinstance(self._space[name], Ordinal) else list(values)))
        return found

"""Where a search may begin: what is predicted to send least, one configuration for each way to compress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.space import Config, SearchSpace
from evaluators.federated.baselines import Caesar
from evaluators.federated.prediction import Prediction

_STARTS = 4
_SAMPLE = 2_000  # random configurations that are improved knob by knob
_STEPS = 30  # of improvement, at most
_SEED = 0
_LEAST = 0.1  # points that may be lost in any case
_PENALTY = 4  # power of how far accuracy is predicted to fall too low
_KINDS = ("compressor", "download")  # no two starts share one of these, where they are searched


class Starts(Caesar):
    """Caesar's rules for `greedy`, and for other strategies a `FixedPointMap` that answers with the best predictions.

    Nothing couples the starts, so that each is at its fixed point at once.

    Args:
        settings, space: that are searched.
        prediction: of traffic and of accuracy.
        drop: points of final accuracy that compression may cost; what is predicted to cost more counts as more traffic.
    """

    def __init__(
        self, settings: Mapping[str, tuple[Any, ...]], space: SearchSpace, prediction: Prediction, drop: float
    ) -> None:
        super().__init__(settings, space)
        self._prediction = prediction
        self._drop = drop

    @cached_property
    def _best(self) -> dict[str, tuple[Config, float]]:
        """Configurations by name with their losses, the best first."""
        sample = self._space.sample(_SAMPLE, _SEED)
        losses = self._losses(sample)
        found: dict[str, tuple[Config, float]] = {}
        kinds: list[tuple[Any, ...]] = []
        searched = [name for name in _KINDS if name in {parameter.name for parameter in self._space.parameters}]
        for place in np.argsort(losses, kind="stable"):
            kind = tuple(sample[place].get(name) for name in searched)
            if len(found) == _STARTS or np.isnan(losses[place]) or (kinds and not kind):
                break
            if not any(mine == other for taken in kinds for mine, other in zip(kind, taken, strict=True)):
                kinds.append(kind)
                name = " and ".join(map(str, kind)) or "best"
                found[name] = self._improved(sample[place], float(losses[place]))
        return dict(sorted(found.items(), key=lambda item: item[1][1]))

    def _improved(self, config: Config, loss: float) -> tuple[Config, float]:
        """The best that is reached knob by knob without another compressor."""
        kind = [config.get(name) for name in _KINDS]
        for _ in range(_STEPS):
            near = self._space.neighbours(config, seed=_SEED)
            near = [other for other in near if [other.get(name) for name in _KINDS] == kind]
            if not near:
                break
            losses = self._losses(near)
            if np.isnan(losses).all() or not np.nanmin(losses) < loss:
                break
            place = int(np.nanargmin(losses))
            config, loss = near[place], float(losses[place])
        return config, loss

    def _losses(self, configs: Sequence[Config]) -> npt.NDArray[np.float64]:
        """Predicted MiB, ``(n,)``, times how far the accuracy is predicted to fall too low."""
        told = self._prediction.predict(configs)
        beyond = np.maximum(told["accuracy_drop_points"] / max(self._drop, _LEAST), 1.0)
        return np.asarray(told["traffic_mib"] * beyond**_PENALTY)

    def starts(self) -> Sequence[str]:
        """See `FixedPointMap.starts`."""
        return list(self._best)

    def initial(self, start: str) -> npt.NDArray[np.float64]:
        """See `FixedPointMap.initial`."""
        return np.zeros(1)

    def apply(self, start: str, coupling: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], Config, float]:
        """See `FixedPointMap.apply`."""
        return coupling, *self._best[start]

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        """See `FixedPointMap.refine`."""
        return config, self._best[start][1]

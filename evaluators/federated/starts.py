"""Where a search may begin: what is predicted to send least, on tasks that bear much compression and that bear little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.space import Config, SearchSpace
from evaluators.federated.baselines import Caesar
from evaluators.federated.prediction import Prediction

_SAMPLE = 2_000  # random configurations that are improved knob by knob
_STEPS = 30  # of improvement, at most
_SEED = 0
_LEAST = 0.1  # points that may be lost in any case
_PENALTY = 4  # power of how far accuracy is predicted to fall too low
_KINDS = ("compressor", "download")  # no two starts share one of these, where they are searched
_EACH = 2  # starts of each assumption
_TRIED = 12  # kinds that are improved for them


@dataclass(frozen=True)
class Assumption:
    """What a task may bear, which nothing but training tells.

    Attributes:
        sensitivity: see `Prediction.with_sensitivity`; what was seen of tasks lies between those of the two assumptions.
        faster: whether it may learn at a larger rate than its own.
    """

    name: str
    sensitivity: float
    faster: bool


ASSUMED = (Assumption("bold", 0.8, True), Assumption("careful", 4.0, False))


class Starts(Caesar):
    """Caesar's rules for `greedy`, and for other strategies a `FixedPointMap` that answers with the best predictions.

    Nothing couples the starts, so that each is at its fixed point at once. They are the best two under each of two assumptions
    of what the task bears; under one assumption no two share a compressor or a download.

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
        self._usual_rate = prediction.job.plain.learning_rate

    @cached_property
    def _best(self) -> dict[str, tuple[Config, float]]:
        """Configurations by name with what is predicted of them, the best first."""
        sample = self._space.sample(_SAMPLE, _SEED)
        found: dict[str, tuple[Config, float]] = {}
        known: list[Config] = []
        for assumed in ASSUMED:
            for kind, config in self._under(assumed, sample):
                if config not in known:
                    known.append(config)
                    loss = float(self._losses(ASSUMED[0], [config])[0])
                    found[f"{assumed.name}, {kind}" if kind else assumed.name] = config, loss
        return dict(sorted(found.items(), key=lambda item: item[1][1]))

    def _under(self, assumed: Assumption, sample: Sequence[Config]) -> Iterator[tuple[str, Config]]:
        """The best of each kind of compressor and download, for kinds that share neither."""
        losses = self._losses(assumed, sample)
        searched = [name for name in _KINDS if name in {parameter.name for parameter in self._space.parameters}]
        nearest: dict[tuple[Any, ...], int] = {}
        for place in np.argsort(losses, kind="stable"):
            if len(nearest) == _TRIED or np.isnan(losses[place]):
                break
            nearest.setdefault(tuple(sample[place].get(name) for name in searched), int(place))
        improved = [
            (kind, *self._improved(assumed, sample[place], float(losses[place]))) for kind, place in nearest.items()
        ]
        taken: list[tuple[Any, ...]] = []
        for kind, config, _ in sorted(improved, key=itemgetter(2)):
            if len(taken) < _EACH and not any(a == b for other in taken for a, b in zip(kind, other, strict=True)):
                taken.append(kind)
                yield " and ".join(map(str, kind)), config

    def _improved(self, assumed: Assumption, config: Config, loss: float) -> tuple[Config, float]:
        """The best that is reached knob by knob without another compressor, and its loss."""
        kind = [config.get(name) for name in _KINDS]
        for _ in range(_STEPS):
            near = self._space.neighbours(config, seed=_SEED)
            near = [other for other in near if [other.get(name) for name in _KINDS] == kind]
            if not near:
                break
            losses = self._losses(assumed, near)
            if np.isnan(losses).all() or not np.nanmin(losses) < loss:
                break
            place = int(np.nanargmin(losses))
            config, loss = near[place], float(losses[place])
        return config, loss

    def _losses(self, assumed: Assumption, configs: Sequence[Config]) -> npt.NDArray[np.float64]:
        """Predicted MiB, ``(n,)``, times how far the accuracy is predicted to fall too low."""
        told = self._prediction.with_sensitivity(assumed.sensitivity).predict(configs)
        beyond = np.maximum(told["accuracy_drop_points"] / max(self._drop, _LEAST), 1.0)
        if not assumed.faster:
            rates = np.array([config.get("learning_rate", 0.0) for config in configs])
            beyond *= np.maximum(rates / self._usual_rate, 1.0)
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

"""A predictor as strategies get it: every prediction made once, and none that fails stops a search or goes unnoticed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from autotune.measurement import as_number
from autotune.predictors.base import Predictor
from autotune.space import Config

PredictFunction: TypeAlias = Callable[[Config], Any]
PredictorLike: TypeAlias = Predictor | PredictFunction | bool

_MOST_KEPT = 200_000  # configurations: twice what a strategy scores exhaustively, some tens of MiB

# One kept encoder takes half the time of json.dumps; configurations may hold numbers of other libraries.
_ENCODE = json.JSONEncoder(default=lambda value: value.tolist() if hasattr(value, "tolist") else repr(value)).encode


class PredictorWarning(UserWarning):
    """A predictor failed for at least one configuration, for which the search goes on without it."""


def guarded(given: PredictorLike | None, metrics: Iterable[str]) -> Guarded | None:
    """What a user gave as predictor, made safe; None where it is None or False.

    Args:
        given: a `Predictor`, or ``predict(config)`` returning a number or a mapping of metrics.
        metrics: what a study optimises and limits; a number stands for the first of them.

    Raises:
        UsageError: when it is neither.
    """
    if given is None or given is False:
        return None
    if given is True or isinstance(given, type) or not (callable(given) or callable(getattr(given, "predict", None))):
        raise UsageError(
            f"predictor is {given!r}; give a function of a configuration, an object with the method "
            "predict(configurations), or False for none"
        )
    return Guarded(given, metrics)


class Guarded:
    """A `Predictor` around another, or around a function of one configuration.

    What is not finite, or fails, is NaN. A metric of which nothing is known for the configurations asked for is lacking.
    The first failure is kept as `problem` and told once as a `PredictorWarning`.

    Attributes:
        problem: why the first prediction that failed did; None while none has.
    """

    def __init__(self, given: Predictor | PredictFunction, metrics: Iterable[str]) -> None:
        self._given = given
        self._metrics = tuple(dict.fromkeys(metrics))
        self._kept: dict[str, tuple[float, ...]] = {}
        self.problem: str | None = None

    def predict(self, configs: Sequence[Config]) -> Mapping[str, npt.NDArray[np.float64]]:
        """See `Predictor.predict`; deterministic predictors are asked once for each configuration."""
        keys = [_ENCODE(config) for config in configs]
        new = {key: config for key, config in zip(keys, configs, strict=True) if key not in self._kept}
        fresh: dict[str, tuple[float, ...]] = {}
        if new:
            asked = self._ask([dict(config) for config in new.values()])
            fresh = dict(zip(new, map(tuple, asked.tolist()), strict=True))
            if len(self._kept) + len(fresh) <= _MOST_KEPT:
                self._kept |= fresh
        rows = [fresh[key] if key in fresh else self._kept[key] for key in keys]
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(self._metrics))
        return {
            metric: column
            for metric, column in zip(self._metrics, values.T, strict=True)
            if bool(np.isfinite(column).any())
        }

    def _ask(self, configs: Sequence[Config]) -> npt.NDArray[np.float64]:
        """Predictions, ``(len(configs), metrics)``; NaN for what failed."""
        values = np.full((len(configs), len(self._metrics)), np.nan)
        at_once = getattr(self._given, "predict", None)
        if callable(at_once):
            self._fill(values, at_once, configs)
        else:
            for row, config in zip(values, configs, strict=True):
                self._fill_one(row, config)
        infinite = np.argwhere(np.isinf(values))
        if len(infinite):
            row, column = infinite[0]
            self._tell(f"its {self._metrics[column]} of {configs[row]!r} is {values[row, column]}")
            values[np.isinf(values)] = np.nan
        return values

    def _fill(
        self, values: npt.NDArray[np.float64], predict: Callable[[Sequence[Config]], Any], configs: Sequence[Config]
    ) -> None:
        try:
            returned = predict(configs)
        except Exception as error:
            self._tell(f"predict raised {_named(error)}")
            return
        if not self._has_metrics(returned):
            return
        for column, metric in enumerate(self._metrics):
            if metric not in returned:
                continue
            try:
                predicted = np.asarray(returned[metric], dtype=np.float64)
            except Exception as error:
                self._tell(f"predict gave no numbers for {metric}: {_named(error)}")
                continue
            if predicted.shape != (len(configs),):
                self._tell(
                    f"predict gave an array of shape {predicted.shape} for {metric} of {len(configs)} configurations; "
                    f"its shape must be ({len(configs)},)"
                )
                continue
            values[:, column] = predicted

    def _fill_one(self, row: npt.NDArray[np.float64], config: Config) -> None:
        assert callable(self._given)
        try:
            returned = self._given(config)
        except Exception as error:
            self._tell(f"for {config!r} it raised {_named(error)}")
            return
        number = None if isinstance(returned, bool) else as_number(returned)
        found: Any = returned if number is None else {self._metrics[0]: number}
        if not self._has_metrics(found):
            return
        for column, metric in enumerate(self._metrics):
            if metric not in found:
                continue
            value = as_number(found[metric])
            if value is None or np.isnan(value):
                self._tell(f"its {metric} of {config!r} is {found[metric]!r}")
                continue
            row[column] = value

    def _has_metrics(self, returned: object) -> bool:
        if not isinstance(returned, Mapping):
            self._tell(f"it returned {type(returned).__name__}; return a mapping by metric name")
        elif not any(metric in returned for metric in self._metrics):
            given = ", ".join(map(str, returned)) or "nothing"
            self._tell(f"it predicts {given}, but none of this study's metrics: {', '.join(self._metrics)}")
        else:
            return True
        return False

    def _tell(self, problem: str) -> None:
        if self.problem is not None:
            return
        self.problem = problem
        warnings.warn(
            f"the predictor failed, and the search goes on without what it did not predict: {problem}",
            PredictorWarning,
            stacklevel=2,
        )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

"""What a predictor is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from autotune.space import Config


class Predictor(Protocol):
    """A domain's cheap model of its metrics, deterministic, thousands of configurations in one call."""

    def predict(self, configs: Sequence[Config]) -> Mapping[str, npt.NDArray[np.float64]]:
        """By metric, shape ``(len(configs),)``; NaN where the model has nothing to say. Metrics may be lacking."""
        ...

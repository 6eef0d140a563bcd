"""What is known beforehand, as columns for surrogates: a domain's predictor, earlier studies, cheaper evaluators."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Guides:
    """No guide."""

    def at(self, units: Floats) -> Floats:
        """Guides at encoded configurations, shape ``(n, k)``."""
        return np.zeros((len(units), 0))

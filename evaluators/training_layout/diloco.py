"""Local steps between synchronisations (DiLoCo): the bandwidth that keeps GPUs busy.

A reconstruction: the papers (arXiv:2501.18512, table 4; arXiv:2503.09799, table 6) print results of a simulator that they do
not print. Its two constants were fitted to 55 printed cells and have no confirmed physical meaning.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluators.training_layout.layouts import Floats

_VOLUME = 0.76  # of the model's bits that cross the link
_HIDDEN = 0.66  # of a step's time that the transfer hides behind
GRID_GBIT_S: Floats = np.logspace(-1, 3, 50)  # the bandwidths that the papers tried


def utilisation(
    parameters: npt.ArrayLike,
    step_s: npt.ArrayLike,
    local_steps: npt.ArrayLike,
    gbit_s: npt.ArrayLike,
    bits: float = 16.0,
) -> Floats:
    """Share of the time that GPUs compute when they synchronise every `local_steps` steps over a link."""
    volume = _VOLUME * bits * np.asarray(parameters, dtype=np.float64) / 1e9
    step = np.asarray(step_s, dtype=np.float64)
    exposed = np.maximum(0.0, volume / np.asarray(gbit_s, dtype=np.float64) - _HIDDEN * step)
    work = np.asarray(local_steps, dtype=np.float64) * step
    return work / (work + exposed)


def needed_gbit_s(parameters: float, step_s: float, local_steps: int, target: float, bits: float = 16.0) -> float:
    """The least bandwidth on the papers' grid that reaches a utilisation; NaN where none of them does."""
    enough = utilisation(parameters, step_s, local_steps, GRID_GBIT_S, bits) >= target
    return float(GRID_GBIT_S[np.argmax(enough)]) if enough.any() else float("nan")

"""Local steps between synchronisations (DiLoCo, and Streaming DiLoCo): the bandwidth that keeps GPUs busy.

A reconstruction: the papers (arXiv:2501.18512, table 4; arXiv:2503.09799, table 6) print results of a simulator that they do
not print. The constants below were fitted to those cells, all of which they meet within one step of the papers' grid, and have
no confirmed physical meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
import numpy.typing as npt

from evaluators.training_layout.layouts import Floats

_VOLUME = 0.76  # of the model's bits that cross the link
_LAST = 1.1  # times a layer's share, of what is sent when the backward pass has ended
_BACKWARD = 0.58  # of a step, behind which data-parallel gradients travel layer by layer
GRID_GBIT_S: Floats = np.logspace(-1, 3, 50)  # the bandwidths that the papers tried


class Exchange(Enum):
    """How often and how much at once is sent; the value is the part of a step that each transfer hides behind.

    WHOLE sends the model at once, STREAMING fragment by fragment, OVERLAPPED a fragment while the next step is computed.
    """

    WHOLE = 0.66
    STREAMING = 0.45
    OVERLAPPED = 1.3


def utilisation(
    parameters: npt.ArrayLike,
    step_s: npt.ArrayLike,
    local_steps: npt.ArrayLike,
    gbit_s: npt.ArrayLike,
    *,
    exchange: Exchange = Exchange.WHOLE,
    fragments: int = 1,
    bits: float = 16.0,
) -> Floats:
    """Share of the time that GPUs compute when they synchronise every `local_steps` steps over a link.

    Args:
        fragments: of the model, each sent by itself once in `local_steps` steps.
        bits: of a number that is sent.
    """
    step = np.asarray(step_s, dtype=np.float64)
    transfer = _gbit(parameters, bits) / fragments / np.asarray(gbit_s, dtype=np.float64)
    exposed = fragments * np.maximum(0.0, transfer - exchange.value * step)
    work = np.asarray(local_steps, dtype=np.float64) * step
    found: Floats = work / (work + exposed)
    return found


def data_parallel_utilisation(
    parameters: npt.ArrayLike, step_s: npt.ArrayLike, layers: int, gbit_s: npt.ArrayLike, bits: float = 16.0
) -> Floats:
    """The same where gradients are reduced at every step, layer by layer behind the backward pass; the last layer's has
    nothing left to hide behind."""
    step = np.asarray(step_s, dtype=np.float64)
    transfer = _gbit(parameters, bits) / np.asarray(gbit_s, dtype=np.float64)
    exposed = np.maximum(transfer - _BACKWARD * step, _LAST * transfer / layers)
    found: Floats = step / (step + exposed)
    return found


def needed_gbit_s(reached: Callable[[Floats], Floats], target: float) -> float:
    """The least bandwidth on the papers' grid that reaches a utilisation; NaN where none of them does.

    Args:
        reached: the utilisation by bandwidth, ``(n,)`` each.
    """
    enough = reached(GRID_GBIT_S) >= target
    return float(GRID_GBIT_S[np.argmax(enough)]) if enough.any() else float("nan")


def _gbit(parameters: npt.ArrayLike, bits: float) -> Floats:
    return _VOLUME * bits * np.asarray(parameters, dtype=np.float64) / 1e9

"""Measured rates on grids of logarithmic axes, and what lies between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evaluators.training_layout.layouts import Floats


class Grid:
    """Rates on a grid of logarithmic axes; holes take the rate of the nearest measured shape along the first axis."""

    def __init__(self, axes: Sequence[Floats], rates: Floats) -> None:
        from scipy.interpolate import RegularGridInterpolator  # noqa: PLC0415

        self._low = [np.log(axis[0]) for axis in axes]
        self._high = [np.log(axis[-1]) for axis in axes]
        self._at = RegularGridInterpolator([np.log(axis) for axis in axes], np.log(_filled(rates)))

    def __call__(self, *at: Floats) -> Floats:
        inside = [np.clip(np.log(v), low, high) for v, low, high in zip(at, self._low, self._high, strict=True)]
        found: Floats = np.exp(self._at(np.stack(inside, axis=-1)))
        return found


def transfer_s(sizes: Floats, seconds: Floats, nbytes: npt.ArrayLike) -> Floats:
    """Seconds of so many bytes, interpolated between measured sizes on logarithmic axes; beyond the largest at its rate.

    Args:
        sizes, seconds: ``(n,)``, ascending.
    """
    asked = np.maximum(np.asarray(nbytes, dtype=np.float64), 1.0)
    inside = np.exp(np.interp(np.log(asked), np.log(sizes), np.log(seconds)))
    return np.where(asked > sizes[-1], asked * (seconds[-1] / sizes[-1]), inside)


def grid_of(points: Floats, rates: Floats) -> Grid:
    """The grid that measured points span.

    Args:
        points: ``(n, d)`` shapes, at least two different numbers along every axis.
        rates: ``(n,)`` of them.
    """
    axes = [np.unique(column) for column in points.T]
    full = np.full([len(axis) for axis in axes], np.nan)
    full[tuple(np.searchsorted(axis, column) for axis, column in zip(axes, points.T, strict=True))] = rates
    return Grid(axes, full)


def _filled(rates: Floats) -> Floats:
    """Holes filled along each axis in turn, from the nearest measured neighbour."""
    found = rates.copy()
    for axis in range(found.ndim):
        moved = np.moveaxis(found, axis, 0)
        known = np.isfinite(moved)
        at = np.arange(len(moved)).reshape(-1, *([1] * (moved.ndim - 1)))
        before = np.maximum.accumulate(np.where(known, at, -1), axis=0)
        after = np.flip(np.minimum.accumulate(np.flip(np.where(known, at, len(moved)), 0), axis=0), 0)
        nearer = np.where((before >= 0) & ((after >= len(moved)) | (at - before <= after - at)), before, after)
        usable = (nearer >= 0) & (nearer < len(moved))
        taken = np.take_along_axis(moved, np.clip(nearer, 0, len(moved) - 1), axis=0)
        found = np.moveaxis(np.where(usable, taken, moved), 0, axis)
    return found

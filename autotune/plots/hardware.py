"""A machine's measured curves against their rooflines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from autotune.hardware.profile import HardwareProfile
from autotune.hardware.shapes import FfnShape
from autotune.plots.style import GREY, PALETTE, laid_out, literal
from autotune.viewing import NothingToShowError

_GIB = 2**30
_GIGA = 1e9
_PLOT_PX = 360


def links(payload: Mapping[str, Any]) -> go.Figure:
    """Rates of transfers by size and queue depth, below the highest rate that was measured and the shortest transfer's time.

    Args:
        payload: a hardware profile as the store keeps it.

    Raises:
        UsageError: for a payload that is no hardware profile.
    """
    profile = HardwareProfile.from_dict(dict(payload))
    figure = go.Figure()
    best, shortest = 0.0, np.inf
    for place, entry in enumerate(sorted(profile.links, key=lambda link: link.depth)):
        x, seconds = np.asarray(entry.curve.x, float), np.asarray(entry.curve.ms) / 1e3
        rate = x / _GIB / seconds
        half = np.array([0.0 if width is None else width / 1e3 for width in entry.curve.half_width_ms])
        best, shortest = max(best, float(rate.max())), min(shortest, float(seconds.min()))
        figure.add_scatter(
            x=x,
            y=rate,
            error_y={"type": "data", "array": rate * half / seconds, "thickness": 1.2, "width": 3},
            mode="lines+markers",
            name=f"depth {entry.depth}",
            line={"color": PALETTE[place % (len(PALETTE) - 1)]},
            hovertemplate=f"depth {entry.depth}<br>%{{x:.4s}}B<br>%{{y:.4g}} GiB/s<extra></extra>",
        )
    sizes = np.geomspace(min(e.curve.x[0] for e in profile.links), max(e.curve.x[-1] for e in profile.links), 60)
    _roof(figure, sizes, np.minimum(best, sizes / _GIB / shortest), "roofline: shortest transfer, highest rate")
    _logarithmic(figure, f"bytes of a transfer, {literal(profile.tier_pair)}", "GiB/s")
    return laid_out(figure, _PLOT_PX)


def compute(payload: Mapping[str, Any]) -> go.Figure:
    """Measured rates of experts by arithmetic intensity, below the highest rate and the highest bandwidth that were measured.

    An expert of W weights does 2 W operations for a token and reads its weights once for all of them, so that its intensity is
    that of a roofline (Williams et al. 2009): 2 W tokens over the bytes of its weights.

    Raises:
        UsageError: for a payload that is no hardware profile.
        NothingToShowError: where no expert was timed.
    """
    profile = HardwareProfile.from_dict(dict(payload))
    entries = [entry for entry in profile.compute if isinstance(entry.shape, FfnShape)]
    if not entries:
        raise NothingToShowError(
            "the profile has no compute curves of experts; 'autotune hardware --shape' measures some"
        )
    figure = go.Figure()
    peak, bandwidth, ends = 0.0, 0.0, []
    for place, entry in enumerate(entries):
        assert isinstance(entry.shape, FfnShape)
        tokens, seconds = np.asarray(entry.curve.x, float), np.asarray(entry.curve.ms) / 1e3
        operations = 2.0 * 3 * entry.shape.hidden * entry.shape.inter * tokens
        intensity, rate = operations / entry.shape.weight_bytes, operations / seconds / _GIGA
        peak = max(peak, float(rate.max()))
        bandwidth = max(bandwidth, float((entry.shape.weight_bytes / seconds).max()) / _GIGA)
        ends += [intensity[0], intensity[-1]]
        name = literal(f"{entry.shape} on {entry.device}")
        figure.add_scatter(
            x=intensity,
            y=rate,
            customdata=tokens,
            mode="lines+markers",
            name=name,
            line={"color": PALETTE[place % (len(PALETTE) - 1)]},
            hovertemplate=f"{name}<br>%{{customdata}} tokens<br>%{{y:.4g}} GFLOP/s<extra></extra>",
        )
    x = np.geomspace(min(ends), max(ends), 60)
    _roof(
        figure, x, np.minimum(peak, bandwidth * x), f"roofline: {peak:.3g} GFLOP/s, {bandwidth:.3g} GB/s, as measured"
    )
    _logarithmic(figure, "operations per byte of weights", "GFLOP/s")
    return laid_out(figure, _PLOT_PX)


def _roof(figure: go.Figure, x: Any, y: Any, name: str) -> None:
    figure.add_scatter(x=x, y=y, mode="lines", name=name, line={"color": GREY, "dash": "dash"}, hoverinfo="skip")


def _logarithmic(figure: go.Figure, x: str, y: str) -> None:
    figure.update_xaxes(type="log", title_text=x)
    figure.update_yaxes(type="log", title_text=y)

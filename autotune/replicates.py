"""Several measurements of one configuration as one: their weighted mean, and how precisely it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotune.measurement import Metric

_NORMAL_95 = 1.959963984540054  # half-widths are of 95 % intervals; this many standard errors of a normal mean
_LARGE, _SMALLER = 1e300, 2.0**-20  # sums of values beyond the one are made in units that leave room, a power of two


def merge_metrics(replicates: Sequence[Metric]) -> Metric:
    """The mean of one metric's replicates.

    Where all have a half-width ``h``, the mean is weighted by ``1 / h^2`` and its half-width is ``1 / sqrt(sum(1 / h^2))``,
    but no less than what the scatter of the replicates shows: where they disagree by more than their half-widths say,
    something drifted between them (the larger of internal and external error: Birge, The calculation of errors by the
    method of least squares, Phys. Rev. 40, 1932; Particle Data Group, Review, 5.2.2). Else it is the plain mean, and
    nothing is said of its noise. NaN says nothing and is left out, unless nothing else is there.

    Args:
        replicates: at least one, without samples being looked at.
    """
    told = [one for one in replicates if not math.isnan(one.value)]
    if len(told) < 2:
        only = (told or replicates)[0]
        return Metric(only.value, only.half_width)
    unit = _SMALLER if any(_LARGE < abs(one.value) < math.inf for one in told) else 1.0
    values = [unit * one.value for one in told]
    widths = [unit * one.half_width for one in told if one.half_width is not None and math.isfinite(one.half_width)]
    if len(widths) < len(told) or not all(map(math.isfinite, values)):
        return Metric(sum(values) / len(values) / unit)
    # Scaled by the smallest, so that no square leaves the range of a float; an exact one cannot outweigh the others.
    least = min(widths)
    weights = [(least / width) ** 2 for width in widths] if least > 0.0 else [1.0] * len(widths)
    total = math.fsum(weights)
    mean = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / total
    internal = math.hypot(*(w * h for w, h in zip(weights, widths, strict=True))) / total
    scatter = math.hypot(*(math.sqrt(w) * (v - mean) for w, v in zip(weights, values, strict=True)))
    external = scatter / math.sqrt(total * (len(values) - 1))
    return Metric(mean / unit, max(internal, _NORMAL_95 * external) / unit)

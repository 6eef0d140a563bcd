"""Test functions with known minima (Surjanovic and Bingham, Virtual Library of Simulation Experiments, 2013)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Function:
    """A function to minimise over a box.

    Attributes:
        name: of the function.
        call: from a point, shape ``(d,)``, to its value; defined beyond the box too.
        low, high: the box, by coordinate.
        minimiser: a point where it is least.
        minimum: its least value anywhere, not only in the box.
    """

    name: str
    call: Callable[[Floats], float]
    low: tuple[float, ...]
    high: tuple[float, ...]
    minimiser: tuple[float, ...]
    minimum: float


def _branin(x: Floats) -> float:
    b, c, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 1 / (8 * math.pi)
    return float((x[1] - b * x[0] ** 2 + c * x[0] - 6) ** 2 + 10 * (1 - t) * math.cos(x[0]) + 10)


_HARTMANN_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_HARTMANN_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def _hartmann6(x: Floats) -> float:
    return float(-_HARTMANN_ALPHA @ np.exp(-(_HARTMANN_A * (x - _HARTMANN_P) ** 2).sum(axis=1)))


def _levy(x: Floats) -> float:
    w = 1 + (x - 1) / 4
    middle = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2)).sum()
    return float(math.sin(math.pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2))


def _rosenbrock(x: Floats) -> float:
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def _ackley(x: Floats) -> float:
    far = 20 * math.exp(-0.2 * math.sqrt(float((x**2).mean())))
    return 20 + math.e - far - math.exp(float(np.cos(2 * math.pi * x).mean()))


def branin() -> Function:
    """Two dimensions, three equal minima."""
    return Function("branin", _branin, (-5.0, 0.0), (10.0, 15.0), (math.pi, 2.275), 0.39788735772973816)


def hartmann6() -> Function:
    """Six dimensions, six local minima."""
    least = (0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730054)
    return Function("hartmann6", _hartmann6, (0.0,) * 6, (1.0,) * 6, least, -3.32236801141551)


def levy(d: int = 4) -> Function:
    """Many local minima on a bowl."""
    return Function(f"levy{d}", _levy, (-10.0,) * d, (10.0,) * d, (1.0,) * d, 0.0)


def rosenbrock(d: int = 4) -> Function:
    """A curved valley."""
    return Function(f"rosenbrock{d}", _rosenbrock, (-5.0,) * d, (10.0,) * d, (1.0,) * d, 0.0)


def ackley(d: int = 5) -> Function:
    """A needle in a rippled plain."""
    return Function(f"ackley{d}", _ackley, (-32.768,) * d, (32.768,) * d, (0.0,) * d, 0.0)

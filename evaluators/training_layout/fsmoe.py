"""The pipelined mixture-of-experts layer of FSMoE (arXiv:2501.10714, section 4): four cases, and the best pipeline degree.

A layer's tokens are cut into r parts, whose all-to-all (between nodes), all-gather and reduce-scatter (inside one) and expert
computation overlap, beside the all-reduce of gradients. Coefficients are those that the paper fitted on its two clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.training_layout.layouts import Floats, Ints


@dataclass(frozen=True)
class Linear:
    """``alpha + beta * n``, in milliseconds, for n numbers moved or multiply-adds done."""

    alpha: float
    beta: float

    def ms(self, n: npt.ArrayLike) -> Floats:
        return self.alpha + self.beta * np.asarray(n, dtype=np.float64)


@dataclass(frozen=True)
class Testbed:
    """Fitted costs of a cluster's operations."""

    gemm: Linear
    alltoall: Linear
    all_gather: Linear
    reduce_scatter: Linear
    all_reduce: Linear


# Section 6.2; A: 48 A6000 in 6 nodes, 200 Gb/s; B: 32 RTX 2080 Ti in 8 nodes, 100 Gb/s. A's all-gather and all-reduce slopes
# are ten times its reduce-scatter's in the text that was read, which may be a misprint of their exponents.
TESTBEDS: Mapping[str, Testbed] = {
    "A": Testbed(
        gemm=Linear(4.26e-2, 2.29e-11),
        alltoall=Linear(2.87e-1, 2.21e-7),
        all_gather=Linear(3.37e-1, 2.32e-6),
        reduce_scatter=Linear(3.95e-1, 2.34e-7),
        all_reduce=Linear(5.11e-1, 4.95e-6),
    ),
    "B": Testbed(
        gemm=Linear(9.24e-2, 4.42e-11),
        alltoall=Linear(1.75e-1, 3.06e-7),
        all_gather=Linear(3.20e-2, 1.68e-7),
        reduce_scatter=Linear(3.91e-2, 1.67e-7),
        all_reduce=Linear(8.37e-2, 5.99e-7),
    ),
}


@dataclass(frozen=True, eq=False)
class Parts:
    """Milliseconds of one of the r parts, arrays of one shape; `all_reduce` is of the whole layer, 0 in a forward pass."""

    alltoall: Floats
    all_gather: Floats
    reduce_scatter: Floats
    experts: Floats
    all_reduce: Floats

    @classmethod
    def of(
        cls,
        testbed: Testbed,
        degree: npt.ArrayLike,
        alltoall: float,
        inside: float,
        experts: float,
        all_reduce: float = 0.0,
        *,
        backward: bool = False,
    ) -> Parts:
        """Of a layer cut into `degree` parts.

        Args:
            alltoall, inside: numbers that a GPU's all-to-all, and its all-gather and reduce-scatter, move.
            experts: multiply-adds of its experts.
            all_reduce: numbers of gradients; none if 0.
            backward: experts compute twice as much, and as often.
        """
        r = np.asarray(degree, dtype=np.float64)
        if (r < 1).any():
            raise UsageError(f"pipeline degree {r[r < 1].flat[0]:g}; it must be at least 1")
        times = 2.0 if backward else 1.0
        gradients = testbed.all_reduce.ms(all_reduce) if all_reduce else np.float64(0.0)
        return cls(
            testbed.alltoall.ms(alltoall / r),
            testbed.all_gather.ms(inside / r),
            testbed.reduce_scatter.ms(inside / r),
            times * testbed.gemm.alpha + times * testbed.gemm.beta * times * experts / r,
            np.broadcast_to(gradients, r.shape),
        )


def case_of(parts: Parts, degree: npt.ArrayLike) -> Ints:
    """Which of the paper's four cases holds (its predicates Q1 to Q7)."""
    r = np.asarray(degree, dtype=np.float64)
    a2a, ag, rs, exp, gar = parts.alltoall, parts.all_gather, parts.reduce_scatter, parts.experts, parts.all_reduce
    inside = ag + rs
    q1 = a2a > ag
    q2 = r * exp > 2 * (r - 1) * a2a
    q3 = r * exp > (r - 1) * inside
    q4 = gar > inside
    q5 = gar > r * exp - 2 * (r - 1) * a2a + inside
    q6 = gar > r * inside - 2 * (r - 1) * a2a
    q7 = gar > inside + r * exp - 2 * (r - 1) * a2a
    first = (q1 & ~q2 & q4) | (q1 & q2 & q5) | (~q1 & ~q3 & q6) | (~q1 & q3 & q7)
    second = (q1 & q2 & ~q5) | (~q1 & q3 & ~q7)
    third = q1 & ~q2 & ~q4
    return np.select([first, second, third], [1, 2, 3], 4).astype(np.int64)


def layer_ms(parts: Parts, degree: npt.ArrayLike) -> Floats:
    """Milliseconds of the layer, by the case that holds."""
    r = np.asarray(degree, dtype=np.float64)
    a2a, inside, exp, gar = parts.alltoall, parts.all_gather + parts.reduce_scatter, parts.experts, parts.all_reduce
    by_case = [2 * r * a2a + gar, 2 * a2a + inside + r * exp, 2 * r * a2a + inside, 2 * a2a + r * inside]
    return np.choose(case_of(parts, degree) - 1, by_case)


def gaps_ms(parts: Parts, degree: npt.ArrayLike) -> Floats:
    """Milliseconds of the layer in which links between nodes are idle, so that gradients can be reduced at no cost (the paper's
    overlappable time; `all_reduce` of the parts being 0)."""
    r = np.asarray(degree, dtype=np.float64)
    a2a, inside, exp = parts.alltoall, parts.all_gather + parts.reduce_scatter, parts.experts
    between = 2 * (r - 1) * a2a
    by_case = [np.zeros_like(inside), r * exp + inside - between, inside, r * inside - between]
    return np.choose(case_of(parts, degree) - 1, by_case)


def best_degree(
    testbed: Testbed,
    alltoall: float,
    inside: float,
    experts: float,
    all_reduce: float = 0.0,
    *,
    backward: bool = False,
    most: int = 32,
) -> tuple[int, float]:
    """The pipeline degree of the fastest layer, and its milliseconds. Arguments as of `Parts.of`."""
    degrees = np.arange(1, most + 1)
    ms = layer_ms(Parts.of(testbed, degrees, alltoall, inside, experts, all_reduce, backward=backward), degrees)
    best = int(np.argmin(ms))
    return int(degrees[best]), float(ms[best])

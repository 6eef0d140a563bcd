"""What the timeline is asked about: a cache plan, and what things cost on a tier pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.moe_cache.policies import LCP_OMEGA, LCP_RHO, Lcp, Policy
from evaluators.moe_cache.predict import Predictor

_MIB = 2.0**20

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_PREFETCH_DEPTH = 3
# Beyond, loading an expert is cheaper on every machine that was measured. A plan may say more; searches do not go there.
MAX_CPU_THRESHOLD_TOKENS = 64


@dataclass(frozen=True)
class CachePlan:
    """How the fast tier is used.

    Attributes:
        budget_bytes: fast memory of each of the L layers.
        theta: split of each layer: the share of an expert (its top segment) that a cache slot holds. The rest is fetched
            at every use. 1 caches whole experts; 0 caches nothing.
        policy: one of `Policy`.
        lcp_rho, lcp_omega: constants of the `lcp` policy.
        prefetch_depth: layers ahead whose experts are predicted and fetched, 0 to 3; 0 is off.
        cpu_threshold_tokens: a missing expert with at most so many tokens runs on the slow tier; 0 is never.
        predictor: one of `Predictor`; says nothing where `prefetch_depth` is 0.

    Raises:
        UsageError: for a value outside its range.
    """

    budget_bytes: tuple[int, ...]
    theta: tuple[float, ...]
    policy: str = "lru"
    lcp_rho: float = LCP_RHO
    lcp_omega: float = LCP_OMEGA
    prefetch_depth: int = 0
    cpu_threshold_tokens: int = 0
    predictor: str = Predictor.RECORDED

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget_bytes", tuple(self.budget_bytes))
        object.__setattr__(self, "theta", tuple(self.theta))
        Policy.parse(self.policy)
        Predictor.parse(self.predictor)
        if not self.budget_bytes or len(self.budget_bytes) != len(self.theta):
            raise UsageError(
                f"the plan has {len(self.budget_bytes)} budget_bytes and {len(self.theta)} theta; give one of each per layer"
            )
        for layer, (budget, theta) in enumerate(zip(self.budget_bytes, self.theta, strict=True)):
            if not budget >= 0:
                raise UsageError(f"budget_bytes of layer {layer} is {budget}; give 0 or more bytes")
            if not 0.0 <= theta <= 1.0:
                raise UsageError(f"theta of layer {layer} is {theta}; a split lies between 0 and 1")
        if not 0 <= self.prefetch_depth <= MAX_PREFETCH_DEPTH:
            raise UsageError(f"prefetch_depth={self.prefetch_depth} is outside 0 to {MAX_PREFETCH_DEPTH}; 0 is off")
        if self.cpu_threshold_tokens < 0:
            raise UsageError(f"cpu_threshold_tokens={self.cpu_threshold_tokens} is negative; 0 is never")
        if self.policy == Policy.LCP:
            Lcp(self.lcp_rho, self.lcp_omega)

    @property
    def lcp(self) -> Lcp:
        return Lcp(self.lcp_rho, self.lcp_omega) if self.policy == Policy.LCP else Lcp()

    def slots(self, expert_bytes: Ints, n_experts: int) -> Ints:
        """``(L,)`` experts that each layer's budget holds, ``floor(budget / (theta * expert_bytes))``, at most all."""
        size = np.asarray(self.theta) * expert_bytes
        # A budget made as a multiple of the slot must not lose a slot to rounding.
        fitting = np.floor(np.divide(self.budget_bytes, size, out=np.zeros(len(size)), where=size > 0) + 1e-9)
        return np.minimum(fitting, n_experts).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Costs:
    """What transfers and computation cost on a tier pair. Times are ms; M is the largest batch in tokens.

    Attributes:
        expert_bytes: ``(L,)`` bytes of one expert.
        link_bytes, link_ms: ``(n,)`` transfer sizes in ascending order and their times.
        expert_ms: ``(M + 1,)`` or ``(L, M + 1)``; one expert on the fast tier, by its tokens.
        dense_ms: ``(M + 1,)`` or ``(L, M + 1)``; attention and router of a layer, by the tokens of the pass.
        cpu_expert_ms: as `expert_ms`, on the slow tier; None where the slow tier cannot compute.
        layer_ms, load_ms, rest_load_ms: what is done beside computing, to decide and hand over: for each layer, and for each
            expert and each rest of one that was brought.
        part_ms: what computation takes longer for each expert that is computed in two parts.
        dense_busy, expert_busy: how many times as long dense parts and experts take whose computation begins while the link
            is at work: both want the same memory, and on ``ram<-disk`` the same processor.

    Raises:
        UsageError: for shapes that do not fit or numbers that cannot be.
    """

    expert_bytes: Ints
    link_bytes: Floats
    link_ms: Floats
    expert_ms: Floats
    dense_ms: Floats
    cpu_expert_ms: Floats | None = None
    layer_ms: float = 0.0
    load_ms: float = 0.0
    rest_load_ms: float = 0.0
    part_ms: float = 0.0
    dense_busy: float = 1.0
    expert_busy: float = 1.0

    def __post_init__(self) -> None:
        for name in ("layer_ms", "load_ms", "rest_load_ms", "part_ms"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}={getattr(self, name)} is no time; give 0 or more ms")
        for name in ("dense_busy", "expert_busy"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name}={getattr(self, name)} is no factor; give a positive number")
        sizes = np.asarray(self.expert_bytes, dtype=np.int64)
        if sizes.ndim != 1 or not sizes.size or sizes.min() < 1:
            raise UsageError(
                f"expert_bytes has shape {sizes.shape}; give the bytes of an expert, above 0, of every layer"
            )
        object.__setattr__(self, "expert_bytes", sizes)
        for name in ("link_bytes", "link_ms"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        check_points("link_bytes", self.link_bytes, "link_ms", self.link_ms)
        tables = [name for name in ("expert_ms", "dense_ms", "cpu_expert_ms") if getattr(self, name) is not None]
        for name in tables:
            object.__setattr__(self, name, _table(name, getattr(self, name), len(sizes)))
        if len({getattr(self, name).shape[1] for name in tables}) > 1:
            raise UsageError(
                "cost tables end at different token counts ("
                + ", ".join(f"{name}: {getattr(self, name).shape[1] - 1}" for name in tables)
                + "); make all of them for the same largest batch"
            )

    @property
    def max_tokens(self) -> int:
        """M, the largest batch that the tables know."""
        return int(self.expert_ms.shape[1]) - 1

    def held_to(self, mib_s: float | None) -> Costs:
        """With a link of at most so many MiB/s; as they are for None."""
        if mib_s is None:
            return self
        return replace(self, link_ms=np.maximum(self.link_ms, self.link_bytes / (mib_s * _MIB / 1e3)))

    def transfer_ms(self, sizes: npt.ArrayLike) -> Floats:
        """Time of transfers of the given bytes.

        Linear between measured sizes; smaller ones cost as much as the smallest measured, larger ones go on at the
        bandwidth of the largest.
        """
        asked = np.asarray(sizes, dtype=np.float64)
        inside = np.interp(asked, self.link_bytes, self.link_ms)
        return np.where(asked > self.link_bytes[-1], asked * (self.link_ms[-1] / self.link_bytes[-1]), inside)


def by_tokens(tokens: Sequence[float] | npt.ArrayLike, ms: Sequence[float] | npt.ArrayLike, max_tokens: int) -> Floats:
    """A table ``(max_tokens + 1,)`` of times by tokens from measured points.

    Linear between points; below the first its own time; beyond the last along the line of the last two points, or
    constant where that falls. Entry 0 is 0: no tokens cost nothing.

    Raises:
        UsageError: unless the token counts ascend from at least 1 and the times are positive.
    """
    at, times = np.asarray(tokens, dtype=np.float64), np.asarray(ms, dtype=np.float64)
    check_points("tokens", at, "ms", times)
    wanted = np.arange(max_tokens + 1, dtype=np.float64)
    table = np.interp(wanted, at, times)
    if len(at) > 1:
        slope = max(0.0, (times[-1] - times[-2]) / (at[-1] - at[-2]))
        table = np.where(wanted > at[-1], times[-1] + slope * (wanted - at[-1]), table)
    table[0] = 0.0
    return table


def fiddler_threshold(costs: Costs, most: int) -> int:
    """Most tokens, up to `most`, for which the slow tier is no slower than loading and computing.

    Algorithm 1 of Fiddler (arXiv:2402.07033) compares the two expert by expert, in the mean layer here.

    Raises:
        UsageError: for costs without slow-tier times.
    """
    if costs.cpu_expert_ms is None:
        raise UsageError("the costs have no cpu_expert_ms, so there is no threshold; measure the slow tier's compute")
    loading = costs.expert_ms + costs.transfer_ms(costs.expert_bytes)[:, None]
    cheaper = costs.cpu_expert_ms.mean(axis=0) <= loading.mean(axis=0)
    return int(np.flatnonzero(cheaper[: most + 1])[-1])


def check_points(x_name: str, x: Floats, y_name: str, y: Floats) -> None:
    """Refuse a measured curve whose sizes do not ascend from above 0 or whose times are not positive."""
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise UsageError(f"{x_name} has shape {x.shape} and {y_name} {y.shape}; give as many of one as of the other")
    if not (np.isfinite(x).all() and x[0] > 0 and (np.diff(x) > 0).all()):
        raise UsageError(f"{x_name} must ascend from above 0, without repeats; it is {x.tolist()[:6]}")
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise UsageError(f"{y_name} must be positive numbers; it holds {y.min()}")


def _table(name: str, given: npt.ArrayLike, n_layers: int) -> Floats:
    table = np.asarray(given, dtype=np.float64)
    if table.ndim == 1:
        table = np.broadcast_to(table, (n_layers, len(table)))
    if table.ndim != 2 or table.shape[0] != n_layers or table.shape[1] < 2:
        raise UsageError(
            f"{name} has shape {table.shape}; give (M + 1,) or ({n_layers}, M + 1) times, indexed by tokens from 0 to M"
        )
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise UsageError(f"{name} must hold times of 0 ms or more; it holds {table.min()}")
    return np.array(table, order="C")  # writable, as a read-only one would have every loop compiled once more

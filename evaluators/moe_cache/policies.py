"""Which expert leaves a full cache: the policies, their sources and their constants.

A look-up is one distinct expert of a batch (a forward pass in one layer). Recency and frequency are counted for every
expert, cached or not: the router's choices are known without the cache. Eviction happens at the end of a batch and
spares the batch's own experts; only when these alone exceed the capacity are they trimmed too, in the same order.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from autotune.errors import UsageError
from evaluators.moe_cache import kernels


class Policy(enum.StrEnum):
    """Eviction policies. All but `FIFO` and `LIFO` are stack policies: their hits never fall when capacity grows."""

    LRU = "lru"  # least recent look-up first
    LFU = "lfu"  # fewest routed tokens so far first, then least recent
    FIFO = "fifo"  # longest in the cache first
    LIFO = (
        "lifo"  # expert buffering (arXiv:2303.06182): experts idle in the batch first, the last to come before others
    )
    LCP = "lcp"  # least cache priority (MoEpic, arXiv:2509.08342): P = mu * rho ** (nu / omega)
    STATIC = "static"  # the most popular, placed before the run and never changed (Fiddler, arXiv:2402.07033)
    BELADY = "belady"  # offline bound: latest next use first, from the best start, keeping nothing that it need not

    @classmethod
    def parse(cls, name: str) -> Policy:
        try:
            return cls(name)
        except ValueError:
            raise UsageError(f"policy {name!r} is unknown; use one of: {', '.join(cls)}") from None

    @property
    def code(self) -> int:
        """The number by which the compiled loops know the policy."""
        return int(getattr(kernels, self.name))

    @property
    def is_stack(self) -> bool:
        """Whether the cache of one capacity always holds all that a smaller one holds, at equal object size."""
        return self not in (Policy.FIFO, Policy.LIFO)


# The constants that MoEpic is reported to use; rho -> 1 turns LCP into LFU and rho -> 0 into LRU.
LCP_RHO = 0.25
LCP_OMEGA = 128.0


@dataclass(frozen=True)
class Lcp:
    """The constants of least cache priority, ``P = mu * rho ** (nu / omega)``.

    mu is the number of tokens routed to the expert so far and nu the tokens since the last of them.

    Raises:
        UsageError: unless ``0 < rho <= 1`` and ``omega > 0``.
    """

    rho: float = LCP_RHO
    omega: float = LCP_OMEGA

    def __post_init__(self) -> None:
        if not 0.0 < self.rho <= 1.0:
            raise UsageError(f"lcp_rho={self.rho} is outside (0, 1]; 1 is LFU and a small number is close to LRU")
        if not (self.omega > 0.0 and math.isfinite(self.omega)):
            raise UsageError(f"lcp_omega={self.omega} must be a number of tokens above 0")

    @property
    def decay(self) -> float:
        """``-ln(rho) / omega``: how much ln P falls per token."""
        return -math.log(self.rho) / self.omega

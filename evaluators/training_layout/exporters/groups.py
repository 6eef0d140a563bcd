"""Over which GPUs ZeRO spreads weights, gradients and optimizer states, in the terms of engines: one group size, or two."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.training_layout.exporters.subject import Chosen

_CLUSTER = "cluster"


@dataclass(frozen=True)
class Groups:
    """Shard groups of a layout.

    Attributes:
        within: what the layout calls them.
        inner: GPUs over which everything that ZeRO's stage spreads is spread; but where `outer`, without optimizer states.
        outer: whether optimizer states are spread over all replicas, and only the rest within `inner`.
        replicas: GPUs that hold the same dense weights.
        told: what the layout asks for and no group size says; empty where these fields say all.
    """

    within: str
    inner: int
    outer: bool
    replicas: int
    told: str = ""

    @property
    def hybrid(self) -> bool:
        """Whether anything is kept once in every group instead of once."""
        return self.inner < self.replicas

    @property
    def copies(self) -> int:
        """Groups."""
        return self.replicas // self.inner


def groups_of(chosen: Chosen) -> Groups:
    """The shard groups of a layout; all replicas where ZeRO spreads nothing."""
    zero, replicas = chosen.zero, chosen.replicas
    within = str(chosen.get("shard_within", _CLUSTER))
    levels = within.split("/") * (1 if "/" in within else 3)
    # ZeRO 1 spreads states, 2 gradients too, 3 weights too.
    spread = [_size(level, chosen) for level in levels][3 - zero :] if zero else [replicas]
    if 0 in spread:
        return Groups(
            within, replicas, False, replicas, f"shard_within={within}: how many GPUs that joins is unknown here"
        )
    rest, states = set(spread[:-1]), spread[-1]
    if rest <= {states}:
        return Groups(within, states, False, replicas)
    if len(rest) == 1 and states == replicas:
        return Groups(within, rest.pop(), True, replicas)
    return Groups(
        within,
        replicas,
        False,
        replicas,
        f"shard_within={within}: weights, gradients and states in groups of their own",
    )


def _size(level: str, chosen: Chosen) -> int:
    """GPUs of a shard group that stays within a link level, 0 if unknown; replicas are a tensor-parallel degree apart."""
    given = int(chosen.get("shard_gpus", 0))
    if level == _CLUSTER and not (given and "/" not in str(chosen.get("shard_within", _CLUSTER))):
        return chosen.replicas
    if not given and level not in chosen.subject.levels:
        return 0
    most = given or chosen.subject.levels[level] // chosen.degree("tp")
    return next(part for part in range(max(1, min(most, chosen.replicas)), 0, -1) if chosen.replicas % part == 0)

"""Turn what a sampler wishes for into what a search can use: feasible, and not proposed before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from autotune.space import Config, SearchSpace

_RANDOM_TRIES = 5
_BATCH = 64


def unseen_near(space: SearchSpace, config: Config, taken: Collection[str], seed: int) -> Config | None:
    """`config` itself if it is new, else its nearest new neighbour, else a new random one, else None.

    Args:
        config: feasible.
        taken: canonical hashes of what was proposed before.

    Returns:
        None when the space holds nothing new: certainly where it is enumerable, else after a bounded number of draws.
    """
    if space.config_hash(config) not in taken:
        return config
    around = [c for c in space.neighbours(config, limit=_BATCH, seed=seed) if space.config_hash(c) not in taken]
    if around:
        return min(around, key=lambda candidate: space.distance(config, candidate))
    return unseen_random(space, taken, seed)


def unseen_random(space: SearchSpace, taken: Collection[str], seed: int) -> Config | None:
    """A random feasible configuration that is new, or None when there is none left."""
    size = space.size
    if size is not None and size <= len(taken):
        table = space.enumerate()
        if table is not None:
            return _first_new(space, (table.config(i) for i in range(len(table))), taken)
    for attempt in range(_RANDOM_TRIES):
        found = _first_new(space, space.sample(_BATCH, seed=seed + attempt), taken)
        if found is not None:
            return found
    table = space.enumerate()
    return None if table is None else _first_new(space, (table.config(i) for i in range(len(table))), taken)


def _first_new(space: SearchSpace, configs: Any, taken: Collection[str]) -> Config | None:
    return next((c for c in configs if space.config_hash(c) not in taken), None)


def feasible_draw(
    space: SearchSpace,
    draw: Callable[[int], Mapping[str, Any]],
    taken: Collection[str],
    *,
    redraws: int,
    seed: int,
) -> Config | None:
    """Draw until a draw, repaired to the nearest feasible configuration where it must be, is new.

    Args:
        draw: gives a raw configuration for the attempt's number; it may break constraints and name inactive parameters.
        redraws: further draws after the first, before a neighbour of the last one is taken instead.
    """
    config: Config = {}
    for attempt in range(redraws + 1):
        config = space.repair(dict(draw(attempt)), seed=seed)
        if space.config_hash(config) not in taken:
            return config
    return unseen_near(space, config, taken, seed)

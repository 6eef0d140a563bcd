"""Descent on the timeline from what the separated problem decided: measured local curves, merged as the modelled ones are.

Every layer's neighbours (a slot more or less, a split beside its own) are tried one by one on the timeline. The differences
in latency and in bytes are a multiple-choice knapsack: at most one change per layer, within the bytes that are free. Its
Lagrangian choice is applied at once, or, where layers' changes do not add up, to the most promising half of the layers, a
quarter, and so on; at the end pairs are tried. Our own; nothing of the paper's solver is known beyond its name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluators.moe_cache.plan import CachePlan, Ints

_WORTH_A_MOVE = 1e-6  # relative; below, moves would chase rounding
_WORTH_REPEATING = 1e-3  # relative; the same kind of moves again after so much
_WORTH_A_ROUND = 2e-4  # relative; all kinds again after so much
_PAIRS = 60  # tried where no joint change helps
_BISECTIONS = 60


@dataclass(frozen=True)
class Room:
    """What changes may reach.

    Attributes:
        expert_bytes: ``(L,)`` bytes of an expert.
        n_experts: of a layer.
        cache_bytes: of all caches together.
        thetas: splits in descending order; one for no choice.
        uniform_budgets: whether every layer keeps the bytes that it has.
    """

    expert_bytes: Ints
    n_experts: int
    cache_bytes: int
    thetas: tuple[float, ...]
    uniform_budgets: bool = False


@dataclass(frozen=True)
class Share:
    """A layer's slots and the place of its split among `Room.thetas`."""

    slots: int
    split: int


@dataclass(frozen=True)
class Change:
    """What one layer could have instead: ms that it costs and bytes that it takes, either below 0 where it saves."""

    layer: int
    share: Share
    ms: float
    taken: int

    def score(self, price: float) -> float:
        """Lagrangian: ms, with bytes at a price."""
        return self.ms + price * self.taken


_Moves = Callable[[int, Share], Iterator[Share]]  # what a layer could have instead of its share


class _Descent:
    """The plan at which the descent stands, and what was measured around it."""

    def __init__(self, plan: CachePlan, latency: Callable[[CachePlan], float], room: Room, evaluations: int) -> None:
        self.plan, self.latency, self.room, self.left = plan, latency, room, evaluations
        slots = plan.slots(room.expert_bytes, room.n_experts)
        grid = np.asarray(room.thetas)
        splits = [int(np.argmin(np.abs(grid - theta))) for theta in plan.theta]
        self.shares = [Share(int(n) if grid[s] > 0 else 0, s) for n, s in zip(slots, splits, strict=True)]
        self.best = self._ask(self.shares)
        self._around: dict[tuple[int, Share], Change] = {}

    def _ask(self, shares: Sequence[Share]) -> float:
        self.left -= 1
        return self.latency(self.made(shares))

    def made(self, shares: Sequence[Share]) -> CachePlan:
        """The plan of these shares."""
        budgets = self.plan.budget_bytes
        if not self.room.uniform_budgets:
            budgets = tuple(self._bytes(layer, share) for layer, share in enumerate(shares))
        return replace(self.plan, budget_bytes=budgets, theta=tuple(self.room.thetas[s.split] for s in shares))

    def _bytes(self, layer: int, share: Share) -> int:
        return math.ceil(share.slots * self.room.thetas[share.split] * int(self.room.expert_bytes[layer]) - 1e-6)

    def _free(self) -> int:
        if self.room.uniform_budgets:
            return 0
        return self.room.cache_bytes - sum(self._bytes(layer, share) for layer, share in enumerate(self.shares))

    def _try(self, chosen: Sequence[Change]) -> bool:
        trial = list(self.shares)
        for change in chosen:
            trial[change.layer] = change.share
        found = self._ask(trial)
        if found >= self.best * (1.0 - _WORTH_A_MOVE):
            return False
        self.shares, self.best = trial, found
        self._around.clear()
        return True

    def together(self, moves: _Moves) -> bool:
        """Take those moves that pay together, at most one of every layer; whether anything was gained."""
        changes = self._measured(moves)
        while self.left > 0:
            price, chosen = choose(changes, self._free())
            if not chosen:
                return False
            if self._try(chosen):
                return True
            kept = _better_half(chosen, price)
            if len(kept) == len(chosen):
                return False
            changes = [c for c in changes if c.layer in kept]
        return False

    def in_pairs(self) -> bool:
        """Take the first pair that pays of what was measured around, by the sum of its two; whether one did."""
        free = self._free()
        around = list(self._around.values())
        pairs = [
            pair
            for pair in itertools.combinations(around, 2)
            if pair[0].layer != pair[1].layer and pair[0].taken + pair[1].taken <= free
        ]
        pairs.sort(key=lambda pair: pair[0].ms + pair[1].ms)
        return any(self.left > 0 and self._try(pair) for pair in pairs[:_PAIRS])

    def _measured(self, moves: _Moves) -> list[Change]:
        """What the moves of every layer cost; what was measured around this plan before is not measured again."""
        changes: list[Change] = []
        for layer, share in enumerate(self.shares):
            for other in moves(layer, share):
                if (layer, other) not in self._around:
                    if self.left <= 0:
                        return changes
                    trial = list(self.shares)
                    trial[layer] = other
                    taken = 0 if self.room.uniform_budgets else self._bytes(layer, other) - self._bytes(layer, share)
                    self._around[layer, other] = Change(layer, other, self._ask(trial) - self.best, taken)
                changes.append(self._around[layer, other])
        return changes

    def slots(self, count: int) -> _Moves:
        """So many slots more and less."""

        def moves(layer: int, share: Share) -> Iterator[Share]:
            del layer
            if self.room.uniform_budgets or self.room.thetas[share.split] == 0.0:
                return
            for slots in {max(0, share.slots - count), min(self.room.n_experts, share.slots + count)} - {share.slots}:
                yield Share(slots, share.split)

        return moves

    def splits(self, count: int) -> _Moves:
        """Splits so many places away, with as many bytes as before and with as many slots; and a slot more and less."""

        def moves(layer: int, share: Share) -> Iterator[Share]:
            grid, size = self.room.thetas, int(self.room.expert_bytes[layer])
            held = self.plan.budget_bytes[layer] if self.room.uniform_budgets else self._bytes(layer, share)
            for split in (share.split - count, share.split + count):
                if not 0 <= split < len(grid):
                    continue
                slot = grid[split] * size
                fitting = min(self.room.n_experts, math.floor(held / slot + 1e-9)) if slot > 0 else 0
                yield Share(fitting, split)
                if not self.room.uniform_budgets and slot > 0 and fitting != max(1, share.slots):
                    yield Share(max(1, share.slots), split)  # an empty layer's first slot may be a part, too
            yield from self.slots(1)(layer, share)

        return moves


def polish(
    plan: CachePlan, latency: Callable[[CachePlan], float], room: Room, evaluations: int
) -> tuple[CachePlan, float]:
    """Improve a plan's budgets and splits.

    Args:
        latency: mean ms of a decode pass, of any plan that differs in budgets and splits alone.
        evaluations: how often that may be asked for, the plan itself included; at least 1.

    Returns:
        The plan, with budgets of whole slots, and its latency; never above that of the plan given, rounded to `room.thetas`.
    """
    at = _Descent(plan, latency, room, evaluations)
    gained = math.inf
    while gained > _WORTH_A_ROUND and at.left > 0:
        before = at.best
        for places in (2, 1):
            _exhaust(at, at.slots, 1)
            _exhaust(at, at.splits, places)
        _finish(at)
        gained = 1.0 - at.best / before
    return at.made(at.shares), at.best


def _finish(at: _Descent) -> None:
    """Pairs, of all that can be done to a layer."""
    while at.left > 0:
        helped = [at.together(moves) for moves in (at.splits(1), at.slots(2), at.slots(3))]
        if not any(helped) and not at.in_pairs():
            return


def _exhaust(at: _Descent, kind: Callable[[int], _Moves], least: int) -> None:
    """Moves of one kind for as long as they gain much, by twice as many at a time after each that did."""
    count = least
    while at.left > 0:
        before = at.best
        helped = at.together(kind(count)) and 1.0 - at.best / before > _WORTH_REPEATING
        if not helped and count == least:
            return
        count = 2 * count if helped else least


def choose(changes: Sequence[Change], free: int) -> tuple[float, list[Change]]:
    """At most one change per layer, of little ms within the free bytes, and the price of a byte.

    Lagrangian relaxation of the multiple-choice knapsack (Sinha and Zoltners, Operations Research 27, 1979). The price at
    which the bytes suffice is that at which several changes may be dropped at once, so that its neighbour, which takes too
    many, is mended too, and the better of the two stands.
    """
    low, high = 0.0, 1.0 + sum(abs(c.ms) for c in changes)
    chosen = _cheapest(changes, low)
    if _taken(chosen) <= free:
        return 0.0, chosen
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _taken(_cheapest(changes, middle)) > free else (low, middle)
    fits, mended = _cheapest(changes, high), _mended(_cheapest(changes, low), free)
    best = min(_filled(fits, changes, free), mended, key=_ms)
    # At a price at which a large change may be taken or left, bytes may be given for it that the others do not pay for.
    return high, best if free < 0 or _ms(best) <= 0.0 else _filled([], changes, free)


def _filled(chosen: list[Change], changes: Sequence[Change], free: int) -> list[Change]:
    """With further changes, by ms per byte, for the bytes that are left."""
    left = free - _taken(chosen)
    settled = {c.layer for c in chosen}
    for change in sorted((c for c in changes if c.ms < 0.0 < c.taken), key=lambda c: c.ms / c.taken):
        if change.taken <= left and change.layer not in settled:
            chosen = [*chosen, change]
            settled.add(change.layer)
            left -= change.taken
    return chosen


def _mended(chosen: list[Change], free: int) -> list[Change]:
    """Without what is worth least per byte, until the bytes suffice, and then without gifts that nobody needs."""
    kept = sorted(chosen, key=lambda c: c.ms / c.taken if c.taken > 0 else -math.inf)
    while kept and kept[-1].taken > 0 and _taken(kept) > free:
        kept.pop()
    for gift in sorted((c for c in kept if c.ms > 0.0), key=lambda c: -c.ms):
        if _taken(kept) - gift.taken <= free:
            kept.remove(gift)
    return kept


def _cheapest(changes: Sequence[Change], price: float) -> list[Change]:
    """Every layer's change of the lowest score, where that is below 0."""
    best: dict[int, Change] = {}
    for change in changes:
        score = change.score(price)
        if score < 0.0 and (change.layer not in best or score < best[change.layer].score(price)):
            best[change.layer] = change
    return list(best.values())


def _ms(changes: Sequence[Change]) -> float:
    return math.fsum(c.ms for c in changes)


def _better_half(chosen: Sequence[Change], price: float) -> set[int]:
    """Layers of the better half of the changes that take bytes, and of those that give them."""
    ordered = sorted(chosen, key=lambda c: c.score(price))
    sides = [c for c in ordered if c.taken > 0], [c for c in ordered if c.taken <= 0]
    return {c.layer for side in sides for c in side[: (len(side) + 1) // 2]}


def _taken(changes: Sequence[Change]) -> int:
    return sum(c.taken for c in changes)

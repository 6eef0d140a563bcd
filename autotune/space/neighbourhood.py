"""Feasible rows one move away: one dimension changed, or an amount moved between two that share a constraint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autotune.space.feasible import FeasibleSet, codes_of
from autotune.space.repair import squared_differences
from autotune.space.sampling import admissible, exchange_partners
from autotune.space.system import Rows, System

_STEPS = (0.02, 0.1, 0.3)  # of the encoded range, for dimensions too fine to list; the first counts as adjacent
_LISTED = 64
_EXCHANGED = 0.05  # of the range of a continuous dimension
_MAX_PAIRS = 4000


@dataclass(frozen=True)
class Move:
    """A changed row and how far the change goes: 0 adjacent or another category, 1 exchange, 2 further away."""

    row: Rows
    far: int
    changed: int


def neighbours(feasible: FeasibleSet, row: Rows, limit: int | None, rng: np.random.Generator) -> Rows:
    """Feasible rows one move from a feasible one, near moves first, each once; shape ``(n, d)``.

    Args:
        feasible: the feasible set.
        row: shape ``(d,)``.
        limit: keep so many, chosen at random among moves of equal reach. None keeps all in the order of the dimensions.
        rng: source of that choice.
    """
    system = feasible.system
    moves = [*_single(system, row), *_exchanges(feasible, row, rng)]
    if not moves:
        return np.empty((0, len(row)))
    order = np.arange(len(moves)) if limit is None else rng.permutation(len(moves))
    far = np.array([move.far for move in moves])
    order = order[np.argsort(far[order], kind="stable")]
    seen, kept = {row.tobytes()}, list[Rows]()
    wanted = len(moves) if limit is None else limit
    batch = max(64, 2 * wanted)
    for first in range(0, len(order), batch):
        if len(kept) >= wanted:
            break
        some = [moves[i] for i in order[first : first + batch]]
        settled = system.settle(np.array([move.row for move in some]))
        good = system.feasible(settled)
        for move, candidate, ok in zip(some, settled, good, strict=True):
            found = candidate if ok else _completed(feasible, row, move, candidate)
            if found is not None and found.tobytes() not in seen:
                seen.add(found.tobytes())
                kept.append(found)
    return np.array(kept[:wanted]).reshape(-1, len(row))


def _single(system: System, row: Rows) -> Iterator[Move]:
    for d, dim in enumerate(system.dims):
        if np.isnan(row[d]):
            continue
        if dim.n_values is not None and dim.n_values <= _LISTED:
            here = int(dim.rank(np.array(row[d])))
            grid = dim.grid()
            for place in sorted(range(len(grid)), key=lambda i: (abs(i - here), i)):
                if place != here:
                    far = 2 if dim.ordered and abs(place - here) > 1 else 0
                    yield _changed(row, {d: float(grid[place])}, far)
            continue
        codes: dict[float, int] = {}
        if dim.n_values is not None:
            step = getattr(dim.parameter, "step", 1)
            codes = {row[d] + s: 0 for s in (-step, step) if dim.low <= row[d] + s <= dim.high}
        unit = float(dim.to_unit(row[d]))
        for reach, size in enumerate(_STEPS):
            for sign in (-1.0, 1.0):
                code = float(dim.from_unit(unit + sign * size))
                codes.setdefault(code, 0 if reach == 0 else 2)
        for code, far in codes.items():
            if code != row[d]:
                yield _changed(row, {d: code}, far)


def _changed(row: Rows, changes: dict[int, float], far: int) -> Move:
    changed = row.copy()
    for d, code in changes.items():
        changed[d] = code
    return Move(changed, far, next(iter(changes)))


def _exchanges(feasible: FeasibleSet, row: Rows, rng: np.random.Generator) -> Iterator[Move]:
    """One value up and another down by the same amount, which keeps a sum."""
    system = feasible.system
    pairs = [
        (d, e)
        for part in feasible.parts
        for d in part.dims
        if not np.isnan(row[d]) and d not in system.parents
        for e in exchange_partners(system, part.component, d)
        if not np.isnan(row[e])
    ]
    if len(pairs) > _MAX_PAIRS:
        pairs = [pairs[i] for i in sorted(rng.choice(len(pairs), _MAX_PAIRS, replace=False).tolist())]
    for d, e in pairs:
        amount = _amount(system, d, row)
        if system.dims[d].n_values is None:  # what is there to give and room to take
            amount = min(amount, float(system.dims[d].high) - row[d], row[e] - float(system.dims[e].low))
            if amount <= 0.0:
                continue
        up, down = row[d] + amount, row[e] - amount
        if bool(admissible(system, d, np.array([up]))[0]) and bool(admissible(system, e, np.array([down]))[0]):
            yield _changed(row, {d: float(up), e: float(down)}, 1)


def _amount(system: System, d: int, row: Rows) -> float:
    dim = system.dims[d]
    if dim.n_values is None:
        return _EXCHANGED * (float(dim.high) - float(dim.low))
    if dim.codes is None:
        return float(getattr(dim.parameter, "step", 1))
    above = [c for c in dim.codes if c > row[d]]
    return float(min(above)) - float(row[d]) if above else np.inf


def _completed(feasible: FeasibleSet, row: Rows, move: Move, settled: Rows) -> Rows | None:
    """Where a move switched a parameter on whose default is infeasible: its nearest feasible values, from the table."""
    switched = np.isnan(row) & ~np.isnan(settled)
    if not switched.any():
        return None
    part = next(p for p in feasible.parts if move.changed in p.dims)
    if part.table is None:
        return None
    system = feasible.system
    keep = np.ones(len(part.table), dtype=bool)
    for j, d in enumerate(part.dims):
        if not switched[d]:
            place = -1 if np.isnan(settled[d]) else int(system.dims[d].rank(np.array(settled[d])))
            keep &= part.table.rows[:, j] == place
    if not keep.any():
        return None
    rows = np.repeat(settled[None], int(keep.sum()), axis=0)
    rows[:, list(part.dims)] = codes_of(system, part.dims, part.table.rows[keep])
    best: Rows = rows[int(np.argmin(squared_differences(system, rows, settled).sum(axis=1)))]
    return best

"""The nearest feasible row: exact where a component is enumerated, by projection and improvement where it is not.

The metric is Euclidean over the encoded dimensions, in which a step between two unordered values, and between active
and inactive, counts 1. Components are independent, so that nearest by component is nearest overall.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from autotune.space.feasible import IndexTable, Part
from autotune.space.propagation import Component
from autotune.space.sampling import Sampler, accept, exchange_partners, forward, segment
from autotune.space.system import Rows, System

_GUIDED = 2  # beams that follow the target, each in another order of dimensions
_BEAM = 4
_RANDOM = 8
_IMPROVED = 2  # best candidates that are refined
_SWEEPS = 2
_REFINEMENTS = 2
_SHARES = np.linspace(0.1, 1.0, 10)  # of the way to the goal that a coordinate tries
_NEGLIGIBLE = 1e-4  # of the encoded range; not worth an evaluation
_EXCHANGES = 4  # rounds in which every dimension meets a random partner


def squared_differences(system: System, rows: Rows, target: Rows, dims: Iterable[int] | None = None) -> Rows:
    """Squared difference in the metric by dimension (0 outside of `dims`), shape of `rows`; `target` broadcasts to it."""
    rows, target = np.broadcast_arrays(np.asarray(rows, dtype=float), np.asarray(target, dtype=float))
    result = np.zeros(rows.shape)
    for dim in system.dims if dims is None else [system.dims[d] for d in dims]:
        a, b = rows[:, dim.position], target[:, dim.position]
        off_a, off_b = np.isnan(a), np.isnan(b)
        gap = (dim.to_unit(a) - dim.to_unit(b)) ** 2 if dim.ordered else (a != b).astype(float)
        result[:, dim.position] = np.where(off_a | off_b, (off_a != off_b).astype(float), gap)
    return result


def nearest(sampler: Sampler, target: Rows, rng: np.random.Generator) -> Rows:
    """The feasible row nearest to a settled row with admissible values, shape ``(d,)``.

    Raises:
        EmptySpaceError: where there is no feasible row, or none was found.
    """
    sampler.feasible.check_not_empty()
    row = target.copy()
    for part in sampler.feasible.parts:
        if part.free:
            continue
        columns = list(part.dims)
        if part.table is not None:
            row[columns] = _nearest_listed(sampler.system, part, part.table, target)
        elif not sampler.system.feasible(target[None], part.component.rules)[0]:
            row[columns] = _nearest_found(sampler, part.component, target, rng)[columns]
    return row


def _nearest_listed(system: System, part: Part, table: IndexTable, target: Rows) -> Rows:
    cost = np.zeros(len(table))
    for j, d in enumerate(part.dims):
        # By value rather than by row: a dimension has few values, a table many rows.
        grid = np.append(system.dims[d].grid().astype(float), np.nan)
        column = np.full((len(grid), len(system.dims)), np.nan)
        column[:, d] = grid
        cost += squared_differences(system, column, target, [d])[:, d][table.rows[:, j]]
    best = table.rows[int(np.argmin(cost))]
    grids = (system.dims[d].grid() for d in part.dims)
    return np.array([np.nan if i < 0 else grid[i] for i, grid in zip(best.tolist(), grids, strict=True)], dtype=float)


def _nearest_found(sampler: Sampler, component: Component, target: Rows, rng: np.random.Generator) -> Rows:
    system = sampler.system
    inside = np.isin(np.arange(len(system.dims)), component.dims)
    goal = np.where(inside, target, np.nan)
    corners = np.array([_corner(system, component, goal, low) for low in (True, False)])
    found = [np.where(inside, sampler.anchors, np.nan), corners[system.feasible(corners, component.rules)]]
    guided = _GUIDED if not any(map(len, found)) else 1
    found += [forward(system, component, _BEAM, rng, prefer=target) for _ in range(guided)]
    rows = np.concatenate(found)
    if len(rows) == 0:
        rows = sampler.open_rows(component, _RANDOM, rng)
    rows = np.concatenate([rows, _projected(system, component, goal, rows)])
    rows = _best(system, rows, goal, _IMPROVED)
    for _ in range(_SWEEPS):
        before = rows
        rows = _improve(system, component, rows, goal)
        rows = _exchange(system, component, rows, goal, rng)
        if np.nanmax(np.abs(rows - before), initial=0.0) == 0.0:
            break
    nearest_row: Rows = _best(system, rows, goal, 1)[0]
    return nearest_row


def _corner(system: System, component: Component, goal: Rows, low: bool) -> Rows:
    """The goal with all its numbers at one end: limits on sums and products leave at least one such corner feasible,
    and projecting towards it scales all dimensions alike."""
    row = goal.copy()
    for d in component.dims:
        dim = system.dims[d]
        if dim.numeric and d not in system.parents and not np.isnan(goal[d]):
            row[d] = dim.low if low else dim.high
    return row


def _projected(system: System, component: Component, goal: Rows, rows: Rows) -> Rows:
    """The points nearest to the goal on the segments to feasible rows, in the dimensions that both have active."""
    start = np.where(np.isnan(rows) | np.isnan(goal), rows, goal)
    for d in component.dims:
        if d in system.parents:  # changing these would change what is active
            start[:, d] = rows[:, d]
    return segment(system, component, start, rows)


def _best(system: System, rows: Rows, goal: Rows, n: int) -> Rows:
    order = np.argsort(squared_differences(system, rows, goal).sum(axis=1), kind="stable")
    best: Rows = rows[order[:n]]
    return best


def _improve(system: System, component: Component, rows: Rows, goal: Rows) -> Rows:
    """One sweep: each coordinate as far towards the goal as stays feasible."""
    rows = rows.copy()
    for d in component.dims:
        if d in system.parents or np.isnan(goal[d]):
            continue
        touched = [rule for rule in component.rules if d in rule.dims]
        units = system.dims[d].to_unit(rows[:, d])
        for _ in range(_REFINEMENTS if system.dims[d].ordered else 1):
            left = float(system.dims[d].to_unit(goal[d])) - units
            if not np.nanmax(np.abs(left), initial=0.0) > _NEGLIGIBLE:
                break
            # All trial points of all rows in one evaluation: what it costs hardly depends on their number.
            trials = np.repeat(rows, len(_SHARES), axis=0)
            codes = system.dims[d].from_unit(units[:, None] + left[:, None] * _SHARES)
            codes[:, -1] = np.where(np.isnan(rows[:, d]), np.nan, goal[d])
            trials[:, d] = codes.ravel()
            good = system.feasible(trials, touched).reshape(codes.shape)
            furthest = len(_SHARES) - 1 - np.argmax(good[:, ::-1], axis=1)
            moved = codes[np.arange(len(rows)), furthest]
            rows[:, d] = np.where(good.any(axis=1), moved, rows[:, d])
            units = system.dims[d].to_unit(rows[:, d])
    return rows


def _exchange(system: System, component: Component, rows: Rows, goal: Rows, rng: np.random.Generator) -> Rows:
    """Move amounts between pairs of dimensions of one rule, as far as brings the pair nearest to the goal."""
    pairs = {d: exchange_partners(system, component, d) for d in component.dims if d not in system.parents}
    for turn in range(_EXCHANGES):
        for d, partners in pairs.items():
            if not partners:
                continue
            short = goal - rows[0]
            e = partners[int(rng.integers(len(partners)))]
            if turn % 2:  # every second time with whom there is most to even out
                e = max(partners, key=lambda o: -1.0 if np.isnan(short[o]) else abs(short[d] - short[o]))
            one, other = system.dims[d], system.dims[e]
            stiff, soft = (1.0 / max(float(dim.high) - float(dim.low), 1e-300) ** 2 for dim in (one, other))
            wanted = ((goal[d] - rows[:, d]) * stiff - (goal[e] - rows[:, e]) * soft) / (stiff + soft)
            if not np.nanmax(np.abs(wanted), initial=0.0) * np.sqrt(min(stiff, soft)) > _NEGLIGIBLE:
                continue
            moved = one.from_unit(one.to_unit(rows[:, d] + wanted))
            nearer = rows.copy()
            touched = [rule for rule in component.rules if d in rule.dims or e in rule.dims]
            accept(system, nearer, {d: moved, e: rows[:, e] - (moved - rows[:, d])}, touched)
            cost = squared_differences(system, nearer, goal, (d, e)).sum(axis=1)
            better = cost < squared_differences(system, rows, goal, (d, e)).sum(axis=1)
            rows = np.where(better[:, None], nearer, rows)
    return rows

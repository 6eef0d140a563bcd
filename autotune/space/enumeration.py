"""All feasible configurations of one finite component, as a matrix of value indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.space.propagation import Component, Prefixes, Step, constrained_first, plan, survives_inactive, survivors
from autotune.space.system import System

Indices = npt.NDArray[Any]

CHUNK = 1 << 17  # candidates looked at together: a few columns of them stay in a core's second-level cache
MAX_CELLS = 60_000_000  # candidates looked at in all before giving up: a few seconds of one core
_MAX_BYTES = 1 << 30
_BEAM = 1024
_SURELY_SMALL = 200_000  # below so many raw combinations an estimate costs more than it saves


def index_type(n_values: Sequence[int]) -> np.dtype[Any]:
    """The smallest signed type that holds every index and -1 for inactive."""
    largest = max(n_values, default=1)
    return np.dtype(np.int8 if largest <= 127 else np.int16 if largest <= 32_767 else np.int32)


def enumerate_component(
    system: System, component: Component, max_rows: int, enough: int | None = None
) -> Indices | None:
    """Every feasible assignment of a component.

    Args:
        system: the compiled space.
        component: which of its dimensions and rules.
        max_rows: give up beyond so many.
        enough: stop as soon as so many are known; the rows are then some of all.

    Returns:
        Shape ``(n, len(component.dims))`` in no particular order, index of the value by dimension, -1 where inactive; or
        None where the component is infinite, has more than `max_rows` rows, or takes too much work.
    """
    sizes = [system.dims[d].n_values for d in component.dims]
    if any(size is None or size > max(max_rows, 1) for size in sizes):
        return None
    order = constrained_first(system, component)
    search = _Search(system, plan(system, component.rules, order))
    raw = float(np.prod([float(size) for size in sizes if size is not None]))
    if raw > _SURELY_SMALL and enough is None:
        rows, cells = search.estimate()
        if rows > 2 * max_rows or cells > MAX_CELLS:
            return None
    found = search.run(max_rows, enough)
    if found is None:
        return None
    back = [order.index(d) for d in component.dims]
    return found[:, back]


class _Search:
    """Depth first over levels, each with a buffer of partial rows that is extended a chunk at a time."""

    def __init__(self, system: System, steps: Sequence[Step]) -> None:
        self.system, self.steps = system, steps
        self.level = {step.dim: i for i, step in enumerate(steps)}
        self.grids = {step.dim: system.dims[step.dim].grid() for step in steps}
        self.type = index_type([len(grid) for grid in self.grids.values()])
        self.assigned = [frozenset(step.dim for step in steps[:i]) for i in range(len(steps))]

    def extend(self, level: int, rows: Indices) -> Indices:
        """All surviving extensions of partial rows of shape ``(n, level)`` by one dimension."""
        step, grid = self.steps[level], self.grids[self.steps[level].dim]
        if step.condition is None:
            return self._extend_active(step, grid, level, rows)
        active = self._prefixes(level, rows).active(step.condition)
        idle = rows[~active]
        if len(idle):
            idle = idle[survives_inactive(step, self._prefixes(level, idle))]
        without = np.concatenate([idle, np.full((len(idle), 1), -1, dtype=self.type)], axis=1)
        if not active.any():
            return without
        return np.concatenate([without, self._extend_active(step, grid, level, rows[active])])

    def _extend_active(self, step: Step, grid: Indices, level: int, rows: Indices) -> Indices:
        keep = survivors(step, self._prefixes(level, rows), grid[None, :], self.system.box)
        shape = (len(rows), len(grid))
        keep = np.ones(shape, dtype=bool) if keep is None else np.broadcast_to(keep, shape)
        which, value = np.nonzero(keep)
        extended = np.empty((len(which), level + 1), dtype=self.type)
        extended[:, :level] = rows[which]
        extended[:, level] = value
        return extended

    def _prefixes(self, level: int, rows: Indices) -> Prefixes:
        def codes(dim: int) -> Indices:
            column: Indices = self.grids[dim][rows[:, self.level[dim]]][:, None]
            return column

        def inactive(dim: int) -> Indices:
            return rows[:, self.level[dim], None] < 0

        return Prefixes(self.system, len(rows), self.assigned[level], codes, inactive)

    def estimate(self) -> tuple[float, float]:
        """Number of complete rows and of candidates on the way, from a random beam with resampling (D. E. Knuth,
        Estimating the efficiency of backtrack programs, 1975, with many probes at once)."""
        rng = np.random.default_rng(0)
        rows = np.zeros((1, 0), dtype=self.type)
        scale, cells = 1.0, 0.0
        for level in range(len(self.steps)):
            width = len(self.grids[self.steps[level].dim])
            if width > CHUNK:
                rows = rows[: max(1, _BEAM * 64 // width)]
            cells += scale * len(rows) * width
            rows = self.extend(level, rows)
            if len(rows) == 0:
                return 0.0, cells
            if len(rows) > _BEAM:
                scale *= len(rows) / _BEAM
                rows = rows[rng.choice(len(rows), _BEAM, replace=False)]
        return scale * len(rows), cells

    def run(self, max_rows: int, enough: int | None) -> Indices | None:
        depth = len(self.steps)
        chunk = [max(1, CHUNK // len(self.grids[step.dim])) for step in self.steps]
        buffers: list[list[Indices]] = [[] for _ in range(depth + 1)]
        held = [0] * (depth + 1)
        buffers[0], held[0] = [np.zeros((1, 0), dtype=self.type)], 1
        cells, limit = 0, min(max_rows, _MAX_BYTES // max(1, depth * self.type.itemsize))
        while any(held[:depth]):
            # The deepest full buffer keeps memory small; where none is full, the shallowest fills the others.
            full = [i for i in range(depth) if held[i] >= chunk[i]]
            level = full[-1] if full else next(i for i in range(depth) if held[i])
            rows = np.concatenate(buffers[level]) if len(buffers[level]) > 1 else buffers[level][0]
            rest = rows[chunk[level] :]
            buffers[level], held[level] = ([rest] if len(rest) else []), len(rest)
            rows = rows[: chunk[level]]
            cells += len(rows) * len(self.grids[self.steps[level].dim])
            extended = self.extend(level, rows)
            if len(extended):
                buffers[level + 1].append(extended)
                held[level + 1] += len(extended)
            if enough is not None and held[depth] >= enough:
                break
            if held[depth] > limit or cells > MAX_CELLS:
                return None
        return np.concatenate(buffers[depth]) if buffers[depth] else np.zeros((0, depth), dtype=self.type)

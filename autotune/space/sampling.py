"""Random feasible rows: uniform where the feasible set is enumerated, randomised forward checking where it is not.

The forward search assigns dimensions in random order to a beam of partial rows and draws each value among those that
propagation leaves. What it finds is feasible but skewed (early dimensions take most of a shared budget), so the rows
are then moved by Metropolis steps towards the uniform distribution: single coordinates are redrawn, and pairs of
coordinates of one constraint exchange an amount, which moves along a tight sum. (R. L. Smith, Efficient Monte Carlo
procedures for generating points uniformly distributed over bounded regions, 1984, coordinate directions.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import EmptySpaceError
from autotune.space.dimensions import Dimension
from autotune.space.feasible import FeasibleSet, Part, codes_of
from autotune.space.propagation import Component, Prefixes, Step, plan, possible, ready, survives_inactive, survivors
from autotune.space.system import Rows, System

Array = npt.NDArray[Any]

_FEW = 64  # values that are all tried; wider dimensions are sampled
_DRAWS = 16
_SPLITS = 8
_ROUNDS = 18  # 8**18 = 2**54 parts, the resolution of a double
_ATTEMPTS = 24
_BEAM = 24  # partial rows at least, so that some survive the dead ends
_SWEEPS = 3


def forward(system: System, component: Component, n: int, rng: np.random.Generator, prefer: Rows | None = None) -> Rows:
    """One pass of forward checking with a random order of dimensions.

    Args:
        system: the compiled space.
        component: what to assign.
        n: width of the beam.
        rng: source of all draws.
        prefer: shape ``(d,)``; take the surviving value nearest to it instead of a random one (NaN: no preference).

    Returns:
        Feasible rows with the component's columns set and NaN elsewhere, shape ``(m, d)`` with m = n, or 0 after a dead end.
    """
    left, order = set(component.dims), list[int]()
    while left:
        choices = ready(system, left)
        # All that is ready now stays ready, so a whole shuffled batch can be taken at once.
        order += [choices[i] for i in rng.permutation(len(choices))]
        left.difference_update(choices)
    rows = np.full((n, len(system.dims)), np.nan)
    for i, step in enumerate(plan(system, component.rules, order)):
        target = None if prefer is None else float(system.dims[step.dim].to_unit(prefer[step.dim]))
        values, alive = _assign(system, step, rows, frozenset(order[:i]), rng, target)
        if not alive.any():
            return rows[:0]
        rows[:, step.dim] = values
        if not alive.all():
            # Dead ends are replaced by copies of survivors, which part ways again in what is still unassigned.
            rows[~alive] = rows[rng.choice(np.flatnonzero(alive), int((~alive).sum()))]
    return rows


def _assign(
    system: System, step: Step, rows: Rows, assigned: frozenset[int], rng: np.random.Generator, target: float | None
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    values, alive = np.full(len(rows), np.nan), np.ones(len(rows), dtype=bool)
    active = np.ones(len(rows), dtype=bool)
    if step.condition is not None:
        active = _prefixes(system, rows, assigned).active(step.condition)
        idle = np.flatnonzero(~active)
        alive[idle] = survives_inactive(step, _prefixes(system, rows[idle], assigned))
        if not active.any():
            return values, alive
    chooser = _Chooser(system, step, rows[active], assigned, rng, target)
    values[active], alive[active] = chooser.choose()
    return values, alive


def _prefixes(system: System, rows: Rows, assigned: frozenset[int]) -> Prefixes:
    return Prefixes(system, len(rows), assigned, lambda d: rows[:, d, None], lambda d: np.isnan(rows[:, d, None]))


class _Chooser:
    """Chooses a surviving value of one dimension for each partial row."""

    def __init__(
        self,
        system: System,
        step: Step,
        rows: Rows,
        assigned: frozenset[int],
        rng: np.random.Generator,
        target: float | None,
    ) -> None:
        self.system, self.step, self.rows, self.assigned, self.rng = system, step, rows, assigned, rng
        self.dim = system.dims[step.dim]
        self.target = None if target is None or np.isnan(target) else target

    def choose(self) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Values and whether there was one, shapes ``(n,)``."""
        n = len(self.rows)
        if self.dim.n_values is not None and self.dim.n_values <= _FEW:
            return self._pick(np.arange(n), np.broadcast_to(self.dim.grid().astype(float), (n, self.dim.n_values)))
        candidates = self.dim.from_unit(self.rng.random((n, _DRAWS)))
        if self.target is not None:
            candidates[:, 0] = self.dim.from_unit(self.target)
            values, alive = self._pick(np.arange(n), candidates[:, :1])
        else:
            values, alive = self._pick(np.arange(n), candidates)
        if not alive.all():
            missed = np.flatnonzero(~alive)
            values[missed], alive[missed] = self._bisect(missed)
        return values, alive

    def _pick(self, which: Array, candidates: Array) -> tuple[Rows, npt.NDArray[np.bool_]]:
        keep = survivors(self.step, self._some(which), candidates, self.system.box)
        kept: Array = np.broadcast_to(np.asarray(True if keep is None else keep), candidates.shape)
        picked = self._best(kept, self.dim.to_unit(candidates))
        alive: npt.NDArray[np.bool_] = np.asarray(kept.any(axis=1))
        return candidates[np.arange(len(which)), picked], alive

    def _best(self, keep: Array, units: Rows) -> Array:
        """A random admissible column, or the one nearest to the preference."""
        appeal = self.rng.random(keep.shape) if self.target is None else 2.0 - np.abs(units - self.target)
        best: Array = np.argmax(np.where(keep, appeal, -1.0), axis=1)
        return best

    def _some(self, which: Array) -> Prefixes:
        return _prefixes(self.system, self.rows[which], self.assigned)

    def _bisect(self, which: Array) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Narrow the range by parts that propagation does not exclude, trying values on the way."""
        values, alive = np.full(len(which), np.nan), np.zeros(len(which), dtype=bool)
        low, high = np.zeros(len(which)), np.ones(len(which))
        open_ = np.arange(len(which))
        for _ in range(_ROUNDS):
            edges = low[open_, None] + (high - low)[open_, None] * np.linspace(0.0, 1.0, _SPLITS + 1)
            codes = self.dim.from_unit(edges)
            codes[edges <= 0.0], codes[edges >= 1.0] = self.dim.low, self.dim.high
            may = possible(self.step, self._some(which[open_]), codes[:, :-1], codes[:, 1:], self.system.box)
            may = np.broadcast_to(may, (len(open_), _SPLITS))
            picked = self._best(may, (edges[:, :-1] + edges[:, 1:]) / 2)
            rows = np.arange(len(open_))
            low[open_], high[open_] = edges[rows, picked], edges[rows, picked + 1]
            open_ = open_[may.any(axis=1)]
            if len(open_) == 0:
                break
            inside = np.concatenate([[0.0, 1.0], self.rng.random(2)])
            trial = self.dim.from_unit(low[open_, None] + (high - low)[open_, None] * inside)
            found, hit = self._pick(which[open_], trial)
            values[open_[hit]], alive[open_[hit]] = found[hit], True
            open_ = open_[~hit]
            if len(open_) == 0:
                break
        return values, alive


def mix(system: System, component: Component, rows: Rows, rng: np.random.Generator, sweeps: int = _SWEEPS) -> Rows:
    """Move feasible rows towards the uniform distribution over their component, shape kept."""
    rows = rows.copy()
    movable = [d for d in component.dims if d not in system.parents]
    partners = {d: exchange_partners(system, component, d) for d in movable}
    for _ in range(sweeps):
        for d in rng.permutation(movable).tolist() if movable else []:
            touched = [rule for rule in component.rules if d in rule.dims]
            dim = system.dims[d]
            accept(system, rows, {d: _propose(dim, rows[:, d], rng)}, touched)
            if partners[d]:
                e = partners[d][int(rng.integers(len(partners[d])))]
                fresh, given = _share(dim, system.dims[e], rows[:, d] + rows[:, e], rng)
                both = [rule for rule in component.rules if d in rule.dims or e in rule.dims]
                accept(system, rows, {d: fresh, e: given}, both)
    return rows


def _propose(dim: Dimension, codes: Rows, rng: np.random.Generator) -> Rows:
    """Symmetric proposals: half anywhere, half a step of a random order of magnitude; NaN stays."""
    n = len(codes)
    anywhere = rng.random(n)
    finest = 1e-3 if dim.n_values is None else 1.0 / max(dim.n_values - 1, 1)
    width = np.maximum(10.0 ** -rng.uniform(0.0, 3.0, n), finest)
    near = dim.to_unit(codes) + width * rng.uniform(-1.0, 1.0, n)
    near = np.abs(near)  # reflected at both ends, which keeps the proposal symmetric
    near = np.where(near > 1.0, 2.0 - near, near)
    units = np.where((rng.random(n) < 0.5) & dim.ordered, near, anywhere)
    return np.where(np.isnan(codes), np.nan, dim.from_unit(units))


def _share(one: Dimension, other: Dimension, total: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """A total divided anew between two dimensions, uniformly among the divisions that respect both ranges."""
    low = np.maximum(float(one.low), total - float(other.high))
    high = np.minimum(float(one.high), total - float(other.low))
    share = one.from_unit(one.to_unit(low + (high - low) * rng.random(len(total))))
    return share, total - share


def exchange_partners(system: System, component: Component, d: int) -> list[int]:
    """Numeric dimensions that share a rule with a numeric dimension and may take what it gives."""
    if not system.dims[d].numeric:
        return []
    shared = {e for rule in component.rules if d in rule.dims for e in rule.dims}
    return sorted(e for e in shared if e != d and e not in system.parents and system.dims[e].numeric)


def admissible(system: System, d: int, codes: Rows) -> npt.NDArray[np.bool_]:
    """Which codes are values of a dimension; False for NaN."""
    dim = system.dims[d]
    inside = (codes >= dim.low) & (codes <= dim.high)
    if dim.n_values is None:
        return inside
    on_grid = dim.from_unit(dim.to_unit(np.where(inside, codes, dim.low)))
    if dim.codes is not None:
        on_grid = dim.grid()[dim.rank(np.where(inside, codes, dim.low))]
    elif dim.log:
        on_grid = dim.low + np.rint((codes - dim.low) / dim.parameter.step) * dim.parameter.step  # type: ignore[attr-defined]
    legal: npt.NDArray[np.bool_] = inside & (on_grid == codes)
    return legal


def accept(system: System, rows: Rows, changes: dict[int, Rows], rules: Sequence[Any]) -> None:
    """Apply changed columns to those rows that stay feasible, in place."""
    legal = np.ones(len(rows), dtype=bool)
    for d, codes in changes.items():
        legal &= admissible(system, d, codes) & ~np.isnan(rows[:, d])
    moved = rows.copy()
    for d, codes in changes.items():
        moved[legal, d] = codes[legal]
    keep = system.feasible(moved, rules)
    rows[keep] = moved[keep]


def towards_anchors(system: System, component: Component, anchors: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Feasible points between known feasible rows and random points of the box, at most n of shape ``(., d)``."""
    if len(anchors) == 0 or n == 0:
        return np.empty((0, len(system.dims)))
    base = anchors[rng.integers(len(anchors), size=n)]
    base = np.where(np.isin(np.arange(len(system.dims)), component.dims), base, np.nan)
    far = base.copy()
    for d in component.dims:
        if d not in system.parents:
            far[:, d] = np.where(np.isnan(base[:, d]), np.nan, system.dims[d].from_unit(rng.random(n)))
    reach = segment(system, component, far, base)
    # A random place on the feasible part rather than always its end.
    back = segment_points(system, component, reach, base, rng.random(n))
    return np.where(system.feasible(back, component.rules)[:, None], back, reach)


def segment_points(system: System, component: Component, start: Rows, end: Rows, share: Rows) -> Rows:
    """Points `share` of the way from `start` to `end` on the encoded scale; unordered values switch half-way."""
    points = end.copy()
    for d in component.dims:
        dim = system.dims[d]
        if dim.ordered:
            a, b = dim.to_unit(start[:, d]), dim.to_unit(end[:, d])
            points[:, d] = np.where(
                share <= 0.0, start[:, d], np.where(share >= 1.0, end[:, d], dim.from_unit(a + (b - a) * share))
            )
        else:
            points[:, d] = np.where(share < 0.5, start[:, d], end[:, d])
    return points


def segment(system: System, component: Component, start: Rows, end: Rows, rounds: int = 24) -> Rows:
    """By bisection, feasible points as near to `start` as the segment to the feasible `end` has them; same shape."""
    low, high = np.zeros(len(start)), np.ones(len(start))
    best = end.copy()
    whole = system.feasible(start, component.rules)
    best[whole] = start[whole]
    for _ in range(rounds):
        middle = (low + high) / 2
        points = segment_points(system, component, start, end, middle)
        good = system.feasible(points, component.rules) & ~whole
        best[good] = points[good]
        high, low = np.where(good, middle, high), np.where(good, low, middle)
    return best


class Sampler:
    """Draws from a feasible set."""

    def __init__(self, feasible: FeasibleSet, anchors: Rows) -> None:
        self.feasible, self.system, self.anchors = feasible, feasible.system, anchors

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """n feasible rows, distinct where there are that many, shape ``(n, d)``.

        Raises:
            EmptySpaceError: where there is none, or none was found.
        """
        self.feasible.check_not_empty()
        size = self.feasible.size
        if size is not None and size <= max(4 * n, 64):
            order = rng.permutation(size)
            again = rng.integers(size, size=max(0, n - size))
            return self._at(np.concatenate([order, again])[:n])
        rows = np.empty((0, len(self.system.dims)))
        for _ in range(_ATTEMPTS):
            more = np.concatenate([rows, self._draw(n - len(rows), rng)])
            _, first = np.unique(np.nan_to_num(more, nan=np.inf), axis=0, return_index=True)
            rows, repeated = more[np.sort(first)], np.delete(more, first, axis=0)
            if len(rows) >= n:
                return rows[:n]
        return np.concatenate([rows, repeated])[:n]

    def _at(self, numbers: Array) -> Rows:
        """The rows of some numbers in the product of components."""
        rows = np.full((len(numbers), len(self.system.dims)), np.nan)
        for part in self.feasible.parts:
            count = part.count or 0
            self._set(rows, part, numbers % count)
            numbers = numbers // count
        return rows

    def _set(self, rows: Rows, part: Part, picked: Array) -> None:
        indices = picked[:, None] if part.table is None else part.table.rows[picked]
        rows[:, list(part.dims)] = codes_of(self.system, part.dims, indices)

    def _draw(self, n: int, rng: np.random.Generator) -> Rows:
        rows = np.full((n, len(self.system.dims)), np.nan)
        for part in self.feasible.parts:
            if part.count is not None and part.table is not None:
                self._set(rows, part, rng.integers(part.count, size=n))
            elif part.free:
                dim = self.system.dims[part.dims[0]]
                if dim.n_values is None:
                    rows[:, dim.position] = dim.from_unit(rng.random(n))
                elif dim.codes is None:  # too many to list
                    rows[:, dim.position] = dim.low + rng.integers(dim.n_values, size=n) * getattr(
                        dim.parameter, "step", 1
                    )
                else:
                    rows[:, dim.position] = dim.grid()[rng.integers(dim.n_values, size=n)]
            else:
                columns = list(part.dims)
                rows[:, columns] = self.open_rows(part.component, n, rng)[:, columns]
        return rows

    def open_rows(self, component: Component, n: int, rng: np.random.Generator) -> Rows:
        """Feasible rows of a component that is not enumerated, shape ``(n, d)`` with NaN outside of it.

        Raises:
            EmptySpaceError: where none was found.
        """
        system = self.system
        inside = np.isin(np.arange(len(system.dims)), component.dims)
        anchors = np.where(inside, self.anchors, np.nan)
        rows = towards_anchors(system, component, anchors, n // 4, rng)
        for _ in range(_ATTEMPTS):
            if len(rows) >= n:
                break
            rows = np.concatenate([rows, forward(system, component, max(n - len(rows), _BEAM), rng)])
        if len(rows) == 0:
            rows = anchors
        if len(rows) == 0:
            raise self._none_found(component)
        rows = rows[rng.permutation(len(rows))] if len(rows) >= n else rows[rng.integers(len(rows), size=n)]
        return mix(system, component, rows[:n], rng)

    def _none_found(self, component: Component) -> EmptySpaceError:
        for rule in component.rules:
            conditional = any(name in self.system.conditions for name in rule.names)
            if not conditional and not bool(np.all(rule.may_hold(self.system.box)[1])):
                return EmptySpaceError(
                    f"no configuration is feasible: constraint {rule.label!r} cannot hold for any values of "
                    f"{', '.join(rule.names)}; loosen it or widen those parameters"
                )
        labels = " and ".join(repr(rule.label) for rule in component.rules)
        return EmptySpaceError(
            f"no configuration was found that satisfies {labels}; loosen a constraint, or give a known feasible "
            "configuration as an anchor"
        )

"""Constraint propagation: independent components, the order of their dimensions, and which candidates survive a step.

A space is extended one dimension at a time. At each step every constraint that just became complete is evaluated
exactly, and every constraint that is still partial is evaluated on intervals: a candidate that makes it impossible for
all completions is dropped at once. (Forward checking with bounds reasoning; Rossi, van Beek and Walsh, Handbook of
Constraint Programming, 2006, sections 3.4 and 4.3, here on whole arrays of partial assignments.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.space.columns import either
from autotune.space.constraints import Rule
from autotune.space.system import System

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Component:
    """Dimensions (ascending) that no constraint or condition connects to any other, and the rules among them."""

    dims: tuple[int, ...]
    rules: tuple[Rule, ...]

    def is_free(self, system: System) -> bool:
        """Whether this is one dimension on its own, every value of which is feasible."""
        return len(self.dims) == 1 and not self.rules and system.condition(self.dims[0]) is None


def components(system: System, rules: Sequence[Rule]) -> tuple[Component, ...]:
    """Split a space by the graph in which rules and conditions join the dimensions that they need."""
    leader = list(range(len(system.dims)))

    def find(d: int) -> int:
        while leader[d] != d:
            leader[d] = leader[leader[d]]
            d = leader[d]
        return d

    groups = [rule.dims for rule in rules]
    groups += [(*rule.dims, *system.layout[name]) for name, rule in system.conditions.items()]
    for group in groups:
        for d in group[1:]:
            leader[find(d)] = find(group[0])
    members: dict[int, list[int]] = {}
    for d in range(len(system.dims)):
        members.setdefault(find(d), []).append(d)
    bound: dict[int, list[Rule]] = {}
    for rule in rules:
        if rule.dims:
            bound.setdefault(find(rule.dims[0]), []).append(rule)
    return tuple(Component(tuple(dims), tuple(bound.get(root, ()))) for root, dims in members.items())


@dataclass(frozen=True, eq=False)
class Step:
    """The assignment of one dimension: what can be decided then.

    Attributes:
        complete: rules of which this is the last dimension.
        partial: rules that still lack dimensions, with those.
    """

    dim: int
    condition: Rule | None
    complete: tuple[Rule, ...]
    partial: tuple[tuple[Rule, tuple[int, ...]], ...]


def plan(system: System, rules: Sequence[Rule], order: Sequence[int]) -> tuple[Step, ...]:
    """What to check after each dimension of an order."""
    steps, assigned = [], set[int]()
    for dim in order:
        assigned.add(dim)
        involved = [rule for rule in rules if dim in rule.dims]
        lacking = [tuple(d for d in rule.dims if d not in assigned) for rule in involved]
        complete = tuple(rule for rule, lack in zip(involved, lacking, strict=True) if not lack)
        partial = tuple((rule, lack) for rule, lack in zip(involved, lacking, strict=True) if lack and rule.propagates)
        steps.append(Step(dim, system.condition(dim), complete, partial))
    return tuple(steps)


def constrained_first(system: System, component: Component) -> list[int]:
    """An order in which constraints complete early: fewest missing dimensions first, then small domains.

    What a condition refers to comes before what depends on it.
    """
    left, order = set(component.dims), list[int]()
    missing = {id(rule): set(rule.dims) for rule in component.rules}

    def urgency(d: int) -> tuple[float, float, int, int]:
        counts = [len(missing[id(rule)]) for rule in component.rules if d in rule.dims]
        size = system.dims[d].n_values
        return (min(counts, default=len(left) + 1), -len(counts), size if size is not None else 2**62, d)

    while left:
        d = min(ready(system, left), key=urgency)
        left.discard(d)
        for lacking in missing.values():
            lacking.discard(d)
        order.append(d)
    return order


def ready(system: System, left: set[int]) -> list[int]:
    """Those of the dimensions left whose condition refers to none of them, ascending."""
    result = []
    for d in sorted(left):
        rule = system.condition(d)
        if rule is None or left.isdisjoint(rule.dims):
            result.append(d)
    return result


class Prefixes:
    """Partial assignments as columns: codes of shape ``(n, 1)`` and where dimensions are inactive.

    Args:
        n: how many.
        assigned: the dimensions that have been assigned.
        codes: gives the column of an assigned dimension, anything where it is inactive.
        inactive: gives where it is inactive, shape ``(n, 1)``; asked only for conditional dimensions.
    """

    def __init__(
        self,
        system: System,
        n: int,
        assigned: frozenset[int],
        codes: Callable[[int], Array],
        inactive: Callable[[int], Array],
    ) -> None:
        self.system = system
        self.n = n
        self.assigned = assigned
        self._codes, self._inactive = codes, inactive
        self._columns: dict[int, Array] = {}

    def column(self, dim: int) -> Array:
        if dim not in self._columns:
            self._columns[dim] = self._codes(dim)
        return self._columns[dim]

    def column_or_nan(self, dim: int) -> Array:
        """As `column` with NaN where inactive, for callables that see which parameters exist."""
        column = self.column(dim)
        return column if self.system.condition(dim) is None else np.where(self._inactive(dim), np.nan, column)

    def inactive(self, dims: Iterable[int]) -> Any:
        """Where any of some assigned dimensions is inactive; None where none can be."""
        result: Any = None
        for d in dims:
            if self.system.condition(d) is not None:
                result = either(result, self._inactive(d))
        return result

    def active(self, condition: Rule) -> Array:
        """Where a condition over assigned dimensions is true, shape ``(n,)``."""
        truth = np.broadcast_to(condition.mask({d: self.column(d) for d in condition.dims}), (self.n, 1))
        vacant = self.inactive(condition.dims)
        return (truth if vacant is None else truth & ~vacant)[:, 0]


def survivors(step: Step, prefixes: Prefixes, candidates: Array, box: dict[int, tuple[Any, Any]]) -> Any:
    """Which candidates for the step's dimension can still lead to a feasible configuration.

    Args:
        step: the dimension, active in all the prefixes.
        prefixes: n partial assignments.
        candidates: codes of shape ``(1, k)`` or ``(n, k)``.
        box: the range of every dimension of the space.

    Returns:
        A mask that broadcasts to ``(n, k)``, or None where nothing is ruled out.
    """
    keep: Any = None
    for rule in step.complete:
        read = prefixes.column_or_nan if rule.whole else prefixes.column
        truth = rule.mask({d: candidates if d == step.dim else read(d) for d in rule.dims})
        vacant = None if rule.whole else prefixes.inactive(d for d in rule.dims if d != step.dim)
        truth = truth if vacant is None else truth | vacant
        keep = truth if keep is None else keep & truth
    for rule, lacking in step.partial:
        may = _may_hold(rule, lacking, step.dim, prefixes, (candidates, candidates), box)
        keep = may if keep is None else keep & may
    return keep


def survives_inactive(step: Step, prefixes: Prefixes) -> Any:
    """Where leaving the step's dimension inactive is feasible, shape ``(n,)``: only whole-configuration callables object."""
    keep = np.ones(prefixes.n, dtype=bool)
    for rule in step.complete:
        if rule.whole:
            absent = np.full((prefixes.n, 1), np.nan)
            given = {d: absent if d == step.dim else prefixes.column_or_nan(d) for d in rule.dims}
            keep &= np.broadcast_to(rule.mask(given), (prefixes.n, 1))[:, 0]
    return keep


def possible(step: Step, prefixes: Prefixes, low: Array, high: Array, box: dict[int, tuple[Any, Any]]) -> Any:
    """As `survivors` for whole intervals of candidates, shapes ``(n, k)``: False where no value inside can be feasible."""
    keep: Any = np.True_
    for rule, lacking in [*((rule, ()) for rule in step.complete if not rule.whole), *step.partial]:
        keep = keep & _may_hold(rule, lacking, step.dim, prefixes, (low, high), box)
    return keep


def _may_hold(
    rule: Rule,
    lacking: tuple[int, ...],
    dim: int,
    prefixes: Prefixes,
    interval: tuple[Array, Array],
    box: dict[int, tuple[Any, Any]],
) -> Any:
    known: dict[int, tuple[Any, Any]] = {dim: interval}

    def local(dims: Iterable[int]) -> dict[int, tuple[Any, Any]]:
        for d in dims:
            if d not in known:
                known[d] = box[d] if d in unassigned else (prefixes.column(d), prefixes.column(d))
        return known

    unassigned = set(lacking)
    assigned = [d for d in rule.dims if d not in unassigned and d != dim]
    vacant = prefixes.inactive(assigned)
    system = prefixes.system
    for name in rule.names:
        if not unassigned.isdisjoint(system.layout[name]):
            vacant = either(vacant, _may_be_inactive(name, dim, prefixes, unassigned, local))
    _, may = rule.may_hold(local(rule.dims))
    return may if vacant is None else may | vacant


def _may_be_inactive(
    name: str, dim: int, prefixes: Prefixes, unassigned: set[int], local: Callable[[Iterable[int]], Any]
) -> Any:
    """Where a parameter that is not assigned yet may turn out inactive; None where it cannot."""
    condition = prefixes.system.conditions.get(name)
    if condition is None:
        return None
    if any(d != dim and d not in prefixes.assigned for d in condition.dims):
        return np.True_
    must, _ = condition.may_hold(local(condition.dims))
    return either(~must, prefixes.inactive(d for d in condition.dims if d != dim))

"""Where a proposal may come from: feasible configurations only.

An enumerated set is scored as a whole, up to a limit. Elsewhere a standing random sample and what lies around the best
configurations are scored, and the most promising are improved by local search.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from autotune.space import Config, FeasibleTable, SearchSpace
from autotune.strategies.bo.features import FeatureMap
from autotune.strategies.bo.guides import Guides
from autotune.strategies.bo.surrogate import Points

Floats = npt.NDArray[np.float64]
Score = Callable[["Candidates"], Floats]

WHOLE = 100_000  # configurations that are scored all
SAMPLE = 4_000  # of a larger or endless set, drawn once
_AROUND = 200  # neighbours of each centre
_ROUNDS = 6  # of local improvement
_BEAM = 8  # candidates that local search goes on from
_CHILDREN = 24  # of each of them in a round
_SPREAD = (0.2, 0.1, 0.04, 0.015, 0.005, 0.0015)  # of the steps of continuous values, round by round


class Candidates:
    """Configurations to choose among: encoded, shape ``(m, d)``, and as points for models."""

    def __init__(self, units: Floats, points: Points) -> None:
        self.units, self.points = units, points

    def __len__(self) -> int:
        return len(self.units)

    def take(self, places: npt.NDArray[np.intp]) -> Candidates:
        return Candidates(self.units[places], self.points.take(places))


class Pool(abc.ABC):
    """The feasible set as far as it can be looked at."""

    def __init__(self, space: SearchSpace, features: FeatureMap, guides: Guides) -> None:
        self.space, self._features, self._guides = space, features, guides

    def points(self, units: Floats) -> Points:
        """What models see of encoded configurations."""
        return Points(self._features(units), self._features.interactions(units), self._guides.at(units))

    @abc.abstractmethod
    def best(self, score: Score, count: int, taken: Floats, centres: Floats, rng: np.random.Generator) -> Candidates:
        """Up to `count` new candidates of high score, best first.

        Args:
            score: of candidates, ``(m,)``; minus infinity for what must not be proposed.
            count: how many.
            taken: encoded configurations that must not be proposed again, shape ``(t, d)``.
            centres: encoded configurations worth looking around, the best first, shape ``(c, d)``.
            rng: of everything random.
        """

    @abc.abstractmethod
    def some(self, count: int, taken: Floats, rng: np.random.Generator) -> Candidates:
        """Up to `count` random new candidates; `taken` as for `best`."""

    def shortlist(
        self, score: Score, best: int, random: int, taken: Floats, centres: Floats, rng: np.random.Generator
    ) -> Candidates:
        """Up to `best` candidates of high score, best first, and then up to `random` others; the rest as for `best`."""
        promising = self.best(score, best, taken, centres, rng)
        others = self.some(random, np.concatenate([taken, promising.units]), rng)
        return _joined([promising, others.take(np.flatnonzero(np.isfinite(score(others))))])

    @abc.abstractmethod
    def config(self, units: Floats) -> Config:
        """The configuration of one encoded row."""


def pool_of(space: SearchSpace, features: FeatureMap, guides: Guides, seed: int) -> Pool:
    """The pool of a space."""
    if space.size is not None and space.size <= WHOLE:
        table = space.enumerate()
        if table is not None:
            return TablePool(space, features, guides, table)
    return OpenPool(space, features, guides, seed)


class TablePool(Pool):
    """The whole feasible set, scored at every proposal."""

    def __init__(self, space: SearchSpace, features: FeatureMap, guides: Guides, table: FeasibleTable) -> None:
        super().__init__(space, features, guides)
        self._table = table
        units = table.encoded()
        self._places = {row.tobytes(): i for i, row in enumerate(units)}
        self._all = Candidates(units, super().points(units))

    def points(self, units: Floats) -> Points:
        places = [self._places.get(row.tobytes()) for row in units]
        if None in places:  # a baseline or a trial of another version of the space
            return super().points(units)
        return self._all.points.take(np.array(places, dtype=np.intp))

    def best(self, score: Score, count: int, taken: Floats, centres: Floats, rng: np.random.Generator) -> Candidates:
        places = self._left(taken)
        if not len(places):
            return self._all.take(places)
        scores = score(self._all)[places]
        # Ties are broken at random: among equals the first ones of a table share their first values.
        order = np.lexsort((rng.random(len(places)), -scores))[:count]
        return self._all.take(places[order][np.isfinite(scores[order])])

    def some(self, count: int, taken: Floats, rng: np.random.Generator) -> Candidates:
        return self._all.take(rng.permutation(self._left(taken))[:count])

    def _left(self, taken: Floats) -> npt.NDArray[np.intp]:
        used = [self._places[row.tobytes()] for row in taken if row.tobytes() in self._places]
        left = np.ones(len(self._all), dtype=bool)
        left[used] = False
        return np.flatnonzero(left)

    def config(self, units: Floats) -> Config:
        return self._table.config(self._places[units.tobytes()])


class OpenPool(Pool):
    """A feasible set too large to look at: a standing sample, and local search from what is best."""

    def __init__(self, space: SearchSpace, features: FeatureMap, guides: Guides, seed: int) -> None:
        super().__init__(space, features, guides)
        rng = np.random.default_rng([seed & 0xFFFFFFFF, 0xB0])
        # Long constrained vectors take long to sample; a tenth of the rows is enough for a start.
        many = SAMPLE if len(space.dims) <= 24 else SAMPLE // 10
        units = space.sample_encoded(many, rng)
        self._sample = self._new(units, set())
        self._sampled = frozenset(row.tobytes() for row in self._sample.units)
        self._endless = np.array([d.n_values is None for d in space.dims])
        # A step of a list must reach its next value, or nothing would change.
        self._least = np.array([0.0 if d.n_values is None else 0.75 / max(d.n_values - 1, 1) for d in space.dims])

    def best(self, score: Score, count: int, taken: Floats, centres: Floats, rng: np.random.Generator) -> Candidates:
        used = {row.tobytes() for row in taken}
        near = [self.space.around(centre, _AROUND, rng) for centre in centres[:3]]
        near.append(self._children(centres, _AROUND, [_SPREAD[i % len(_SPREAD)] for i in range(len(centres))], rng))
        seen = used | self._sampled
        found = _joined([self._sample, self._new(np.concatenate(near), seen)])
        scores = _without(score(found), found, used)
        for spread in _SPREAD[:_ROUNDS]:
            kept = np.argsort(-scores, kind="stable")[: max(count, _BEAM)]
            seen |= {found.units[i].tobytes() for i in kept}
            beam = found.units[kept[:_BEAM]]
            fresh = self._new(self._children(beam, _CHILDREN, [spread] * len(beam), rng), seen)
            found = _joined([found.take(kept), fresh])
            scores = np.concatenate([scores[kept], score(fresh) if len(fresh) else np.zeros(0)])
        order = np.argsort(-scores, kind="stable")[:count]
        return found.take(order[np.isfinite(scores[order])])

    def some(self, count: int, taken: Floats, rng: np.random.Generator) -> Candidates:
        found = self._new(self._sample.units[rng.permutation(len(self._sample))], {row.tobytes() for row in taken})
        return found.take(np.arange(min(count, len(found))))

    def config(self, units: Floats) -> Config:
        return self.space.decode(units)

    def _new(self, units: Floats, used: set[bytes]) -> Candidates:
        seen: set[bytes] = set()
        keep = []
        for i, row in enumerate(units):
            key = row.tobytes()
            if key not in used and key not in seen:
                seen.add(key)
                keep.append(i)
        units = units[keep]
        return Candidates(units, self.points(units))

    def _children(self, centres: Floats, count: int, spreads: Sequence[float], rng: np.random.Generator) -> Floats:
        """Feasible rows near centres of shape ``(n, d)``, `count` drawn for each: a few dimensions moved at once, one more
        often than many."""
        d = centres.shape[1]
        moved = []
        for centre, spread in zip(centres, spreads, strict=True):
            changed = rng.random((count, d)) < np.minimum(1.0, rng.choice([1.0, 2.0, 4.0, d], (count, 1)) / d)
            changed[np.arange(count), rng.integers(d, size=count)] = True
            steps = rng.normal(size=(count, d)) * np.maximum(spread, self._least)
            leaps = (rng.random((count, d)) < 0.15) & ~self._endless
            base = np.where(np.isnan(centre), rng.random((count, d)), centre)
            near = np.where(leaps, rng.random((count, d)), np.clip(base + steps, 0.0, 1.0))
            moved.append(np.where(changed, near, base))
        # All at once, as it takes about as long for many rows as for one.
        rows, feasible = self.space.snap(np.concatenate([*moved, centres[:0]]))
        return rows[feasible]


def _joined(parts: Sequence[Candidates]) -> Candidates:
    units = np.concatenate([p.units for p in parts])
    return Candidates(units, functools.reduce(Points.joined, [p.points for p in parts]))


def _without(scores: Floats, found: Candidates, used: set[bytes]) -> Floats:
    taken = np.fromiter((row.tobytes() in used for row in found.units), dtype=bool, count=len(found))
    return np.where(taken, -np.inf, scores)

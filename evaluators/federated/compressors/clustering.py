"""k-means of numbers, many rows at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_MOST_ITERATIONS = 50  # after which centroids move by next to nothing


@dataclass(frozen=True)
class Clusters:
    """Clusters of each row's numbers; those of one cluster lie next to each other.

    Attributes:
        borders: ``(n, clusters - 1)``, ascending; a number belongs to the cluster that has as many borders at or below it.
        centroids: ``(n, clusters)``, the mean of each cluster, ascending.
        counts: ``(n, clusters)``, numbers in each cluster; may be zero.
    """

    borders: NDArray[np.float64]
    centroids: NDArray[np.float64]
    counts: NDArray[np.int64]

    def of(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """The cluster of every number, ``(n, size)``."""
        found: NDArray[np.int64] = torch.searchsorted(
            torch.from_numpy(self.borders), torch.from_numpy(values).double(), right=True
        ).numpy()
        return found


def k_means(values: NDArray[np.float32], mask: NDArray[np.bool_], clusters: int) -> Clusters:
    """Lloyd's iterations from evenly spaced quantiles, until no number changes its cluster, and 50 times at most.

    Args:
        values: ``(n, size)``, finite.
        mask: ``(n, size)``, which of them are clustered; at least one in each row.
        clusters: of every row.
    """
    n = len(values)
    each = np.arange(n)[:, None]
    counts = np.count_nonzero(mask, axis=1)[:, None]
    ascending = np.sort(np.where(mask, values, np.float32(np.inf)), axis=1).astype(np.float64)
    below = np.zeros((n, values.shape[1] + 1))
    np.cumsum(np.where(np.isfinite(ascending), ascending, 0.0), axis=1, out=below[:, 1:])
    table = torch.from_numpy(ascending)

    centroids = ascending[each, ((np.arange(clusters) + 0.5) / clusters * counts).astype(np.int64)]
    ends = np.full((n, clusters + 1), -1)
    borders = np.empty((n, clusters - 1))
    for _ in range(_MOST_ITERATIONS):
        between = (centroids[:, :-1] + centroids[:, 1:]) / 2
        cuts = torch.searchsorted(table, torch.from_numpy(between)).numpy()
        found = np.concatenate([np.zeros((n, 1), np.int64), cuts, counts], axis=1)
        if np.array_equal(found, ends):
            break
        ends, borders = found, between
        first, last = ends[:, :-1], ends[:, 1:]
        inside = last - first
        means = (below[each, last] - below[each, first]) / np.maximum(inside, 1)
        # Differences of large sums may round a mean out of its cluster, and centroids out of their order.
        means = np.clip(means, ascending[each, first.clip(max=counts - 1)], ascending[each, last.clip(min=1) - 1])
        centroids = np.where(inside > 0, means, centroids)
    return Clusters(borders, centroids, np.diff(ends, axis=1))

"""Sparse, clustered and entropy-coded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.checks import whole
from evaluators.federated.compressors import huffman, packing, positions
from evaluators.federated.compressors.base import Compressor, Sent
from evaluators.federated.compressors.clustering import k_means
from evaluators.federated.compressors.packing import Reader, float_bytes, n_bytes
from evaluators.federated.compressors.rows import checked, kept, one, sent
from evaluators.federated.compressors.top_k import largest_magnitudes
from evaluators.federated.tensors import FLOAT_BYTES, Tensors

_MOST_CLUSTERS = 255  # their number is one byte
_HEADER_BYTES = 6  # k as uint32, clusters as uint8, whether positions are Huffman-coded as uint8
_CLASSES = 33  # of gaps, by the bits that they take: 0 to 32
_CLASS_BYTES = 5  # a bit for each class: whether it occurs


class FedZip(Compressor):
    """The k largest numbers, their values by k-means, both entropy-coded: a reconstruction of FedZip (arXiv:2102.01593).

    Values are the centroids of at most `clusters` clusters of the kept numbers (1-D k-means); which one is Huffman-coded.
    Positions are as `TopK` sends them, or as gaps: by the number of bits that a gap takes, Huffman-coded, and the gap's bits
    below its highest; whichever is smaller. As centroids are means, ``|C(x) - x|^2 = |x|^2 - |C(x)|^2``: the error is never
    larger than the vector, but no share of it is certain to be sent. A vector with NaN or infinity is sent as one NaN.

    Payload: k (uint32), number c of clusters, how positions are coded (uint8 each); c float32 centroids and c lengths of
    codewords (uint8); the clusters of the kept numbers; positions. Gaps are told by a bitmap of the classes that occur
    (5 bytes), the lengths of their codewords (uint8), the classes, and the lower bits.

    Args:
        tensors: of the model.
        clusters: the most, from 1 to 255.
    """

    name: ClassVar[str] = "fedzip"
    summary: ClassVar[str] = (
        "the largest numbers, clustered and Huffman-coded (a reconstruction of FedZip, arXiv:2102.01593)"
    )

    def __init__(self, tensors: Tensors, *, clusters: int = 15) -> None:
        super().__init__(tensors)
        self.clusters = whole("clusters", clusters, 1, _MOST_CLUSTERS)

    def compress(self, values: Tensor, keep: Tensor, seeds: Tensor) -> Sent:
        """See `Compressor.compress`."""
        rows = checked(self.tensors, values, keep, seeds)
        size = self.tensors.size
        k = kept(rows.keep, size)
        clustered = _cluster(rows.values, k, self.clusters)
        gap_counts = _gap_counts(clustered.mask, k)
        lengths = np.array(
            [
                _HEADER_BYTES + _value_bytes(own[own > 0].tolist()) + min(_gap_bytes(gaps.tolist()), int(other))
                for own, gaps, other in zip(clustered.counts, gap_counts, positions.lengths(k, size), strict=True)
            ],
            np.int64,
        ).reshape(-1)
        return sent(clustered.values(), lengths)

    def encode(self, vector: Tensor, keep: float, seed: int) -> bytes:
        """See `Compressor.encode`."""
        rows = one(self.tensors, vector, keep, seed)
        k = kept(rows.keep, self.tensors.size)
        clustered = _cluster(rows.values, k, self.clusters)
        mask, counts = clustered.mask[0], clustered.counts[0]
        used = np.flatnonzero(counts)
        lengths = huffman.code_lengths(counts[used].tolist())
        symbols = np.searchsorted(used, clustered.symbols[0][mask])
        gap_counts = _gap_counts(clustered.mask, k)[0].tolist()
        plain = positions.pack(mask)
        by_gaps = _gap_bytes(gap_counts) < len(plain)
        return b"".join(
            [
                struct.pack("<IBB", k[0], len(used), by_gaps),
                float_bytes(clustered.centroids[0][used]),
                bytes(lengths),
                huffman.encode(symbols, lengths),
                _pack_gaps(np.flatnonzero(mask), gap_counts) if by_gaps else plain,
            ]
        )

    def decode(self, payload: bytes, seed: int) -> Tensor:
        """See `Compressor.decode`."""
        reader = Reader(payload, self.name)
        size = self.tensors.size
        k = reader.count("I", 1, size)
        n_clusters, by_gaps = reader.count("B", 1, _MOST_CLUSTERS), reader.count("B", 0, 1)
        centroids = reader.floats(n_clusters)
        symbols = huffman.decode(reader, k, list(reader.take(n_clusters)))
        where = _read_gaps(reader, k, size) if by_gaps else positions.read(reader, k, size)
        reader.end()
        values = np.zeros(size, np.float32)
        values[where] = centroids[symbols]
        return torch.from_numpy(values)


@dataclass(frozen=True)
class _Clustered:
    """Rows of which some numbers are kept, as clusters: masks and symbols ``(n, size)``, the others ``(n, clusters)``."""

    mask: NDArray[np.bool_]
    symbols: NDArray[np.int64]
    centroids: NDArray[np.float32]
    counts: NDArray[np.int64]

    def values(self) -> NDArray[np.float32]:
        """What the receiver decodes, ``(n, size)``."""
        values = np.take_along_axis(self.centroids, self.symbols, axis=1)
        values[~self.mask] = 0
        return values


def _cluster(values: NDArray[np.float32], k: NDArray[np.int64], clusters: int) -> _Clustered:
    mask = largest_magnitudes(values, k)
    sound = np.isfinite(values).all(axis=1, keepdims=True)
    finite = np.where(sound, values, np.float32(0))
    found = k_means(finite, mask, clusters)
    centroids = np.where(sound, found.centroids.astype(np.float32), np.float32(np.nan))
    return _Clustered(mask, found.of(finite), centroids, found.counts)


def _value_bytes(counts: list[int]) -> int:
    """Bytes of centroids, lengths of codewords and clusters, for clusters with so many numbers each."""
    return (FLOAT_BYTES + 1) * len(counts) + n_bytes(huffman.n_bits(counts, huffman.code_lengths(counts)))


def _gap_counts(mask: NDArray[np.bool_], k: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many gaps of each class a row has, ``(n, classes)``."""
    n, size = mask.shape
    rows, columns = np.divmod(np.flatnonzero(mask), size)
    starts = np.cumsum(k) - k
    classes = _class_of(_gaps(columns, starts))
    return np.bincount(rows * _CLASSES + classes, minlength=n * _CLASSES).reshape(n, _CLASSES)


def _gaps(places: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers dropped between a kept one and the one before it, in rows that begin at `starts`."""
    gaps = np.diff(places, prepend=-1) - 1
    gaps[starts] = places[starts]
    return gaps


def _class_of(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bits that each gap takes."""
    return np.frexp(gaps.astype(np.float64))[1].astype(np.int64)


def _lower_bits(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits of a gap below its highest, which its class tells."""
    return np.maximum(classes - 1, 0)


def _gap_bytes(counts: list[int]) -> int:
    """Bytes that positions take as gaps, with so many gaps in each class."""
    present = [count for count in counts if count]
    classes = n_bytes(huffman.n_bits(present, huffman.code_lengths(present)))
    lower = n_bytes(sum(count * max(class_ - 1, 0) for class_, count in enumerate(counts)))
    return _CLASS_BYTES + len(present) + classes + lower


def _pack_gaps(places: NDArray[np.int64], counts: list[int]) -> bytes:
    gaps = _gaps(places, np.array([0]))
    classes = _class_of(gaps)
    present = np.flatnonzero(counts)
    lengths = huffman.code_lengths([counts[class_] for class_ in present])
    widths = _lower_bits(classes)
    return b"".join(
        [
            sum(1 << int(class_) for class_ in present).to_bytes(_CLASS_BYTES, "little"),
            bytes(lengths),
            huffman.encode(np.searchsorted(present, classes), lengths),
            packing.pack_widths(gaps & (1 << widths) - 1, widths),
        ]
    )


def _read_gaps(reader: Reader, count: int, size: int) -> NDArray[np.int64]:
    bitmap = int.from_bytes(reader.take(_CLASS_BYTES), "little")
    present = np.array([class_ for class_ in range(_CLASSES) if bitmap >> class_ & 1], np.int64)
    if not len(present):
        raise reader.refusal("tells no gap between positions")
    classes = present[huffman.decode(reader, count, list(reader.take(len(present))))]
    widths = _lower_bits(classes)
    lower = packing.unpack_widths(reader.take(n_bytes(int(widths.sum()))), widths)
    gaps = np.where(classes > 0, lower | 1 << widths, 0)
    return positions.checked(reader, np.cumsum(gaps + 1) - 1, count, size)

"""Huffman codes in canonical form: lengths of codewords tell the codewords.

Codewords are in the order of their lengths, then of their symbols. A single symbol has an empty codeword.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluators.federated.compressors import packing


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Bits of each symbol's codeword, for symbols that occur so often; every count is above 0."""
    lengths = [0] * len(counts)
    # Of equal counts the one that was made first comes first, so that the code is the same everywhere.
    trees: list[tuple[int, int, tuple[int, ...]]] = [(count, symbol, (symbol,)) for symbol, count in enumerate(counts)]
    heapq.heapify(trees)
    made = len(trees)
    while len(trees) > 1:
        first, second = heapq.heappop(trees), heapq.heappop(trees)
        symbols = first[2] + second[2]
        for symbol in symbols:
            lengths[symbol] += 1
        heapq.heappush(trees, (first[0] + second[0], made, symbols))
        made += 1
    return lengths


def n_bits(counts: Sequence[int], lengths: Sequence[int]) -> int:
    """Bits of a text with so many of each symbol."""
    return sum(count * length for count, length in zip(counts, lengths, strict=True))


def encode(symbols: NDArray[np.int64], lengths: Sequence[int]) -> bytes:
    """Codewords one after the other, padded to a byte."""
    _, codes = _canonical(lengths)
    return packing.pack_widths(codes[symbols], np.array(lengths)[symbols])


def decode(reader: packing.Reader, count: int, lengths: Sequence[int]) -> NDArray[np.int64]:
    """The next `count` symbols, ``(count,)``, that `encode` wrote.

    Raises:
        UsageError: where the payload ends before, or no code has such lengths.
    """
    longest = max(lengths)
    full = sum(2.0**-length for length in lengths)
    if full != 1.0 or longest > _LONGEST:
        raise reader.refusal("has lengths of codewords that make no Huffman code")
    if longest == 0:
        return np.zeros(count, np.int64)
    order, codes = _canonical(lengths)
    widths = np.array(lengths)
    most = packing.n_bytes(count * longest)
    bits = np.unpackbits(np.frombuffer(reader.rest[:most], np.uint8))
    # Codewords with zeros behind them ascend in canonical order, so the last one up to what follows a place is the one there.
    windows = np.zeros(len(bits), np.int64)
    padded = np.concatenate([bits, np.zeros(longest, np.uint8)])
    for place in range(longest):
        windows = windows << 1 | padded[place : place + len(bits)]
    starts = (codes << longest - widths)[order]
    found = order[np.searchsorted(starts, windows, side="right") - 1]
    steps, at, places = widths[found].tolist(), 0, []
    for _ in range(count):
        if at >= len(steps):
            break
        places.append(at)
        at += steps[at]
    if len(places) < count or at > len(bits):
        raise reader.refusal(f"ends before its {count} codewords")
    reader.take(packing.n_bytes(at))
    return found[places]


_LONGEST = 62  # bits of a codeword that fit a whole number; of fewer than 2^32 symbols none has more than 46


def _canonical(lengths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Symbols in canonical order, and the codeword of each symbol."""
    widths = np.array(lengths)
    order = np.argsort(widths, kind="stable")
    codes = np.zeros(len(widths), np.int64)
    code, before = 0, 0
    for symbol in order.tolist():
        code <<= lengths[symbol] - before
        codes[symbol], before = code, lengths[symbol]
        code += 1
    return order, codes

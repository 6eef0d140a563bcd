"""Bytes and decoded numbers of each compressor, worked out by hand."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from evaluators.federated.compressors import make
from evaluators.federated.compressors.clustering import k_means
from evaluators.federated.compressors.huffman import code_lengths
from evaluators.federated.compressors.rows import bits_of, kept
from evaluators.federated.tensors import Tensors


def layout(*shapes: tuple[int, ...]) -> Tensors:
    return Tensors(tuple(f"t{i}" for i in range(len(shapes))), shapes)


def send(
    name: str, given: list[float] | Tensor, keep: float, *shapes: tuple[int, ...], seed: int = 0, **options: object
) -> tuple[list[float], bytes]:
    """What arrives, and the payload."""
    vector = torch.as_tensor(given, dtype=torch.float32)
    compressor = make(name, layout(*(shapes or ((len(vector),),))), **options)
    sent = compressor.compress(vector[None], torch.tensor([keep], dtype=torch.float64), torch.tensor([seed]))
    payload = compressor.encode(vector, keep, seed)
    assert len(payload) == int(sent.bytes[0])
    return sent.values[0].tolist(), payload


def test_counts_and_widths_of_a_share() -> None:
    # 0.07 * 100 is a little above 7 in doubles, and means 7.
    assert kept(np.array([0.07, 0.071, 1e-9, 1.0]), 100).tolist() == [7, 8, 1, 100]
    assert bits_of(np.array([0.001, 2 / 32, 0.1, 0.5, 31.4 / 32, 1.0])).tolist() == [2, 2, 3, 16, 31, 32]


def test_none() -> None:
    assert send("none", [1.5, -2.0], 0.1) == ([1.5, -2.0], struct.pack("<2f", 1.5, -2.0))


def test_half_is_rounded_and_clamped() -> None:
    values, payload = send("half", [1.0, 1 / 3, 1e6, -65520.0, 1e-8, float("inf")], 0.1)
    # float16 has 11 significant bits: 1/3 is 1365 / 4096.
    assert values == [1.0, 1365 / 4096, 65504.0, -65504.0, 0.0, float("inf")]
    assert payload[:4] == bytes.fromhex("003c 5535")
    assert len(payload) == 12


def test_top_k_with_a_bitmap() -> None:
    values, payload = send("top-k", [0.0, -3.0, 1.0, 0.5, 2.0, 3.0, -3.0, 0.0], 0.25)
    # Of three equal magnitudes the first two are kept; bits 1 and 5. Two indices of 3 bits would take a byte too.
    assert values == [0, -3, 0, 0, 0, 3, 0, 0]
    assert payload == struct.pack("<IB2f", 2, 0b100010, -3.0, 3.0)


def test_top_k_with_indices() -> None:
    vector = torch.zeros(1000)
    vector[700], vector[3] = -1.0, 2.0
    values, payload = send("top-k", vector, 0.002)
    # Ten bits an index, lowest first: 3 + 700 * 1024, in 3 bytes instead of 125.
    assert payload == struct.pack("<I", 2) + (3 + 700 * 1024).to_bytes(3, "little") + struct.pack("<2f", 2.0, -1.0)
    assert values == vector.tolist()


def test_top_k_of_everything_tells_no_positions() -> None:
    assert send("top-k", [1.0, 0.0, 2.0], 1.0) == ([1, 0, 2], struct.pack("<I3f", 3, 1.0, 0.0, 2.0))


def test_top_k_ranks_nan_above_infinity() -> None:
    values, _ = send("top-k", [1e38, float("inf"), float("nan"), 1.0], 0.5)
    assert values[0] == values[3] == 0
    assert values[1] == float("inf")
    assert np.isnan(values[2])


def test_rand_k_scales_by_size_over_k_where_it_is_told_to() -> None:
    scaled, payload = send("rand-k", [1.0, 2.0, 4.0, 8.0], 0.5, seed=3)
    plain, same_payload = send("rand-k", [1.0, 2.0, 4.0, 8.0], 0.5, seed=3, scaled=False)
    chosen = [value for value in plain if value]
    assert len(chosen) == 2
    assert set(chosen) < {1.0, 2.0, 4.0, 8.0}
    assert scaled == [2 * value for value in plain]
    assert payload == same_payload == struct.pack("<I2f", 2, *chosen)


def test_rand_k_draws_every_pair_as_often() -> None:
    n = 6000
    compressor = make("rand-k", layout((4,)))
    sent = compressor.compress(torch.ones(n, 4), torch.full((n,), 0.5, dtype=torch.float64), torch.arange(n))
    pairs = Counter(tuple(row.nonzero().flatten().tolist()) for row in sent.values)
    assert len(pairs) == 6
    assert stats.chisquare(list(pairs.values())).pvalue > 0.01


def test_rand_k_tells_whether_it_is_unbiased() -> None:
    scaled, plain = make("rand-k", layout((8,))), make("rand-k", layout((8,)), scaled=False)
    assert (scaled.unbiased, scaled.omega(0.25), scaled.delta(0.25)) == (True, 3.0, None)
    assert (plain.unbiased, plain.omega(0.25), plain.delta(0.25)) == (False, None, 0.25)


def test_sign_has_a_scale_for_each_tensor() -> None:
    values, payload = send("sign", [1.0, -2.0, 3.0, 0.0, -4.0], 0.5, (3,), (2,))
    # Means of magnitudes 6/3 and 4/2; numbers 1 and 4 are negative.
    assert values == [2, -2, 2, 2, -2]
    assert payload == struct.pack("<2fB", 2.0, 2.0, 0b10010)


def test_quantise_at_two_bits() -> None:
    values, payload = send("quantise", [4.0, -4.0, 0.0], 2 / 32)
    # One level; codes are the level above the sign, lowest bit first: 10, 11, 00.
    assert values == [4, -4, 0]
    assert payload == struct.pack("<BfB", 2, 4.0, 0b00_11_10)


@pytest.mark.parametrize("seed", range(5))
def test_quantise_leaves_levels_alone_and_rounds_between_them(seed: int) -> None:
    # Four bits: seven levels above zero, in steps of each tensor's largest magnitude over seven.
    values, payload = send("quantise", [7.0, 3.0, -5.0, 0.0, 3.25, -14.0, 2.0, 7.0], 4 / 32, (5,), (3,), seed=seed)
    assert values[:4] == [7, 3, -5, 0]
    assert values[4] in (3, 4)
    assert values[5:7] == [-14, 2]
    assert values[7] in (6, 8)
    assert len(payload) == 1 + 2 * 4 + 4


def test_quantise_at_32_bits_is_float32() -> None:
    assert send("quantise", [0.375, -7.0], 1.0) == ([0.375, -7.0], struct.pack("<B2f", 32, 0.375, -7.0))


@pytest.mark.parametrize("seed", range(5))
def test_nonuniform_has_powers_of_two_of_the_largest(seed: int) -> None:
    # Three bits: levels 12, 6 and 3 are exact, 4 lies between 3 and 6, and 1 goes to 3 or to nothing.
    values, payload = send("nonuniform", [12.0, -6.0, 3.0, 0.0, 4.0, -1.0], 3 / 32, seed=seed)
    assert values[:4] == [12, -6, 3, 0]
    assert values[4] in (3, 6)
    assert values[5] in (0, -3)
    assert len(payload) == 1 + 4 + 3


def test_nonuniform_rounds_up_as_often_as_it_should() -> None:
    n = 4000
    sent = make("nonuniform", layout((3,))).compress(
        torch.tensor([12.0, 4.0, 1.0]).expand(n, -1), torch.full((n,), 3 / 32, dtype=torch.float64), torch.arange(n)
    )
    # Both go up in a third of the cases: 4 = 3 + (6 - 3) / 3, and 1 = 3 / 3.
    for column, level in ((1, 6.0), (2, 3.0)):
        ups = int((sent.values[:, column] == level).sum())
        assert stats.binomtest(ups, n, 1 / 3).pvalue > 0.01


@pytest.mark.parametrize(("keep", "bits"), [(9 / 32, 9), (0.5, 9), (31 / 32, 9)])
def test_nonuniform_sends_no_bit_that_has_no_level(keep: float, bits: int) -> None:
    _, payload = send("nonuniform", torch.ones(80), keep)
    assert payload[0] == bits
    assert len(payload) == 1 + 4 + 80 * bits // 8


def test_fedzip_with_a_bitmap() -> None:
    values, payload = send("fedzip", [5.0, 5.0, -7.0, 0.0, 0.5, 0.0, 0.0, 5.0], 0.5, clusters=2)
    # Both clusters have codewords of one bit: 1, 1, 0, 1 from the highest bit. Positions 0, 1, 2 and 7.
    assert values == [5, 5, -7, 0, 0, 0, 0, 5]
    assert payload == struct.pack("<IBB2f2BBB", 4, 2, 0, -7.0, 5.0, 1, 1, 0b1101_0000, 0b10000111)


def test_fedzip_with_gaps() -> None:
    vector = torch.zeros(4096)
    vector[15::16] = 2.0
    values, payload = send("fedzip", vector, 1 / 16)
    # One cluster needs no codewords: 6 + 4 + 1. All 256 gaps are 15, of class 4, with 3 lower bits each: 5 + 1 + 96.
    assert values == vector.tolist()
    assert len(payload) == 11 + 102
    assert payload[:6] == struct.pack("<IBB", 256, 1, 1)
    assert payload[11:17] == (1 << 4).to_bytes(5, "little") + b"\0"
    assert payload[17:] == b"\xff" * 96


def test_fedzip_sends_means_of_clusters() -> None:
    values, payload = send("fedzip", [1.0, 10.0, 2.0, 9.0], 1.0, clusters=2)
    assert values == [1.5, 9.5, 1.5, 9.5]
    # All are kept, so that no position is told: 6 + 2 * 5 and a byte of codewords.
    assert len(payload) == 17


def test_clusters_keep_to_the_mask_and_settle() -> None:
    values = np.array([[100.0, 0.0, 1.0, 5.0, 6.0, 7.0, 20.0], [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 0.0]], np.float32)
    mask = np.array([[False] + [True] * 6, [True] * 6 + [False]])
    found = k_means(values, mask, 3)
    assert found.centroids[0].tolist() == [0.5, 6.0, 20.0]
    assert found.counts[0].tolist() == [2, 3, 1]
    assert found.of(values)[0, 1:].tolist() == [0, 0, 1, 1, 1, 2]
    assert found.counts[1].sum() == 6
    assert found.centroids[1, found.of(values)[1, 0]] == 3.0


def test_huffman_lengths() -> None:
    assert code_lengths([5, 2, 1, 1]) == [1, 2, 3, 3]
    assert code_lengths([1, 1, 2, 3, 5, 8]) == [5, 5, 4, 3, 2, 1]
    assert code_lengths([7]) == [0]


def test_low_rank_bytes() -> None:
    shapes = ((4, 6), (3,))
    given = torch.randn(27, generator=torch.Generator().manual_seed(0))
    # 24 numbers over 10 sides: a share of 0.4 is rank 1, of ten numbers; 0.7 is rank 2, of twenty; 1 is the matrix.
    for keep, numbers in ((0.4, 10), (0.7, 20), (1.0, 24)):
        values, payload = send("low-rank", given, keep, *shapes)
        assert len(payload) == 8 + 4 * (numbers + 3)
        assert values[24:] == given[24:].tolist()
    assert values == given.tolist()


def test_low_rank_sends_a_small_matrix_as_it_is() -> None:
    # Of 1 x 5 and 2 x 2, factors of rank 1 take 6 and 4 numbers.
    given = torch.arange(1.0, 10.0)
    values, payload = send("low-rank", given, 0.1, (1, 5), (2, 2))
    assert values == given.tolist()
    assert len(payload) == 8 + 36


def test_low_rank_finds_a_matrix_of_low_rank() -> None:
    generator = torch.Generator().manual_seed(1)
    # A convolution's kernel is a matrix of its first side: 8 x 30, here of rank 2, as (30 * 8) / 38 * 0.32 is.
    given = torch.randn(8, 2, generator=generator) @ torch.randn(2, 30, generator=generator)
    values, payload = send("low-rank", given.flatten(), 0.32, (8, 10, 3))
    assert values == pytest.approx(given.flatten().tolist(), abs=1e-5)
    assert len(payload) == 8 + 4 * 2 * 38


def test_low_rank_captures_a_quarter_of_a_matrix_without_structure() -> None:
    # All singular values of the identity are alike, so rank 2 of 8 captures 2 of its 8, whatever was drawn.
    for seed in range(5):
        values, _ = send("low-rank", torch.eye(8).flatten(), 0.5, (8, 8), seed=seed)
        assert np.square(values).sum() == pytest.approx(2.0, rel=1e-5)
        assert np.square(np.array(values) - np.eye(8).ravel()).sum() == pytest.approx(6.0, rel=1e-5)


def test_low_rank_draws_for_each_matrix_anew() -> None:
    matrix = torch.randn(64, generator=torch.Generator().manual_seed(1))
    values, _ = send("low-rank", matrix.repeat(2), 0.3, (8, 8), (8, 8))
    assert values[:64] != values[64:]

"""What every compressor of the registry keeps to: bytes as told, decoded as told, each row by itself, nothing hidden."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autotune import UsageError
from evaluators.federated.compressors import COMPRESSORS, Compressor, make
from evaluators.federated.tensors import Tensors

CASES: list[tuple[str, dict[str, object]]] = [(name, {}) for name in COMPRESSORS]
CASES += [("rand-k", {"scaled": False}), ("fedzip", {"clusters": 1}), ("fedzip", {"clusters": 255})]
EVERY = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}{options or ''}" for name, options in CASES])
LOSSLESS = sorted(name for name, kind in COMPRESSORS.items() if kind.rated and name != "fedzip")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, -1e-40, 65520.0, 3e38, -3e38]

# Bits of infinity, of minus infinity, and of NaN both quiet and signalling.
NOT_FINITE = [0x7F800000, -0x800000, 0x7FC00000, 0x7F800001]

shapes = st.lists(st.integers(1, 7), max_size=3).map(tuple)
models = st.lists(shapes, min_size=1, max_size=4).map(lambda found: layout(*found))
shares = st.one_of(st.floats(0.001, 1.0), st.just(1.0), st.integers(1, 32).map(lambda bits: bits / 32))
seeds = st.integers(-(2**63), 2**63 - 1)


def layout(*given_shapes: tuple[int, ...]) -> Tensors:
    return Tensors(tuple(f"t{i}" for i in range(len(given_shapes))), given_shapes)


@st.composite
def vectors(draw: st.DrawFn, size: int) -> Tensor:
    """Normal numbers, sparse ones, ties and extremes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    drawn = (rng.normal(size=size) * 10.0 ** draw(st.integers(-6, 6))).astype(np.float32)
    drawn[rng.random(size) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    some = rng.random(size) < draw(st.sampled_from([0.0, 0.2, 1.0]))
    drawn[some] = rng.choice(draw(st.lists(st.sampled_from(SPECIAL), min_size=1)), int(some.sum()))
    return torch.from_numpy(drawn)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensors, Tensor, Tensor, Tensor]:
    tensors = draw(models)
    n = draw(st.integers(1, 4))
    values = torch.stack([draw(vectors(tensors.size)) for _ in range(n)])
    keep = torch.tensor([draw(shares) for _ in range(n)], dtype=torch.float64)
    return tensors, values, keep, torch.tensor([draw(seeds) for _ in range(n)])


def same(one: Tensor, other: Tensor) -> bool:
    """Number for number and bit for bit; any NaN is like any other."""
    a, b = one.numpy(), other.numpy()
    nan = np.isnan(a) & np.isnan(b)
    return (
        one.dtype == other.dtype and a.shape == b.shape and bool((nan | (a.view(np.int32) == b.view(np.int32))).all())
    )


def agree(compressor: Compressor, decoder: Compressor, values: Tensor, keep: Tensor, chance: Tensor) -> None:
    sent = compressor.compress(values, keep, chance)
    assert sent.values.dtype == torch.float32
    assert sent.bytes.dtype == torch.int64
    assert sent.values.shape == values.shape
    assert sent.bytes.shape == keep.shape
    for row in range(len(values)):
        payload = compressor.encode(values[row], float(keep[row]), int(chance[row]))
        assert len(payload) == int(sent.bytes[row])
        assert same(decoder.decode(payload, int(chance[row])), sent.values[row])
        alone = compressor.compress(values[row : row + 1].clone(), keep[row : row + 1], chance[row : row + 1])
        assert same(alone.values[0], sent.values[row])
        assert alone.bytes.tolist() == [len(payload)]


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """Arithmetic that a compressor did not foresee is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@EVERY
@settings(max_examples=25)
@given(batch=batches())
def test_payloads_are_as_long_and_hold_what_was_told_of_each_row_by_itself(
    name: str, options: dict[str, object], batch: tuple[Tensors, Tensor, Tensor, Tensor]
) -> None:
    tensors, values, keep, chance = batch
    given_values = values.clone()
    agree(make(name, tensors, **options), make(name, tensors, **options), values, keep, chance)
    assert same(values, given_values)


@EVERY
def test_large_vectors_with_a_ratio_for_each_row(name: str, options: dict[str, object]) -> None:
    tensors = layout((300, 240), (240,), (7, 3, 5))
    compressor = make(name, tensors, **options)
    values = torch.randn(3, tensors.size, generator=torch.Generator().manual_seed(1))
    keep = torch.tensor([0.003, 0.21, 0.97], dtype=torch.float64)
    agree(compressor, compressor, values, keep, torch.tensor([5, 6, 7]))


@EVERY
@settings(max_examples=15)
@given(batch=batches(), data=st.data())
def test_a_number_that_is_not_finite_is_never_hidden(
    name: str, options: dict[str, object], batch: tuple[Tensors, Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    tensors, values, keep, chance = batch
    values = values.clamp(-1e6, 1e6)
    place = data.draw(st.integers(0, tensors.size - 1))
    values.view(torch.int32)[0, place] = data.draw(st.sampled_from(NOT_FINITE))
    compressor = make(name, tensors, **options)
    agree(compressor, compressor, values, keep, chance)
    decoded = compressor.compress(values, keep, chance).values
    assert not decoded[0].isfinite().all()
    assert decoded[1:].isfinite().all()


@EVERY
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_nothing_arrives_as_nothing(name: str, options: dict[str, object], share: float) -> None:
    tensors = layout((6, 5), (5,), ())
    compressor = make(name, tensors, **options)
    keep, chance = torch.full((2,), share, dtype=torch.float64), torch.tensor([0, 1])
    assert (compressor.compress(torch.zeros(2, tensors.size), keep, chance).values == 0).all()


@pytest.mark.parametrize("name", LOSSLESS)
def test_all_that_can_be_sent_is_the_vector_itself(name: str) -> None:
    tensors = layout((9, 8), (8,))
    values = torch.randn(2, tensors.size, generator=torch.Generator().manual_seed(2))
    sent = make(name, tensors).compress(values, torch.ones(2, dtype=torch.float64), torch.tensor([3, 4]))
    assert same(sent.values, values)
    assert (sent.bytes - 4 * tensors.size).max() <= 8


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_a_ratio_matters_where_the_compressor_says_so(name: str) -> None:
    tensors = layout((40, 30), (30,))
    values = torch.randn(1, tensors.size, generator=torch.Generator().manual_seed(2)).expand(2, -1)
    sent = make(name, tensors).compress(values, torch.tensor([0.1, 0.9], dtype=torch.float64), torch.tensor([3, 3]))
    assert (sent.bytes[0] < sent.bytes[1]) == COMPRESSORS[name].rated
    assert COMPRESSORS[name].rated or same(sent.values[0], sent.values[1])


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_what_is_decoded_is_no_view_of_what_was_given(name: str) -> None:
    values = torch.arange(1.0, 7.0)[None]
    sent = make(name, layout((2, 3))).compress(values, torch.ones(1, dtype=torch.float64), torch.tensor([0]))
    sent.values.zero_()
    assert values.tolist() == [[1, 2, 3, 4, 5, 6]]


@EVERY
@settings(max_examples=25)
@given(data=st.data())
def test_a_payload_of_something_else_is_refused_or_read_but_never_crashes(
    name: str, options: dict[str, object], data: st.DataObject
) -> None:
    tensors = data.draw(models)
    compressor = make(name, tensors, **options)
    payload = bytearray(compressor.encode(data.draw(vectors(tensors.size)), data.draw(shares), 1))
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(0, len(payload)))] + data.draw(st.binary(max_size=3))
    try:
        decoded = compressor.decode(bytes(payload), 1)
    except UsageError as error:
        assert f"payload of {name!r}" in str(error)
    else:
        assert decoded.shape == (tensors.size,)


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_a_payload_too_short_or_too_long_is_refused(name: str) -> None:
    compressor = make(name, layout((3, 4), (5,)))
    payload = compressor.encode(torch.arange(1.0, 18.0), 0.5, 9)
    with pytest.raises(UsageError, match=f"payload of '{name}' .*decode it with the compressor and the tensors"):
        compressor.decode(payload[:-1], 9)
    with pytest.raises(UsageError, match=f"payload of '{name}' has {len(payload) + 1} bytes, 1 too many"):
        compressor.decode(payload + b"\0", 9)


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_arguments_that_cannot_be_are_refused_in_a_sentence(name: str) -> None:
    compressor = make(name, layout((4,)))
    values, chance = torch.ones(2, 4), torch.tensor([0, 1])
    for share in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(UsageError, match=r"keep is .*; give a share above 0 and at most 1"):
            compressor.compress(values, torch.tensor([0.5, share], dtype=torch.float64), chance)
        with pytest.raises(UsageError, match="keep is"):
            compressor.encode(values[0], share, 0)
    with pytest.raises(UsageError, match=r"values has the shape \(2, 3\); give \(2, 4\)"):
        compressor.compress(torch.ones(2, 3), torch.ones(2), chance)
    with pytest.raises(UsageError, match=r"seeds has the shape \(1,\); give \(2,\)"):
        compressor.compress(values, torch.ones(2), chance[:1])
    with pytest.raises(UsageError, match=f"seed is {2**63}; give a whole number"):
        compressor.encode(values[0], 1.0, 2**63)


def test_no_row_at_all_is_fine() -> None:
    for name in COMPRESSORS:
        sent = make(name, layout((3, 2))).compress(torch.zeros(0, 6), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        assert (sent.values.shape, sent.bytes.shape) == ((0, 6), (0,))


def test_making_by_name() -> None:
    tensors = layout((3,))
    assert {type(make(name, tensors)) for name in COMPRESSORS} == set(COMPRESSORS.values())
    assert all(kind.summary for kind in COMPRESSORS.values())
    with pytest.raises(
        UsageError, match=r"compressor 'topk' is unknown \(did you mean 'top-k'\?\); known are: none, half"
    ):
        make("topk", tensors)
    with pytest.raises(
        UsageError, match=r"option 'cluster' of compressor 'fedzip' is unknown \(did you mean 'clusters'"
    ):
        make("fedzip", tensors, cluster=3)
    with pytest.raises(UsageError, match="option 'scaled' of compressor 'top-k' is unknown; it has none"):
        make("top-k", tensors, scaled=True)
    with pytest.raises(UsageError, match="clusters is 256; give a whole number from 1 to 255"):
        make("fedzip", tensors, clusters=256)
    with pytest.raises(UsageError, match="scaled is 'no'; give True or False"):
        make("rand-k", tensors, scaled="no")
    with pytest.raises(UsageError, match="tensors is empty"):
        make("none", layout())

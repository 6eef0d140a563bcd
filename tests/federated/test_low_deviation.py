"""Caesar's download: the rule of recovery by hand, and the payload bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evaluators.federated.low_deviation import LowDeviation
from evaluators.federated.tensors import Tensors


def rule(*sizes: int) -> LowDeviation:
    return LowDeviation(Tensors(tuple(f"t{place}" for place in range(len(sizes))), tuple((size,) for size in sizes)))


def shares(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bits(values: Tensor) -> bytes:
    return np.ascontiguousarray(values.numpy(), dtype="<f4").tobytes()


def test_recovery_by_hand() -> None:
    model = torch.cat([torch.tensor([9.0, -8.0, 1.0, -2.0, 3.0, -2.0, 0.0]), torch.zeros(93)])
    # Of a hundred numbers the two largest are sent; the others' largest magnitude is 3 and their mean 8 / 98.
    mean = 8 / 98
    old = torch.zeros(3, 100)
    old[0, :7] = torch.tensor([5.0, 5.0, 2.5, -3.0, 3.5, 1.0, -0.5])
    sent = rule(100).recover(model, old, shares(0.02, 0.02, 1.0))
    kept = [2.5, -3.0]  # the sign is right, and they are no larger than 3
    guessed = [mean, -mean]  # one too large, and one of the other sign
    expected = torch.tensor([9.0, -8.0, *kept, *guessed, -0.5])
    torch.testing.assert_close(sent.values[0, :7], expected)
    # A device that has nothing takes the mean everywhere; zero was sent as negative.
    torch.testing.assert_close(sent.values[1, 2:7], torch.tensor([mean, -mean, mean, -mean, -mean]))
    assert torch.equal(sent.values[2], model)
    # One byte, a bitmap of 13, two scales, 98 signs, and two numbers; or all numbers.
    assert sent.bytes.tolist() == [1 + 13 + 8 + 13 + 8, 1 + 13 + 8 + 13 + 8, 1 + 400]


def test_every_tensor_has_its_own_share_and_scales() -> None:
    model = torch.cat([torch.full((50,), 1.0), torch.full((50,), 100.0)])
    sent = rule(50, 50).recover(model, torch.zeros(1, 100), shares(0.02))
    # Of fifty alike, one is sent and the mean of the others is exact.
    assert torch.equal(sent.values[0], model)
    assert sent.bytes.tolist() == [1 + 13 + 16 + 13 + 8]


def test_a_model_is_sent_whole_where_that_is_shorter() -> None:
    model = torch.tensor([1.0, -2.0, 3.0])
    lengths = rule(3).recover(model, torch.ones(2, 3), shares(0.1, 1.0))
    assert lengths.bytes.tolist() == [13, 13]  # 1 + 1 + 8 + 1 + 4 would be 15
    assert torch.equal(lengths.values, model.repeat(2, 1))


numbers = st.one_of(st.floats(-10, 10, width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, 1e30]))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), keep=st.floats(1e-6, 1.0))
def test_payloads_hold_what_is_told(data: st.DataObject, sizes: list[int], keep: float) -> None:
    size = sum(sizes)
    model, old = (
        torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size)), dtype=torch.float32) for _ in range(2)
    )
    sender = rule(*sizes)
    sent = sender.recover(model, old[None], shares(keep))
    payload = sender.encode(model, keep)
    assert len(payload) == int(sent.bytes[0])
    assert bits(sender.decode(payload, old)) == bits(sent.values[0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), first=st.integers(1, 80), second=st.integers(1, 80))
def test_all_kept_is_exact_and_more_kept_is_no_worse(seed: int, first: int, second: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = first + second
    model = torch.randn(size, generator=generator)
    old = model + 0.3 * torch.randn(size, generator=generator)
    sent = rule(first, second).recover(model, old.repeat(2, 1), shares(0.1, 1.0))
    assert torch.equal(sent.values[1], model)
    assert sent.bytes[0] <= sent.bytes[1]


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    model, old = torch.randn(300, generator=generator), torch.randn(5, 300, generator=generator)
    keep = shares(0.01, 0.1, 0.3, 0.07, 1.0)
    together = rule(100, 200).recover(model, old, keep)
    for row in range(5):
        alone = rule(100, 200).recover(model, old[row : row + 1], keep[row : row + 1])
        assert bits(alone.values[0]) == bits(together.values[row])
        assert alone.bytes[0] == together.bytes[row]


def test_a_share_means_its_decimal() -> None:
    # 0.07 * 100 is 7.000000000000001 in binary, and still seven numbers.
    sent = rule(100).recover(torch.arange(1.0, 101.0), torch.zeros(1, 100), shares(0.07))
    assert sent.bytes.tolist() == [1 + 13 + 8 + 12 + 28]

"""Every sample to one device, with the skew asked for; batches that depend on their own device alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autotune import UsageError
from evaluators.federated.tasks.partition import Partition, apportioned, dirichlet, label_divergence, uniform

CLASSES = torch.arange(1200) % 10


def of(groups: list[list[int]]) -> tuple[Partition, Tensor]:
    """A partition whose devices have samples of the given groups, and the groups by sample."""
    ends = np.cumsum([0, *map(len, groups)])
    parts = [torch.arange(begin, end) for begin, end in itertools.pairwise(ends.tolist())]
    return Partition.of(parts), torch.tensor([group for device in groups for group in device])


@settings(max_examples=40)
@given(
    groups=st.lists(st.integers(0, 6), min_size=30, max_size=120),
    n=st.integers(1, 10),
    alpha=st.sampled_from([1e-6, 0.05, 0.5, 3.0, 1e4, math.inf]),
    seed=st.integers(0, 2**63 - 1),
    least=st.integers(1, 3),
)
def test_every_sample_goes_to_one_device(groups: list[int], n: int, alpha: float, seed: int, least: int) -> None:
    parts = dirichlet(torch.tensor(groups), n, alpha, seed, least=least, fill=True)
    assert len(parts) == n
    assert min(map(len, parts)) >= least
    assert sorted(torch.cat(parts).tolist()) == list(range(len(groups)))
    again = dirichlet(torch.tensor(groups), n, alpha, seed, least=least, fill=True)
    assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))


def mean_divergence(alpha: float) -> float:
    parts = dirichlet(CLASSES, 12, alpha, seed=0, fill=True)
    return float(label_divergence(Partition.of(parts), CLASSES).mean())


def test_a_smaller_alpha_makes_devices_less_alike() -> None:
    found = [mean_divergence(alpha) for alpha in (0.1, 1.0, 10.0, 1000.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.2  # ln 10 would be one class for each device
    assert found[-1] < 0.02
    assert mean_divergence(math.inf) < 0.06  # as chance has it with 100 samples of 10 classes: about 9 / (2 * 100)


def test_seeds_give_different_partitions() -> None:
    first, second = (dirichlet(CLASSES, 12, 1.0, seed) for seed in (0, 1))
    assert [len(part) for part in first] != [len(part) for part in second]


def test_with_one_group_near_zero_alpha_still_shares_all_out() -> None:
    parts = dirichlet(torch.zeros(50, dtype=torch.int64), 5, 1e-9, seed=3)
    assert [len(part) for part in parts] == [10] * 5  # each device wants that group alone, so they want it alike


def test_a_device_without_samples_is_told_or_filled() -> None:
    with pytest.raises(UsageError, match=r"with 58 devices and alpha 1, 3 of the devices have fewer than 1 of the 60"):
        dirichlet(torch.arange(60) % 3, 58, 1.0, seed=0)
    filled = dirichlet(torch.arange(60) % 3, 58, 1.0, seed=0, fill=True)
    assert min(map(len, filled)) == 1
    with pytest.raises(UsageError, match="40 devices with at least 2 samples each need 80, and there are 60"):
        dirichlet(torch.arange(60) % 3, 40, 1.0, seed=0, least=2, fill=True)
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="alpha is"):
            dirichlet(CLASSES, 4, alpha, seed=0)


def test_uniform_parts_differ_by_one_sample_at_most() -> None:
    parts = uniform(103, 10, seed=0)
    assert sorted(map(len, parts)) == [10] * 7 + [11] * 3
    assert sorted(torch.cat(parts).tolist()) == list(range(103))
    with pytest.raises(UsageError, match="11 devices cannot share 10 samples"):
        uniform(10, 11, seed=0)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12), st.integers(0, 1000))
def test_apportioned_numbers_are_within_one_of_their_share(shares: list[float], total: int) -> None:
    counts = apportioned(np.array(shares), total)
    assert counts.sum() == total
    assert (np.abs(counts - np.array(shares) / sum(shares) * total) < 1 + 1e-6).all()


def test_label_divergence_by_hand() -> None:
    partition, groups = of([[0, 0], [0, 1, 1, 1], [2, 0]])
    # All: 4/8 of group 0, 3/8 of group 1, 1/8 of group 2.
    expected = [
        math.log(2),
        0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.375),
        0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.125),
    ]
    torch.testing.assert_close(label_divergence(partition, groups), torch.tensor(expected, dtype=torch.float64))
    assert partition.counts.tolist() == [2, 4, 2]


def test_a_partition_refuses_devices_without_samples() -> None:
    with pytest.raises(UsageError, match="one without samples"):
        Partition.of([torch.arange(3), torch.arange(0)])


def test_batches_are_of_the_device_and_shares_sum_to_one() -> None:
    partition, _ = of([[0] * 3, [0] * 10, [0]])
    rows, share = partition.draw(torch.tensor([2, 1, 0]), torch.tensor([4, 6, 1]), torch.tensor([5, 6, 7]))
    assert rows.shape == share.shape == (3, 6)
    assert set(rows[0].tolist()) == {13}
    assert set(rows[1].tolist()) <= set(range(3, 13))
    assert set(rows[2].tolist()) <= {0, 1, 2}
    assert share[0].tolist() == [0.25] * 4 + [0.0] * 2
    assert share[2].tolist() == [1.0] + [0.0] * 5
    torch.testing.assert_close(share.sum(1), torch.ones(3))


def test_batch_zero_takes_every_sample_once() -> None:
    partition, _ = of([[0] * 3, [0] * 5])
    rows, share = partition.draw(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([1, 1]))
    assert rows[0, :3].tolist() == [0, 1, 2]
    assert rows[1].tolist() == [3, 4, 5, 6, 7]
    torch.testing.assert_close(share, torch.tensor([[1 / 3] * 3 + [0.0] * 2, [0.2] * 5]))


def test_a_batch_depends_on_no_other_device() -> None:
    partition, _ = of([[0] * 30, [0] * 50, [0] * 70])
    everyone, _ = partition.draw(torch.tensor([0, 1, 2]), torch.tensor([4, 8, 16]), torch.tensor([11, 12, 2**62]))
    alone, _ = partition.draw(torch.tensor([2]), torch.tensor([16]), torch.tensor([2**62]))
    assert everyone[2].tolist() == alone[0].tolist()
    larger, _ = partition.draw(torch.tensor([2]), torch.tensor([40]), torch.tensor([2**62]))
    assert larger[0, :16].tolist() == alone[0].tolist()
    other, _ = partition.draw(torch.tensor([2]), torch.tensor([16]), torch.tensor([3]))
    assert other.tolist() != alone.tolist()


def test_samples_are_drawn_evenly() -> None:
    partition, _ = of([[0] * 8])
    rows, _ = partition.draw(torch.zeros(500, dtype=torch.int64), torch.full((500,), 16), torch.arange(500))
    counts = torch.bincount(rows.flatten(), minlength=8)
    # 8,000 draws over 8 samples: chi-squared with 7 degrees of freedom is below 24.3 in 99.9 % of cases.
    assert float(((counts - 1000.0) ** 2 / 1000.0).sum()) < 24.3

"""Caesar's rules by hand, and through the methods that follow them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.federated.methods import make_method
from evaluators.federated.rules import balanced_batches, download_keep, importance, upload_keep, warmed
from evaluators.federated.settings import Settings
from evaluators.federated.tradeoffs import Quadratics, world_of
from tests.federated.worlds import drifting, even_world, machines


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_staler_devices_are_sent_more_and_new_ones_all() -> None:
    # Round 10, and 60 % compressed for the freshest: half as long away, half as much compressed.
    torch.testing.assert_close(download_keep(0.4, doubles(0, 5, 10), 10), doubles(0.4, 0.7, 1.0))


def test_devices_are_told_apart_by_when_they_took_part() -> None:
    world = even_world(drifting(), participation=0.5, seed=3)
    method = make_method(world, Settings(download="low-deviation", download_keep=0.2, staleness=True, batch=0))
    assert method.download_keep(0, world.everyone).tolist() == [1.0] * 4
    first = world.participants(0)
    method.round(0)
    keep = method.download_keep(1, world.everyone)
    # Round 2, counted from 1, for one that took part in the first: one round ago, of two.
    assert keep[first].tolist() == pytest.approx([1 - (1 - 1 / 2) * 0.8] * 2)
    assert keep.sum() == pytest.approx(2 * 0.6 + 2 * 1.0)
    # Round 4: three rounds ago, of four.
    later = method.download_keep(3, first)
    assert later.tolist() == pytest.approx([1 - (1 - 3 / 4) * 0.8] * 2)


def test_ratios_fall_by_rank_of_importance() -> None:
    torch.testing.assert_close(upload_keep(0.5, 0.2, doubles(0.1, 0.9, 0.5)), doubles(0.1, 0.5, 0.3))
    assert upload_keep(0.5, 0.2, doubles(0.7)).tolist() == [0.5]
    assert upload_keep(0.5, 0.2, doubles(1, 1, 1)).tolist() == pytest.approx([0.5, 0.3, 0.1])  # of equal ones the first


def test_importance_is_volume_and_likeness() -> None:
    torch.testing.assert_close(importance(doubles(10, 20, 20), doubles(0.0, 0.5, 1.0)), doubles(0.75, 0.75, 0.5))
    torch.testing.assert_close(importance(doubles(10, 20), doubles(0.0, 0.0)), doubles(0.75, 1.0))  # all are alike
    torch.testing.assert_close(importance(doubles(10, 20), doubles(0.2, 0.4), 1.0), doubles(0.5, 1.0))


def test_warm_up_is_deep_gradient_compressions_schedule() -> None:
    keep = doubles(4.0**-5)
    ratios = [float(warmed(keep, round_, 4)) for round_ in range(6)]
    assert ratios == pytest.approx([1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 1024, 1 / 1024])
    assert float(warmed(keep, 0, 0)) == float(keep)


def test_balanced_batches_by_hand() -> None:
    # At 10 samples the devices take 1 + 2 (0.5 + 10 * 0.1) = 4, 3 + 2 (0.5 + 10 * 0.2) = 8 and 3.5 + 2 (0.25 + 1) = 6 seconds.
    # To end after 4, the second has (4 - 3) / 2 - 0.5 = 0 seconds for samples: one is the least. The third has none either.
    batches = balanced_batches(10, doubles(0.5, 0.5, 0.25), doubles(0.1, 0.2, 0.1), doubles(1, 3, 3.5), 2)
    assert batches.tolist() == [10, 1, 1]
    # Without links, 10 steps of 0.1 a sample; three times slower, a third of the samples.
    assert balanced_batches(10, doubles(0, 0), doubles(0.1, 0.3), doubles(0, 0), 5).tolist() == [10, 3]


seconds = st.floats(1e-4, 10.0)


@settings(max_examples=40, deadline=None)
@given(
    devices=st.lists(st.tuples(seconds, st.floats(1e-4, 0.1), seconds), min_size=1, max_size=8),
    batch=st.integers(1, 256),
    steps=st.integers(1, 50),
)
def test_all_end_with_the_fastest_within_one_sample(
    devices: list[tuple[float, float, float]], batch: int, steps: int
) -> None:
    step, sample, sending = (doubles(*column) for column in zip(*devices, strict=True))
    batches = balanced_batches(batch, step, sample, sending, steps)
    taken = sending + steps * (step + batches * sample)
    end = (sending + steps * (step + batch * sample)).min()
    fastest = int((sending + steps * (step + batch * sample)).argmin())
    assert batches[fastest] == batch
    assert bool(((taken <= end * (1 + 1e-9)) | (batches == 1)).all())
    assert bool(((taken + steps * sample >= end * (1 - 1e-9)) | (batches == batch)).all())


def test_slow_devices_train_on_fewer_samples_and_nobody_waits_long() -> None:
    learner = drifting(3)
    world = world_of(learner, [10] * 3, devices=machines(3, slower=[1.0, 2.0, 4.0]))
    plain, balanced = (
        make_method(world, Settings(batch=64, local_steps=200, balanced=wanted, learning_rate=0.01))
        for wanted in (False, True)
    )
    for method in (plain, balanced):
        method.round(0)
    assert balanced.ledger.seconds < plain.ledger.seconds
    assert balanced.ledger.idle_share < 0.1 < plain.ledger.idle_share


class Counting(Quadratics):
    """Notes how many samples each device was given."""

    counts: torch.Tensor

    def gradients(
        self, weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor, share: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.counts = (share > 0).sum(dim=1)
        return super().gradients(weights, x, y, share)


@pytest.mark.parametrize(("batch", "balanced"), [(0, False), (0, True), (8, False), (8, True)])
def test_devices_are_charged_for_the_samples_that_they_train_on(batch: int, balanced: bool) -> None:
    base = drifting(3)
    learner = Counting(base.hessians, base.centres, base.start)
    world = world_of(learner, [40, 30, 20], devices=machines(3, slower=[1.0, 2.0, 4.0]))
    method = make_method(world, Settings(batch=batch, local_steps=2, balanced=balanced, learning_rate=0.01))
    method.round(0)
    by_hand = 2 * (1e-3 + 1e-5 * learner.counts.double()) * doubles(1, 2, 4)
    torch.testing.assert_close(method.ledger.busy_s, by_hand)

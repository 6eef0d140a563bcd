"""Federated averaging against centralised training, what rounds cost by hand, and equal chance for all configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autotune.measurement import Failure, FailureKind
from evaluators.federated.compute_profile import ComputeProfile
from evaluators.federated.fleet import fleet
from evaluators.federated.ledger import Ledger
from evaluators.federated.methods import make_method
from evaluators.federated.settings import METHODS, Settings
from evaluators.federated.tasks import Task, load
from evaluators.federated.tasks.partition import Partition, dirichlet
from evaluators.federated.tradeoffs import Quadratics, world_of
from evaluators.federated.training import Training
from evaluators.federated.world import World
from tests.federated.worlds import drifting, even_world, machines, run


def world_for(task: Task, n: int, **options: Any) -> World:
    """`n` phones with unequal shares of a task's data."""
    parts = dirichlet(task.data.groups, n, 1.0, 0)
    profile = ComputeProfile(
        task.name, task.learner.tensors.size, tuple(task.data.x.shape[1:]), 1e-3, 1e-5, "made", 10.0
    )
    return World(task, Partition.of(parts), fleet(n, 0, "phones"), profile, **options)


@pytest.mark.parametrize(
    ("task", "options", "rounds", "rate"),
    [("digits", {"hidden": 8}, 4, 0.2), ("text", {"megabytes": 0.004, "width": 8}, 2, 0.5)],
)
def test_one_step_on_all_data_is_centralised_gradient_descent(
    task: str, options: dict[str, Any], rounds: int, rate: float
) -> None:
    loaded = load(task, **options)
    world = world_for(loaded, 4)
    assert len(set(world.partition.counts.tolist())) > 1
    method = make_method(world, Settings(batch=0, local_steps=1, learning_rate=rate))
    model, data = world.initial(), loaded.data
    even = torch.full((1, len(data.x)), 1.0 / len(data.x))
    for round_ in range(rounds):
        method.round(round_)
        _, gradient = loaded.learner.gradients(model[None], data.x[None], data.y[None], even)
        model = model - rate * gradient[0]
    assert not torch.equal(model, world.initial())
    torch.testing.assert_close(method.model, model, rtol=1e-4, atol=2e-6)


def test_server_momentum_is_nesterovs() -> None:
    learner = drifting(1, 3)
    method = make_method(
        even_world(learner, 20), Settings(batch=0, learning_rate=0.1, server_rate=0.5, server_momentum=0.9)
    )
    model, velocity = learner.start.double(), torch.zeros(3).double()
    for round_ in range(4):
        method.round(round_)
        update = 0.1 * learner.hessians[0].double() @ (model - learner.centres[0].double())
        velocity = 0.9 * velocity + update
        model = model - 0.5 * (update + 0.9 * velocity)
    torch.testing.assert_close(method.model.double(), model, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------- costs


def test_a_round_with_a_lost_device_by_hand() -> None:
    world = even_world(drifting(3))
    ledger, who = Ledger(3), torch.arange(3)
    down, up, compute = torch.tensor([200, 200, 100]), torch.tensor([50, 100, 100]), torch.tensor([3.0, 9.0, 5.0])
    world.charge(ledger, 0, who, torch.tensor([True, False, True]), down, up, compute)
    # Down at 100 bytes/s, up at 50, a second of latency each: 1 + 2 + 1 + 1, 1 + 2 alone, and 1 + 1 + 1 + 2 seconds.
    assert ledger.sending_s.tolist() == [5.0, 3.0, 5.0]
    assert ledger.up_bytes.tolist() == [50.0, 0.0, 100.0]
    assert ledger.down_bytes.tolist() == [200.0, 200.0, 100.0]
    assert ledger.busy_s.tolist() == [3.0, 9.0, 5.0]
    # The round ends with the last that arrives, after 5 + 5; nobody waits for the lost one, which itself waits for nobody.
    assert ledger.seconds == 10.0
    assert ledger.waiting_s.tolist() == [2.0, 0.0, 0.0]
    assert ledger.idle_share == pytest.approx(2 / (2 + 17 + 13))
    # Computing takes 5 W; the link 2 + 1 W; waiting 1 W.
    assert ledger.joules.tolist() == [3 * 5 + 5 * 3 + 2, 9 * 5 + 3 * 3, 5 * 5 + 5 * 3]


def test_rounds_of_averaging_by_hand() -> None:
    learner = drifting(2, 6)
    world = world_of(learner, [10, 10], devices=machines(2, slower=[1.0, 2.0]))
    method = make_method(world, Settings(batch=10, local_steps=3, compressor="half", learning_rate=0.01))
    method.round(0)
    method.round(1)
    # 6 float32 down, 6 float16 up; 3 steps of 1 ms and 10 samples of 10 us, on a peak that is the measured one or half of it.
    sent = world.task.learner.tensors.size * 2
    assert method.ledger.down_bytes.tolist() == [48.0] * 2
    assert method.ledger.up_bytes.tolist() == [2.0 * sent] * 2
    link = 1 + 24 / 100 + 1 + sent / 50
    assert method.ledger.seconds == pytest.approx(2 * (link + 3 * 1.1e-3 * 2))
    assert method.ledger.waiting_s.tolist() == pytest.approx([2 * 3 * 1.1e-3, 0.0])


def test_devices_that_are_lost_do_not_count() -> None:
    learner = drifting(4)
    world = even_world(learner, dropout=0.6, seed=5)
    who = world.everyone
    arrived = world.arrive(0, who)
    assert 0 < int(arrived.sum()) < 4
    method = make_method(
        world, Settings(batch=0, learning_rate=0.1, feedback="ef", compressor="top-k", upload_keep=0.5)
    )
    method.round(0)
    full = make_method(world, Settings(batch=0, learning_rate=0.1))
    full.round(0)
    gradients = learner.gradients(learner.start.repeat(4, 1), who[:, None, None].float(), who, who)[1]
    torch.testing.assert_close(full.model, -0.1 * gradients[arrived].mean(dim=0))
    assert bool((method.ledger.up_bytes[~arrived] == 0).all())
    assert bool((method.ledger.up_bytes[arrived] > 0).all())
    assert bool((method.ledger.down_bytes == 24).all())


# -------------------------------------------------------------------------------- chance


class Recording(Quadratics):
    """Notes which samples every step was given."""

    def __init__(self) -> None:
        base = drifting(6)
        super().__init__(base.hessians, base.centres, base.start)
        self.seen: list[Tensor] = []

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(x.clone())
        return super().gradients(weights, x, y, share)


def test_configurations_meet_the_same_devices_losses_and_batches() -> None:
    seen, lost = [], []
    for chosen in (
        Settings(local_steps=2, batch=4, learning_rate=0.05),
        Settings(local_steps=2, batch=4, learning_rate=0.2, compressor="top-k", upload_keep=0.3, feedback="ef21"),
        Settings("scafcom", compressor="sign", local_steps=2, batch=4, download="half"),
        Settings("diloco", fragments=1, local_steps=2, batch=4, server_momentum=0.9),
    ):
        learner = Recording()
        method = make_method(even_world(learner, participation=0.5, dropout=0.3, seed=11), chosen)
        run(method, 5)
        seen.append(torch.cat([x.reshape(-1) for x in learner.seen]))
        lost.append(method.ledger.up_bytes > 0)
    assert all(torch.equal(one, seen[0]) for one in seen)
    assert all(torch.equal(one, lost[0]) for one in lost)
    assert len(set(seen[0].tolist())) > 10


def settings_of(method: str) -> Settings:
    compressor = "none" if method == "seeds" else "rand-k"
    return Settings(
        method, compressor=compressor, upload_keep=0.5, local_steps=2, batch=3, learning_rate=0.02, directions=8
    )


@pytest.mark.parametrize("method", list(METHODS))
def test_the_same_seed_gives_the_same_bits_and_another_does_not(method: str) -> None:
    everyone = method in ("locodl", "gossip")
    options: dict[str, Any] = {} if everyone else {"participation": 0.5, "dropout": 0.2}
    first, again, other = (
        make_method(even_world(drifting(6), seed=seed, **options), settings_of(method)) for seed in (7, 7, 8)
    )
    for method_ in (first, again, other):
        run(method_, 4)
    assert torch.equal(first.model, again.model)
    assert first.ledger.seconds == again.ledger.seconds
    assert torch.equal(first.ledger.joules, again.ledger.joules)
    assert not torch.equal(first.model, other.model)


# -------------------------------------------------------------------------------- divergence


def test_divergence_is_a_failure_that_names_the_round() -> None:
    training = Training(even_world(drifting()), Settings(batch=0, learning_rate=1e3), rounds=50, target=0.9)
    with pytest.raises(Failure, match=r"diverged in round (\d+) of 50") as raised:
        training.finish()
    assert raised.value.kind is FailureKind.NAN
    reached = len(training.points)
    assert f"round {reached + 1} of" in str(raised.value)
    assert 2 <= reached < 20  # float32 ends at 1e38, and every round gives three digits at most

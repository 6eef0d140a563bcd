"""Methods without a barrier, without a server, with seeds in place of gradients, and adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluators.federated.adapters import Adapted
from evaluators.federated.compressors.noise import normals
from evaluators.federated.compute_profile import ComputeProfile
from evaluators.federated.methods import make_method
from evaluators.federated.methods.fedfix import FedFix
from evaluators.federated.methods.gossip import Gossip, mixing, neighbours
from evaluators.federated.methods.seeds import Seeds
from evaluators.federated.settings import Settings
from evaluators.federated.tasks import Data, Task, VectorisedLearner
from evaluators.federated.tasks.networks import mlp
from evaluators.federated.tasks.partition import Partition, uniform
from evaluators.federated.tradeoffs import Quadratics, world_of
from evaluators.federated.world import World
from tests.federated.worlds import drifting, even_world, machines, run

# ------------------------------------------------------------------------------- FedFix


def test_equal_devices_within_an_interval_are_federated_averaging() -> None:
    world = even_world(drifting())
    averaging, fixed = (
        make_method(world, Settings(name, batch=4, local_steps=2, learning_rate=0.1, interval=1.05))
        for name in ("fedavg", "fedfix")
    )
    for round_ in range(5):
        assert averaging.round(round_) == fixed.round(round_)
        assert torch.equal(averaging.model, fixed.model)
    assert fixed.ledger.seconds == pytest.approx(1.05 * averaging.ledger.seconds)
    assert torch.equal(averaging.ledger.up_bytes, fixed.ledger.up_bytes)
    assert fixed.ledger.waiting_s.tolist() == pytest.approx([0.05 * averaging.ledger.seconds] * 4)


def test_a_slow_device_counts_when_it_arrives_and_by_how_old_it_is() -> None:
    learner = drifting(3)
    # A second for each direction, 0.24 s for 24 bytes down and 0.48 s up; a step of 1 ms is 5 s on the slow device.
    world = world_of(learner, [10, 10, 20], devices=machines(3, slower=[1.0, 1.0, 5000.0]))
    method = make_method(world, Settings("fedfix", batch=1, learning_rate=0.1, interval=1.1, staleness_power=0.5))
    assert isinstance(method, FedFix)
    assert method.interval_s == pytest.approx(1.1 * (2.72 + 1.01e-3))

    def step(model: Tensor, device: int) -> Tensor:
        return 0.1 * learner.hessians[device] @ (model - learner.centres[device])

    model = learner.start
    late = step(model, 2)  # begins in round 0, takes 7.8 s, and so arrives in round 2, that ends after 9
    for round_ in range(3):
        method.round(round_)
        if round_ < 2:
            model = model - (step(model, 0) + step(model, 1)) / 2
        else:
            model = model - (step(model, 0) + step(model, 1)) / 4 - late / 2 / 3**0.5
        torch.testing.assert_close(method.model, model)
    assert method.ledger.up_bytes.tolist() == [72.0, 72.0, 24.0]
    assert method.ledger.seconds == pytest.approx(3 * method.interval_s)


def test_what_is_lost_never_counts() -> None:
    world = even_world(drifting(), dropout=0.5, seed=1)
    arrived = world.arrive(0, world.everyone)
    assert 0 < int(arrived.sum()) < 4
    averaging, fixed = (make_method(world, Settings(name, batch=0, interval=1.05)) for name in ("fedavg", "fedfix"))
    averaging.round(0)
    fixed.round(0)
    assert torch.equal(averaging.model, fixed.model)


# ------------------------------------------------------------------------------- gossip


def gossip(world: World, **options: float | str) -> Gossip:
    method = make_method(world, Settings("gossip", batch=0, **options))  # type: ignore[arg-type]
    assert isinstance(method, Gossip)
    return method


def test_a_complete_graph_agrees_in_one_step() -> None:
    learner = drifting()
    method = gossip(even_world(learner), topology="complete", learning_rate=0.1)
    method.round(0)
    gradients = torch.einsum("nij,nj->ni", learner.hessians, -learner.centres)
    expected = -0.1 * gradients.mean(dim=0)
    torch.testing.assert_close(method.models, expected.repeat(4, 1))
    torch.testing.assert_close(method.model, expected)
    assert method.ledger.up_bytes.tolist() == method.ledger.down_bytes.tolist() == [3 * 24.0] * 4


def test_a_ring_takes_a_third_of_each_neighbour() -> None:
    still = Quadratics(torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(2))
    method = gossip(even_world(still), topology="ring")
    before = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    method.models = before.clone()
    method.round(0)
    expected = (before + before.roll(1, dims=0) + before.roll(-1, dims=0)) / 3
    torch.testing.assert_close(method.models, expected)
    # Two more steps in a round: an answer of the neighbours each, a second there and a second back.
    one, three = (gossip(even_world(still), topology="ring", gossip_steps=steps) for steps in (1, 3))
    one.round(0)
    three.round(0)
    assert three.ledger.up_bytes.tolist() == (3 * one.ledger.up_bytes).tolist() == [3 * 2 * 8.0] * 5
    assert three.ledger.seconds == pytest.approx(one.ledger.seconds + 2 * 2 + 2 * 16 / 100 + 2 * 16 / 50)


@pytest.mark.parametrize(("compressor", "rate"), [("top-k", 0.3), ("rand-k", 0.2), ("sign", 0.3)])
def test_compressed_gossip_keeps_the_mean_and_comes_to_it(compressor: str, rate: float) -> None:
    still = Quadratics(torch.zeros(6, 8), torch.zeros(6, 8), torch.zeros(8))
    method = gossip(
        even_world(still), compressor=compressor, upload_keep=0.25, server_rate=rate, topology="random", gossip_steps=4
    )
    method.models = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    mean, spread = method.models.mean(dim=0), method.models.std(dim=0).norm()
    run(method, 60)
    torch.testing.assert_close(method.model, mean, atol=1e-5, rtol=0)
    assert method.models.std(dim=0).norm() < 1e-2 * spread


@pytest.mark.parametrize("topology", ["ring", "random", "complete"])
@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_graphs_are_connected_and_mixing_keeps_sums(topology: str, n: int) -> None:
    graph = neighbours(topology, n, torch.Generator().manual_seed(0))
    assert torch.equal(graph, graph.T)
    assert not graph.diagonal().any()
    reached = torch.linalg.matrix_power(graph.double() + torch.eye(n), n) > 0
    assert bool(reached.all())
    weights = mixing(graph, torch.zeros(n, 2), 0.0)
    assert torch.equal(weights, weights.T)
    assert bool((weights.sum(dim=1) < 1).all())


def test_trust_moves_weight_to_nearer_models_and_keeps_its_sum() -> None:
    graph = neighbours("complete", 3, torch.Generator())
    models = torch.tensor([[0.0], [1.0], [5.0]])
    plain, trusting = mixing(graph, models, 0.0), mixing(graph, models, 2.0)
    torch.testing.assert_close(trusting.sum(dim=1), plain.sum(dim=1))
    # Distances 1 and 5 over their mean of 10 / 3: exp(-0.6) and exp(-3).
    assert float(trusting[0, 1] / trusting[0, 2]) == pytest.approx(np.exp(2.4), rel=1e-4)


# -------------------------------------------------------------------------------- seeds


def seeds(world: World, **options: float) -> Seeds:
    method = make_method(world, Settings("seeds", batch=0, **options))  # type: ignore[arg-type]
    assert isinstance(method, Seeds)
    return method


def test_seeds_descend_a_quadratic() -> None:
    curvature, centre = drifting().hessians, torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0])
    # Devices that agree where the optimum is: at it, no direction has a slope, and there is no noise.
    learner = Quadratics(curvature, centre.repeat(4, 1), torch.zeros(6))
    method = seeds(even_world(learner), directions=64, learning_rate=0.05)
    run(method, 150)
    assert float((method.model - centre).norm() / centre.norm()) < 0.02


def test_one_round_of_seeds_by_hand() -> None:
    learner = drifting(1)
    world = even_world(learner, 20)
    method = seeds(world, directions=5, learning_rate=0.1)
    method.round(0)
    directions = torch.from_numpy(normals(world.directions(torch.arange(5)).numpy(), 6)).float()
    used = int(method.sums.abs().argmax())
    assert int((method.sums != 0).sum()) == 1
    # Of one step, the byte is the scale itself: nothing is lost to rounding but of the differences.
    gradient = learner.hessians[0] @ -learner.centres[0]
    assert float(method.sums[used]) == pytest.approx(-0.1 * float(gradient @ directions[used]), rel=2e-2)


def test_the_model_is_its_start_and_sums_of_directions_and_a_round_takes_bytes() -> None:
    world = even_world(drifting())
    method = seeds(world, directions=9, learning_rate=0.02, local_steps=3)
    run(method, 4)
    directions = torch.from_numpy(normals(world.directions(torch.arange(9)).numpy(), 6)).float()
    torch.testing.assert_close(method.model, world.initial() + method.sums @ directions, atol=1e-5, rtol=1e-5)
    assert method.ledger.up_bytes.tolist() == [4 * (3 + 4.0)] * 4  # a byte for each step, and one scale
    assert method.ledger.down_bytes.tolist() == [4 * 36.0] * 4  # nine sums


# ------------------------------------------------------------------------------- adapters


def square_task() -> Task:
    """Ten features and ten classes, so that the one matrix is square."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 10, generator=generator), torch.randint(0, 10, (60,), generator=generator)
    learner = VectorisedLearner(lambda: mlp(10, (), 10))
    return Task("square", Data(x, y, x, y, y), learner, 0.1, 16, 1, None)


def square_world() -> World:
    task = square_task()
    profile = ComputeProfile("square", 110, (10,), 1e-3, 1e-5, "made", 1.0)
    return World(task, Partition.of(uniform(60, 3, 0)), machines(3), profile)


def adapted(rank: int) -> tuple[Task, Tensor, Adapted]:
    task = square_task()
    base = task.learner.initial(3)
    gradient = torch.randn(110, generator=torch.Generator().manual_seed(1))
    return task, base, Adapted(task.learner, base, gradient, rank)


def test_an_adapter_of_zeros_is_the_model_below() -> None:
    task, base, learner = adapted(4)
    zeros = learner.initial(0)
    assert zeros.tolist() == [0.0] * 16
    assert torch.equal(learner.whole(zeros[None])[0], base)
    assert torch.equal(learner.predict(zeros, task.data.x), task.learner.predict(base, task.data.x))
    # The base, and two factors of 10 x 4.
    assert learner.frozen_bytes == 4 * (110 + 80)


def test_gradients_of_adapters_by_finite_differences() -> None:
    task, _, learner = adapted(3)
    generator = torch.Generator().manual_seed(2)
    weights = 0.5 * torch.randn(2, 9, generator=generator)
    x, y = task.data.x[:24].view(2, 12, 10), task.data.y[:24].view(2, 12)
    share = torch.full((2, 12), 1 / 12)
    losses, gradient = learner.gradients(weights, x, y, share)
    torch.testing.assert_close(losses, learner.losses(weights, x, y, share))
    for place in range(9):
        step = torch.zeros(9)
        step[place] = 0.02
        slope = (learner.losses(weights + step, x, y, share) - learner.losses(weights - step, x, y, share)) / 0.04
        torch.testing.assert_close(gradient[:, place], slope, atol=5e-4, rtol=5e-3)


def test_adapters_of_full_rank_train_the_matrix() -> None:
    world = square_world()
    method = make_method(world, Settings(adapter_rank=10, batch=0, learning_rate=0.5, local_steps=2))
    assert method.tensors.shapes == ((10, 10),)
    trained = run(method, 4).float()
    learner, base = world.task.learner, world.initial()
    models = base.repeat(3, 1)
    for _ in range(4):
        for _ in range(2):
            _, gradient = learner.gradients(
                models, *world.samples(0, 0, world.everyone, torch.zeros(3, dtype=torch.int64))
            )
            gradient[:, 100:] = 0.0  # of the bias, which has no adapter
            models = models - 0.5 * gradient
        models = models.mean(dim=0).repeat(3, 1)
    found = method.world.task.learner.whole(trained[None])[0]  # type: ignore[attr-defined]
    assert float((models[0] - base).abs().max()) > 0.05
    torch.testing.assert_close(found, models[0], atol=2e-5, rtol=1e-4)


def test_adapters_send_their_numbers_alone() -> None:
    method = make_method(square_world(), Settings(adapter_rank=3, batch=0))
    method.round(0)
    assert method.ledger.up_bytes.tolist() == method.ledger.down_bytes.tolist() == [36.0] * 3

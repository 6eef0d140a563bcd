"""DiLoCo: as averaging where it is that, what goes over the wire by fragment, and devices that come back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autotune import UsageError
from evaluators.federated.methods import make_method
from evaluators.federated.methods.diloco import fragments
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import Tensors
from evaluators.federated.tradeoffs import Quadratics, bytes_per_step, peak_bytes
from evaluators.federated.world import World
from tests.federated.worlds import drifting, even_world, run

SHAPES = ((2,), (2, 2))  # 6 numbers in two tensors


class Watched(Quadratics):
    """Notes the models that every step starts from."""

    def __init__(self) -> None:
        base = drifting(6)
        super().__init__(base.hessians, base.centres, base.start, SHAPES)
        self.starts: list[Tensor] = []

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        self.starts.append(weights.clone())
        return super().gradients(weights, x, y, share)


def streaming(world: World, **options: float | str) -> Settings:
    return Settings("diloco", fragments=2, batch=0, learning_rate=0.1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_fragment_with_everyone_is_federated_averaging(momentum: float) -> None:
    world = even_world(drifting())
    averaging, diloco = (
        make_method(world, Settings(name, local_steps=3, learning_rate=0.1, batch=0, server_momentum=momentum))
        for name in ("fedavg", "diloco")
    )
    for round_ in range(6):
        assert averaging.round(round_) == diloco.round(round_)
        assert torch.equal(averaging.model, diloco.model)
    # The initial model comes from a seed, and need not be sent.
    assert (averaging.ledger.down_bytes - diloco.ledger.down_bytes).tolist() == [24.0] * 4
    assert torch.equal(averaging.ledger.up_bytes, diloco.ledger.up_bytes)


def test_every_round_exchanges_one_fragment_and_leaves_the_other() -> None:
    learner = Watched()
    world = even_world(learner)
    method = make_method(world, streaming(world))
    sizes, parts = (2, 4), (slice(0, 2), slice(2, 6))
    down = 0
    for round_ in range(6):
        before, up = method.model.clone(), method.ledger.up_bytes.clone()
        method.round(round_)
        chosen, other = round_ % 2, 1 - round_ % 2
        assert torch.equal(method.model[parts[other]], before[parts[other]])
        assert not torch.equal(method.model[parts[chosen]], before[parts[chosen]])
        assert (method.ledger.up_bytes - up).tolist() == [4.0 * sizes[chosen]] * 6
        assert method.ledger.down_bytes.tolist() == [float(down)] * 6
        down += 4 * sizes[chosen]  # is fetched in the next round
    # What is exchanged is the same everywhere; the other fragment is each device's own.
    start = learner.starts[-1]
    assert torch.equal(start[:, parts[0]], before[parts[0]].expand(6, -1))
    assert not torch.equal(start[0, parts[1]], start[1, parts[1]])


def test_what_the_model_of_costs_says_is_what_is_sent() -> None:
    world = even_world(Watched())
    method = make_method(world, streaming(world, local_steps=5))
    run(method, 5)
    before = method.ledger.down_bytes + method.ledger.up_bytes
    rounds = []
    for round_ in range(5, 9):
        was = method.ledger.down_bytes + method.ledger.up_bytes
        method.round(round_)
        rounds.append(float((method.ledger.down_bytes + method.ledger.up_bytes - was)[0]))
    after = method.ledger.down_bytes + method.ledger.up_bytes
    assert float((after - before)[0]) / (4 * 5) == bytes_per_step((2, 4), 5)
    assert rounds == [24.0] * 4  # one fragment up and the other down
    assert max(rounds) == peak_bytes((2, 4))


def test_a_device_that_was_away_is_brought_up_to_date() -> None:
    learner = Watched()
    world = even_world(learner, participation=0.5, seed=2)
    method = make_method(world, streaming(world))
    last: dict[int, int] = {}
    returned = 0
    for round_ in range(12):
        model, down = method.model.clone(), method.ledger.down_bytes.clone()
        method.round(round_)
        for row, device in enumerate(world.participants(round_).tolist()):
            missed = list(range(last.get(device, 0), round_))  # rounds whose fragments it has not seen
            fetched = {round_ % 2 for round_ in missed}
            expected = sum(4 * (2, 4)[fragment] for fragment in fetched)
            assert float(method.ledger.down_bytes[device] - down[device]) == expected
            if len(fetched) == 2:
                returned += 1
                assert torch.equal(learner.starts[-1][row], model)
            last[device] = round_
    assert returned > 5


def test_fragments_are_even_where_tensors_allow() -> None:
    tensors = Tensors(tuple("abcde"), ((10,), (10,), (20,), (30,), (10,)))
    assert fragments(tensors, 1) == [(0, 5)]
    assert fragments(tensors, 2) == [(0, 3), (3, 5)]
    assert fragments(tensors, 4) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert fragments(tensors, 5) == [(place, place + 1) for place in range(5)]
    with pytest.raises(UsageError, match="fragments is 6"):
        fragments(tensors, 6)


def test_fragments_still_reach_the_optimum_with_one_local_step() -> None:
    learner = drifting()
    shaped = Quadratics(learner.hessians, learner.centres, learner.start, SHAPES)
    world = even_world(shaped)
    model = run(make_method(world, streaming(world)), 200)
    # Two fragments are two local steps for each of them, and a drift as small as these.
    assert float((model - shaped.optimum()).norm() / shaped.optimum().norm()) < 0.1

"""What devices remember of what was dropped: by hand, as invariants, and where doing without it fails."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evaluators.federated.compressors import make
from evaluators.federated.compressors.base import Sent
from evaluators.federated.feedback import EF21, EControl, ErrorFeedback, Feedback, MomentumCorrection, make_feedback
from evaluators.federated.methods import make_method
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import Tensors
from evaluators.federated.tradeoffs import Quadratics, world_of
from tests.federated.worlds import run

EVERYONE = torch.arange(1)


def top(k: int, size: int = 2):  # type: ignore[no-untyped-def]
    """Sends the k largest of `size` numbers."""
    compressor = make("top-k", Tensors(("x",), ((size,),)))

    def send(rows: Tensor) -> Sent:
        m = len(rows)
        return compressor.compress(
            rows, torch.full((m,), k / size, dtype=torch.float64), torch.zeros(m, dtype=torch.int64)
        )

    return send


# --------------------------------------------------------------------- where doing without fails


def three_planes() -> Quadratics:
    """Beznosikov et al., arXiv:2002.12410, example 1: ``<a_i, x>^2 + |x|^2 / 4`` with three vectors a_i."""
    planes = torch.tensor([[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]])
    hessians = 2.0 * planes[:, :, None] * planes[:, None, :] + 0.5 * torch.eye(3)
    return Quadratics(hessians, torch.zeros(3, 3), torch.ones(3))


def sent_by_one_of_three(feedback: str, rate: float, strength: float = 1.0) -> Settings:
    return Settings(
        compressor="top-k",
        upload_keep=1 / 3,
        feedback=feedback,
        feedback_strength=strength,
        learning_rate=rate,
        batch=0,
    )


def test_the_largest_of_three_numbers_diverges_at_the_published_rate() -> None:
    learner = three_planes()
    model = run(make_method(world_of(learner, [7] * 3), sent_by_one_of_three("none", 0.01)), 100)
    # Every device sends -11/2 of its own coordinate, so that all of them grow by 11/6 of the rate.
    torch.testing.assert_close(model, torch.full((3,), (1 + 11 * 0.01 / 6) ** 100).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("feedback", "strength"), [("ef", 1.0), ("ef21", 1.0), ("econtrol", 1 / 3)])
def test_with_feedback_it_converges(feedback: str, strength: float) -> None:
    learner = three_planes()
    model = run(make_method(world_of(learner, [7] * 3), sent_by_one_of_three(feedback, 0.02, strength)), 300)
    assert model.norm() < 1e-2


def test_a_strength_of_three_times_what_the_compressor_contracts_by_is_too_much_for_it() -> None:
    model = run(make_method(world_of(three_planes(), [7] * 3), sent_by_one_of_three("econtrol", 0.02, 1.0)), 150)
    assert not model.norm() < 10


class Valley(Quadratics):
    """``|x_1 + x_2| / 2 + |x_1 - x_2|``: Karimireddy et al., arXiv:1901.09847, counterexample 3."""

    def __init__(self) -> None:
        super().__init__(torch.eye(2)[None], torch.zeros(1, 2), torch.tensor([1.0, 0.9]))

    def gradients(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        along, across = weights.sum(dim=1), weights[:, 0] - weights[:, 1]
        slope = 0.5 * torch.sign(along)[:, None] + torch.sign(across)[:, None] * torch.tensor([1.0, -1.0])
        return 0.5 * along.abs() + across.abs(), slope


def test_signs_alone_stay_on_their_line_and_with_feedback_go_down() -> None:
    def final(feedback: str) -> Tensor:
        chosen = Settings(compressor="sign", feedback=feedback, learning_rate=0.03, batch=0)
        return run(make_method(world_of(Valley(), [20]), chosen), 120)

    # The sign of the slope is (1, -1) or (-1, 1) wherever they are, so that the sum never changes.
    assert float(final("none").sum()) == pytest.approx(1.9, abs=1e-4)
    down = final("ef")
    assert 0.5 * abs(float(down.sum())) + abs(float(down[0] - down[1])) < 0.2


# ------------------------------------------------------------------------------ by hand


def test_momentum_correction_over_three_rounds() -> None:
    feedback = MomentumCorrection(1, 2, 0.5)
    update = torch.tensor([[4.0, 2.0]])
    expected = [
        # sent         velocity      waiting
        ([4.0, 0.0], [0.0, 2.0], [0.0, 2.0]),
        ([0.0, 5.0], [4.0, 0.0], [4.0, 0.0]),  # velocity was (4, 3), and (4, 5) waited
        ([10.0, 0.0], [0.0, 2.0], [0.0, 2.0]),  # velocity was (6, 2), and (10, 2) waited
    ]
    for sent, velocity, waiting in expected:
        told, _ = feedback.send(EVERYONE, update, top(1))
        assert told.tolist() == [sent]
        assert feedback.velocity.tolist() == [velocity]
        assert feedback.waiting.tolist() == [waiting]


def test_what_is_sent_each_round_has_no_momentum() -> None:
    feedback = MomentumCorrection(1, 2, 0.9)
    for _ in range(3):
        told, _ = feedback.send(EVERYONE, torch.tensor([[4.0, 2.0]]), top(2))
        torch.testing.assert_close(told, torch.tensor([[4.0, 2.0]]))  # masking forgets what was before


def test_error_feedback_by_hand() -> None:
    feedback = ErrorFeedback(1, 2)
    told = [feedback.send(EVERYONE, torch.tensor([[3.0, 2.0]]), top(1))[0].tolist()[0] for _ in range(3)]
    assert told == [[3.0, 0.0], [0.0, 4.0], [6.0, 0.0]]
    assert feedback.error.tolist() == [[0.0, 2.0]]


def test_ef21_learns_a_constant_update_and_stays_there() -> None:
    feedback = EF21(1, 4)
    update = torch.tensor([[1.0, -4.0, 2.0, 3.0]])
    estimates = [feedback.send(EVERYONE, update, top(1, 4))[0].tolist()[0] for _ in range(6)]
    assert estimates[0] == [0.0, -4.0, 0.0, 0.0]
    assert estimates[1] == [0.0, -4.0, 0.0, 3.0]
    assert estimates[3] == estimates[4] == estimates[5] == update.tolist()[0]


def test_econtrol_comes_to_rest_at_a_constant_update_with_no_error_left() -> None:
    feedback = EControl(1, 4, strength=0.25)
    update = torch.tensor([[1.0, -4.0, 2.0, 3.0]])
    told = torch.stack([feedback.send(EVERYONE, update, top(1, 4))[0][0] for _ in range(200)])
    torch.testing.assert_close(told[-1], update[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(feedback.error, torch.zeros(1, 4), atol=1e-4, rtol=0)
    # EF21 would forget that it was late; here all that was told makes up for it.
    torch.testing.assert_close(told.sum(dim=0), 200 * update[0], atol=1e-2, rtol=0)


# ----------------------------------------------------------------------------- invariants

NAMES = st.sampled_from(["ef", "ef21", "econtrol", "dgc"])


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(["ef", "econtrol"]), seed=st.integers(0, 999), k=st.integers(1, 4))
def test_nothing_is_lost(name: str, seed: int, k: int) -> None:
    """All that the server was told and what is remembered are all updates."""
    feedback = make_feedback(name, 1, 5, strength=0.3, momentum=0.9)
    assert isinstance(feedback, ErrorFeedback | EControl)
    updates = torch.randn(12, 1, 5, generator=torch.Generator().manual_seed(seed))
    told = sum(feedback.send(EVERYONE, update, top(k, 5))[0].double() for update in updates)
    torch.testing.assert_close(told + feedback.error.double(), updates.double().sum(dim=0), atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(name=NAMES, seed=st.integers(0, 999), away=st.integers(0, 2))
def test_memories_of_absent_devices_stay_as_they_are(name: str, seed: int, away: int) -> None:
    feedback = make_feedback(name, 3, 5, strength=0.5, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    feedback.send(torch.arange(3), torch.randn(3, 5, generator=generator), top(2, 5))
    before = {key: value.clone() for key, value in vars(feedback).items() if isinstance(value, Tensor)}
    here = torch.tensor([device for device in range(3) if device != away])
    feedback.send(here, torch.randn(2, 5, generator=generator), top(2, 5))
    after = vars(feedback)
    assert len(before) == feedback.memories
    for key, value in before.items():
        assert torch.equal(after[key][away], value[away])
        assert not torch.equal(after[key], value)


@settings(max_examples=30, deadline=None)
@given(name=NAMES, seed=st.integers(0, 999))
def test_without_loss_every_feedback_tells_the_update(name: str, seed: int) -> None:
    feedback: Feedback = make_feedback(name, 2, 3, strength=0.7, momentum=0.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        update = torch.randn(2, 3, generator=generator)
        told, sent = feedback.send(torch.arange(2), update, top(3, 3))
        torch.testing.assert_close(told, update, atol=1e-5, rtol=1e-5)
        assert sent.bytes.tolist() == [4 + 12] * 2

"""Losses and gradients of many devices at once, against autograd and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autotune import UsageError
from evaluators.federated.tasks.dense import DenseLearner
from evaluators.federated.tasks.learner import ModuleLearner, SequentialLearner, VectorisedLearner
from evaluators.federated.tasks.networks import ByteTransformer, mlp


def batch_of(n: int, b: int, inputs: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, b, inputs, generator=generator)
    y = torch.randint(0, classes, (n, b), generator=generator)
    return x, y, torch.full((n, b), 1.0 / b)


def several(learner: ModuleLearner, n: int) -> Tensor:
    return torch.stack([learner.initial(seed) for seed in range(n)])


def test_loss_and_gradient_of_a_linear_classifier_by_hand() -> None:
    learner = VectorisedLearner(lambda: mlp(1, (), 2))
    assert learner.tensors.shapes == ((2, 1), (2,))
    weights = torch.tensor([[0.0, 0.0, 0.0, math.log(3.0)]])  # scores (0, ln 3), so probabilities (1/4, 3/4)
    x, y = torch.tensor([[[2.0], [-1.0]]]), torch.tensor([[0, 1]])
    losses, gradients = learner.gradients(weights, x, y, torch.tensor([[0.25, 0.75]]))
    # The score of class c has the gradient p_c - [c is the label]: (-3/4, 3/4) and (1/4, -1/4), shared 1 to 3.
    torch.testing.assert_close(losses, torch.tensor([0.25 * math.log(4) + 0.75 * math.log(4 / 3)]))
    on_scores = torch.tensor([0.25 * -0.75 + 0.75 * 0.25, 0.25 * 0.75 - 0.75 * 0.25])
    on_weights = torch.tensor([0.25 * -0.75 * 2 + 0.75 * 0.25 * -1, 0.25 * 0.75 * 2 - 0.75 * 0.25 * -1])
    torch.testing.assert_close(gradients, torch.cat((on_weights, on_scores))[None])


@pytest.mark.parametrize("kind", [VectorisedLearner, SequentialLearner])
def test_gradients_are_those_of_autograd_on_the_module_itself(kind: type[ModuleLearner]) -> None:
    learner = kind(lambda: mlp(5, (7, 6), 3))
    x, y, share = batch_of(3, 4, 5, 3)
    weights = several(learner, 3)
    losses, gradients = learner.gradients(weights, x, y, share)
    for row in range(3):
        module = mlp(5, (7, 6), 3)
        module.load_state_dict(learner.tensors.named(weights[row]))
        loss = nn.functional.cross_entropy(module(x[row]), y[row])
        loss.backward()
        torch.testing.assert_close(losses[row], loss.detach())
        torch.testing.assert_close(gradients[row], torch.cat([p.grad.flatten() for p in module.parameters()]))
    torch.testing.assert_close(learner.losses(weights, x, y, share), losses)
    assert not learner.losses(weights, x, y, share).requires_grad


def test_the_transformer_is_trained_alike_in_one_pass_and_row_by_row() -> None:
    def build() -> nn.Module:
        return ByteTransformer(vocabulary=11, context=6, width=8, layers=2, heads=2)

    together, one_by_one = VectorisedLearner(build), SequentialLearner(build)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 11, (3, 4, 7), generator=generator)
    share = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    weights = several(together, 3)
    for first, second in zip(
        together.gradients(weights, tokens[..., :-1], tokens[..., 1:], share),
        one_by_one.gradients(weights, tokens[..., :-1], tokens[..., 1:], share),
        strict=True,
    ):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_padding_changes_nothing() -> None:
    learner = VectorisedLearner(lambda: mlp(5, (4,), 3))
    x, y, _ = batch_of(1, 5, 5, 3)
    weights = several(learner, 1)
    padded = learner.gradients(weights, x, y, torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0]]))
    alone = learner.gradients(weights, x[:, :2], y[:, :2], torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(padded, alone)


def test_the_transformer_sees_no_later_symbol() -> None:
    module = ByteTransformer(vocabulary=11, context=6, width=8, layers=2, heads=2)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    changed = torch.tensor([[1, 2, 3, 9, 9, 9]])
    first, second = module(tokens), module(changed)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3:], second[:, 3:])
    torch.testing.assert_close(module(tokens[:, :3]), first[:, :3])


def test_initial_weights_come_of_the_seed_alone() -> None:
    learner = VectorisedLearner(lambda: mlp(5, (4,), 3))
    first = learner.initial(7)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert torch.equal(learner.initial(7), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(learner.initial(8), first)
    assert torch.equal(learner.initial(2**63 - 1), learner.initial(2**63 - 1))


def test_evaluation_by_hand_over_more_samples_than_one_pass_takes() -> None:
    learner = VectorisedLearner(lambda: mlp(1, (), 2))
    weights = torch.tensor([-1.0, 1.0, 0.0, 0.0])  # scores (-x, x): class 1 where x is above 0
    x = torch.ones(2500, 1)
    y = (torch.arange(2500) % 5 > 0).long()  # four of five are class 1
    found = learner.evaluate(weights, x, y)
    assert found.accuracy == 0.8
    wrong, right = math.log(1 + math.exp(2)), math.log(1 + math.exp(-2))
    assert found.loss == pytest.approx(0.2 * wrong + 0.8 * right, rel=1e-6)
    assert math.isnan(learner.evaluate(torch.full((4,), math.nan), x, y).loss)


def test_only_what_requires_a_gradient_is_trained() -> None:
    def build() -> nn.Module:
        module = mlp(5, (4,), 3)
        for parameter in module[0].parameters():
            parameter.requires_grad_(False)
        return module

    learner = SequentialLearner(build)
    assert learner.tensors.names == ("2.weight", "2.bias")
    assert learner.frozen_bytes == 4 * (5 * 4 + 4)
    with pytest.raises(UsageError, match="no parameter that requires a gradient"):
        SequentialLearner(lambda: build()[0])
    with pytest.raises(UsageError, match="must be float32"):
        SequentialLearner(lambda: mlp(5, (4,), 3).half())


def test_dropout_is_off() -> None:
    learner = VectorisedLearner(lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)))
    x, y, share = batch_of(2, 4, 5, 3)
    weights = several(learner, 2)
    assert torch.equal(learner.gradients(weights, x, y, share)[1], learner.gradients(weights, x, y, share)[1])


@given(
    hidden=st.lists(st.integers(1, 5), max_size=2), n=st.integers(1, 4), b=st.integers(1, 6), seed=st.integers(0, 1_000)
)
@settings(max_examples=25, deadline=None)
def test_dense_networks_have_the_gradients_that_autograd_gives(hidden: list[int], n: int, b: int, seed: int) -> None:
    torch.manual_seed(seed)
    dense, plain = DenseLearner(3, hidden, 4), SequentialLearner(lambda: mlp(3, hidden, 4))
    weights = torch.stack([dense.initial(seed + row) for row in range(n)])
    x, y, share = torch.randn(n, b, 3), torch.randint(4, (n, b)), torch.rand(n, b)
    share[:, -1] = 0.0
    losses, gradients = dense.gradients(weights, x, y, share)
    expected_losses, expected = plain.gradients(weights, x, y, share)
    torch.testing.assert_close(losses, expected_losses)
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(dense.losses(weights, x, y, share), expected_losses)

"""The measured memory of a training step, beside what a linear model takes by hand."""

from __future__ import annotations

import gc

import pytest
import torch

from autotune import UsageError
from evaluators.federated.peak_memory import step_memory
from evaluators.federated.tasks.data import Data
from evaluators.federated.tasks.learner import SequentialLearner, VectorisedLearner
from evaluators.federated.tasks.networks import mlp

FEATURES, CLASSES = 100, 10
SCALARS = 16  # bytes of the loss, its weight and its gradient


def data_of(features: int = FEATURES) -> Data:
    x, y = torch.randn(40, features), torch.arange(40) % CLASSES
    return Data(x, y, x, y, y)


def held(batch: int, features: int = FEATURES) -> int:
    """Weights, features in float32, labels in int64, and shares."""
    return 4 * (features * CLASSES + CLASSES) + batch * (4 * features + 8 + 4)


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_a_linear_classifier_by_hand(batch: int) -> None:
    learner = VectorisedLearner(lambda: mlp(FEATURES, (), CLASSES))
    # The most is held when the gradients are made: these, and the gradient of the scores.
    expected = held(batch) + 4 * (FEATURES * CLASSES + CLASSES) + 4 * batch * CLASSES
    assert expected <= step_memory(learner, data_of(), batch) <= expected + SCALARS


def test_with_few_weights_the_most_is_held_in_the_loss() -> None:
    learner = VectorisedLearner(lambda: mlp(2, (), CLASSES))
    # Log-probabilities, what comes into them, and the gradient of the scores that goes out, all of batch x classes.
    expected = held(64, 2) + 3 * 4 * 64 * CLASSES
    assert expected <= step_memory(learner, data_of(2), 64) <= expected + SCALARS


def test_hidden_activations_are_kept_for_the_backward_pass() -> None:
    def memory(hidden: int, batch: int) -> int:
        return step_memory(VectorisedLearner(lambda: mlp(FEATURES, (hidden,), CLASSES)), data_of(), batch)

    # What ReLU gives is kept, so it grows by at least that much for each sample.
    assert memory(64, 32) - memory(64, 16) >= 16 * (4 * 64 + 4 * FEATURES + 12)
    assert memory(128, 32) > memory(64, 32)


def test_what_is_frozen_counts_too_and_needs_no_gradient() -> None:
    def build() -> torch.nn.Module:
        module = mlp(FEATURES, (64,), CLASSES)
        module[0].requires_grad_(False)
        return module

    trained = step_memory(SequentialLearner(lambda: mlp(FEATURES, (64,), CLASSES)), data_of(), 1)
    frozen = step_memory(SequentialLearner(build), data_of(), 1)
    first_layer = 4 * (FEATURES * 64 + 64)
    assert trained - 1.1 * first_layer < frozen < trained - 0.9 * first_layer


def test_it_is_measured_once_and_forgotten_with_the_learner() -> None:
    calls = []

    class Counted(VectorisedLearner):
        def loss(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            calls.append(1)
            return super().loss(*args, **kwargs)

    data = data_of()
    learner = Counted(lambda: mlp(FEATURES, (8,), CLASSES))
    first = step_memory(learner, data, 4)
    assert step_memory(learner, data, 4) == first
    assert len(calls) == 1
    assert step_memory(learner, data, 8) > first
    del learner
    gc.collect()
    with pytest.raises(UsageError, match="batch is 0"):
        step_memory(VectorisedLearner(lambda: mlp(FEATURES, (), CLASSES)), data, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tells_its_own_count() -> None:
    learner = VectorisedLearner(lambda: mlp(FEATURES, (512,), CLASSES))
    on_cpu, on_gpu = (step_memory(learner, data_of(), 32, device) for device in ("cpu", "cuda"))
    assert 0.5 * on_cpu < on_gpu < 2 * on_cpu

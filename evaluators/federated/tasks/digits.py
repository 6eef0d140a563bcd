"""Handwritten digits, as they come with scikit-learn: 1,797 images of 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from autotune.checks import whole
from evaluators.federated.tasks.data import Data, held_out, standardised
from evaluators.federated.tasks.dense import DenseLearner
from evaluators.federated.tasks.task import Task

_TESTED = 360  # a fifth


def digits(hidden: int | Sequence[int] = 64, seed: int = 0) -> Task:
    """Digits by a network of fully connected layers.

    Args:
        hidden: sizes of the hidden layers.
        seed: decides which images are tested on.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second

    pixels, labels = load_digits(return_X_y=True)
    features, classes = torch.from_numpy(np.asarray(pixels)), torch.from_numpy(np.asarray(labels, dtype=np.int64))
    train, test = held_out(len(classes), _TESTED, whole("seed", seed, 0))
    x, test_x = standardised(features[train], features[test])
    data = Data(x, classes[train], test_x, classes[test], classes[train], tuple("0123456789"))
    sizes = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    learner = DenseLearner(64, sizes, 10)
    return Task("digits", data, learner, learning_rate=0.2, batch=16, local_steps=5, target_accuracy=0.93)

"""A user's own table: features and labels in one .npz file, by a network of fully connected layers."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotune.checks import positive
from autotune.errors import UsageError
from evaluators.federated.tasks.data import Data, Ints, standardised
from evaluators.federated.tasks.dense import DenseLearner
from evaluators.federated.tasks.task import Task

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_MOST_CLASSES = 10_000

Array = npt.NDArray[Any]


def table(
    path: str | Path,
    hidden: int | Sequence[int] = 64,
    learning_rate: float = 0.1,
    target_accuracy: float | None = None,
) -> Task:
    """A user's own samples.

    Args:
        path: of an .npz file with float arrays `x_train` and `x_test`, ``(N, ...)``, and whole numbers from 0 on in
            `y_train` and `y_test`, ``(N,)``. `groups`, ``(N,)`` whole numbers from 0 on, is what data is skewed by, and
            `y_train` where it is missing. Features are standardised by `x_train`.
        hidden: sizes of the hidden layers; none of them is a linear classifier.

    Raises:
        UsageError: for a file that cannot be read, and one sentence for the first array that cannot be used.
    """
    arrays = _read(Path(path).expanduser())
    x, test_x = (_features(name, arrays[name]) for name in ("x_train", "x_test"))
    if x.shape[1:] != test_x.shape[1:]:
        raise UsageError(
            f"x_test has samples of shape {test_x.shape[1:]} and x_train of {x.shape[1:]}; give both alike"
        )
    y = _whole_numbers("y_train", arrays["y_train"], "x_train", len(x))
    test_y = _whole_numbers("y_test", arrays["y_test"], "x_test", len(test_x))
    groups = _whole_numbers("groups", arrays["groups"], "x_train", len(x)) if "groups" in arrays else y
    classes = int(y.max(initial=0)) + 1
    if classes == 1:
        raise UsageError("y_train has the one label 0; give samples of at least two classes")
    if classes > _MOST_CLASSES:
        raise UsageError(
            f"y_train goes up to {classes - 1}; number the classes from 0 on, {_MOST_CLASSES} of them at most"
        )
    if test_y.max(initial=0) >= classes:
        raise UsageError(f"y_test has label {test_y.max()}, which y_train lacks; train on samples of every class")
    trained, tested = standardised(torch.from_numpy(x).flatten(1), torch.from_numpy(test_x).flatten(1))
    data = Data(trained, torch.from_numpy(y), tested, torch.from_numpy(test_y), torch.from_numpy(groups))
    sizes = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    learner = DenseLearner(trained.shape[1], sizes, classes)
    rate = positive("learning_rate", learning_rate)
    return Task("table", data, learner, rate, batch=16, local_steps=5, target_accuracy=target_accuracy)


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise UsageError(f"data {str(path)!r} does not exist; give an .npz file with {', '.join(_NEEDED)}")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile):
        raise UsageError(f"data {str(path)!r} is no .npz file of plain arrays; write it with numpy.savez") from None
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise UsageError(
            f"data {str(path)!r} lacks {missing[0]} (it has: {', '.join(arrays) or 'nothing'}); give {', '.join(_NEEDED)}"
        )
    return arrays


def _features(name: str, values: Array) -> npt.NDArray[np.float64]:
    if values.ndim < 2 or not np.issubdtype(values.dtype, np.floating):
        raise UsageError(
            f"{name} is of type {values.dtype} and shape {values.shape}; give floats with a row for each sample"
        )
    if not values[0:1].size:
        raise UsageError(f"{name} has shape {values.shape}; give samples with at least one feature")
    if not np.isfinite(values).all():
        bad = int(np.argwhere(~np.isfinite(values))[0][0])
        raise UsageError(f"{name} has NaN or infinity in sample {bad}; fill in or leave out what is missing")
    return values.astype(np.float64)


def _whole_numbers(name: str, values: Array, beside: str, samples: int) -> Ints:
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise UsageError(
            f"{name} is of type {values.dtype} and shape {values.shape}; give one whole number for each sample"
        )
    if len(values) != samples:
        raise UsageError(f"{name} has {len(values)} entries and {beside} has {samples} samples; give as many of each")
    if values.min(initial=0) < 0:
        raise UsageError(f"{name} has {values.min()}; number the classes from 0 on")
    return values.astype(np.int64)

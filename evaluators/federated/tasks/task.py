"""What is trained, on which data, and with which usual values."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.federated.tasks.data import Data
from evaluators.federated.tasks.learner import Learner


@dataclass(frozen=True, eq=False)
class Task:
    """One training task.

    Attributes:
        name: by which it is asked for.
        data: samples.
        learner: model and loss.
        learning_rate, batch, local_steps: of plain SGD on devices; values that work without compression.
        target_accuracy: what uncompressed training reaches well before it stops to improve; None where nobody has tried.
    """

    name: str
    data: Data
    learner: Learner
    learning_rate: float
    batch: int
    local_steps: int
    target_accuracy: float | None

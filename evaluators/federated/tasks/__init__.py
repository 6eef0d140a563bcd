"""What is trained: built-in tasks, and tasks of a user's own data and models."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autotune.errors import UsageError
from evaluators.federated.tasks.data import Data
from evaluators.federated.tasks.digits import digits
from evaluators.federated.tasks.hugging_face import hugging_face
from evaluators.federated.tasks.learner import Evaluation, Learner, SequentialLearner, VectorisedLearner
from evaluators.federated.tasks.own import table
from evaluators.federated.tasks.task import Task
from evaluators.federated.tasks.text import text, text_files

__all__ = [
    "TASKS",
    "Data",
    "Evaluation",
    "Learner",
    "SequentialLearner",
    "Task",
    "TaskKind",
    "VectorisedLearner",
    "load",
]


@dataclass(frozen=True)
class TaskKind:
    """One kind of task.

    Attributes:
        summary: what it is, in a few words.
        make: makes it, given its options by keyword.
    """

    summary: str
    make: Callable[..., Task]

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Options by name."""
        return inspect.signature(self.make).parameters


TASKS: Mapping[str, TaskKind] = MappingProxyType({
    "digits": TaskKind("scikit-learn's handwritten digits, by fully connected layers", digits),
    "text": TaskKind("next bytes of Python's own source code, by a small transformer", text),
    "table": TaskKind("your features and labels in an .npz file, by fully connected layers", table),
    "text-files": TaskKind("next bytes of your text, by a small transformer", text_files),
    "hugging-face": TaskKind("next tokens of your text, by LoRA adapters of a local checkpoint", hugging_face),
})  # fmt: skip


def load(name: str, **options: Any) -> Task:
    """A task by name, with its options.

    Raises:
        UsageError: for a name or an option that is unknown, an option that is missing, and all that the task refuses.
    """
    kind = TASKS.get(name)
    if kind is None:
        raise UsageError(f"task {name!r} is unknown{_hint(name, TASKS)}; known are: {', '.join(TASKS)}")
    unknown = sorted(set(options) - set(kind.options))
    if unknown:
        raise UsageError(
            f"task {name}: option {unknown[0]!r} is unknown{_hint(unknown[0], kind.options)}; known are: "
            f"{', '.join(kind.options)}"
        )
    missing = [key for key, option in kind.options.items() if option.default is option.empty and key not in options]
    if missing:
        raise UsageError(f"task {name}: option {missing[0]!r} is missing; give it")
    return kind.make(**options)


def _hint(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

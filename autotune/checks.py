"""Arguments of the public API, checked where they enter: one sentence that names the argument, its value and the way out."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from autotune.errors import UsageError

T = TypeVar("T")


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """A whole number, also one of NumPy's; a boolean or a float is none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        range_ = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name} is {value!r}; give a whole number {range_}")
    return number


def positive(name: str, value: object) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UsageError(f"{name} is {value!r}; give a number above 0")
    return float(value)


def texts(name: str, value: object, also: type[T]) -> list[str | T]:
    """One text or object, or several of them."""
    items = [value] if isinstance(value, (str, also)) else list(value) if isinstance(value, Iterable) else [None]
    good = [item for item in items if isinstance(item, (str, also))]
    if len(good) != len(items):
        raise UsageError(f"{name} is {value!r}; give it as text, or a list of texts")
    return good


def is_name(value: object, most: int) -> bool:
    """Whether this can name something that is stored and shown: 1 to `most` printable characters, no space around."""
    return isinstance(value, str) and 0 < len(value) <= most and value.isprintable() and value == value.strip()


def stored_name(what: str, value: object, most: int) -> str:
    """A name by `is_name`, or the sentence that says what one is."""
    if not is_name(value, most):
        raise UsageError(f"{what} {value!r} cannot be used; give 1 to {most} printable characters without space around")
    return str(value)


def mapping(name: str, value: object) -> Mapping[Any, Any]:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} is {value!r}; give a mapping")
    return value


def instance(name: str, value: object, of: type[T], example: str) -> T:
    """An object of that class."""
    if not isinstance(value, of):
        raise UsageError(f"{name} is {value!r}; give {example}")
    return value

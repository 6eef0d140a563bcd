"""Options that are one value, or several by commas, which are then searched over."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.errors import UsageError
from autotune.space import Bool, Categorical, Ordinal

Knob = Bool | Categorical | Ordinal


def one_of(*known: Any) -> Callable[[str], Any]:
    """Reads one of these values from its text."""
    by_text = {str(value): value for value in known}

    def read(text: str) -> Any:
        if text not in by_text:
            raise ValueError(f"use {', '.join(by_text)}")
        return by_text[text]

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"use whole numbers from {least} to {most}")
        return int(text)

    return read


def real(least: float, most: float, *, above: bool = False, below: bool = False) -> Callable[[str], float]:
    """Reads a number from `least` to `most`.

    Args:
        above, below: whether it must lie strictly above the least, strictly below the most.
    """
    lower = f"above {least:g}" if above else f"of at least {least:g}"
    upper = f"below {most:g}" if below else f"at most {most:g}"
    told = f"use numbers {lower} and {upper}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(told) from None
        if (
            not math.isfinite(value)
            or not least <= value <= most
            or (above and value == least)
            or (below and value == most)
        ):
            raise ValueError(told)
        return value

    return read


def truth(text: str) -> bool:
    """Reads true or false."""
    return bool(one_of("true", "false", "True", "False")(text).lower() == "true")


@dataclass(frozen=True)
class Choice:
    """One setting.

    Attributes:
        name: of the option, and of the knob where there are several values.
        read: a value from its text; raises `ValueError` that says what to use.
        told: what it is, for people.
        usual: values unless the user says otherwise, as text; empty where they depend on something else.
        when: condition over earlier knobs under which it means anything.
    """

    name: str
    read: Callable[[str], Any]
    told: str
    usual: str
    when: str | None = None

    def values(self, text: str) -> tuple[Any, ...]:
        """All values of an option's text, in its order.

        Raises:
            UsageError: for a value that it does not have, or one twice.
        """
        found = []
        for part in (piece.strip() for piece in text.split(",")):
            try:
                found.append(self.read(part))
            except ValueError as error:
                raise UsageError(f"{self.name} {part!r} is unknown; {error}") from None
        if len(set(found)) < len(found):
            raise UsageError(f"{self.name} {text!r} names a value twice; name each once")
        return tuple(found)


def knob(choice: Choice, values: tuple[Any, ...], when: str | None) -> Knob:
    """The parameter of a setting with several values; the first is its default."""
    if isinstance(values[0], bool):
        return Bool(choice.name, default=values[0], when=when)
    if isinstance(values[0], str):
        return Categorical(choice.name, list(values), when=when, default=values[0])
    return Ordinal(choice.name, sorted(values), when=when, default=values[0])


def as_text(value: object) -> object:
    """Numbers, truth values and lists of values, as Python callers may give them, as the command line has them."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(as_text(part)) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


def read_settings(choices: Mapping[str, Choice], texts: Mapping[str, str]) -> dict[str, tuple[Any, ...]]:
    """The values of every setting, as many as its text names.

    Raises:
        UsageError: for an unknown value.
    """
    return {name: choice.values(texts[name]) for name, choice in choices.items()}

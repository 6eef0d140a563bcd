"""Argument templates: ``--tile={tile}``, ``{budgets[3]}``, ``{unroll?--unroll}``, with ``{{`` and ``}}`` for braces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.errors import UsageError

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_PLACEHOLDER = re.compile(r"([A-Za-z_]\w*)(?:\[(\d+)\])?(?:\?(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Placeholder:
    """``{name}``, ``{name[index]}`` or ``{name?then}``, which stands for `then` where the value is true."""

    name: str
    index: int | None = None
    then: str | None = None


@dataclass(frozen=True)
class Template:
    """One argument, as literal text and placeholders in order."""

    source: str
    parts: tuple[str | Placeholder, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template.

        Raises:
            UsageError: for a lone brace or a placeholder of another form.
        """
        parts: list[str | Placeholder] = []
        end = 0
        for piece in _PIECE.finditer(text):
            parts.append(text[end : piece.start()])
            end = piece.end()
            if piece[0] in ("{{", "}}"):
                parts.append(piece[0][0])
                continue
            inner = _PLACEHOLDER.fullmatch(piece[1]) if piece[1] is not None else None
            if inner is None:
                raise UsageError(
                    f"template {text!r}: {piece[0]!r} is no placeholder; write {{name}}, {{name[0]}} or {{name?text}}, and "
                    "{{ or }} for a brace"
                )
            parts.append(Placeholder(inner[1], None if inner[2] is None else int(inner[2]), inner[3]))
        parts.append(text[end:])
        return cls(text, tuple(part for part in parts if part != ""))

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        return tuple(part for part in self.parts if isinstance(part, Placeholder))

    def render(self, values: Mapping[str, Any]) -> str | None:
        """The argument for these values, or None where it is dropped.

        It is dropped when a placeholder's parameter is absent (inactive) or null, or its ``?`` value is false.
        """
        rendered = []
        for part in self.parts:
            if isinstance(part, str):
                rendered.append(part)
                continue
            value = values.get(part.name)
            if value is None or (part.then is not None and not value):
                return None
            if part.then is not None:
                rendered.append(part.then)
            else:
                rendered.append(format_value(value if part.index is None else value[part.index]))
        return "".join(rendered)


def format_value(value: Any) -> str:
    """A value as an argument: ``true`` or ``false``, numbers so that they read back exactly, vectors with commas."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(format_value(element) for element in value)
    return str(value)

"""One text per configuration, whatever number types it came with, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from autotune.errors import UsageError
from autotune.space.parameters import Config, Float, Int, Parameter

# json.dumps builds an encoder per call when it is given options; one kept encoder halves the time.
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Canonical:
    """Writes configurations of one space as canonical JSON: sorted keys, no spaces, one form per number."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = {p.name: p for p in parameters}
        # The type that a value has when nothing needs doing.
        self._plain = {p.name: int if isinstance(p, Int) else None for p in parameters if p.size is None}
        self._float = {p.name for p in parameters if isinstance(p, Float) and p.size is None}

    def json(self, config: Config) -> str:
        """Canonical JSON of a configuration, feasible or not.

        Raises:
            UsageError: for an unknown parameter or an inadmissible value.
        """
        plain: dict[str, Any] = {}
        for name, value in config.items():
            kind = type(value)
            if kind is int and self._plain.get(name) is int:
                plain[name] = value
            elif kind is float and name in self._float:
                plain[name] = value + 0.0  # -0.0 becomes 0.0
            else:
                plain[name] = self._checked(name, value)
        try:
            return _ENCODE(plain)
        except ValueError:
            raise UsageError(f"configuration {config!r} holds a number that is not finite") from None

    def _checked(self, name: str, value: Any) -> Any:
        parameter = self._parameters.get(name)
        if parameter is None:
            raise UsageError(f"parameter {name!r} is not in the space; known are: {', '.join(self._parameters)}")
        try:
            return parameter.check_all(value)
        except ValueError as error:
            raise UsageError(f"parameter {name!r} = {value!r} {error}") from None

    def hash(self, config: Config) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.json(config).encode()).hexdigest()

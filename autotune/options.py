"""Options that a user gives by name, of a domain or of a strategy, validated by a pydantic model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autotune.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)


def parse_options(model: type[Model], given: Mapping[str, Any], of: str = "") -> Model:
    """Validate options. Texts become what the model's types say, so that the command line can pass what was typed.

    Args:
        of: whose they are, such as ``strategy 'bo'``; the sentences of errors begin with it.

    Raises:
        UsageError: one sentence for the first thing wrong, naming the option, its value and what is possible.
    """
    unknown = sorted(str(name) for name in given if name not in model.model_fields)
    if unknown and of and not model.model_fields:
        raise UsageError(f"{of} has no options; leave out {unknown[0]!r}")
    told = f"{of}: " if of else ""
    if unknown:
        close = difflib.get_close_matches(unknown[0], model.model_fields, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(f"{told}option {unknown[0]!r} is unknown{hint}; known are: {', '.join(model.model_fields)}")
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        message = str(first["ctx"]["error"]) if "error" in first.get("ctx", {}) else first["msg"]
        raise UsageError(f"{told}option {name} = {first['input']!r}: {message[0].lower() + message[1:]}") from None

"""Local Hugging Face config.json files, with errors that name the file and the field."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from autotune.errors import UsageError


class ConfigFile:
    """The fields of one config.json.

    Attributes:
        path: of the file.
        values: all of it.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of these fields that is there, as a whole number; families call the same thing differently."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if type(value) is not int or value < 0:
                raise UsageError(f"{self.path}: field {name} is {value!r}; it must be a whole number of at least 0")
            return value
        if default is not None:
            return default
        raise UsageError(f"{self.path}: field {' or '.join(names)} is missing; give the model's complete config.json")

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise UsageError(f"{self.path}: field {name} is {value!r}; it must be true or false")
        return value

    @property
    def family(self) -> str:
        """Field ``model_type``."""
        return str(self.values["model_type"])

    @property
    def name(self) -> str:
        """Of the model: where it was loaded from, or its folder."""
        return Path(str(self.values.get("_name_or_path") or self.path.resolve().parent.name)).name


def read_config(path: str | Path, families: Collection[str]) -> ConfigFile:
    """A config.json, or that of the folder that holds one.

    Args:
        families: values of ``model_type`` that can be used.

    Raises:
        UsageError: when the file cannot be read, or is of another family.
    """
    given = Path(path)
    file = given / "config.json" if given.is_dir() else given
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"model config {file} cannot be read ({error.strerror}); give a local config.json") from None
    except ValueError as error:
        raise UsageError(f"model config {file} is not JSON ({error}); give the model's config.json") from None
    family = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(family, str) or family not in families:
        raise UsageError(f"model config {file} has model_type {family!r}; known families: {', '.join(families)}")
    return ConfigFile(file, values)

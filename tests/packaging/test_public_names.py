"""`import autotune`: every public name is there, and nothing heavy is loaded before one is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autotune


@pytest.mark.parametrize("name", autotune.__all__)
def test_every_public_name_is_what_type_checkers_are_told(name: str) -> None:
    source = ast.parse(Path(autotune.__file__).read_text())
    told = next(node for node in source.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in told.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(homes) == set(autotune.__all__)
    found = getattr(autotune, name)
    assert getattr(sys.modules[str(homes[name])], name) is found
    assert name in dir(autotune)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'autotune' has no attribute 'serach'"):
        autotune.serach  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, autotune; print(*{'sqlalchemy', 'numpy', 'optuna', 'torch', 'pydantic'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []

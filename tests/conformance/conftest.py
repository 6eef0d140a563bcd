"""The stores that every suite here runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autotune.store import Store

# The Gaussian process works on matrices of a few rows, where further threads only wait for each other.
torch.set_num_threads(1)

BACKENDS = ("sqlite", "postgresql", "mysql")
NO_MYSQL = "no MySQL server is part of the test setup; its URLs are accepted but not covered"


def url_of(backend: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """A fresh database of that kind."""
    if backend == "mysql":
        pytest.skip(NO_MYSQL)
    if backend == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return "sqlite://" if backend == "memory" else f"sqlite:///{folder / 'runs.db'}"


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database that several processes can open."""
    return url_of(request.param, request, tmp_path)


@pytest.fixture(params=("memory", *BACKENDS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An open store on a fresh database."""
    opened = Store(url_of(request.param, request, tmp_path))
    yield opened
    opened.close()

"""What tests of several parts share: a real PostgreSQL, the shared data, and hypothesis without deadlines."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from tests.postgres import PostgresMissingError, server

# As many workers as cores run tests side by side, and torch's threads of one would spin for cores that the others have.
# Libraries read this when they are first imported, and processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long one example takes says more about the machine than about the code.
settings.register_profile("autotune", deadline=None)
settings.load_profile("autotune")

# A shell that runs tests in the background lets them, and all that they start, ignore Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what a fixture of their module makes run in one process, else every process would make it."""
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
        shared = any(found.scope == "module" for several in fixtures.values() for found in several)
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of the database ``postgres`` of a server that lives as long as the test session."""
    try:
        with server() as url:
            yield url
    except PostgresMissingError as missing:
        pytest.fail(str(missing))


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield postgres_server.removesuffix("postgres") + name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of data by others: $AUTOTUNE_DATA, or ``shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AUTOTUNE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data by others at {folder}; set AUTOTUNE_DATA to the folder that holds it")
    return folder

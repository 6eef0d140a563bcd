"""One open database: its transactions, and what their failures are to callers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from autotune.errors import StoreError
from autotune.store.engine import DATABASE_ERRORS, StorageMissingError, first_line, open_engine, shown_url


class Database:
    """Transactions to read or to write in. Safe to share between threads; each process opens its own."""

    def __init__(self, url: str = "sqlite://", *, read_only: bool = False, create: bool = True) -> None:
        """Open `url` (``sqlite:///runs.db``, ``postgresql://…``; ``sqlite://`` is in memory), schema brought up to date.

        Args:
            create: whether to make the database where it is not there yet.

        Raises:
            StorageMissingError: when it is not there, and not to be made.
            StorageUnavailableError: when it cannot be opened; the message names the way out.
        """
        self.url = shown_url(url)
        self.read_only = read_only
        self._engine = open_engine(url, read_only=read_only, create=create)
        self._writer = self._engine.execution_options(writes=True)
        # A database in memory is one connection, which carries one transaction at a time.
        self._turn: AbstractContextManager[Any] = (
            threading.Lock() if isinstance(self._engine.pool, StaticPool) else nullcontext()
        )

    @classmethod
    def if_there(cls, url: str) -> Self | None:
        """The store at `url`; None where there is no such database yet, or it holds nothing.

        Raises:
            StorageUnavailableError: when it cannot be opened; the message names the way out.
        """
        try:
            return cls(url, create=False)
        except StorageMissingError:
            return None

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        if self.read_only:
            raise StoreError(f"storage {self.url!r} was opened for reading only")
        try:
            with self._turn, self._writer.begin() as connection:
                yield connection
        except DATABASE_ERRORS as error:
            raise StoreError(
                f"storage {self.url!r} could not be written: {first_line(error)}; what was told before is kept, so make it "
                "writable (space, permissions, a running server) and go on with the same command"
            ) from error

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        try:
            with self._turn, self._engine.connect() as connection:
                yield connection
        except DATABASE_ERRORS as error:
            raise StoreError(f"storage {self.url!r} could not be read: {first_line(error)}") from error

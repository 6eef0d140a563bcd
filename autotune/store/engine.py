"""Opening a database: URLs, SQLite's settings, and the migrations."""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool, StaticPool

from autotune.errors import StoreError, UsageError
from autotune.store.models import HEAD_REVISION

# Drivers that the project's extras install; a bare "postgresql://" would pick one that is usually absent.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_BUSY_TIMEOUT_MS = 30_000
_WAL_S = 15.0  # for which WAL mode is tried again while others turn it on too
_PAUSE_S = 0.05
_HIDDEN = "***"  # what SQLAlchemy shows in place of a password
_MIGRATION_LOCK = 0x61757475  # PostgreSQL advisory lock, so that two workers never migrate at once
_OUR_REVISION = re.compile(r"\d{4}")  # other programs that use alembic (Optuna is one) name theirs otherwise


class StorageUnavailableError(StoreError, UsageError):
    """The database cannot be opened as asked."""


class StorageMissingError(StorageUnavailableError):
    """There is no such database, or it holds no studies yet, and it was not to be made."""


def open_engine(url: str, *, read_only: bool = False, create: bool = True) -> sa.Engine:
    """An engine on `url` whose schema is current.

    SQLite runs in WAL mode with `synchronous=FULL`, so a transaction is on disk when it returns and readers never
    block the writer. Transactions that will write say so with the execution option ``writes=True`` and take the lock
    up front, since a deferred one can fail half-way.

    Raises:
        StorageMissingError: when it is not there, and opened for reading or not to be made.
        StorageUnavailableError: naming the URL and the way out.
    """
    parsed = _parse(url)
    shown = shown_url(url)
    create = create and not read_only
    try:
        engine = (
            _sqlite(parsed, read_only=read_only, create=create)
            if parsed.get_backend_name() == "sqlite"
            else _server(parsed, read_only=read_only)
        )
    except ImportError as error:
        raise StorageUnavailableError(
            f"storage {shown!r} needs the driver {error.name!r}; install it, for PostgreSQL with: "
            "pip install 'autotune[postgres]'"
        ) from None
    try:
        _bring_up_to_date(engine, shown, read_only=read_only, create=create)
    except DATABASE_ERRORS as error:
        engine.dispose()
        raise StorageUnavailableError(f"storage {shown!r} cannot be opened: {first_line(error)}") from None
    except BaseException:
        engine.dispose()
        raise
    return engine


def shown_url(url: str) -> str:
    """The URL as people may see it: without its password."""
    return _parse(url).render_as_string(hide_password=True)


def absolute_url(url: str) -> str:
    """As `shown_url`, with a SQLite file's whole path, so that it is found from every folder."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite" and not _in_memory(parsed):
        parsed = parsed.set(database=str(Path(str(parsed.database)).absolute()))
    return parsed.render_as_string(hide_password=True)


def same_database(one: str, other: str) -> bool:
    """Whether two URLs lead to one database; two in memory are never the same."""
    return not in_memory(one) and absolute_url(one) == absolute_url(other)


def in_memory(url: str) -> bool:
    """Whether a database is gone with the object that opened it."""
    return _in_memory(_parse(url))


def hides_password(url: str) -> bool:
    """Whether a URL is one to look at, from `shown_url`, whose password was left out."""
    return _parse(url).password == _HIDDEN


def sqlite_file(url: str) -> Path | None:
    """The file behind a SQLite URL; None for databases in memory and on servers."""
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite" or _in_memory(parsed):
        return None
    return Path(str(parsed.database))


def _in_memory(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def _parse(url: str) -> sa.URL:
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StorageUnavailableError(
            f"storage {url!r} is not a database URL; use one such as sqlite:///runs.db or postgresql://user@host/name"
        ) from None
    if parsed.drivername in _DRIVERS:
        parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
    if parsed.get_backend_name() not in ("sqlite", "postgresql", "mysql"):
        raise StorageUnavailableError(
            f"storage {url!r} names the database {parsed.get_backend_name()!r}; use sqlite, postgresql or mysql"
        )
    return parsed


def _server(url: sa.URL, *, read_only: bool) -> sa.Engine:
    # The server itself then refuses to write; MySQL's dialect has no such setting.
    reads = read_only and url.get_backend_name() == "postgresql"
    return sa.create_engine(url, pool_pre_ping=True, execution_options={"postgresql_readonly": True} if reads else {})


def _sqlite(url: sa.URL, *, read_only: bool, create: bool) -> sa.Engine:
    path = url.database
    in_memory = _in_memory(url)
    if url.query:
        raise StorageUnavailableError(
            f"storage {str(url)!r} has the options {', '.join(url.query)}, which are not understood; leave out what "
            "follows the question mark"
        )
    if not in_memory:
        file = Path(str(path))
        if not create and not file.exists():
            raise StorageMissingError(f"storage {str(url)!r} does not exist; check the path, or run a search first")
        if not file.parent.is_dir():
            raise StorageUnavailableError(
                f"storage {str(url)!r}: the folder {str(file.parent)!r} does not exist; create it first"
            )
        if file.is_dir():
            raise StorageUnavailableError(f"storage {str(url)!r} is a folder; name a file inside it")

    def connect() -> sqlite3.Connection:
        if in_memory:
            return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        access = _access(Path(str(path))) if read_only else "mode=rwc" if create else "mode=rw"
        uri = f"{Path(str(path)).absolute().as_uri()}?{access}"
        # isolation_level None hands transactions to us; Python's own would begin them too late.
        return sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_MS / 1000
        )

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=StaticPool if in_memory else QueuePool)

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")
        if not (in_memory or read_only):
            connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        # On the driver's own connection: by way of SQLAlchemy this takes as long as an insert.
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _access(file: Path) -> str:
    """How to open a file for reading.

    Readers of a WAL database write a lock file beside it. Where the folder cannot be written (a published store, say),
    SQLite has to be told that nothing changes, and would then overlook a log that is left beside the file.
    """
    beside = os.access(file.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    return "mode=ro" if beside or file.with_name(f"{file.name}-wal").exists() else "mode=ro&immutable=1"


def _bring_up_to_date(engine: sa.Engine, shown: str, *, read_only: bool, create: bool) -> None:
    with engine.connect() as connection:
        revision = _revision(connection, shown)
    if revision is not None and revision > HEAD_REVISION:  # revisions are zero-padded numbers
        raise StorageUnavailableError(
            f"storage {shown!r} was written by a newer version of autotune (schema {revision}, this one knows "
            f"{HEAD_REVISION}); upgrade autotune to use it"
        )
    if revision is None and not create:
        raise StorageMissingError(f"storage {shown!r} holds no autotune studies; run a search with it first")
    if read_only:
        if revision == HEAD_REVISION:
            return
        raise StorageUnavailableError(
            f"storage {shown!r} has the older schema {revision}; bring it up to date with 'autotune upgrade --storage URL', "
            "or run a search with it first"
        )
    if engine.dialect.name == "sqlite":
        _use_wal(engine)
    if revision == HEAD_REVISION:
        return
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        _lock(connection)
        if _revision(connection, shown) != HEAD_REVISION:  # another worker may have been quicker
            _migrate(connection)


def _revision(connection: sa.Connection, shown: str) -> str | None:
    """The schema's revision; None for an empty database. Refuses the databases of other programs."""
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return None
    if "alembic_version" not in tables:
        _refuse_foreign(shown)
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision is None or not _OUR_REVISION.fullmatch(revision):
        _refuse_foreign(shown)
    return str(revision)


def _refuse_foreign(shown: str) -> NoReturn:
    raise StorageUnavailableError(
        f"storage {shown!r} already holds the tables of another program; name another file or database"
    )


def _use_wal(engine: sa.Engine) -> None:
    """WAL is a property of the file, so it is set once, after the file is known to be ours; a memory has none.

    Of several that set it at once all but one are told that the file is locked, at once, whatever the busy timeout.
    """
    raw = engine.raw_connection()
    given_up = time.monotonic() + _WAL_S
    try:
        cursor = raw.cursor()
        while cursor.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= given_up:
                    raise
                time.sleep(_PAUSE_S)
        cursor.close()
    finally:
        raw.close()


def _lock(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def _migrate(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite" and not sa.inspect(connection).get_table_names():
        for statement in _sqlite_schema():
            connection.exec_driver_sql(statement)
    else:
        _run_migrations(connection)


@functools.cache
def _sqlite_schema() -> tuple[str, ...]:
    """What makes an empty SQLite database current: the migrations, run once in a process, as SQLite sums them up.

    A program that makes many studies, each in a memory of its own, would spend more time on migrations than on searching.
    """
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        _run_migrations(connection)
        asked = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        made = connection.exec_driver_sql(asked).scalars()
        statements = (*made, f"INSERT INTO alembic_version VALUES ('{HEAD_REVISION}')")
    engine.dispose()
    return statements


def _run_migrations(connection: sa.Connection) -> None:
    from alembic import command  # noqa: PLC0415 - an up-to-date store should not pay for this import
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


DATABASE_ERRORS = (sa.exc.DBAPIError, sqlite3.Error)


def first_line(error: BaseException) -> str:
    """What the database said, in one line."""
    said = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return str(said).strip().splitlines()[0] if str(said).strip() else type(said).__name__

"""Opening databases: ours, older and newer ones, those of other programs, damaged files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from autotune.errors import StoreError, UsageError
from autotune.store import Store
from autotune.store.models import metadata
from tests.conformance.store_helpers import WORKER, begin, measured, new_study, proposal


def test_the_migrations_make_exactly_the_tables_of_the_models(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_store_is_opened_again_without_losing_anything(url: str) -> None:
    first = Store(url)
    study = new_study(first)
    done = first.finish(study.id, begin(first, study, {"x": 1}), measured(1.0))
    first.close()
    second = Store(url)
    assert second.trials(second.load_study("study").id) == [done]
    second.close()


def _execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_newer_schema_is_refused(url: str) -> None:
    Store(url).close()
    _execute(url, "UPDATE alembic_version SET version_num = '9999'")
    for read_only in (False, True):
        with pytest.raises(UsageError, match=r"newer version of autotune .* upgrade"):
            Store(url, read_only=read_only)


@pytest.mark.parametrize("alembic", [False, True])
def test_the_database_of_another_program_is_refused_and_left_alone(url: str, alembic: bool) -> None:
    extra = [
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
        "INSERT INTO alembic_version VALUES ('v3.2.0.a')",
    ]
    _execute(url, "CREATE TABLE guests (name VARCHAR(10))", *(extra if alembic else []))
    file = Path(url.removeprefix("sqlite:///"))
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(UsageError, match="tables of another program; name another file or database"):
        Store(url)
    if before is not None:
        assert file.read_bytes() == before
        assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_store_without_studies_cannot_be_opened_for_reading(url: str) -> None:
    with pytest.raises(UsageError, match=r"does not exist; check the path|holds no autotune studies"):
        Store(url, read_only=True)


def test_reading_writes_nothing_and_does_not_block_a_writer(url: str) -> None:
    writer = Store(url)
    study = new_study(writer)
    trial = begin(writer, study, {"x": 1})
    reader = Store(url, read_only=True)
    with reader._read() as connection:
        connection.execute(sa.select(sa.func.count()).select_from(metadata.tables["trials"])).scalar()
        done = writer.finish(study.id, trial, measured(1.0))  # while the reader's transaction is open
    assert reader.trials(study.id) == [done]
    for act in (
        lambda: reader.set_study_state(study.id, "done"),
        lambda: new_study(reader, "b"),
        lambda: reader.begin_trials(study.id, [proposal({"x": 2})], worker_id=WORKER, lease_s=60),
    ):
        with pytest.raises(StoreError, match="opened for reading only"):
            act()
    assert [s.study.name for s in writer.studies()] == ["study"]
    reader.close()
    writer.close()


def test_messages_and_results_never_show_the_password(postgres_url: str) -> None:
    url = postgres_url.replace("autotune@", "autotune:hunter2@")
    store = Store(url)
    new_study(store)
    assert "hunter2" not in store.url and "***" in store.url
    with pytest.raises(UsageError) as told:
        new_study(store)
    store.close()
    assert "hunter2" not in str(told.value)
    with pytest.raises(UsageError) as told:
        Store(url.replace("/test_", "/absent_"))
    assert "hunter2" not in str(told.value) and "cannot be opened" in str(told.value)


# SQLite's files


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("dear diary\n" * 1000)
    for read_only in (False, True):
        with pytest.raises(UsageError, match=r"notes.txt' cannot be opened: file is not a database"):
            Store(f"sqlite:///{file}", read_only=read_only)
    assert file.read_text() == "dear diary\n" * 1000


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    store = Store(f"sqlite:///{file}")
    study = new_study(store)
    for i in range(50):
        begin(store, study, {"x": i, "text": "y" * 500})
    store.close()
    content = bytearray(file.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"malformed|not a database") as told:
        Store(f"sqlite:///{file}").studies()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("runs.db", "is not a database URL; use one such as sqlite:///runs.db"),
        ("oracle://a/b", "names the database 'oracle'; use sqlite, postgresql or mysql"),
        ("sqlite:////no/such/folder/a.db", "the folder '/no/such/folder' does not exist; create it first"),
        ("sqlite:////tmp", "is a folder; name a file inside it"),
        ("sqlite:///a.db?mode=ro", "has the options mode, which are not understood"),
        ("postgresql://nobody@127.0.0.1:1/x", "cannot be opened: "),
    ],
)
def test_urls_that_cannot_be_opened_say_what_to_do(url: str, says: str) -> None:
    with pytest.raises(UsageError) as told:
        Store(url)
    assert says in str(told.value) and "\n" not in str(told.value)


def test_sqlite_is_durable_and_in_wal_mode(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'runs.db'}")
    with store._read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    store.close()


def test_a_full_disk_is_a_store_error(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'runs.db'}")
    study = new_study(store)
    with store._read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 50")
    with pytest.raises(StoreError, match="could not be written: database or disk is full"):
        for i in range(100):
            begin(store, study, {"x": i, "text": "y" * 10_000})
    with store._read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    numbers = [t.number for t in store.trials(study.id)]
    assert numbers == list(range(len(numbers))) and begin(store, study, {"x": -1}).number == len(numbers)
    store.close()


def test_a_store_in_a_folder_that_cannot_be_written_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(f"sqlite:///{folder / 'runs.db'}")
        trial = begin(store, study := new_study(store), {"x": 1})
        store.close()
        (folder / "runs.db").chmod(0o444)
        folder.chmod(0o555)
        with _not_root():
            reader = Store(f"sqlite:///{folder / 'runs.db'}", read_only=True)
            assert reader.trials(study.id) == [trial]
            reader.close()
            with pytest.raises(UsageError, match=r"cannot be opened: (attempt to write a readonly|unable to open)"):
                Store(f"sqlite:///{folder / 'new.db'}")
        folder.chmod(0o755)


@contextmanager
def _not_root() -> Iterator[None]:
    """Permissions mean nothing to root, so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)

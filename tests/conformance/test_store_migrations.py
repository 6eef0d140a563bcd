"""Databases of earlier versions: brought up to date when they are opened for writing, and nothing in them is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import autotune
from autotune import Study, UsageError
from autotune.store import SourceRecord, Store, TrialState, engine
from autotune.store.models import HEAD_REVISION
from tests.conformance.store_helpers import begin, new_study

MIGRATIONS = Path(engine.__file__).parent / "migrations"


def on(connection: sa.Connection) -> Config:
    """What alembic is told, to run our migrations on a connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def made_by(revision: str, url: str) -> None:
    """A database as the version with that schema left it: one study whose only trial is done."""
    space = autotune.SearchSpace([autotune.Int("x", 0, 9)])
    made = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with made.begin() as connection:
        command.upgrade(on(connection), revision)
        study = {
            "name": "old", "space": json.dumps(space.to_dict()),
            "space_hash": space.definition_hash(), "objectives": '["minimize value"]', "constraints": "[]",
            "default_config": '{"x":4}', "strategy": "random", "seed": 3, "budget": "{}", "options": "{}",
            "state": "done", "next_number": 1, "revision": 2, "created_at": "2026-01-01 00:00:00",
            "updated_at": "2026-01-01 00:00:00",
        }  # fmt: skip
        trial = {
            "study_id": 1, "number": 0, "config": '{"x":4}', "config_hash": space.config_hash({"x": 4}),
            "label": "default", "state": "completed", "proposer": "default", "attempt": 1, "revision": 2, "suggest_s": 0.0,
            "created_at": "2026-01-01 00:00:00",
        }  # fmt: skip
        metric = {"trial_id": 1, "name": "value", "value": 2.5, "unit": ""}
        for table, row in (("studies", study), ("trials", trial), ("metrics", metric)):
            columns = ", ".join(row)
            places = ", ".join(f":{name}" for name in row)
            connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({places})"), row)
    made.dispose()


@pytest.mark.parametrize("place", ["", "/{folder}/new.db"])
def test_an_empty_sqlite_database_becomes_what_its_migrations_make(tmp_path: Path, place: str) -> None:
    migrated = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with migrated.begin() as connection:
        command.upgrade(on(connection), "head")
    new = Store(f"sqlite://{place.format(folder=tmp_path)}")
    asked = ("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name", "SELECT * FROM alembic_version")
    for question in asked:
        with migrated.connect() as one, new._engine.connect() as other:
            assert one.exec_driver_sql(question).all() == other.exec_driver_sql(question).all()
    new.close()
    migrated.dispose()


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_every_earlier_schema_leads_to_the_newest(url: str, revision: str) -> None:
    made_by(revision, url)
    store = Store(url)
    (trial,) = store.trials(store.load_study("old").id)
    assert trial.values == {"value": 2.5}
    store.archive(1)
    store.close()
    reader = Store(url, read_only=True)
    assert reader.load_study("old").archived_at is not None
    reader.close()


@pytest.fixture
def first(url: str) -> str:
    """A database of the first version."""
    made_by("0001", url)
    return url


def test_an_old_database_is_brought_up_to_date_with_all_that_it_holds(first: str) -> None:
    store = Store(first)
    record = store.load_study("old")
    assert (record.strategy, record.strategy_options, record.sources) == ("random", {}, ())
    assert (record.owner, record.archived_at, record.stop_requested, record.store_s) == (None, None, False, 0.0)
    (trial,) = store.trials(record.id)
    assert store.log(trial.id) is None and trial.environment_id is None
    assert store.studies()[0].trials == {TrialState.COMPLETED: 1}
    assert trial.state is TrialState.COMPLETED and trial.values == {"value": 2.5}
    source = SourceRecord(None, "old", 1, 2)
    new = new_study(store, strategy_options={"a": [1]}, sources=[source])
    assert (new.strategy_options, new.sources) == ({"a": [1]}, (source,))
    assert begin(store, new, {"x": 1}).number == 0
    store.close()
    Store(first, read_only=True).close()


def test_a_study_of_an_old_database_is_gone_on_with(first: str) -> None:
    study = Study.load("old", first)
    assert study.ask().number == 1
    study.store.close()


def test_an_old_database_is_left_alone_by_who_only_reads(first: str) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match="has the older schema 0001; bring it up to date with"):
            Store(first, read_only=True)


def test_the_migrations_lead_down_again(first: str) -> None:
    Store(first).close()
    made = sa.create_engine(first.replace("postgresql:", "postgresql+psycopg:"))
    with made.begin() as connection:
        command.downgrade(on(connection), "0001")
        columns = {column["name"] for column in sa.inspect(connection).get_columns("studies")}
        tables = set(sa.inspect(connection).get_table_names())
    assert not columns & {"strategy_options", "sources", "owner", "archived_at", "stop_requested_at", "store_s"}
    assert "logs" not in tables
    made.dispose()
    assert Store(first).load_study("old").seed == 3


def test_the_newest_migration_is_the_one_that_the_tables_stand_for() -> None:
    newest = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert newest == HEAD_REVISION


def test_a_database_that_is_not_there_is_not_made_for_who_wants_what_is_in_it(url: str) -> None:
    with pytest.raises(engine.StorageMissingError, match=r"does not exist; check the path|holds no autotune studies"):
        Store(url, create=False)
    assert Store.if_there(url) is None
    file = engine.sqlite_file(url)
    assert file is None or not file.exists()
    Store(url).close()
    found = Store.if_there(url)
    assert found is not None and not found.read_only
    found.close()


def test_urls_that_lead_to_the_same_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert engine.same_database("sqlite:///a.db", f"sqlite:///{tmp_path}/a.db")
    assert not engine.same_database("sqlite:///a.db", "sqlite:///b.db")
    assert not engine.same_database("sqlite://", "sqlite://")
    assert engine.same_database("postgresql://u:secret@h/d", "postgresql+psycopg://u:***@h/d")
    assert engine.hides_password(engine.shown_url("postgresql://u:secret@h/d"))
    assert not engine.hides_password("postgresql://u@h/d")

"""The tables. Every change here needs a migration under `migrations/versions`; a test compares the two."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.types import TypeDecorator

HEAD_REVISION = "0003"  # the newest migration; kept here so that opening an up-to-date store never imports alembic


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A timestamp that is UTC on every database, also on those that forget time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


# Names are bounded so that MySQL can index them.
NAME_LENGTH = 255
NAME = sa.String(NAME_LENGTH)
LONG_TEXT = sa.Text().with_variant(MEDIUMTEXT(), "mysql")  # whose TEXT ends one byte below 64 KiB

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

environments = sa.Table(
    "environments",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", NAME, nullable=False),
    sa.Column("details_hash", sa.String(64), nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.UniqueConstraint("fingerprint", "details_hash"),
)

profiles = sa.Table(
    "profiles",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("environment_id", sa.ForeignKey("environments.id"), nullable=False),
    sa.Column("kind", NAME, nullable=False),
    sa.Column("payload_hash", sa.String(64), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("environment_id", "kind", "payload_hash"),
)

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", NAME, nullable=False, unique=True),
    sa.Column("domain", NAME),
    sa.Column("space", sa.Text, nullable=False),
    sa.Column("space_hash", sa.String(64), nullable=False),
    sa.Column("objectives", sa.Text, nullable=False),
    sa.Column("constraints", sa.Text, nullable=False),
    sa.Column("default_config", sa.Text, nullable=False),
    sa.Column("strategy", NAME, nullable=False),
    sa.Column("strategy_options", sa.Text),  # those that were set; NULL is none
    sa.Column("sources", sa.Text),  # earlier studies that it learns from; NULL is none
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("budget", sa.Text, nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stop_reason", sa.Text),
    sa.Column("profile_id", sa.ForeignKey("profiles.id")),
    # Both counters move only inside a transaction that holds this row, which is what orders concurrent workers.
    sa.Column("next_number", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("owner", NAME),  # the user who made it, where that is known
    sa.Column("archived_at", UtcDateTime),
    sa.Column("stop_requested_at", UtcDateTime),  # until the next search begins
    sa.Column("stop_requested_by", NAME),
    sa.Column("store_s", sa.Double),  # what ended searches spent on their store; NULL is none
)

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("config_hash", sa.String(64), nullable=False),
    sa.Column("label", NAME),  # "default" or the name of a baseline
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("proposer", NAME, nullable=False),
    sa.Column("fidelity", NAME),
    sa.Column("failure_kind", sa.String(16)),
    sa.Column("failure_message", sa.Text),
    sa.Column("worker_id", NAME),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("environment_id", sa.ForeignKey("environments.id")),
    sa.Column("suggest_s", sa.Double, nullable=False),
    sa.Column("evaluate_s", sa.Double),
    sa.Column("notes", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.UniqueConstraint("study_id", "number"),
    sa.Index(None, "study_id", "config_hash"),
    sa.Index(None, "study_id", "revision"),
    # Covers the counts of a list of studies, and finds the open trials of one.
    sa.Index(None, "study_id", "state", "failure_kind", "fidelity"),
)

metrics = sa.Table(
    "metrics",
    metadata,
    sa.Column("trial_id", sa.ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", NAME, primary_key=True),
    sa.Column("value", sa.Double),  # NULL is NaN, which not every database can hold
    sa.Column("half_width", sa.Double),
    sa.Column("unit", sa.String(32), nullable=False),
)

samples = sa.Table(
    "samples",
    metadata,
    sa.Column("trial_id", sa.ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("metric", NAME, primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("value", sa.Double),
)

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("trial_id", sa.ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("metric", NAME, primary_key=True),
    sa.Column("value", sa.Double),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("trial_id", sa.ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", NAME, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)

logs = sa.Table(
    "logs",
    metadata,
    sa.Column("trial_id", sa.ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("text", LONG_TEXT, nullable=False),
)

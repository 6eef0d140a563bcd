"""Rows that are written once and found again by what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from autotune.errors import StoreError
from autotune.store import models as m
from autotune.store.records import Profile
from autotune.store.rows import digest, dumps, utc_now


def save_environment(connection: sa.Connection, fingerprint: str, details: Mapping[str, Any]) -> int:
    """Key of that environment, written when it is new."""
    text = dumps(details)
    values = {"fingerprint": fingerprint, "details_hash": digest(text), "details": text}
    return _find_or_insert(connection, m.environments, values, ("fingerprint", "details_hash"))


def save_profile(connection: sa.Connection, profile: Profile) -> int:
    """Key of that hardware profile, written with its environment when it is new."""
    payload = dumps(profile.payload)
    values = {
        "environment_id": save_environment(connection, profile.fingerprint, profile.environment),
        "kind": profile.kind,
        "payload_hash": digest(payload),
        "payload": payload,
        "created_at": utc_now(),
    }
    return _find_or_insert(connection, m.profiles, values, ("environment_id", "kind", "payload_hash"))


def _find_or_insert(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any], key: Sequence[str]) -> int:
    query = sa.select(table.c.id).where(*(table.c[name] == values[name] for name in key))
    found = connection.execute(query).scalar()
    if found is not None:
        return int(found)
    try:
        with connection.begin_nested():
            return inserted_key(connection.execute(table.insert().values(**values)))
    except sa.exc.IntegrityError:  # another worker wrote the same row in between
        return int(connection.execute(query).scalar_one())


def inserted_key(result: sa.CursorResult[Any]) -> int:
    """Key of the one row that was just written."""
    key = result.inserted_primary_key
    if key is None:  # only for statements that insert nothing or many rows
        raise StoreError("the database returned no key for a row that was just written")
    return int(key[0])

"""Numbered SQL files, each applied once, in one transaction, and recorded with its hash.

Safe when two processes start at once (advisory lock). Not here: the SQL itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg

from core.errors import StoreError

ADVISORY_LOCK = 0x70756C7365
_TABLE = """
CREATE SCHEMA IF NOT EXISTS optimizer;
CREATE TABLE IF NOT EXISTS optimizer.schema_migrations (
    name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Hash of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The files of this version, in order."""
    found = [entry for entry in files(__package__).iterdir() if entry.name.endswith(".sql")]
    return [Migration(entry.name, entry.read_text()) for entry in sorted(found, key=lambda entry: entry.name)]


def pending(conn: psycopg.Connection[Any]) -> list[str]:
    """Names of the shipped files that this database has not had yet; changes nothing."""
    row = conn.execute("SELECT to_regclass('optimizer.schema_migrations') IS NOT NULL").fetchone()
    known = {name for (name,) in conn.execute("SELECT name FROM optimizer.schema_migrations")} if row and row[0] else set()
    return [migration.name for migration in shipped() if migration.name not in known]


def migrate(conn: psycopg.Connection[Any], migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing; returns the names applied. Also makes sure of this and the coming months' partitions.

    Raises StoreError when a file that was applied has changed since, when one fails (nothing of it stays), or when the
    connection is not in autocommit mode (the lock would be let go before the caller's commit).
    """
    if not conn.autocommit:
        raise StoreError("migrations need a connection in autocommit mode")
    todo = shipped() if migrations is None else list(migrations)
    applied: list[str] = []
    conn.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
    try:
        conn.execute(_TABLE)
        known = dict(conn.execute("SELECT name, sha256 FROM optimizer.schema_migrations").fetchall())
        for migration in todo:
            if migration.name in known:
                if known[migration.name] != migration.sha256:
                    raise StoreError(f"migration {migration.name} was applied in another version; files are never edited")
                continue
            try:
                with conn.transaction():
                    conn.execute(migration.sql.encode())
                    conn.execute(
                        "INSERT INTO optimizer.schema_migrations (name, sha256) VALUES (%s, %s)",
                        (migration.name, migration.sha256),
                    )
            except psycopg.Error as error:
                raise StoreError(f"migration {migration.name} failed and was undone: {error}") from error
            applied.append(migration.name)
        if migrations is None:
            conn.execute("SELECT create_monthly_partition()")
    finally:
        conn.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK,))
    return applied

"""The device's journal: what it began, what it did, what it must not forget over a crash.

SQLite, synchronous=FULL: "begun" is on disk before anything is done. Not here: what is refused (core.device_protocol), the
order of things (serving.device_client.client).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import StoreError

KEEP_S = 7 * 86_400.0
LOCK_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that was begun; `response` is None when it was never finished."""

    command_id: str
    response: str | None


class Journal:
    """One file a device, held by one process: StoreError when another agent of the same device is running."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_WAIT_S)
        try:
            self._open()
        except sqlite3.OperationalError as error:
            self._db.close()
            raise StoreError(f"journal {path.name} cannot be used ({error}): is the device already running?") from None

    def _open(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS commands (command_id TEXT PRIMARY KEY, begun_at REAL NOT NULL, response TEXT)"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS memory (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._db.execute("DELETE FROM commands WHERE begun_at < ?", (time.time() - KEEP_S,))

    def seen(self, command_id: str) -> Entry | None:
        """The entry of a command that was begun before, or None."""
        row = self._db.execute("SELECT command_id, response FROM commands WHERE command_id = ?", (command_id,)).fetchone()
        return None if row is None else Entry(row[0], row[1])

    def begin(self, command_id: str, memory: Mapping[str, Any]) -> None:
        """On disk before the command takes effect, with the highest sequence and epoch seen. StoreError: do not act."""
        with self._written():
            self._db.execute("INSERT INTO commands (command_id, begun_at) VALUES (?, ?)", (command_id, time.time()))
            self._remember(memory)

    def done(self, command_id: str, response: str, memory: Mapping[str, Any]) -> None:
        """The command took effect, with this answer. StoreError: it stays begun, and so indeterminate."""
        with self._written():
            self._db.execute("UPDATE commands SET response = ? WHERE command_id = ?", (response, command_id))
            self._remember(memory)

    def remember(self, memory: Mapping[str, Any]) -> None:
        """What changed without a command. StoreError: it is not on disk."""
        with self._written():
            self._remember(memory)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """One transaction, on disk at its end; a full disk is a StoreError, and nothing is half-written."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise StoreError(f"journal cannot be written: {error}") from None

    def _remember(self, memory: Mapping[str, Any]) -> None:
        for name, value in memory.items():
            self._db.execute(
                "INSERT INTO memory (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, json.dumps(value)),
            )

    def memory(self) -> dict[str, Any]:
        """Latch, highest sequence and epoch, own limits."""
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM memory")}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

"""The device's journal: what it began, what it did, what it must not forget over a crash.

SQLite, synchronous=FULL: "begun" is on disk before anything is done. Not here: what is refused (core.device_protocol), the
order of things (serving.device_client.client).
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import StoreError

KEEP_S = 7 * 86_400.0
FORGET_EVERY = 1_000
"""Begun commands between two looks for ids that are older than that."""
CACHE_KB = 256
"""Pages that SQLite keeps in memory; by default it would take 2 MB as the journal grows, for rows that are read once."""
LOCK_WAIT_S = 2.0
KEEP_ANSWERS = 1_000
"""Answers kept to be given again, should Redis lose its memory; older ones have long been written into command_history."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that was begun; `response` is None when it was never finished."""

    command_id: str
    response: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it travels. That of a command that was begun and not finished says "indeterminate"."""

    command_id: str
    site_id: str
    text: str


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
        self._db.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS commands (command_id TEXT PRIMARY KEY, begun_at REAL NOT NULL, response TEXT)"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS memory (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY AUTOINCREMENT, "
            "command_id TEXT NOT NULL UNIQUE, site_id TEXT NOT NULL, answer TEXT NOT NULL)"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS identity (journal_id TEXT NOT NULL)")
        if self._db.execute("SELECT count(*) FROM identity").fetchone()[0] == 0:
            self._db.execute("INSERT INTO identity VALUES (?)", (uuid.uuid4().hex,))
        self._forget_old()
        self._begun = 0
        self._id = str(self._db.execute("SELECT journal_id FROM identity").fetchone()[0])
        self._newest = int(self._db.execute("SELECT coalesce(max(number), 0) FROM answers").fetchone()[0])

    def seen(self, command_id: str) -> Entry | None:
        """The entry of a command that was begun before, or None."""
        row = self._db.execute("SELECT command_id, response FROM commands WHERE command_id = ?", (command_id,)).fetchone()
        return None if row is None else Entry(row[0], row[1])

    def begin(self, command_id: str, memory: Mapping[str, Any], unless_done: Answer | None = None) -> None:
        """On disk before the command takes effect, with the highest sequence and epoch seen. StoreError: do not act.

        `unless_done` is what is to be said of it when nothing else follows.
        """
        with self._written():
            self._db.execute("INSERT INTO commands (command_id, begun_at) VALUES (?, ?)", (command_id, time.time()))
            self._remember(memory)
            self._keep(unless_done)
            self._begun += 1
            if self._begun % FORGET_EVERY == 0:  # a device may run for a year
                self._forget_old()

    def done(self, command_id: str, response: str, memory: Mapping[str, Any], answer: Answer | None = None) -> None:
        """The command took effect, with this answer. StoreError: it stays begun, and so indeterminate."""
        with self._written():
            self._db.execute("UPDATE commands SET response = ? WHERE command_id = ?", (response, command_id))
            self._remember(memory)
            self._keep(answer)

    def _forget_old(self) -> None:
        self._db.execute("DELETE FROM commands WHERE begun_at < ?", (time.time() - KEEP_S,))

    def refused(self, answer: Answer) -> None:
        """A command that was not begun has been answered so. StoreError: it is not on disk."""
        with self._written():
            self._keep(answer)

    @property
    def mark(self) -> str:
        """Names the newest answer of this journal: what Redis is told with it (stores.redis.responses.told)."""
        return f"{self._id}:{self._newest}"

    def untold(self, mark: str) -> list[Answer]:
        """Answers newer than the one that `mark` names, oldest first; all that are kept when it is of another journal or none."""
        journal_id, _, number = mark.rpartition(":")
        after = int(number) if journal_id == self._id and number.isdecimal() else 0
        rows = self._db.execute(
            "SELECT command_id, site_id, answer FROM answers WHERE number > ? ORDER BY number", (after,)
        ).fetchall()
        return [Answer(*row) for row in rows]

    def remember(self, memory: Mapping[str, Any]) -> None:
        """What changed without a command. StoreError: it is not on disk."""
        with self._written():
            self._remember(memory)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """One transaction, on disk at its end; a full disk is a StoreError, and nothing is half-written."""
        before = self._newest
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._newest = before
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise StoreError(f"journal cannot be written: {error}") from None

    def _remember(self, memory: Mapping[str, Any]) -> None:
        for name, value in memory.items():
            self._db.execute(
                "INSERT INTO memory (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, json.dumps(value)),
            )

    def _keep(self, answer: Answer | None) -> None:
        if answer is None:
            return
        kept = self._db.execute(
            "INSERT OR REPLACE INTO answers (command_id, site_id, answer) VALUES (?, ?, ?)",
            (answer.command_id, answer.site_id, answer.text),
        )
        self._newest = int(kept.lastrowid or 0)
        self._db.execute("DELETE FROM answers WHERE number <= ?", (self._newest - KEEP_ANSWERS,))

    def memory(self) -> dict[str, Any]:
        """Latch, highest sequence and epoch, own limits."""
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM memory")}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

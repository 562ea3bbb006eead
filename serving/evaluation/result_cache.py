"""Results of jobs by what they depend on, shared by all evaluators of a data directory.

A result's file is whole or not there. A job is claimed by a lock that the kernel gives back when its holder ends, however that
comes: evaluators at work side by side share the jobs, and one that was killed leaves nothing behind that others would wait for.
Not here: what a key is made of (serving.evaluation.job).
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from stores.datasets.prices import write_atomically


@dataclass(slots=True)
class Claim:
    """The right to run one job; whoever holds it is the only writer of its result."""

    file: TextIO
    path: Path

    def release(self) -> None:
        """Give it back."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.file.close()


@dataclass(frozen=True, slots=True)
class ResultCache:
    """Results by key, one file each."""

    folder: Path

    def path(self, key: str) -> Path:
        """Where a result lies."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> dict[str, Any] | None:
        """The result, or None where there is none that can be read."""
        try:
            found: dict[str, Any] = json.loads(self.path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.get("key") == key else None

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result. Raises OSError; what was there stays."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**result, "key": key}, allow_nan=False).encode())

    def claim(self, key: str) -> Claim | None:
        """The right to run a job, or None while another evaluator has it. Raises OSError."""
        path = self.path(key).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if not _is_still(file, path):
            file.close()  # its last holder took the name away between our opening and our lock
            return None
        for rest in path.parent.glob(f".{key}.json.*"):
            rest.unlink(missing_ok=True)  # of a writer that was killed: there is no other one while we hold the lock
        return Claim(file, path)


def _is_still(file: TextIO, path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False

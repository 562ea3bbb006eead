"""Writing files whole or not at all: a full disk or a kill leaves what was there before.

Here: one function. Not here: what is written.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """A temporary file beside it, synced, then renamed, and the folder synced: after a power cut either the old or the new one.

    Raises OSError (disk full); the old file is then untouched and nothing is left behind.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that a kill left behind; only whoever alone writes the file may call it."""
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)

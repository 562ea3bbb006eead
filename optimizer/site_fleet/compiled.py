"""Compiled code on disk, under a key that holds a digest of all sources that it may come from.

numba looks only at the file of the outermost function: machine code of what that calls, and constants of other modules, would
outlive an upgrade. Not here: what is compiled.
"""
# ruff: noqa: ANN401 - numba's dispatchers and signatures have no static types.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

from core import lanes
from optimizer.structured import judge, packing, rooms


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 of names and contents, in the order of names."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def sources() -> list[Path]:
    """This package's files, and of the structured solver's the vector type that they are written in and what judges and cuts."""
    return [*Path(__file__).parent.glob("*.py"), *(Path(str(module.__file__)) for module in (judge, lanes, packing, rooms))]


class _DigestCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of a function, whose entries belong to one digest."""

    def __init__(self, function: Callable[..., Any], digest: str) -> None:
        super().__init__(function)
        self._digest = digest

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._digest)


def kept_under(digest: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: compile without the interpreter's lock, and keep the result on disk for this digest."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, error_model="numpy")(function)
        dispatcher._cache = _DigestCache(function, digest)
        return dispatcher

    return compiled


kept_on_disk = kept_under(digest_of(sources()))

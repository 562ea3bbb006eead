"""Compiled code on disk, under a key that holds a digest of all that it comes from.

numba looks only at the file of the outermost function: machine code of what that calls, and constants of other modules, would
outlive an upgrade. Here the digest of a function is that of its bytecode and options, of the values that it takes from its
modules and closure, and, likewise, of what it calls. It is made when a function is first needed, so that nothing is read or
hashed of what a process does not use. Not here: what is compiled.
"""
# ruff: noqa: ANN401 - numba's dispatchers and signatures have no static types.

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache

EXTERNAL = ("builtins", "llvmlite", "math", "numba", "numpy", "typing")
"""Packages that are not looked into: numba's version is part of its own key, and those of the others are locked with it."""


def kept_on_disk(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: njit with these options, kept on disk for this digest."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = njit(**options)(function)
        dispatcher._cache = DigestCache(dispatcher)
        return dispatcher

    return compiled


def digest_of(function: Any) -> str:
    """SHA-256 of a compiled function, by what it comes from."""
    digest = hashlib.sha256()
    for part in _parts(function, set()):
        digest.update(f"{len(part)} ".encode())
        digest.update(part)
    return digest.hexdigest()


class DigestCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of a function, whose entries belong to one digest."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__(dispatcher.py_func)
        self._dispatcher = dispatcher
        self._digest = ""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        self._digest = self._digest or digest_of(self._dispatcher)
        return (*super()._index_key(sig, codegen), self._digest)


def _parts(thing: Any, seen: set[int]) -> Iterator[bytes]:
    """What is hashed of a thing that compiled code refers to; `seen` has what was hashed before."""
    if hasattr(thing, "py_func"):
        yield repr(sorted((k, sorted(v) if isinstance(v, set) else v) for k, v in thing.targetoptions.items())).encode()
        thing = thing.py_func
    if isinstance(thing, FunctionType):
        if id(thing) not in seen:
            seen.add(id(thing))
            yield from _code_parts(thing.__code__)
            for name, value in _referred(thing):
                yield name.encode()
                yield from _parts(value, seen)
    elif isinstance(thing, np.ndarray):
        yield f"{thing.dtype} {thing.shape}".encode()
        yield np.ascontiguousarray(thing).tobytes()
    elif isinstance(thing, tuple | list):
        yield f"{type(thing).__name__} {len(thing)}".encode()
        for one in thing:
            yield from _parts(one, seen)
    elif thing is None or isinstance(thing, bool | int | float | complex | str | bytes | np.generic):
        yield f"{type(thing).__name__} {thing!r}".encode()
    else:
        yield from _file_parts(thing, seen)


def _file_parts(thing: Any, seen: set[int]) -> Iterator[bytes]:
    """The whole file of what has no code or value of its own to be hashed: intrinsics, classes."""
    module = sys.modules.get(getattr(getattr(thing, "_defn", thing), "__module__", None) or "")
    path = getattr(module, "__file__", None)
    if module is not None and path is not None and not _is_external(module) and id(module) not in seen:
        seen.add(id(module))
        yield Path(path).read_bytes()


def _code_parts(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_parts(constant)
        else:
            yield repr(sorted(constant) if isinstance(constant, frozenset) else constant).encode()


def _referred(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values that a function takes from its module, from modules that it names, and from its closure."""
    names = sorted(set(_names(function.__code__)))
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            if not _is_external(value):
                yield from ((f"{name}.{inner}", vars(value)[inner]) for inner in names if inner in vars(value))
        else:
            yield name, value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, cell.cell_contents


def _names(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_external(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] in EXTERNAL

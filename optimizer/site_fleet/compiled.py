"""How this package compiles: without the interpreter's lock, kept on disk (core.compiled)."""

from __future__ import annotations

from core import compiled

kept_on_disk = compiled.kept_on_disk(nogil=True, error_model="numpy")

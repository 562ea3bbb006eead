"""The bytes of a learned policy: weights and metadata, bound by one SHA-256.

Here: the bundle that travels and is hashed. Not here: what the bytes mean (policies.learned.artefact), where they are kept
(stores.mongo.artefacts).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from core.errors import InputError, PulseBmsError

MAX_BYTES = 32 * 1024 * 1024
"""Of a bundle: an actor or value network of a controller has some 100 kB."""
_LENGTH_BYTES = 8


class ArtefactError(PulseBmsError):
    """An artefact is not what it should be: hash, shapes, layout or chemistry. The policy may not run."""


@dataclass(frozen=True, slots=True)
class ArtefactFiles:
    """JSON metadata and weights (safetensors), as bytes."""

    metadata: bytes
    weights: bytes

    def bundle(self) -> bytes:
        """Length of the metadata (8 bytes, little endian), metadata, weights. Raises InputError above MAX_BYTES."""
        if len(self.metadata) + len(self.weights) + _LENGTH_BYTES > MAX_BYTES:
            size = len(self.metadata) + len(self.weights)
            raise InputError(source="artefact", field="size", value=size, expected=f"at most {MAX_BYTES} bytes")
        return len(self.metadata).to_bytes(_LENGTH_BYTES, "little") + self.metadata + self.weights

    @property
    def sha256(self) -> str:
        """Of the bundle, and so of both."""
        return hashlib.sha256(self.bundle()).hexdigest()


def unbundle(data: bytes, sha256: str, source: str = "artefact") -> ArtefactFiles:
    """The files of a bundle; raises ArtefactError unless its SHA-256 is the one given."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ArtefactError(f"{source}: sha256: got {found}, expected {sha256}")
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or size > len(data) - _LENGTH_BYTES:
        raise ArtefactError(f"{source}: {len(data)} bytes are no bundle of metadata and weights")
    return ArtefactFiles(data[_LENGTH_BYTES : _LENGTH_BYTES + size], data[_LENGTH_BYTES + size :])

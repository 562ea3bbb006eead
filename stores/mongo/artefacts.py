"""Artefacts of learned policies in GridFS, found by their SHA-256: a site controller needs no shared disk.

Here: storing a bundle and getting it back, verified. The bundle's hash is the file's name; an artefact that is there is never
changed. Not here: what is in it (policies.learned.artefact).
"""

from __future__ import annotations

import re
from typing import Any

import gridfs
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database
from pymongo.errors import PyMongoError

from core.artefact import MAX_BYTES, ArtefactError, ArtefactFiles, unbundle
from core.errors import InputError, StoreError

BUCKET = "policy_artefacts"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def store_artefact(db: Database[dict[str, Any]], files: ArtefactFiles) -> str:
    """Store an artefact unless it is there, read it back, and return its SHA-256.

    Raises InputError when it is too large, StoreError when the store fails or what it holds is not what was sent.
    """
    data, digest = files.bundle(), files.sha256
    try:
        if not _whole(db, digest):
            _bucket(db).upload_from_stream(digest, data, metadata={"bytes": len(data)})
        if not _whole(db, digest):
            raise StoreError(f"GridFS {BUCKET}: {digest} was not kept as it was sent")
    except PyMongoError as error:
        raise StoreError(f"GridFS {BUCKET}: {error}") from error
    return digest


def load_artefact(db: Database[dict[str, Any]], sha256: str) -> ArtefactFiles:
    """The artefact of a hash, verified after download.

    Raises InputError when `sha256` is none, ArtefactError when there is no such artefact, it is too large or damaged; StoreError
    when the store fails. Of several copies (an upload that was broken off, repeated) the first whole one counts.
    """
    if not _SHA256.fullmatch(sha256):
        raise InputError(source="artefact", field="sha256", value=sha256, expected="64 hexadecimal digits")
    why = "not stored"
    try:
        for found in _bucket(db).find({"filename": sha256}).sort("uploadDate", 1):
            if found.length > MAX_BYTES:
                why = f"{found.length} bytes, expected at most {MAX_BYTES}"
                continue
            try:
                return unbundle(found.read(), sha256, f"GridFS {BUCKET}")
            except (ArtefactError, CorruptGridFile, NoFile) as error:
                why = str(error)
    except PyMongoError as error:
        raise StoreError(f"GridFS {BUCKET}: {error}") from error
    raise ArtefactError(f"GridFS {BUCKET}: {sha256}: {why}")


def _whole(db: Database[dict[str, Any]], digest: str) -> bool:
    try:
        load_artefact(db, digest)
    except ArtefactError:
        return False
    return True


def _bucket(db: Database[dict[str, Any]]) -> gridfs.GridFSBucket:
    return gridfs.GridFSBucket(db, bucket_name=BUCKET)

"""Bulk ingest: judged documents into telemetry_data and telemetry_ts, the others set aside with a reason.

    ingest = Ingest(db, now=clock.now, source="file.jsonl")
    for chunk in chunks: ingest.add(chunk)         # any number, any order, any size
    result = ingest.finish()

Idempotent on (device_id, timestamp): the same document again is counted as unchanged, a different one for the same moment is
set aside as a conflict, or replaces what is stored when `replace` is set. A crash loses nothing: run the same input again.
Not here: the rules (core.telemetry), files (serving.telemetry_import).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import bson
from bson import ObjectId
from bson.errors import BSONError
from pymongo import ReplaceOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DocumentTooLarge

from core.telemetry import Document, Verdict, judge, normalise, suspects
from core.telemetry_soc import SocWatch
from stores.mongo.dirty import mark, touched_hours
from stores.mongo.schema import REJECTED
from stores.mongo.telemetry import identity, series_document

CHUNK = 20_000
"""Documents judged and written together, sorted by device: neighbours in the indexes and in telemetry_ts buckets."""
BATCH = 5_000
WRITERS = 2
DUPLICATE_KEY = 11_000
KEEP_REJECTED = 10_000
"""Documents set aside in full by one ingest; beyond, they are only counted."""
KEEP_BYTES = 16_384


@dataclass(slots=True)
class IngestResult:
    """What became of the documents."""

    read: int = 0
    written: int = 0
    """New in telemetry_data."""
    unchanged: int = 0
    """Already there, the same."""
    replaced: int = 0
    series_old: int = 0
    """Of the replaced ones, those whose values in telemetry_ts are now another: a time-series collection of MongoDB 6 can neither
    be updated nor deleted from by time, so that the first content stays there until it expires."""
    set_aside: Counter[str] = field(default_factory=Counter)
    """Reason -> documents."""
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> the first document's field, value and expectation."""
    resting_near_zero: list[str] = field(default_factory=list)
    """Devices whose SoC never exceeded 1 and did not move: percent, or a share of 1?"""


_Batch = dict[ObjectId, tuple[Document, int]]
"""_id -> a judged document in normal form, and the line it came from."""
_Outcome = tuple[_Batch, int, dict[ObjectId, Document], dict[ObjectId, str]]
"""A batch, how many of it were new, what was stored before under its keys, and what cannot be stored, why."""
ENCODING_ERRORS = (BSONError, DocumentTooLarge, OverflowError, ValueError, TypeError, RecursionError)


@dataclass(slots=True)
class Ingest:
    """One ingest; `now` judges stamps that lie in the future or beyond retention. Not for use by several threads."""

    db: Database[Document]
    now: Callable[[], datetime]
    source: str
    replace: bool = False
    soc_is_percent: bool = False
    """A person says that a SoC within [0, 1] is percent all the same."""
    result: IngestResult = field(default_factory=IngestResult)
    _buffer: list[tuple[Any, int]] = field(default_factory=list)
    _watch: SocWatch = field(default_factory=SocWatch)
    _touched: dict[tuple[str, int], str] = field(default_factory=dict)
    _repeats: bool = False
    _pool: ThreadPoolExecutor | None = None
    _waiting: list[Future[_Outcome]] = field(default_factory=list)

    def add(self, documents: Sequence[Any], first_line: int = 1) -> None:
        """Take documents in; those that lack something are set aside, never raised. `first_line` numbers them for reports."""
        self.result.read += len(documents)
        self._buffer.extend(zip(documents, range(first_line, first_line + len(documents)), strict=True))
        while len(self._buffer) >= CHUNK:
            chunk, self._buffer = self._buffer[:CHUNK], self._buffer[CHUNK:]
            self._process(chunk)

    def reject(self, content: object, line: int, verdict: Verdict) -> None:
        """Set one aside: counted always, kept (with what it held) up to KEEP_REJECTED of them. Again is not twice."""
        result = self.result
        result.set_aside[verdict.reason] += 1
        result.examples.setdefault(verdict.reason, f"line {line}: {verdict}")
        if result.set_aside.total() > KEEP_REJECTED:
            return
        text = content if isinstance(content, str) else json.dumps(content, default=str, ensure_ascii=True)
        text = text.encode("utf-8", "replace").decode()[:KEEP_BYTES]
        key = hashlib.sha256(f"{verdict.reason}|{text}".encode()).hexdigest()
        self.db[REJECTED].replace_one(
            {"_id": key},
            {
                "at": datetime.now(UTC),
                "source": self.source,
                "line": line,
                "reason": verdict.reason,
                "field": verdict.field,
                "value": str(verdict.value).encode("utf-8", "replace").decode()[:200],
                "expected": verdict.expected,
                "document": text,
            },
            upsert=True,
        )

    def finish(self) -> IngestResult:
        """Write what is left, wait for the writers, mark what the metrics must look at again."""
        try:
            if self._buffer:
                chunk, self._buffer = self._buffer, []
                self._process(chunk)
            self._settle()
        finally:
            self.close()
        if not self.soc_is_percent:
            self.result.resting_near_zero = self._watch.resting()
        return self.result

    def close(self) -> None:
        """Stop the writers and mark again what was touched, also after a failure: the metrics see what was written."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        touched, self._touched = self._touched, {}
        mark(self.db, touched)

    def _process(self, chunk: list[tuple[Any, int]]) -> None:
        now = self.now()
        documents = [document for document, _ in chunk]
        accepted: list[tuple[Any, int]] = []
        for (document, line), odd in zip(chunk, suspects(documents, now).tolist(), strict=True):
            verdict = judge(document, now) if odd else None
            if verdict is None:
                accepted.append((document, line))
            else:
                self.reject(document, line, verdict)
        prepared = self._prepare(accepted)
        self._settle()  # one chunk is being written while the next one is judged, not more
        fresh = {
            pair: site for pair, site in touched_hours(made for made, _ in prepared.values()).items() if pair not in self._touched
        }
        mark(self.db, fresh)
        self._touched |= fresh
        if self._pool is None:
            self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="ingest")
        keys = sorted(prepared, key=lambda key: prepared[key][0]["device_id"])
        for start in range(0, len(keys), BATCH):
            batch = {key: prepared[key] for key in keys[start : start + BATCH]}
            self._waiting.append(self._pool.submit(_write, self.db, batch, look_first=self._repeats))

    def _prepare(self, accepted: list[tuple[Any, int]]) -> _Batch:
        """Normal form and _id; SoC as a share and conflicts within the chunk are set aside."""
        if not self.soc_is_percent:
            self._watch.add((made["device_id"], made["measurements"]["soc"]) for made, _ in accepted)
        shares = set() if self.soc_is_percent else self._watch.shares()
        prepared: _Batch = {}
        for document, line in accepted:
            if document["device_id"] in shares:
                soc = document["measurements"]["soc"]
                self.reject(document, line, Verdict("soc_share", "measurements.soc", soc, "percent, 0 to 100, not a share of 1"))
                continue
            made, stamp_ms = normalise(document)
            made["_id"] = key = identity(made["device_id"], stamp_ms)
            other = prepared.get(key)
            if other is not None and (other[0] == made or not self.replace):
                self._repeated(document, line, same=other[0] == made)
            else:
                prepared[key] = (made, line)
        return prepared

    def _repeated(self, document: Document, line: int, *, same: bool) -> None:
        if same:
            self.result.unchanged += 1
        else:
            verdict = Verdict(
                "conflict", "timestamp", document["timestamp"], "one content for a device and moment (or --replace)"
            )
            self.reject({name: value for name, value in document.items() if name != "_id"}, line, verdict)

    def _settle(self) -> None:
        """Wait for the writers and count what they found; a failure of a store is raised here."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            batch, new, stored, refused = future.result()
            for key, why in refused.items():
                document, line = batch[key]
                self.reject(document, line, Verdict("shape", "document", why, "what BSON can hold"))
            self.result.written += new
            self._repeats = len(stored) > len(batch) // 10
            replacements = []
            for key, old in stored.items():
                made, line = batch[key]
                if old == made or not self.replace:
                    self._repeated(made, line, same=old == made)
                else:
                    replacements.append(ReplaceOne({"_id": key}, made))
                    self.result.series_old += series_document(old) != series_document(made)
            if replacements:
                self.result.replaced += self.db["telemetry_data"].bulk_write(replacements, ordered=False).modified_count


def _unencodable(batch: _Batch) -> dict[ObjectId, str]:
    """_ids of documents that BSON cannot hold (a number of 65 bits in a field of the sender's own, say), and why."""
    found = {}
    for key, (made, _) in batch.items():
        try:
            bson.encode(made)
        except ENCODING_ERRORS as error:
            found[key] = str(error)[:200]
    return found


def _write(db: Database[Document], batch: _Batch, *, look_first: bool) -> _Outcome:
    """Insert what is new, into telemetry_data and then into telemetry_ts; runs in a writer's thread.

    `look_first`: read what is there before inserting, which is cheaper than errors where most of it is there already.
    """
    stored = _stored(db, list(batch)) if look_first else {}
    new = [key for key in batch if key not in stored]
    if new:
        try:
            # `judge` is stricter than the validator (a test holds the two together), which would cost a third of the time.
            db["telemetry_data"].insert_many([batch[key][0] for key in new], ordered=False, bypass_document_validation=True)
        except BulkWriteError as error:
            if any(entry["code"] != DUPLICATE_KEY for entry in error.details["writeErrors"]):
                raise
            there = {new[entry["index"]] for entry in error.details["writeErrors"]}
            stored |= _stored(db, list(there))
            new = [key for key in new if key not in there]
        except ENCODING_ERRORS:
            # Rare. Some of the batch may have been sent before the culprit was met: those come back as already there.
            if not (refused := _unencodable(batch)):
                raise
            rest = {key: entry for key, entry in batch.items() if key not in refused}
            _, count, stored, _ = _write(db, rest, look_first=True)
            return batch, count, stored, refused
    # What was stored before may lack its time series: an earlier run may have died in between.
    lacking = _lacking_series(db, [batch[key][0] for key in stored])
    series = [series_document(batch[key][0]) for key in new] + [series_document(made) for made in lacking]
    if series:
        db["telemetry_ts"].insert_many(series, ordered=False)
    return batch, len(new), stored, {}


def _stored(db: Database[Document], keys: list[ObjectId]) -> dict[ObjectId, Document]:
    return {found["_id"]: found for found in db["telemetry_data"].find({"_id": {"$in": keys}})}


def _lacking_series(db: Database[Document], documents: list[Document]) -> list[Document]:
    """Those of the documents that telemetry_ts does not hold."""
    if not documents:
        return []
    stamps = [made["timestamp"] for made in documents]
    query = {
        "device_meta.device_id": {"$in": sorted({made["device_id"] for made in documents})},
        "timestamp": {"$gte": min(stamps), "$lte": max(stamps)},
    }
    fields = {"_id": 0, "timestamp": 1, "device_meta.device_id": 1}
    there = {(found["device_meta"]["device_id"], found["timestamp"]) for found in db["telemetry_ts"].find(query, fields)}
    return [made for made in documents if (made["device_id"], made["timestamp"]) not in there]

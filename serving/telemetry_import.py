"""Reads telemetry files: JSON lines (also mongoexport's) or CSV, plain or gzipped, and hands them to the ingest.

A CSV file has the columns site_id, device_id, timestamp and the seven measurements by their names in the contract; alarm_flags
(separated by ;), data_quality, chemistry, firmware_version and source are optional. Not here: which documents are good
(core.telemetry), where they go (stores.mongo.ingest).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson

from core.errors import InputError, nearest
from core.telemetry import RANGES, Document, Verdict
from core.telemetry_soc import SocWatch
from stores.connections import Stores
from stores.mongo.ingest import CHUNK, Ingest, IngestResult

LOOK_AHEAD = CHUNK
"""Lines in which a state of charge as a share of 1 must show before anything is written."""
REQUIRED = ("site_id", "device_id", "timestamp", *RANGES)
OPTIONAL = ("alarm_flags", "data_quality", "chemistry", "firmware_version", "source", "communication_latency", "day", "hour")
LONGEST_LINE = 4_000_000


def import_file(
    stores: Stores,
    path: Path,
    now: Callable[[], datetime],
    *,
    replace: bool = False,
    soc_is_percent: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> IngestResult:
    """Write a file's telemetry. `on_progress(bytes read, bytes of the file)` as stored, compressed or not.

    Raises InputError, before anything is written, when the file cannot be read, its columns are not known, or its state of
    charge is a share of 1. Bad lines are set aside. After a crash: the same call again.
    """
    try:
        with path.open("rb") as stored:
            size = path.stat().st_size
            run = Ingest(stores.mongo, now=now, source=path.name, replace=replace, soc_is_percent=soc_is_percent)
            try:
                chunks = _chunks(stored, path)
                first = next(chunks, [])
                if not first:
                    raise InputError(source=str(path), field="file", value="no line", expected="JSON lines or CSV")
                if not soc_is_percent:
                    _refuse_shares(first, path)
                for number, chunk in _numbered(first, chunks):
                    _take(run, chunk, number)
                    if on_progress is not None:
                        on_progress(stored.tell(), size)
                return run.finish()
            finally:
                run.close()
    except (OSError, EOFError) as error:
        raise InputError(source=str(path), field="file", value=str(error), expected="a readable file (plain or gzip)") from None


def _numbered(first: list[Any], rest: Iterator[list[Any]]) -> Iterator[tuple[int, list[Any]]]:
    number = 1
    while first:
        yield number, first
        number, first = number + len(first), next(rest, [])


def _take(run: Ingest, chunk: list[Any], number: int) -> None:
    """Unreadable lines are set aside, the stretches between them go in together."""
    begun = 0
    for k, entry in enumerate(chunk):
        if isinstance(entry, _Unreadable):
            run.add(chunk[begun:k], number + begun)
            run.result.read += 1
            run.reject(entry.text, number + k, Verdict("unreadable", "line", entry.why, "one JSON object (or CSV row) a line"))
            begun = k + 1
    run.add(chunk[begun:], number + begun)


class _Unreadable:
    """A line that is no document."""

    def __init__(self, text: str, why: str) -> None:
        self.text, self.why = text, why


def _chunks(stored: IO[bytes], path: Path) -> Iterator[list[Any]]:
    """Documents (or unreadable lines) of a file, LOOK_AHEAD at a time; blank lines are not counted."""
    head = stored.read(2)
    stored.seek(0)
    raw: IO[bytes] = gzip.open(stored) if head == b"\x1f\x8b" else stored  # type: ignore[assignment]  # noqa: SIM115
    lines = (line.decode("utf-8", "replace") for line in iter(lambda: raw.readline(LONGEST_LINE), b"") if line.strip())
    names = [name.strip() for name in path.name.lower().split(".")]
    parsed = _csv(lines, path) if "csv" in names else map(_json, lines)
    while chunk := list(islice(parsed, LOOK_AHEAD)):
        yield chunk


def _json(line: str) -> object:
    line = line.removeprefix("\ufeff")
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        # Python's own parser reads NaN, which is then named with its field, and says more exactly what it cannot read.
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            return _Unreadable(line, str(error))
    if isinstance(document, dict):
        document.pop("_id", None)  # mongoexport's; ours is derived
    return document


def _csv(lines: Iterator[str], path: Path) -> Iterator[object]:
    reader = csv.reader(line.replace("\0", "\ufffd") for line in lines)
    header = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
    for name in REQUIRED:
        if name not in header:
            raise InputError(source=str(path), field=name, value=header, expected=f"a column of this name{nearest(name, header)}")
    for name in header:
        if name not in REQUIRED and name not in OPTIONAL:
            expected = f"a column of the contract{nearest(name, [*REQUIRED, *OPTIONAL])}"
            raise InputError(source=str(path), field="header", value=name, expected=expected)
        if header.count(name) > 1:
            raise InputError(source=str(path), field="header", value=name, expected="each column once")
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _Unreadable(str(error), str(error))
            continue
        if len(row) != len(header):
            yield _Unreadable(",".join(row), f"{len(row)} values under {len(header)} columns")
        else:
            yield _row(dict(zip(header, map(str.strip, row), strict=True)))


def _row(row: dict[str, str]) -> Document:
    document: Document = {name: row[name] for name in ("site_id", "device_id", "timestamp")}
    document["measurements"] = {name: _number(row[name]) for name in RANGES}
    metadata: Document = {}
    for name in OPTIONAL:
        text = row.get(name, "")
        if not text:
            continue
        if name == "alarm_flags":
            document["safety"] = {"alarm_flags": [flag.strip() for flag in text.split(";") if flag.strip()]}
        elif name in ("day", "hour"):
            document[name] = int(text) if name == "hour" and text.isdecimal() else text
        else:
            metadata[name] = _number(text) if name in ("data_quality", "communication_latency") else text
    if metadata:
        document["metadata"] = metadata
    return document


def _number(text: str) -> float | str:
    """The number, or the text itself, which the ingest sets aside with its field's name."""
    try:
        return float(text)
    except ValueError:
        return text


def _refuse_shares(documents: list[Any], path: Path) -> None:
    """InputError when no state of charge of the first lines exceeds 1 and some are fractions."""
    watch = SocWatch()
    for document in documents:
        try:
            soc, device_id = document["measurements"]["soc"], document["device_id"]
        except (KeyError, TypeError):
            continue
        if type(soc) in (int, float) and type(device_id) is str:
            watch.add([(device_id, float(soc))])
    shares = watch.all_shares()
    if shares is not None:
        raise InputError(
            source=str(path),
            field="measurements.soc",
            value=f"{shares[0]:g} to {shares[1]:g} in the first {len(documents)} lines",
            expected="percent, 0 to 100: multiply by 100, or say --soc-is-percent if the packs are that empty",
        )

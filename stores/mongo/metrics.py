"""Hourly and daily metrics, brought up to date with the telemetry: which device-hours, in which order, in how many bites.

    telemetry_data --(marks: stores.mongo.dirty)--> parts of device-hours --> metrics_hourly, and the days they lie in

Running twice gives the same documents; late telemetry recomputes the hours and days that it touches. An hour is computed once
it has ended and settled; a day's document grows hour by hour and is complete when the day is. Hours older than retention are
left as they are: their telemetry is going or gone. Not here: the arithmetic (stores.mongo.metrics_pipeline).
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.database import Database

from core.telemetry import RETENTION
from core.telemetry_cycles import cycle_data
from core.telemetry_periods import HOUR, Window, window_of, windows_between
from stores.mongo.dirty import Mark, clear, mark_changed, read_marks
from stores.mongo.metrics_pipeline import contract_documents, joined, parts_of_telemetry, with_edges
from stores.mongo.schema import PARTS, WORK

Document = dict[str, Any]
BITE = 400_000
"""Telemetry documents in one aggregation: below the database's 100 MB for a group."""
FEW_DEVICES = 500
DEVICES = 2_000
"""Devices in one aggregation of parts."""
THREADS = 2
MILLISECOND = timedelta(milliseconds=1)
EDGE = timedelta(hours=2)
INTO_PARTS: Document = {"$merge": {"into": PARTS, "on": "_id", "whenMatched": "replace", "whenNotMatched": "insert"}}
INTO_WORK: Document = {"$merge": {"into": WORK, "on": "_id", "whenMatched": "fail", "whenNotMatched": "insert"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsOptions:
    """What a refresh may be told."""

    settle: timedelta = timedelta(minutes=2)
    """An hour is computed this long after its end: telemetry on its way arrives first."""
    include_open: bool = False
    """Also hours that have not ended (a demo's last one)."""
    look_back: timedelta = timedelta(hours=2)
    """Recent hours whose number of documents is compared with what the metrics saw; finds what others wrote."""


@dataclass(slots=True)
class MetricsResult:
    """What a refresh did."""

    device_hours: int = 0
    """Computed from telemetry."""
    hourly: int = 0
    """Documents of metrics_hourly written (neighbours of a changed hour among them)."""
    daily: int = 0
    removed: int = 0
    """Documents whose telemetry is gone although it is not that old."""
    waiting: int = 0
    """Marked device-hours that have not ended yet."""
    too_old: int = 0
    """Marked device-hours beyond retention."""


def refresh(
    db: Database[Document],
    zones: Mapping[str, str],
    now: datetime,
    options: MetricsOptions | None = None,
    *,
    site_ids: Collection[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> MetricsResult:
    """Compute what is marked. `zones`: site_id -> IANA time zone, UTC where none; `now`: the plant's present.

    `on_progress(done, all)` counts device-hours. Several runs at once are harmless, only slower.
    """
    options = options or MetricsOptions()
    result = MetricsResult()
    if options.look_back > timedelta(0):
        # The running hour is not counted in vain; what its writers marked is not lost.
        end = now if options.include_open else (now - options.settle).replace(minute=0, second=0, microsecond=0)
        mark_changed(db, now - options.look_back - HOUR, end, site_ids)
    work, done = _plan(read_marks(db, site_ids), zones, now, options, result)
    total = sum(len(devices) for hours in work.values() for devices in hours.values())
    for (_, _, zone), hours in sorted(work.items()):
        vanished: set[str] = set()
        for window, devices in sorted(hours.items()):
            vanished |= _make_parts(db, window, sorted(devices), result)
            result.device_hours += len(devices)
            if on_progress is not None:
                on_progress(result.device_hours, total)
        _write_metrics(db, hours, zone, vanished, result)
    clear(db, done)
    return result


_Work = dict[tuple[datetime, datetime, str], dict[Window, set[str]]]
"""(day start, day end, zone) -> hour -> devices."""


def _plan(
    marks: Iterable[Mark], zones: Mapping[str, str], now: datetime, options: MetricsOptions, result: MetricsResult
) -> tuple[_Work, list[Mark]]:
    """The hours to compute, by day, and the marks that are then done with."""
    work: _Work = defaultdict(lambda: defaultdict(set))
    done: list[Mark] = []
    oldest = now - RETENTION
    for made in marks:
        zone = zones.get(made.site_id, "UTC")
        ended = True
        for window in windows_between(made.hour, made.hour + HOUR, zone):
            if window.starts_at < oldest:
                result.too_old += 1
            elif window.ends_at + options.settle > now and not options.include_open:
                result.waiting += 1
                ended = False
            else:
                work[(window.day_starts_at, window.day_ends_at, zone)][window].add(made.device_id)
        if ended:
            done.append(made)
    return work, done


def _make_parts(db: Database[Document], window: Window, devices: Sequence[str], result: MetricsResult) -> set[str]:
    """Replace the parts of devices in one hour by what telemetry_data holds now; returns devices that hold nothing more."""
    run = uuid.uuid4().hex
    by_device = len(devices) <= FEW_DEVICES
    span: Document = {"timestamp": {"$gte": window.starts_at, "$lt": window.ends_at}}
    if by_device:
        span["device_id"] = {"$in": list(devices)}
    bites = max(1, -(-db["telemetry_data"].count_documents(span) // BITE))
    fields: Document = {"run": run, "starts_at": window.starts_at, "ends_at": window.ends_at}
    constants = {name: {"$literal": value} for name, value in fields.items()}
    if bites == 1:
        extra = {"_id": {"d": "$_id", "h": window.starts_at}, **constants}
        _read_telemetry(db, devices, window.starts_at, window.ends_at, by_device, extra, INTO_PARTS)
    else:
        try:
            _in_bites(db, window, devices, by_device, run, bites)
            _join_bites(db, window, devices, run, constants)
        finally:
            db[WORK].delete_many({"run": run})
    return _remove_vanished(db, window, devices, run, result)


def _read_telemetry(
    db: Database[Document],
    devices: Sequence[str],
    start: datetime,
    end: datetime,
    by_device: bool,
    extra: Document,
    into: Document,
) -> None:
    stages = parts_of_telemetry(devices, start, end, by_device=by_device, extra=extra)
    options: dict[str, Any] = {"hint": {"device_id": 1, "timestamp": -1, "_id": -1}} if by_device else {}
    db["telemetry_data"].aggregate([*stages, into], allowDiskUse=True, **options)


def _in_bites(db: Database[Document], window: Window, devices: Sequence[str], by_device: bool, run: str, bites: int) -> None:
    """Parts of stretches of the hour, each small enough for the database's memory, in WORK."""
    step_ms = (window.ends_at - window.starts_at) // MILLISECOND // bites
    edges = [window.starts_at + k * step_ms * MILLISECOND for k in range(bites)] + [window.ends_at]

    def bite(k: int) -> None:
        extra = {"_id": {"r": run, "d": "$_id", "k": {"$literal": k}}, "run": run, "at": "$$NOW"}
        _read_telemetry(db, devices, edges[k], edges[k + 1], by_device, extra, INTO_WORK)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(bite, range(bites)))


def _join_bites(db: Database[Document], window: Window, devices: Sequence[str], run: str, constants: Document) -> None:
    add = {"$set": {"_id": {"d": "$device_id", "h": window.starts_at}, **constants}}

    def join(names: Sequence[str]) -> None:
        match = {"$match": {"run": run, "device_id": {"$in": list(names)}}}
        db[WORK].aggregate([match, *joined({"device_id": "$device_id"}), add, INTO_PARTS], allowDiskUse=True)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(join, _chunks(devices)))


def _remove_vanished(db: Database[Document], window: Window, devices: Sequence[str], run: str, result: MetricsResult) -> set[str]:
    """Parts and hourly documents of devices that have no telemetry in the hour any more."""
    vanished: set[str] = set()
    for names in _chunks(devices):
        query = {"device_id": {"$in": list(names)}, "starts_at": window.starts_at, "run": {"$ne": run}}
        for part in db[PARTS].find(query, {"device_id": 1}):
            device_id = part["device_id"]
            stretch = {"$gte": window.starts_at, "$lt": window.ends_at}
            if db["telemetry_data"].find_one({"device_id": device_id, "timestamp": stretch}, {"_id": 1}) is None:
                db[PARTS].delete_one({"_id": part["_id"]})
                gone = {"device_id": device_id, "timestamp": window.starts_at}
                result.removed += db["metrics_hourly"].delete_one(gone).deleted_count
                vanished.add(device_id)
    return vanished


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[k : k + DEVICES] for k in range(0, len(names), DEVICES))


def _write_metrics(
    db: Database[Document], hours: Mapping[Window, set[str]], zone: str, vanished: Collection[str], result: MetricsResult
) -> None:
    """metrics_hourly of the computed hours and of their neighbours, and metrics_daily of the days that these lie in."""
    first = window_of(min(hours).starts_at - MILLISECOND, zone)
    last = window_of(max(hours).ends_at, zone)
    days = {(hour.day_starts_at, hour.day_ends_at) for hour in (first, last, *hours)}
    devices = sorted(set().union(*hours.values()))

    def one(names: Sequence[str]) -> tuple[int, int]:
        hourly = _merge(db, "hourly", names, first.starts_at, last.ends_at)
        return hourly, sum(_merge(db, "daily", names, *day) for day in sorted(days))

    with ThreadPoolExecutor(THREADS) as pool:
        for hourly, daily in pool.map(one, list(_chunks(devices))):
            result.hourly += hourly
            result.daily += daily
    for start, end in days if vanished else ():
        kept = db[PARTS].distinct("device_id", {"device_id": {"$in": list(vanished)}, "starts_at": {"$gte": start, "$lt": end}})
        gone = {"device_id": {"$in": sorted(set(vanished) - set(kept))}, "timestamp": start}
        result.removed += db["metrics_daily"].delete_many(gone).deleted_count


def _merge(db: Database[Document], period: str, devices: Sequence[str], start: datetime, end: datetime) -> int:
    """Write the documents of devices for the hours, or for the one day, of [start, end); returns how many."""
    cycles = _cycles(db, period, devices, start, end)
    if not cycles:
        return 0
    # The neighbours' nearest samples are needed too: what lies across the boundary is shared.
    around = {"device_id": {"$in": list(devices)}, "starts_at": {"$gte": start - EDGE, "$lt": end + EDGE}}
    stages: list[Document] = [{"$match": around}, {"$set": {"turns": [], "counts": []}}]
    if period == "daily":
        after = {"$cond": [{"$lt": ["$starts_at", end]}, 1, 2]}
        day = {"$cond": [{"$lt": ["$starts_at", start]}, 0, after]}
        stages += joined({"device_id": "$device_id", "day": day})
        stages += [{"$set": {"starts_at": {"$cond": [{"$eq": ["$day", 1]}, start, None]}, "ends_at": end}}]
    stages += [*with_edges(), {"$match": {"starts_at": {"$gte": start, "$lt": end}}}]
    db[PARTS].aggregate([*stages, *contract_documents(period, cycles)], allowDiskUse=True)
    return len(cycles)


def _cycles(db: Database[Document], period: str, devices: Sequence[str], start: datetime, end: datetime) -> list[Document]:
    """cycle_data of each document that is due, by rainflow over the turning points that the database found."""
    due = {"device_id": {"$in": list(devices)}, "starts_at": {"$gte": start, "$lt": end}}
    parts = db[PARTS].find(due, {"_id": 0, "device_id": 1, "starts_at": 1, "turns": 1}).sort([("device_id", 1), ("starts_at", 1)])
    turns: dict[tuple[str, datetime], list[float]] = defaultdict(list)
    for part in parts:
        turns[part["device_id"], part["starts_at"] if period == "hourly" else start].extend(part["turns"])
    return [
        {"_id": {"d": device_id, "t": moment}, "cycle_data": cycle_data(points)} for (device_id, moment), points in turns.items()
    ]

"""Which device-hours have telemetry that their metrics have not seen: the watermark of the metrics.

A mark is one document a device and UTC hour, with a version that every writer raises. Writers mark before and after they
write; the metrics run deletes a mark only at the version that it read. So a write that falls into a run is seen again.
Documents that other services write carry no mark: `mark_changed` finds them by counting. Not here: what is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import DeleteOne, UpdateOne
from pymongo.database import Database

from stores.mongo.schema import DIRTY, PARTS

Document = dict[str, Any]
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Mark:
    """Telemetry of this device in this UTC hour may have changed."""

    device_id: str
    hour: datetime
    site_id: str
    version: int

    @property
    def key(self) -> Document:
        """The mark's _id."""
        return {"d": self.device_id, "h": self.hour}


def mark(db: Database[Document], touched: Mapping[tuple[str, int], str]) -> None:
    """Raise the marks of (device_id, hours since 1970) -> site_id."""
    requests = []
    for (device_id, number), site_id in touched.items():
        hour = datetime.fromtimestamp(number * 3600, tz=UTC)
        update = {"$inc": {"version": 1}, "$set": {"site_id": site_id, "hour": hour}}
        requests.append(UpdateOne({"_id": {"d": device_id, "h": hour}}, update, upsert=True))
    if requests:
        db[DIRTY].bulk_write(requests, ordered=False)


def touched_hours(documents: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """(device_id, hours since 1970) -> site_id of documents with aware timestamps."""
    return {(made["device_id"], int(made["timestamp"].timestamp() // 3600)): str(made.get("site_id", "")) for made in documents}


def read_marks(db: Database[Document], site_ids: Collection[str] | None = None) -> list[Mark]:
    """All marks, or those of some sites."""
    query = {} if site_ids is None else {"site_id": {"$in": list(site_ids)}}
    return [Mark(found["_id"]["d"], found["_id"]["h"], found["site_id"], found["version"]) for found in db[DIRTY].find(query)]


def clear(db: Database[Document], marks: Iterable[Mark]) -> int:
    """Delete marks that nobody has raised since they were read; returns how many."""
    requests = [DeleteOne({"_id": made.key, "version": made.version}) for made in marks]
    return db[DIRTY].bulk_write(requests, ordered=False).deleted_count if requests else 0


def mark_changed(db: Database[Document], start: datetime, end: datetime, site_ids: Collection[str] | None = None) -> int:
    """Mark the device-hours of the UTC hours from `start` to `end` whose number of documents is not the one that the metrics saw.

    Finds what was written without a mark: by other services, or by a writer that died. Returns the marks made.
    """
    of_sites = {} if site_ids is None else {"site_id": {"$in": list(site_ids)}}
    hint = {"site_id": 1, "device_id": 1, "timestamp": -1}  # holds all that is asked: no document is read
    group = {"_id": "$device_id", "site_id": {"$last": "$site_id"}, "n": {"$sum": 1}}
    hour, counted = start.replace(minute=0, second=0, microsecond=0), {}
    while hour < end:
        match = {**of_sites, "timestamp": {"$gte": hour, "$lt": hour + timedelta(hours=1)}}
        for found in db["telemetry_data"].aggregate([{"$match": match}, {"$group": group}], allowDiskUse=True, hint=hint):
            counted[found["_id"], hour] = (found["site_id"], found["n"])
        hour += timedelta(hours=1)
    seen: dict[tuple[str, datetime], int] = {}
    parts = {"starts_at": {"$gte": start - timedelta(hours=1), "$lt": end}, **of_sites}
    for part in db[PARTS].find(parts, {"device_id": 1, "counts": 1}):
        for entry in part["counts"]:
            key = (part["device_id"], entry["h"])
            seen[key] = seen.get(key, 0) + entry["n"]
    changed = {
        (device_id, int(moment.timestamp() // 3600)): site_id
        for (device_id, moment), (site_id, count) in counted.items()
        if seen.get((device_id, moment), 0) != count
    }
    mark(db, changed)
    return len(changed)

"""telemetry_data and telemetry_ts: writing what devices measured, reading the latest of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import ReplaceOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from core.devices import PackState
from core.errors import InputError
from stores.mongo.dirty import mark, touched_hours
from stores.mongo.newest import newest_documents
from stores.mongo.schema import DIRTY, PARTS

Document = dict[str, Any]


def pack_document(
    state: PackState,
    *,
    site_id: str,
    firmware: str,
    chemistry: str | None = None,
    quality: float = 1.0,
    latency_ms: float = 0.0,
) -> Document:
    """A document of the contract's shape. Raises InputError naming a measurement that is not a finite number."""
    measurements = {
        "voltage": state.voltage_v,
        "current": state.current_a,
        "power": state.power_w,
        "temperature": state.temperature_c,
        "soc": state.soc_pct,
        "soh": state.soh_pct,
        "internal_resistance": state.internal_resistance_ohm,
    }
    for name, value in measurements.items():
        if not math.isfinite(value):
            raise InputError(
                source=f"telemetry of {state.device_id}", field=f"measurements.{name}", value=value, expected="a number"
            )
    document: Document = {
        "site_id": site_id,
        "device_id": state.device_id,
        "timestamp": state.measured_at,
        "measurements": {name: float(value) for name, value in measurements.items()},
        "cell_data": {
            "voltages": [float(value) for value in state.cell_voltages_v],
            "temperatures": [float(value) for value in state.cell_temperatures_c],
            "balancing_status": [0] * len(state.cell_voltages_v),
        },
        "safety": {"alarm_flags": list(state.alarm_flags), "protection_status": dict(state.protection)},
        "metadata": {
            "data_quality": quality,
            "source": "edge_device",
            "firmware_version": firmware,
            "communication_latency": latency_ms,
        },
    }
    if chemistry is not None:
        document["metadata"]["chemistry"] = chemistry
    return document


def _identity(device_id: str, timestamp: datetime) -> ObjectId:
    """The same device and moment give the same _id: inserting twice replaces, without an index of our own."""
    return identity(device_id, int(DatetimeMS(timestamp)))  # the milliseconds that BSON keeps, not a float's rounding


def identity(device_id: str, stamp_ms: int) -> ObjectId:
    """_id of a device's document at a moment, ms since 1970."""
    return ObjectId(hashlib.sha256(f"{device_id}|{stamp_ms}".encode()).digest()[:12])


def insert_telemetry(db: Database[Document], documents: Sequence[Mapping[str, Any]]) -> int:
    """Write documents into telemetry_data, and those that are new into telemetry_ts; returns how many were new.

    Idempotent on (device_id, timestamp). `day` and `hour` are derived from the UTC timestamp. Raises InputError for a
    document without device or aware time, before anything is written; BulkWriteError when the validator refuses some:
    the others are written all the same.
    """
    prepared: dict[ObjectId, Document] = {}
    for document in documents:
        for name in ("device_id", "timestamp", "measurements"):
            if name not in document:
                raise InputError(source="telemetry", field=name, value=None, expected="a value in every document")
        stamp = document["timestamp"]
        if not isinstance(stamp, datetime) or stamp.tzinfo is None:
            raise InputError(source="telemetry", field="timestamp", value=stamp, expected="a time with its UTC offset")
        utc = stamp.astimezone(UTC)
        key = _identity(document["device_id"], utc)
        prepared[key] = {**document, "_id": key, "timestamp": utc, "day": f"{utc:%Y-%m-%d}", "hour": utc.hour}
    if not prepared:
        return 0
    requests = [ReplaceOne({"_id": key}, document, upsert=True) for key, document in prepared.items()]
    touched = touched_hours(prepared.values())
    mark(db, touched)
    try:
        new = list((db["telemetry_data"].bulk_write(requests, ordered=False).upserted_ids or {}).values())
    except BulkWriteError as error:
        append_series(db, [prepared[entry["_id"]] for entry in error.details["upserted"]])
        raise
    finally:
        mark(db, touched)  # once more: a metrics run may have looked between the first mark and the documents
    append_series(db, [prepared[key] for key in new])
    return len(new)


def append_series(db: Database[Document], documents: Sequence[Document]) -> None:
    """Add documents to telemetry_ts; a device's neighbours in the list share a bucket, which is several times faster."""
    if documents:
        db["telemetry_ts"].insert_many([series_document(document) for document in documents], ordered=False)


def series_document(document: Document) -> Document:
    """A telemetry_data document in the form of telemetry_ts."""
    measured = document["measurements"]
    meta = {"site_id": document["site_id"], "device_id": document["device_id"]}
    chemistry = document.get("metadata", {}).get("chemistry")
    if chemistry:
        meta["chemistry"] = chemistry
    names = ("voltage", "current", "temperature", "soc", "soh")
    return {"timestamp": document["timestamp"], "device_meta": meta, **{name: measured[name] for name in names}}


def latest_states(
    db: Database[Document], device_ids: Iterable[str], *, not_after: datetime | None = None
) -> dict[str, PackState]:
    """The newest measurement of each device (not after `not_after`); devices without one are absent."""
    found = newest_documents(db, "telemetry_data", "timestamp", device_ids, not_after=not_after)
    return {document["device_id"]: state_of(document) for document in found}


def soc_extremes(
    db: Database[Document], device_ids: Iterable[str], start: datetime, end: datetime
) -> dict[str, tuple[float, float]]:
    """Lowest and highest SoC (percent) of each device in [start, end]; devices without telemetry in it are absent."""
    rows = db["telemetry_data"].aggregate(
        [
            {"$match": {"device_id": {"$in": list(device_ids)}, "timestamp": {"$gte": start, "$lte": end}}},
            {"$group": {"_id": "$device_id", "low": {"$min": "$measurements.soc"}, "high": {"$max": "$measurements.soc"}}},
        ]
    )
    return {row["_id"]: (float(row["low"]), float(row["high"])) for row in rows}


def state_of(document: Mapping[str, Any]) -> PackState:
    """A telemetry document as a PackState."""
    measured, cells, safety = document["measurements"], document.get("cell_data", {}), document.get("safety", {})
    return PackState(
        device_id=document["device_id"],
        measured_at=document["timestamp"],
        soc_pct=float(measured["soc"]),
        soh_pct=float(measured["soh"]),
        temperature_c=float(measured["temperature"]),
        voltage_v=float(measured["voltage"]),
        current_a=float(measured["current"]),
        power_w=float(measured["power"]),
        internal_resistance_ohm=float(measured["internal_resistance"]),
        cell_voltages_v=tuple(cells.get("voltages", ())),
        cell_temperatures_c=tuple(cells.get("temperatures", ())),
        alarm_flags=tuple(safety.get("alarm_flags", ())),
        protection=dict(safety.get("protection_status", {})),
    )


def telemetry_range(db: Database[Document], device_id: str, start: datetime, end: datetime) -> list[Document]:
    """Documents of [start, end), oldest first."""
    query = {"device_id": device_id, "timestamp": {"$gte": start, "$lt": end}}
    return list(db["telemetry_data"].find(query).sort("timestamp", 1))


def delete_telemetry(db: Database[Document], site_id: str) -> int:
    """Forget a site's telemetry and its metrics (a demo's, before it runs again); returns the telemetry documents."""
    count = db["telemetry_data"].delete_many({"site_id": site_id}).deleted_count
    db["telemetry_ts"].delete_many({"device_meta.site_id": site_id})
    for name in (PARTS, DIRTY, "metrics_hourly", "metrics_daily"):
        db[name].delete_many({"site_id": site_id})
    return count

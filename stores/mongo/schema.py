"""Collections, validators and indexes of the contract; made, or brought up to date, idempotently."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure

from core.errors import StoreError

Document = dict[str, Any]
DAY_S = 86_400
NAMESPACE_EXISTS = 48
TELEMETRY_TTL_S = 90 * DAY_S
HOURLY_TTL_S = 2 * 365 * DAY_S
DAILY_TTL_S = 10 * 365 * DAY_S

_NUMBER = {"bsonType": ["double", "int", "long", "decimal"]}
_FINITE = {**_NUMBER, "minimum": -1e12, "maximum": 1e12}
"""Bounds that no quantity reaches: NaN and infinities lie outside them."""
_PERCENT = {**_NUMBER, "minimum": 0, "maximum": 100}
_PROFILE = {"bsonType": "array", "items": _FINITE}
_STATS = {
    "bsonType": "object",
    "required": ["min", "max", "avg", "std"],
    "properties": {"min": _FINITE, "max": _FINITE, "avg": _FINITE, "std": {**_FINITE, "minimum": 0}},
}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"bsonType": "object", "properties": {**required, **(optional or {})}}
    return {**schema, "required": list(required)} if required else schema


TELEMETRY = _object(
    {
        "site_id": {"bsonType": "string", "minLength": 1},
        "device_id": {"bsonType": "string", "minLength": 1},
        "timestamp": {"bsonType": "date"},
        "measurements": _object(
            {
                "voltage": {**_FINITE, "minimum": 0},
                "current": _FINITE,
                "power": _FINITE,
                "temperature": {**_NUMBER, "minimum": -100, "maximum": 200},
                "soc": _PERCENT,
                "soh": _PERCENT,
                "internal_resistance": {**_FINITE, "minimum": 0},
            }
        ),
        "day": {"bsonType": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "hour": {"bsonType": ["int", "long"], "minimum": 0, "maximum": 23},
    },
    {
        "cell_data": _object(
            {},
            {
                "voltages": _PROFILE,
                "temperatures": _PROFILE,
                "balancing_status": {"bsonType": "array", "items": {"enum": [0, 1]}},
            },
        ),
        "safety": _object(
            {},
            {
                "alarm_flags": {"bsonType": "array", "items": {"bsonType": "string"}},
                "protection_status": {"bsonType": "object", "additionalProperties": {"bsonType": "bool"}},
            },
        ),
        "metadata": _object({}, {"data_quality": {**_NUMBER, "minimum": 0, "maximum": 1}}),
    },
)


def _metrics(period: str) -> dict[str, Any]:
    quantities = dict.fromkeys(("voltage", "current", "power", "temperature", "soc"), _STATS)
    return _object(
        {
            "site_id": {"bsonType": "string"},
            "device_id": {"bsonType": "string"},
            "timestamp": {"bsonType": "date"},
            "period": {"enum": [period]},
            "aggregates": _object(quantities),
        },
        {
            "energy_throughput": _object({"charged": _FINITE, "discharged": _FINITE, "net": _FINITE}),
            "cycle_data": _object({"partial_cycles": _FINITE, "equivalent_full_cycles": _FINITE}),
            "alarm_summary": _object({"total_alarms": _NUMBER, "alarm_types": {"bsonType": "array"}}),
        },
    )


PREDICTION = _object(
    {
        "device_id": {"bsonType": "string", "minLength": 1},
        "prediction_timestamp": {"bsonType": "date"},
        "horizon_hours": {**_FINITE, "minimum": 0, "exclusiveMinimum": True},
        "initial_state": _object({"soc": _PERCENT, "soh": _PERCENT, "temperature": _FINITE, "internal_resistance": _FINITE}),
        "power_profile": _PROFILE,
        "predictions": _object(
            {
                "voltage_profile": _PROFILE,
                "temperature_profile": _PROFILE,
                "soc_profile": _PROFILE,
                "efficiency_profile": _PROFILE,
            }
        ),
        "degradation_forecast": {"bsonType": "object"},
        "model_metadata": _object({"model_type": {"bsonType": "string"}}),
    }
)

VALIDATORS: dict[str, dict[str, Any]] = {
    "telemetry_data": TELEMETRY,
    "metrics_hourly": _metrics("hourly"),
    "metrics_daily": _metrics("daily"),
    "digital_twin_predictions": PREDICTION,
}
INDEXES: dict[str, list[list[tuple[str, int]]]] = {
    "telemetry_data": [
        [("site_id", 1), ("device_id", 1), ("timestamp", -1)],
        [("device_id", 1), ("timestamp", -1), ("_id", -1)],
        [("day", 1), ("hour", 1)],
    ],
    "metrics_hourly": [[("site_id", 1), ("device_id", 1), ("timestamp", -1)]],
    "metrics_daily": [[("site_id", 1), ("device_id", 1), ("timestamp", -1)]],
    "digital_twin_predictions": [[("device_id", 1), ("prediction_timestamp", -1), ("_id", -1)]],
}
"""Beside the contract's: those that begin with device_id, for the newest document of a device (stores.mongo.newest)."""
TTL: dict[str, tuple[int, int]] = {
    "telemetry_data": (-1, TELEMETRY_TTL_S),
    "metrics_hourly": (1, HOURLY_TTL_S),
    "metrics_daily": (1, DAILY_TTL_S),
}
"""Collection -> (direction of the timestamp index, seconds)."""

UNIQUE: dict[str, list[tuple[str, int]]] = {
    "metrics_hourly": [("device_id", 1), ("timestamp", -1)],
    "metrics_daily": [("device_id", 1), ("timestamp", -1)],
}
"""One document a device and period: what `$merge` writes to, and what makes a second run give the same documents."""
REJECTED, DIRTY, PARTS, WORK = (
    "optimizer_telemetry_rejected",
    "optimizer_metrics_dirty",
    "optimizer_metrics_parts",
    "optimizer_metrics_work",
)
OWN_INDEXES: dict[str, list[list[tuple[str, int]]]] = {
    REJECTED: [[("reason", 1), ("at", -1)]],
    DIRTY: [[("site_id", 1)]],
    PARTS: [[("device_id", 1), ("starts_at", 1)], [("site_id", 1), ("starts_at", 1)]],
    WORK: [[("run", 1), ("device_id", 1), ("first.t", 1)]],
}
OWN_TTL: dict[str, tuple[str, int]] = {
    REJECTED: ("at", 30 * DAY_S),
    DIRTY: ("hour", TELEMETRY_TTL_S),
    PARTS: ("starts_at", TELEMETRY_TTL_S + 3 * DAY_S),
    WORK: ("at", DAY_S),
}
"""Our own collections, which no other service reads: field of the TTL index and seconds. Parts outlive their telemetry, so
that the days at the edge of retention keep all their hours."""


def ensure_collections(db: Database[Document]) -> list[str]:
    """Create what is missing; validators and TTLs of what is there are set to this version's (collMod).

    Returns what was done, in words; nothing the second time. Raises StoreError when metrics hold two documents for one
    device and period.
    """
    existing = set(db.list_collection_names())
    done = [change for name, validator in VALIDATORS.items() if (change := _ensure_validated(db, name, validator, existing))]
    done += _ensure_series(db, existing)
    for name, indexes in (*INDEXES.items(), *OWN_INDEXES.items()):
        for keys in indexes:
            done += _ensure_index(db, name, keys)
    for name, keys in UNIQUE.items():
        done += _ensure_index(db, name, keys, unique=True)
    for name, (direction, seconds) in TTL.items():
        done += _ensure_ttl(db, name, "timestamp", direction, seconds)
    for name, (field, seconds) in OWN_TTL.items():
        done += _ensure_ttl(db, name, field, 1, seconds)
    return done


def _ensure_validated(db: Database[Document], name: str, validator: Document, existing: set[str]) -> str | None:
    schema = {"$jsonSchema": validator}
    if name not in existing:
        try:
            db.create_collection(name, validator=schema, validationLevel="strict")
            return f"{name}: made"
        except (CollectionInvalid, OperationFailure) as error:
            _raise_unless_it_exists(error)
    options = next(iter(db.list_collections(filter={"name": name})))["options"]
    if options.get("validator") == schema and options.get("validationLevel") == "strict":
        return None
    db.command("collMod", name, validator=schema, validationLevel="strict")
    return f"{name}: validator set"


def _ensure_series(db: Database[Document], existing: set[str]) -> list[str]:
    if "telemetry_ts" not in existing:
        try:
            db.create_collection(
                "telemetry_ts",
                timeseries={"timeField": "timestamp", "metaField": "device_meta", "granularity": "seconds"},
                expireAfterSeconds=TELEMETRY_TTL_S,
            )
            return ["telemetry_ts: made"]
        except (CollectionInvalid, OperationFailure) as error:
            _raise_unless_it_exists(error)
    options = next(iter(db.list_collections(filter={"name": "telemetry_ts"})))["options"]
    if options.get("expireAfterSeconds") == TELEMETRY_TTL_S or "timeseries" not in options:
        return []
    db.command("collMod", "telemetry_ts", expireAfterSeconds=TELEMETRY_TTL_S)
    return [f"telemetry_ts: kept {TELEMETRY_TTL_S // DAY_S} days"]


def _ensure_index(db: Database[Document], name: str, keys: list[tuple[str, int]], *, unique: bool = False) -> list[str]:
    known = [[(field, int(order)) for field, order in info["key"]] for info in db[name].index_information().values()]
    if keys in known:
        return []
    try:
        db[name].create_index(keys, unique=unique)
    except DuplicateKeyError as error:
        raise StoreError(
            f"{name} holds two documents for one device and period ({(error.details or {}).get('keyValue')}): delete one of them"
        ) from None
    return [f"{name}: index on {', '.join(field for field, _ in keys)} made"]


def _raise_unless_it_exists(error: CollectionInvalid | OperationFailure) -> None:
    """Another process was faster: the driver or the server says so."""
    if not isinstance(error, CollectionInvalid) and error.code != NAMESPACE_EXISTS:
        raise error


def _ensure_ttl(db: Database[Document], name: str, field: str, direction: int, seconds: int) -> list[str]:
    found, done = False, []
    for info in db[name].index_information().values():
        if [key for key, _ in info["key"]] == [field]:
            found = True
            if info.get("expireAfterSeconds") != seconds:
                keys = {field: int(info["key"][0][1])}
                db.command("collMod", name, index={"keyPattern": keys, "expireAfterSeconds": seconds})
                done.append(f"{name}: kept {seconds // DAY_S} days (was {info.get('expireAfterSeconds')} s)")
    if found:
        return done
    order = pymongo.ASCENDING if direction == 1 else pymongo.DESCENDING
    db[name].create_index([(field, order)], expireAfterSeconds=seconds)
    return [f"{name}: kept {seconds // DAY_S} days"]

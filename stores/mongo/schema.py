"""Collections, validators and indexes of the contract; made, or brought up to date, idempotently."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, OperationFailure

Document = dict[str, Any]
DAY_S = 86_400
NAMESPACE_EXISTS = 48
TELEMETRY_TTL_S = 90 * DAY_S
HOURLY_TTL_S = 2 * 365 * DAY_S
DAILY_TTL_S = 10 * 365 * DAY_S

_NUMBER = {"bsonType": ["double", "int", "long", "decimal"]}
_PERCENT = {**_NUMBER, "minimum": 0, "maximum": 100}
_PROFILE = {"bsonType": "array", "items": _NUMBER}
_STATS = {
    "bsonType": "object",
    "required": ["min", "max", "avg", "std"],
    "properties": {"min": _NUMBER, "max": _NUMBER, "avg": _NUMBER, "std": {**_NUMBER, "minimum": 0}},
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
                "voltage": {**_NUMBER, "minimum": 0},
                "current": _NUMBER,
                "power": _NUMBER,
                "temperature": {**_NUMBER, "minimum": -100, "maximum": 200},
                "soc": _PERCENT,
                "soh": _PERCENT,
                "internal_resistance": {**_NUMBER, "minimum": 0},
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
            "energy_throughput": _object({"charged": _NUMBER, "discharged": _NUMBER, "net": _NUMBER}),
            "cycle_data": _object({"partial_cycles": _NUMBER, "equivalent_full_cycles": _NUMBER}),
            "alarm_summary": _object({"total_alarms": _NUMBER, "alarm_types": {"bsonType": "array"}}),
        },
    )


PREDICTION = _object(
    {
        "device_id": {"bsonType": "string", "minLength": 1},
        "prediction_timestamp": {"bsonType": "date"},
        "horizon_hours": {**_NUMBER, "minimum": 0, "exclusiveMinimum": True},
        "initial_state": _object({"soc": _PERCENT, "soh": _PERCENT, "temperature": _NUMBER, "internal_resistance": _NUMBER}),
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


def ensure_collections(db: Database[Document]) -> None:
    """Create what is missing; validators and TTLs of what is there are set to this version's (collMod)."""
    existing = set(db.list_collection_names())
    for name, validator in VALIDATORS.items():
        schema = {"$jsonSchema": validator}
        if name not in existing:
            try:
                db.create_collection(name, validator=schema, validationLevel="strict")
                continue
            except (CollectionInvalid, OperationFailure) as error:
                _raise_unless_it_exists(error)
        options = next(iter(db.list_collections(filter={"name": name})))["options"]
        if options.get("validator") != schema or options.get("validationLevel") != "strict":
            db.command("collMod", name, validator=schema, validationLevel="strict")
    if "telemetry_ts" not in existing:
        try:
            db.create_collection(
                "telemetry_ts",
                timeseries={"timeField": "timestamp", "metaField": "device_meta", "granularity": "seconds"},
            )
        except (CollectionInvalid, OperationFailure) as error:
            _raise_unless_it_exists(error)
    for name, indexes in INDEXES.items():
        for keys in indexes:
            db[name].create_index(keys)
    for name, (direction, seconds) in TTL.items():
        _ensure_ttl(db, name, direction, seconds)


def _raise_unless_it_exists(error: CollectionInvalid | OperationFailure) -> None:
    """Another process was faster: the driver or the server says so."""
    if not isinstance(error, CollectionInvalid) and error.code != NAMESPACE_EXISTS:
        raise error


def _ensure_ttl(db: Database[Document], name: str, direction: int, seconds: int) -> None:
    found = False
    for info in db[name].index_information().values():
        if [key for key, _ in info["key"]] == ["timestamp"]:
            found = True
            if info.get("expireAfterSeconds") != seconds:
                keys = {"timestamp": int(info["key"][0][1])}
                db.command("collMod", name, index={"keyPattern": keys, "expireAfterSeconds": seconds})
    if found:
        return
    order = pymongo.ASCENDING if direction == 1 else pymongo.DESCENDING
    db[name].create_index([("timestamp", order)], expireAfterSeconds=seconds)

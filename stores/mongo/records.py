"""telemetry_data for whoever computes with many samples or devices: columns of one, latest stamps. Not here: writing, states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymongo.database import Database

FloatArray = NDArray[np.float64]
Document = dict[str, Any]


def measured_columns(
    db: Database[Document], device_id: str, start: datetime, end: datetime, names: Sequence[str]
) -> dict[str, FloatArray]:
    """`time_s` (seconds since 1970) and the measurements of these names in [start, end), oldest first; each shape (K,).

    What a document lacks or holds as something else than a number is NaN.
    """
    query = {"device_id": device_id, "timestamp": {"$gte": start, "$lt": end}}
    fields = {"_id": 0, "timestamp": 1, **{f"measurements.{name}": 1 for name in names}}
    times: list[float] = []
    rows: list[list[float]] = []
    for document in db["telemetry_data"].find(query, fields, batch_size=10_000).sort("timestamp", 1):
        measured = document.get("measurements") or {}
        times.append(document["timestamp"].timestamp())
        rows.append([_number(measured.get(name)) for name in names])
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    return {"time_s": np.array(times), **{name: values[:, k] for k, name in enumerate(names)}}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def newest_stamps(db: Database[Document], device_ids: Iterable[str]) -> dict[str, datetime]:
    """The latest timestamp of each device, however far ahead; answered from the index alone."""
    devices = [{"device_id": device_id} for device_id in dict.fromkeys(device_ids)]
    if not devices:
        return {}
    lookup = {
        "from": "telemetry_data",
        "localField": "device_id",
        "foreignField": "device_id",
        "pipeline": [
            {"$sort": {"timestamp": -1, "_id": -1}},
            {"$limit": 1},
            {"$project": {"_id": 0, "device_id": 1, "timestamp": 1}},
        ],
        "as": "found",
    }
    pipeline: list[Document] = [{"$documents": devices}, {"$lookup": lookup}, {"$unwind": "$found"}]
    found = db.aggregate([*pipeline, {"$replaceRoot": {"newRoot": "$found"}}])
    return {document["device_id"]: document["timestamp"] for document in found}

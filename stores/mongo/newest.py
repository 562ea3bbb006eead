"""The newest document of each of many devices, in one round trip. Not here: what the documents mean."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pymongo.database import Database

Document = dict[str, Any]


def newest_documents(
    db: Database[Document], collection: str, time_field: str, device_ids: Iterable[str], *, not_after: datetime | None
) -> list[Document]:
    """At most one document a device: that of the latest `time_field` (not after `not_after`), of equals the last _id.

    One index seek a device on (device_id, `time_field` descending, ...); needs MongoDB 5.1 or newer ($documents).
    """
    devices = [{"device_id": device_id} for device_id in dict.fromkeys(device_ids)]
    if not devices:
        return []
    newest: list[Document] = [{"$sort": {time_field: -1, "_id": -1}}, {"$limit": 1}]
    if not_after is not None:
        newest.insert(0, {"$match": {time_field: {"$lte": not_after}}})
    lookup = {"from": collection, "localField": "device_id", "foreignField": "device_id", "pipeline": newest, "as": "found"}
    pipeline: list[Document] = [{"$documents": devices}, {"$lookup": lookup}, {"$unwind": "$found"}]
    return list(db.aggregate([*pipeline, {"$replaceRoot": {"newRoot": "$found"}}]))

"""The collection of documents that were set aside: what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from stores.mongo.schema import REJECTED

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedCount:
    """Documents of one source and reason, with where the first of them was and what it should have been."""

    source: str
    reason: str
    count: int
    line: int
    field: str
    expected: str


def rejected_counts(db: Database[Document]) -> list[RejectedCount]:
    """By source and reason."""
    group = {
        "_id": {"source": "$source", "reason": "$reason"},
        "count": {"$sum": 1},
        "line": {"$first": "$line"},
        "field": {"$first": "$field"},
        "expected": {"$first": "$expected"},
    }
    found = db[REJECTED].aggregate([{"$sort": {"line": 1}}, {"$group": group}, {"$sort": {"_id": 1}}], allowDiskUse=True)
    return [RejectedCount(**made.pop("_id"), **made) for made in found]

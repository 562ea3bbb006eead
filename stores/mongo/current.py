"""What the status keys are made of: each device's newest telemetry, and sums over a period's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo.database import Database

from stores.mongo.newest import newest_documents

Document = dict[str, Any]


def newest_statuses(db: Database[Document], device_ids: Sequence[str], *, not_after: datetime) -> dict[str, Document]:
    """The contract's device:status fields of each device from its newest telemetry, `online` left to the caller."""
    found = newest_documents(db, "telemetry_data", "timestamp", device_ids, not_after=not_after)
    return {
        made["device_id"]: {
            "last_telemetry": made["timestamp"].isoformat(),
            "current_soc": float(made["measurements"]["soc"]),
            "current_power": float(made["measurements"]["power"]),
            "alarm_count": len(made.get("safety", {}).get("alarm_flags", [])),
            "communication_quality": float(made.get("metadata", {}).get("data_quality", 1.0)),
        }
        for made in found
    }


def period_sums(db: Database[Document], period: str, site_id: str) -> tuple[datetime, Document] | None:
    """Sums over a site's newest hour or day in metrics_hourly or metrics_daily: its start and the fields of site:metrics."""
    collection = db[f"metrics_{period}"]
    newest = collection.find_one({"site_id": site_id}, {"timestamp": 1}, sort=[("timestamp", -1)])
    if newest is None:
        return None
    group = {
        "_id": None,
        "total_power": {"$sum": "$aggregates.power.avg"},
        "average_soc": {"$avg": "$aggregates.soc.avg"},
        "online_count": {"$sum": 1},
        "alarm_count": {"$sum": "$alarm_summary.total_alarms"},
    }
    (made,) = collection.aggregate([{"$match": {"site_id": site_id, "timestamp": newest["timestamp"]}}, {"$group": group}])
    del made["_id"]
    return newest["timestamp"], made

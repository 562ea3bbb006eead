"""MongoDB's part of `pulsebms maintain`: schema and TTLs as they should be, and what the TTL monitor left behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from stores.mongo.schema import OWN_TTL, REJECTED, TTL, ensure_collections

Document = dict[str, Any]
GRACE = timedelta(days=1)
"""The server's TTL monitor runs every minute; what is a day late it will not delete (it is switched off, or cannot keep up)."""


def maintain_mongo(db: Database[Document], at: datetime | None = None) -> dict[str, int | str]:
    """Run every job as of `at` (default now); the second run does nothing.

    `... expired, deleted` above 0 says that the TTL monitor does not do its work. telemetry_ts expires by itself only: a
    time-series collection allows no deletion by time.
    """
    moment = at or datetime.now(UTC)
    changes = ensure_collections(db)
    done: dict[str, int | str] = {"collections, indexes, TTLs changed": "; ".join(changes) or 0}
    fields = {name: ("timestamp", seconds) for name, (_, seconds) in TTL.items()} | OWN_TTL
    for name, (field, seconds) in fields.items():
        oldest = moment - timedelta(seconds=seconds) - GRACE
        done[f"{name}: expired, deleted"] = db[name].delete_many({field: {"$lt": oldest}}).deleted_count
    done[f"{REJECTED}: documents waiting for a look"] = db[REJECTED].estimated_document_count()
    return done

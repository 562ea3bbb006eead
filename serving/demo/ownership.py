"""What the demo may delete: on which servers it runs, and whether the site's data are a demo's own.

A demo leaves a mark in the store before it writes anything else: the window of plant time that its data lie in. Data outside
the marked windows are somebody's. Not here: the deleting (serving.demo.world).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from core.errors import InputError
from core.series import Series
from stores.connections import Stores
from stores.postgres.series import delete_series, write_series
from stores.postgres.series_rows import series_rows
from stores.settings import StoreSettings

RUNS = ".demo_runs"
"""Suffix of the site id under which the marks stand, apart from the site's own series."""
_NAME = "demo_run"
MARGIN = timedelta(hours=1)
"""Devices speak a little before the first interval and after the last one."""
AROUND = timedelta(days=6)
"""Prices and forecasts are written for days before and after those that are run."""
Window = tuple[datetime, datetime]


def check_servers(settings: StoreSettings, *, allowed: bool) -> None:
    """Raise InputError naming the variable when servers of one's own are set and the demo was not told to use them."""
    urls = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url, "MONGODB_URI": settings.mongodb_uri}
    given = [name for name, url in urls.items() if url is not None]
    if given and not allowed:
        raise InputError(
            source="environment",
            field=", ".join(given),
            value="set",
            expected="not set: the demo deletes the data of its site and commands its packs. Unset it, or add --on-these-servers",
        )


def check_data(stores: Stores, site_id: str) -> None:
    """Raise InputError when the site has telemetry, decisions or series that no demo wrote."""
    runs = _runs(stores, site_id)
    found = [
        name
        for name, there in (
            ("telemetry", _foreign_telemetry(stores, site_id, runs)),
            ("decisions", _foreign_rows(stores, "decisions", site_id, runs, MARGIN)),
            ("series", _foreign_rows(stores, "site_series", site_id, runs, AROUND)),
        )
        if there
    ]
    if found:
        raise InputError(
            source=f"site {site_id}",
            field="data",
            value=" and ".join(found),
            expected="none but an earlier demo's, since the demo deletes them. Run it with PULSEBMS_DATA=.pulsebms-demo, "
            "or add --forget to delete what the site has",
        )


def mark_run(stores: Stores, site_id: str, start: datetime, end: datetime) -> None:
    """Forget earlier marks (their data are gone) and leave one for a demo over [start, end)."""
    with stores.pg.transaction():
        delete_series(stores.pg, site_id + RUNS)
        write_series(stores.pg, site_id + RUNS, Series(_NAME, start, (end - start).total_seconds(), np.ones(1)), start)


def _runs(stores: Stores, site_id: str) -> list[Window]:
    ever = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))
    rows = series_rows(stores.pg, site_id + RUNS, _NAME, *ever, known_at=ever[1])
    return [(row.starts_at, row.starts_at + timedelta(seconds=row.dt_s)) for row in rows]


def _foreign_telemetry(stores: Stores, site_id: str, runs: Sequence[Window]) -> bool:
    outside = [{"timestamp": {"$not": {"$gte": low - MARGIN, "$lt": high + MARGIN}}} for low, high in runs]
    return stores.mongo["telemetry_data"].find_one({"$and": [{"site_id": site_id}, *outside]}, {"_id": 1}) is not None


def _foreign_rows(stores: Stores, table: str, site_id: str, runs: Sequence[Window], margin: timedelta) -> bool:
    query = f"SELECT 1 FROM optimizer.{table} WHERE site_id = %s" + " AND NOT (starts_at >= %s AND starts_at < %s)" * len(runs)  # noqa: S608
    moments = [moment for low, high in runs for moment in (low - margin, high + margin)]
    return stores.pg.execute(f"{query} LIMIT 1".encode(), (site_id, *moments)).fetchone() is not None

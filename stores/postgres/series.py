"""`optimizer.site_series`: prices, forecasts and meter values, each as it was known at a moment."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from core.errors import InputError
from core.series import Series, check_series


def write_series(conn: psycopg.Connection[Any], site_id: str, series: Series, known_at: datetime) -> int:
    """Write a series as known at `known_at`; again with the same stamps it replaces them. Returns the rows."""
    step = timedelta(seconds=series.dt_s)
    stamps = [series.start + k * step for k in range(len(series))]
    conn.execute(
        """
        INSERT INTO optimizer.site_series (site_id, name, starts_at, dt_s, known_at, value)
        SELECT %s, %s, stamp, %s, %s, value FROM unnest(%s::timestamptz[], %s::float8[]) AS t(stamp, value)
        ON CONFLICT (site_id, name, starts_at, known_at) DO UPDATE SET value = EXCLUDED.value, dt_s = EXCLUDED.dt_s
        """,
        (site_id, series.name, series.dt_s, known_at, stamps, [float(value) for value in series.values]),
    )
    return len(stamps)


def read_series(
    conn: psycopg.Connection[Any], site_id: str, name: str, start: datetime, end: datetime, *, known_at: datetime
) -> Series:
    """Values with stamps in [start, end), for each the newest known at `known_at`.

    Raises InputError naming the series when nothing is known, or the stamp at which it has a gap.
    """
    rows = conn.execute(
        """
        SELECT DISTINCT ON (starts_at) starts_at, value, dt_s FROM optimizer.site_series
        WHERE site_id = %s AND name = %s AND starts_at >= %s AND starts_at < %s AND known_at <= %s
        ORDER BY starts_at, known_at DESC
        """,
        (site_id, name, start, end, known_at),
    ).fetchall()
    source = f"site_series of {site_id}"
    if not rows:
        raise InputError(source=source, field=name, value=None, expected=f"values from {start.isoformat()} to {end.isoformat()}")
    if len(rows) == 1:
        return Series(name, rows[0][0], float(rows[0][2]), np.array([rows[0][1]]))
    for (before, _, dt_s), (after, _, _) in itertools.pairwise(rows):
        # By the step that was written: every second value alone would be a uniform grid without a gap to see.
        due = before + timedelta(seconds=dt_s)
        if after > due:
            expected = f"a value every {dt_s:g} s"
            raise InputError(source=source, field=f"{name} at {due.isoformat()}", value=None, expected=expected)
    return check_series(name, [row[0] for row in rows], [row[1] for row in rows], source=source)


def latest_value(conn: psycopg.Connection[Any], site_id: str, name: str, known_at: datetime) -> float | None:
    """The newest value known at `known_at`, or None."""
    row = conn.execute(
        "SELECT value FROM optimizer.site_series WHERE site_id = %s AND name = %s AND known_at <= %s "
        "ORDER BY starts_at DESC, known_at DESC LIMIT 1",
        (site_id, name, known_at),
    ).fetchone()
    return None if row is None else float(row[0])


def delete_series(conn: psycopg.Connection[Any], site_id: str) -> int:
    """Forget all series of a site; returns the rows."""
    return conn.execute("DELETE FROM optimizer.site_series WHERE site_id = %s", (site_id,)).rowcount

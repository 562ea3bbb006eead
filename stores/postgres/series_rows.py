"""`optimizer.site_series` row by row: what may have gaps, what was known when, extremes. Whole series: stores.postgres.series."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One value over [starts_at, starts_at + dt_s), and when it became known."""

    starts_at: datetime
    dt_s: float
    value: float
    known_at: datetime


def series_rows(
    conn: psycopg.Connection[Any], site_id: str, name: str, start: datetime, end: datetime, *, known_at: datetime
) -> list[SeriesRow]:
    """Values with stamps in [start, end), oldest first, for each the newest known at `known_at`; gaps are left as they are."""
    rows = conn.execute(
        """
        SELECT DISTINCT ON (starts_at) starts_at, dt_s, value, known_at FROM optimizer.site_series
        WHERE site_id = %s AND name = %s AND starts_at >= %s AND starts_at < %s AND known_at <= %s
        ORDER BY starts_at, known_at DESC
        """,
        (site_id, name, start, end, known_at),
    )
    return [SeriesRow(*row) for row in rows]


def rows_as_known(
    conn: psycopg.Connection[Any], site_id: str, name: str, start: datetime, end: datetime, *, known_at: datetime
) -> list[SeriesRow]:
    """Like series_rows, but each value as it was known when its step began: what a forecast said, not what it was revised to."""
    rows = conn.execute(
        """
        SELECT DISTINCT ON (starts_at) starts_at, dt_s, value, known_at FROM optimizer.site_series
        WHERE site_id = %s AND name = %s AND starts_at >= %s AND starts_at < %s AND known_at <= least(starts_at, %s)
        ORDER BY starts_at, known_at DESC
        """,
        (site_id, name, start, end, known_at),
    )
    return [SeriesRow(*row) for row in rows]


def withdraw_series(conn: psycopg.Connection[Any], site_id: str, name: str, start: datetime) -> int:
    """Forget the values of a series that begin at `start` or later; returns the rows. What has begun stays on record."""
    return conn.execute(
        "DELETE FROM optimizer.site_series WHERE site_id = %s AND name = %s AND starts_at >= %s", (site_id, name, start)
    ).rowcount

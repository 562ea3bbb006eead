"""Partitions ahead, retention, archive: one idempotent job that says what it did."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg

OUTBOX_DAYS = 7
"""Ended outbox rows are kept this long: command_history is the record."""
SHADOW_DAYS = 30
"""What shadows decided; what their days were worth is kept for SCORE_DAYS."""
SCORE_DAYS = 730


def maintain_postgres(conn: psycopg.Connection[Any], at: datetime | None = None) -> dict[str, int]:
    """Run every job as of `at` (default now). `rows in default partition` above 0 is an alarm: a month was missing."""
    moment = at or datetime.now(UTC)
    before = _partitions(conn)
    conn.execute("SELECT create_monthly_partition((%s::timestamptz AT TIME ZONE 'UTC')::date)", (moment,))
    made = _partitions(conn) - before
    cleaned = conn.execute("SELECT dropped, deleted FROM clean_command_history(%s)", (moment,)).fetchone() or (0, 0)
    archived = conn.execute("SELECT archive_device_configurations(%s)", (moment,)).fetchone() or (0,)
    outbox = conn.execute(
        "DELETE FROM optimizer.command_outbox o WHERE ended_at < %s::timestamptz - make_interval(days => %s) AND seq < "
        "(SELECT last_seq FROM optimizer.device_seq s WHERE s.device_id = o.device_id)",
        (moment, OUTBOX_DAYS),
    ).rowcount
    ids = conn.execute(
        "DELETE FROM optimizer.decisions WHERE recorded_at < %s::timestamptz - interval '1 year'", (moment,)
    ).rowcount
    shadows = conn.execute(
        "DELETE FROM optimizer.shadow_decisions WHERE recorded_at < %s::timestamptz - make_interval(days => %s)",
        (moment, SHADOW_DAYS),
    ).rowcount
    conn.execute(
        "DELETE FROM optimizer.shadow_states WHERE written_at < %s::timestamptz - make_interval(days => %s)",
        (moment, SHADOW_DAYS),
    )
    days = conn.execute(
        "DELETE FROM optimizer.scored_days WHERE scored_at < %s::timestamptz - make_interval(days => %s)", (moment, SCORE_DAYS)
    ).rowcount
    conn.execute(
        "DELETE FROM optimizer.policy_alarms WHERE raised_at < %s::timestamptz - make_interval(days => %s)", (moment, SCORE_DAYS)
    )
    stray = conn.execute("SELECT count(*) FROM command_history_default").fetchone() or (0,)
    return {
        "partitions made": made,
        "partitions dropped": cleaned[0],
        "history rows deleted": cleaned[1],
        "devices archived": archived[0],
        "outbox rows deleted": outbox,
        "decisions deleted": ids,
        "shadow decisions deleted": shadows,
        "scored days deleted": days,
        "rows in default partition": stray[0],
    }


def _partitions(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'command_history'::regclass").fetchone()
    return int(row[0]) if row else 0

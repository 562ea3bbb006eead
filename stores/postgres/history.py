"""The read side of `command_history`. Not here: writing it (stores.postgres.outbox)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from core.commands import CommandType


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One command and what became of it."""

    command_id: str
    device_id: str
    command_type: CommandType
    parameters: Mapping[str, Any] | None
    issued_at: datetime
    acknowledged_at: datetime | None
    completed_at: datetime | None
    success: bool | None
    response_message: str | None
    response_data: Mapping[str, Any] | None
    retry_count: int
    issued_by: str | None


def history(
    conn: psycopg.Connection[Any],
    site_id: str,
    *,
    device_id: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[HistoryRow]:
    """Commands of a site, newest first (of equal times the higher sequence number first)."""
    rows = conn.execute(
        """
        SELECT h.command_id, h.device_id, h.command_type, h.parameters, h.issued_at, h.acknowledged_at, h.completed_at,
               h.success, h.response_message, h.response_data, h.retry_count, h.issued_by
        FROM command_history h LEFT JOIN optimizer.command_outbox o USING (command_id)
        WHERE h.site_id = %s AND (%s::text IS NULL OR h.device_id = %s)
          AND (%s::timestamptz IS NULL OR h.issued_at >= %s)
        ORDER BY h.issued_at DESC, o.seq DESC NULLS LAST LIMIT %s
        """,
        (site_id, device_id, device_id, since, since, limit),
    )
    return [
        HistoryRow(
            command_id=row[0],
            device_id=row[1],
            command_type=CommandType(row[2]),
            parameters=row[3],
            issued_at=row[4],
            acknowledged_at=row[5],
            completed_at=row[6],
            success=row[7],
            response_message=row[8],
            response_data=row[9],
            retry_count=row[10],
            issued_by=row[11],
        )
        for row in rows
    ]


def ended_as(conn: psycopg.Connection[Any], command_id: str) -> tuple[str, str] | None:
    """(outcome, message) of one command; None while it is open or unknown."""
    row = conn.execute(
        "SELECT response_data->>'outcome', response_message FROM command_history WHERE command_id = %s AND success IS NOT NULL "
        "AND issued_at = (SELECT issued_at FROM command_ids WHERE command_id = %s)",
        (command_id, command_id),
    ).fetchone()
    return None if row is None else (str(row[0]), str(row[1] or ""))


def outcome_counts(conn: psycopg.Connection[Any], site_id: str, since: datetime) -> dict[str, int]:
    """How many were issued and acknowledged since `since`, and how many ended in each outcome (`open`: not yet)."""
    row = conn.execute(
        "SELECT count(*), count(acknowledged_at) FROM command_history WHERE site_id = %s AND issued_at >= %s",
        (site_id, since),
    ).fetchone()
    counts = {"issued": row[0], "acknowledged": row[1]} if row else {}
    counts |= {"completed": 0, "expired": 0}
    for outcome, number in conn.execute(
        "SELECT coalesce(response_data->>'outcome', 'open'), count(*) FROM command_history "
        "WHERE site_id = %s AND issued_at >= %s GROUP BY 1 ORDER BY 1",
        (site_id, since),
    ):
        counts[outcome] = number
    return counts

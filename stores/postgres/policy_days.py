"""`optimizer.scored_days`, `.policy_days`, `.policy_alarms`: what days were worth under each policy, and what was raised.

Not here: scoring and judging (serving.shadow), the life cycle (stores.postgres.policy_life).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

COMMANDED, SHADOW = "commanded", "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredDay:
    """The marker of a day; `why_not` is empty when it has scores."""

    site_id: str
    day: date
    starts_at: datetime
    ends_at: datetime
    why_not: str
    scored_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDay:
    """One policy's day on the twin; EUR. `policy_id` is empty for rule, hold and stop."""

    site_id: str
    day: date
    role: str
    policy_id: str
    policy: str
    score: float | None
    j_eur: float
    idle_eur: float
    best_eur: float
    decided_share: float
    violations: int
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAlarm:
    """What was raised about a policy on a day. `action`: demoted, kept."""

    site_id: str
    policy_id: str
    policy: str
    day: date
    kind: str
    action: str
    reason: str
    figures: Mapping[str, Any]
    raised_by: str
    raised_at: datetime | None = None


def lock_day(conn: psycopg.Connection[Any], site_id: str, day: date) -> bool:
    """Whether this session has the day for itself, until it ends or calls unlock_day; False when another has it."""
    row = conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (_key(site_id, day),)).fetchone()
    return bool(row and row[0])


def unlock_day(conn: psycopg.Connection[Any], site_id: str, day: date) -> None:
    """Let the day go."""
    conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (_key(site_id, day),))


def lock_site(conn: psycopg.Connection[Any], site_id: str) -> None:
    """Within a transaction: one judge of a site's policies at a time, until it commits."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"judge/{site_id}",))


def _key(site_id: str, day: date) -> str:
    return f"score-day/{site_id}/{day.isoformat()}"


def scored_day(conn: psycopg.Connection[Any], site_id: str, day: date) -> ScoredDay | None:
    """The day's marker, or None when it was not scored."""
    row = conn.execute(
        "SELECT site_id, day, starts_at, ends_at, why_not, scored_by FROM optimizer.scored_days WHERE site_id = %s AND day = %s",
        (site_id, day),
    ).fetchone()
    return None if row is None else _marker(row)


def scored_days(conn: psycopg.Connection[Any], site_id: str, since: date) -> list[ScoredDay]:
    """Markers of `since` and later, oldest first."""
    rows = conn.execute(
        "SELECT site_id, day, starts_at, ends_at, why_not, scored_by FROM optimizer.scored_days WHERE site_id = %s AND day >= %s "
        "ORDER BY day",
        (site_id, since),
    )
    return [_marker(row) for row in rows]


def _marker(row: tuple[Any, ...]) -> ScoredDay:
    return ScoredDay(site_id=row[0], day=row[1], starts_at=row[2], ends_at=row[3], why_not=row[4], scored_by=row[5])


def mark_day(conn: psycopg.Connection[Any], marker: ScoredDay, *, again: bool = False) -> bool:
    """Claim a day inside the transaction that writes its scores; False when it was scored already.

    `again` forgets its scores first, in the same transaction.
    """
    if again:
        conn.execute("DELETE FROM optimizer.scored_days WHERE site_id = %s AND day = %s", (marker.site_id, marker.day))
    return bool(
        conn.execute(
            "INSERT INTO optimizer.scored_days (site_id, day, starts_at, ends_at, why_not, scored_by) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (marker.site_id, marker.day, marker.starts_at, marker.ends_at, marker.why_not, marker.scored_by),
        ).rowcount
    )


def write_policy_days(conn: psycopg.Connection[Any], rows: Sequence[PolicyDay]) -> None:
    """Scores of a day that mark_day has claimed."""
    for row in rows:
        conn.execute(
            """
            INSERT INTO optimizer.policy_days (site_id, day, role, policy_id, policy, score, j_eur, idle_eur, best_eur,
                decided_share, violations, details) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                row.site_id, row.day, row.role, row.policy_id, row.policy, row.score, row.j_eur, row.idle_eur, row.best_eur,
                row.decided_share, row.violations, Jsonb(dict(row.details)),
            ),
        )  # fmt: skip


def policy_days(
    conn: psycopg.Connection[Any], site_id: str, *, since: date | None = None, policy_id: str | None = None, limit: int = 1000
) -> list[PolicyDay]:
    """Scores, newest day first, of a day what was commanded first."""
    rows = conn.execute(
        """
        SELECT site_id, day, role, policy_id, policy, score, j_eur, idle_eur, best_eur, decided_share, violations, details
        FROM optimizer.policy_days WHERE site_id = %s AND (%s::date IS NULL OR day >= %s)
            AND (%s::text IS NULL OR policy_id = %s)
        ORDER BY day DESC, role, policy LIMIT %s
        """,
        (site_id, since, since, policy_id, policy_id, limit),
    )
    return [
        PolicyDay(
            site_id=row[0], day=row[1], role=row[2], policy_id=row[3], policy=row[4], score=row[5], j_eur=row[6], idle_eur=row[7],
            best_eur=row[8], decided_share=row[9], violations=row[10], details=row[11],
        )
        for row in rows
    ]  # fmt: skip


def raise_alarm(conn: psycopg.Connection[Any], alarm: PolicyAlarm) -> bool:
    """Write an alarm; False when that was raised for this policy and day already."""
    return bool(
        conn.execute(
            """
            INSERT INTO optimizer.policy_alarms (site_id, policy_id, policy, day, kind, action, reason, figures, raised_by)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
            """,
            (
                alarm.site_id, alarm.policy_id, alarm.policy, alarm.day, alarm.kind, alarm.action, alarm.reason,
                Jsonb(dict(alarm.figures)), alarm.raised_by,
            ),
        ).rowcount
    )  # fmt: skip


def policy_alarms(conn: psycopg.Connection[Any], site_id: str, *, since: date | None = None) -> list[PolicyAlarm]:
    """Alarms, newest first."""
    rows = conn.execute(
        """
        SELECT site_id, policy_id, policy, day, kind, action, reason, figures, raised_by, raised_at
        FROM optimizer.policy_alarms WHERE site_id = %s AND (%s::date IS NULL OR day >= %s) ORDER BY day DESC, raised_at DESC
        """,
        (site_id, since, since),
    )
    return [
        PolicyAlarm(
            site_id=row[0], policy_id=row[1], policy=row[2], day=row[3], kind=row[4], action=row[5], reason=row[6],
            figures=row[7], raised_by=row[8], raised_at=row[9],
        )
        for row in rows
    ]  # fmt: skip

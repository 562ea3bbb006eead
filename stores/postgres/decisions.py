"""`optimizer.decisions`: what was decided, by whom, with the plan, its reasons and the age of each input."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from core.decisions import Decision, Reason, SetPoint

_COLUMNS = "site_id, starts_at, interval_s, source, policy_id::text, solver, objective_eur, set_points, passed_over, plan, inputs"


def record_decision(conn: psycopg.Connection[Any], decision: Decision) -> str:
    """Write a decision; returns its id."""
    points = [
        {"device_id": p.device_id, "power_w": p.power_w, "reason": p.reason.value, "detail": p.detail}
        for p in decision.set_points
    ]
    row = conn.execute(
        """
        INSERT INTO optimizer.decisions (site_id, starts_at, interval_s, source, policy_id, solver, objective_eur,
            set_points, passed_over, plan, inputs) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id::text
        """,
        (
            decision.site_id,
            decision.starts_at,
            decision.interval_s,
            decision.source,
            decision.policy_id,
            decision.solver,
            decision.objective_eur,
            Jsonb(points),
            Jsonb([list(pair) for pair in decision.passed_over]),
            Jsonb(dict(decision.plan)),
            Jsonb(dict(decision.inputs)),
        ),
    ).fetchone()
    return str(row[0]) if row else ""


def decisions(
    conn: psycopg.Connection[Any], site_id: str, since: datetime | None = None, until: datetime | None = None
) -> list[Decision]:
    """Decisions for intervals that start in [since, until), oldest first."""
    query = (
        f"SELECT {_COLUMNS} FROM optimizer.decisions WHERE site_id = %s "  # noqa: S608
        "AND (%s::timestamptz IS NULL OR starts_at >= %s) AND (%s::timestamptz IS NULL OR starts_at < %s) "
        "ORDER BY starts_at, recorded_at"
    )
    return [_decision(row) for row in conn.execute(query.encode(), (site_id, since, since, until, until))]


def last_decision(conn: psycopg.Connection[Any], site_id: str) -> Decision | None:
    """The decision for the latest interval, or None."""
    query = (
        f"SELECT {_COLUMNS} FROM optimizer.decisions WHERE site_id = %s "  # noqa: S608
        "ORDER BY starts_at DESC, recorded_at DESC LIMIT 1"
    )
    row = conn.execute(query.encode(), (site_id,)).fetchone()
    return None if row is None else _decision(row)


def first_decision_since(conn: psycopg.Connection[Any], site_id: str, since: datetime) -> datetime | None:
    """When the first interval begins that was decided for at `since` or later; None when there is none."""
    row = conn.execute(
        "SELECT min(starts_at) FROM optimizer.decisions WHERE site_id = %s AND starts_at >= %s", (site_id, since)
    ).fetchone()
    return row[0] if row else None


def delete_decisions(conn: psycopg.Connection[Any], site_id: str) -> int:
    """Forget a site's decisions (a demo's, before it runs again); returns the rows."""
    return conn.execute("DELETE FROM optimizer.decisions WHERE site_id = %s", (site_id,)).rowcount


def _decision(row: tuple[Any, ...]) -> Decision:
    return Decision(
        site_id=row[0],
        starts_at=row[1],
        interval_s=row[2],
        source=row[3],
        policy_id=row[4],
        solver=row[5],
        objective_eur=row[6],
        set_points=tuple(
            SetPoint(
                device_id=point["device_id"],
                power_w=point["power_w"],
                reason=Reason(point["reason"]),
                detail=point["detail"],
            )
            for point in row[7]
        ),
        passed_over=tuple((name, why) for name, why in row[8]),
        plan=row[9],
        inputs=row[10],
    )

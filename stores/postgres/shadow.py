"""`optimizer.shadow_decisions`, `optimizer.shadow_states`: what shadows decided, and where their virtual packs stand.

Not here: what a day of them was worth (stores.postgres.policy_days).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

DECIDED = "decided"
"""The outcome of a turn that gave a decision; any other is the class of reasons why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowDecision:
    """One interval of one shadow; power after the gate, discharge positive, W; SoC at the interval's end, percent."""

    site_id: str
    policy_id: str
    policy: str
    starts_at: datetime
    interval_s: int
    outcome: str
    detail: str = ""
    power_w: Mapping[str, float] = field(default_factory=dict)
    soc_pct: Mapping[str, float] = field(default_factory=dict)
    cut_w: float = 0.0
    wall_s: float = 0.0


def record_turn(conn: psycopg.Connection[Any], row: ShadowDecision, state: Mapping[str, Any]) -> bool:
    """Write an interval and the state after it, both or neither; False when somebody has written that interval already."""
    with conn.transaction():
        written = conn.execute(
            """
            INSERT INTO optimizer.shadow_decisions (site_id, policy_id, policy, starts_at, interval_s, outcome, detail, power_w,
                soc_pct, cut_w, wall_s) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
            """,
            (
                row.site_id, row.policy_id, row.policy, row.starts_at, row.interval_s, row.outcome, row.detail,
                Jsonb(dict(row.power_w)), Jsonb(dict(row.soc_pct)), row.cut_w, row.wall_s,
            ),
        ).rowcount  # fmt: skip
        if written:
            conn.execute(
                "INSERT INTO optimizer.shadow_states (site_id, policy_id, state) VALUES (%s, %s, %s) ON CONFLICT "
                "(site_id, policy_id) DO UPDATE SET state = EXCLUDED.state, written_at = clock_timestamp()",
                (row.site_id, row.policy_id, Jsonb(dict(state))),
            )
    return bool(written)


def shadow_state(conn: psycopg.Connection[Any], site_id: str, policy_id: str) -> dict[str, Any] | None:
    """The state after the last interval of a shadow, or None."""
    row = conn.execute(
        "SELECT state FROM optimizer.shadow_states WHERE site_id = %s AND policy_id = %s", (site_id, policy_id)
    ).fetchone()
    return None if row is None else dict(row[0])


def shadow_decisions(conn: psycopg.Connection[Any], site_id: str, since: datetime, until: datetime) -> list[ShadowDecision]:
    """Intervals that begin in [since, until), by policy, oldest first."""
    rows = conn.execute(
        """
        SELECT site_id, policy_id, policy, starts_at, interval_s, outcome, detail, power_w, soc_pct, cut_w, wall_s
        FROM optimizer.shadow_decisions WHERE site_id = %s AND starts_at >= %s AND starts_at < %s ORDER BY policy_id, starts_at
        """,
        (site_id, since, until),
    )
    return [
        ShadowDecision(
            site_id=row[0], policy_id=row[1], policy=row[2], starts_at=row[3], interval_s=row[4], outcome=row[5], detail=row[6],
            power_w=row[7], soc_pct=row[8], cut_w=row[9], wall_s=row[10],
        )
        for row in rows
    ]  # fmt: skip


def last_failures(conn: psycopg.Connection[Any], site_id: str) -> dict[str, tuple[datetime, str, str]]:
    """Policy id -> (interval, outcome, detail) of the newest interval of a shadow where that gave no decision."""
    rows = conn.execute(
        "SELECT DISTINCT ON (policy_id) policy_id, starts_at, outcome, detail FROM optimizer.shadow_decisions "
        "WHERE site_id = %s ORDER BY policy_id, starts_at DESC",
        (site_id,),
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows if row[2] != DECIDED}

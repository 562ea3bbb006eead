"""`optimization_policies`: scores, metrics, changes of status. Ranking and writing of rows: stores.postgres.policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from core.errors import InputError


def set_score(conn: psycopg.Connection[Any], policy_id: str, score: float | None) -> None:
    """Write performance_score (0 to 1, four decimals); None takes it away. Raises InputError when there is no such policy."""
    _one(
        conn.execute("UPDATE optimization_policies SET performance_score = %s WHERE id::text = %s", (score, policy_id)), policy_id
    )


def merge_metrics(conn: psycopg.Connection[Any], policy_id: str, metrics: Mapping[str, Any]) -> None:
    """Put keys into performance_metrics; others stay. Raises InputError when there is no such policy."""
    _one(
        conn.execute(
            "UPDATE optimization_policies SET performance_metrics = coalesce(performance_metrics, '{}'::jsonb) || %s "
            "WHERE id::text = %s",
            (Jsonb(dict(metrics)), policy_id),
        ),
        policy_id,
    )


def change_status(conn: psycopg.Connection[Any], policy_id: str, before: str, after: str) -> None:
    """Change a status that is still `before`; becoming active stamps deployed_at.

    Raises InputError when the policy is gone or its status has changed meanwhile.
    """
    _one(
        conn.execute(
            "UPDATE optimization_policies SET status = %s::policy_status_enum, deployed_at = CASE WHEN %s = 'active' "
            "THEN clock_timestamp() ELSE deployed_at END WHERE id::text = %s AND status = %s::policy_status_enum",
            (after, after, policy_id, before),
        ),
        policy_id,
    )


def _one(cursor: psycopg.Cursor[Any], policy_id: str) -> None:
    if cursor.rowcount != 1:
        raise InputError(
            source="optimization_policies", field="id", value=policy_id, expected="the id of a policy that nobody else changes"
        )

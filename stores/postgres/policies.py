"""`optimization_policies`: ranking, writing, life cycle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from core.errors import InputError
from core.policy_record import PolicyRecord

_RANKED = """
SELECT id::text, site_id, name, policy_type, config, model_version, training_date, performance_metrics, horizon_hours,
       update_interval_seconds, status, deployed_at, performance_score
FROM optimization_policies WHERE site_id = %s AND status = %s
ORDER BY performance_score DESC NULLS LAST, deployed_at DESC NULLS LAST, id
"""


def ranked_policies(conn: psycopg.Connection[Any], site_id: str, status: str = "active") -> list[PolicyRecord]:
    """Best score first; unscored last; of equals the newest deployed. Whether one may run is decided elsewhere."""
    return [
        PolicyRecord(
            policy_id=row[0],
            site_id=row[1],
            name=row[2],
            policy_type=row[3],
            config=row[4],
            model_version=row[5],
            training_date=row[6],
            performance_metrics=row[7],
            horizon_hours=row[8],
            update_interval_seconds=row[9],
            status=row[10],
            deployed_at=row[11],
            performance_score=None if row[12] is None else float(row[12]),
        )
        for row in conn.execute(_RANKED, (site_id, status))
    ]


def upsert_policy(conn: psycopg.Connection[Any], record: PolicyRecord, *, by: str = "pulsebms") -> str:
    """Write a policy by site and name; returns its id. Becoming active stamps deployed_at unless the record has one."""
    values = (
        record.policy_type,
        Jsonb(dict(record.config)),
        record.model_version,
        record.training_date,
        None if record.performance_metrics is None else Jsonb(dict(record.performance_metrics)),
        record.horizon_hours,
        record.update_interval_seconds,
        record.status,
        record.performance_score,
    )
    with conn.transaction():
        # No unique key on (site_id, name) in the contract: the lock keeps two loaders from adding the same name twice.
        conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{record.site_id}/{record.name}",))
        known = conn.execute(
            "SELECT id::text FROM optimization_policies WHERE site_id = %s AND name = %s ORDER BY created_at LIMIT 1",
            (record.site_id, record.name),
        ).fetchone()
        if known:
            conn.execute(
                """
                UPDATE optimization_policies SET policy_type = %s, config = %s, model_version = %s, training_date = %s,
                    performance_metrics = %s, horizon_hours = %s, update_interval_seconds = %s, status = %s,
                    performance_score = %s,
                    deployed_at = coalesce(%s, CASE WHEN %s = 'active' AND status IS DISTINCT FROM 'active'
                                               THEN clock_timestamp() ELSE deployed_at END)
                WHERE id = %s
                """,
                (*values, record.deployed_at, record.status, known[0]),
            )
            return str(known[0])
        made = conn.execute(
            """
            INSERT INTO optimization_policies (policy_type, config, model_version, training_date, performance_metrics,
                horizon_hours, update_interval_seconds, status, performance_score, deployed_at, site_id, name, created_by)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s,
                    coalesce(%s, CASE WHEN %s = 'active' THEN clock_timestamp() END), %s, %s, %s) RETURNING id::text
            """,
            (*values, record.deployed_at, record.status, record.site_id, record.name, by),
        ).fetchone()
    return str(made[0]) if made else ""


def register_policy(conn: psycopg.Connection[Any], record: PolicyRecord, *, by: str = "pulsebms") -> str:
    """Write a newly trained policy with status `testing`; returns its id. What was registered before is replaced by name.

    Raises InputError when the record lacks what a learned policy must say, or when a row of that name is active: a policy that
    decides is not exchanged under its name.
    """
    source = f"optimization_policies {record.name!r} ({record.site_id})"
    for field, value, expected in (
        ("policy_type", record.policy_type in ("RL", "HYBRID") or None, "RL or HYBRID"),
        ("config.artefact", record.config.get("artefact"), "the SHA-256 of its artefact"),
        ("model_version", record.model_version, "a version"),
        ("training_date", record.training_date, "when it was trained"),
        ("performance_metrics", record.performance_metrics, "what it reached on validation"),
    ):
        if value is None:
            got = record.policy_type if field == "policy_type" else None
            raise InputError(source=source, field=field, value=got, expected=expected)
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{record.site_id}/{record.name}",))
        active = conn.execute(
            "SELECT 1 FROM optimization_policies WHERE site_id = %s AND name = %s AND status = 'active'",
            (record.site_id, record.name),
        ).fetchone()
        if active:
            raise InputError(
                source=source, field="status", value="active", expected="another name: a policy of this one decides now"
            )
        return upsert_policy(conn, replace(record, status="testing"), by=by)


def set_policy_status(conn: psycopg.Connection[Any], policy_id: str, status: str) -> None:
    """Move a policy through its life cycle; becoming active stamps deployed_at, being set active again does not.

    Raises InputError when there is no such policy.
    """
    changed = conn.execute(
        "UPDATE optimization_policies SET status = %s, deployed_at = CASE WHEN %s = 'active' AND status IS DISTINCT FROM "
        "'active' THEN clock_timestamp() ELSE deployed_at END WHERE id::text = %s",
        (status, status, policy_id),
    ).rowcount
    if not changed:
        raise InputError(source="optimization_policies", field="id", value=policy_id, expected="the id of a policy")

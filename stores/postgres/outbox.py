"""The outbox and the write side of command_history.

A command exists once its rows are committed (command_ids, command_history, command_outbox in one transaction); it is pushed
after that, at least once, and only inside its deadline. The first terminal answer of a device stands; an end that a dispatcher
had to infer is mended by the device's own word (Redis may have lost it for a while). Not here: pushing
(stores.redis.pending), reading (stores.postgres.history).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from core.commands import DEFAULT_TIMEOUT_S, Command, CommandType, Outcome, Response, validate_parameters
from stores.postgres.leases import check_fence

_COPY_HISTORY = (
    "COPY command_history (command_id, site_id, device_id, command_type, parameters, issued_at, timeout_seconds, max_retries, "
    "issued_by, source_system) FROM STDIN"
)
_COPY_OUTBOX = (
    "COPY optimizer.command_outbox (command_id, issued_at, site_id, device_id, command_type, seq, epoch, expires_at, message, "
    "decision_id) FROM STDIN"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandDraft:
    """A command before it has an id, a sequence number and an epoch. Parameters are validated when made."""

    device_id: str
    site_id: str
    command_type: CommandType
    parameters: Mapping[str, Any]
    issued_by: str
    timeout_s: int = DEFAULT_TIMEOUT_S
    max_retries: int = 3
    decision_id: str | None = None
    source_system: str = "pulsebms-optimizer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", validate_parameters(self.command_type, self.parameters))


def enqueue(
    conn: psycopg.Connection[Any],
    drafts: Sequence[CommandDraft],
    *,
    epoch: int,
    redis_now: datetime,
    fence_site: str | None = None,
    decision_id: str | None = None,
) -> list[Command]:
    """Write drafts in one transaction and return them as commands, in order, `seq` growing per device.

    `decision_id` is of those drafts that name none.

    With `fence_site`, a dispatcher's: FencedError, and nothing written, unless `epoch` still holds that site's lease at the end.
    """
    commands: list[Command] = []
    issued_at = redis_now.replace(microsecond=redis_now.microsecond // 1000 * 1000)
    with conn.transaction():
        seqs = _next_seqs(conn, [draft.device_id for draft in drafts])
        for draft in drafts:
            commands.append(
                Command(
                    command_id=f"cmd_{uuid.uuid4().hex}",
                    site_id=draft.site_id,
                    device_id=draft.device_id,
                    command_type=draft.command_type,
                    parameters=draft.parameters,
                    issued_at=issued_at,
                    timeout_s=draft.timeout_s,
                    seq=seqs[draft.device_id].pop(0),
                    epoch=epoch,
                    max_retries=draft.max_retries,
                    issued_by=draft.issued_by,
                    source_system=draft.source_system,
                )
            )
        with conn.cursor() as cursor, cursor.copy("COPY command_ids (command_id, issued_at) FROM STDIN") as copy:
            for command in commands:
                copy.write_row((command.command_id, command.issued_at))
        _insert(conn, commands, [draft.decision_id or decision_id for draft in drafts])
        if fence_site is not None:
            check_fence(conn, fence_site, epoch)
    return commands


def record_sent(conn: psycopg.Connection[Any], command: Command) -> bool:
    """Record a command that is in Redis already (an emergency_shutdown); False when it is on record."""
    with conn.transaction():
        new = conn.execute(
            "INSERT INTO command_ids (command_id, issued_at) VALUES (%s, %s) ON CONFLICT (command_id) DO NOTHING",
            (command.command_id, command.issued_at),
        ).rowcount
        if new:
            (seq,) = _next_seqs(conn, [command.device_id])[command.device_id]
            _insert(conn, [replace(command, seq=seq)], [None])
            mark_pushed(conn, [command.command_id])
    return bool(new)


def _insert(conn: psycopg.Connection[Any], commands: Sequence[Command], decision_ids: Sequence[str | None]) -> None:
    """The rows of command_history and of the outbox, by COPY: ten thousand at once is a tick of a large controller."""
    with conn.cursor() as cursor:
        with cursor.copy(_COPY_HISTORY) as copy:
            for c in commands:
                copy.write_row(
                    (
                        c.command_id,
                        c.site_id,
                        c.device_id,
                        c.command_type.value,
                        json.dumps(dict(c.parameters), allow_nan=False),
                        c.issued_at,
                        c.timeout_s,
                        c.max_retries,
                        c.issued_by,
                        c.source_system,
                    )
                )
        with cursor.copy(_COPY_OUTBOX) as copy:
            for c, decision_id in zip(commands, decision_ids, strict=True):
                copy.write_row(
                    (
                        c.command_id,
                        c.issued_at,
                        c.site_id,
                        c.device_id,
                        c.command_type.value,
                        c.seq,
                        c.epoch,
                        c.expires_at,
                        c.to_wire(),
                        decision_id,
                    )
                )


def _next_seqs(conn: psycopg.Connection[Any], device_ids: Sequence[str]) -> dict[str, list[int]]:
    counts: dict[str, int] = {}
    for device_id in device_ids:
        counts[device_id] = counts.get(device_id, 0) + 1
    names = sorted(counts)  # one order for all writers: no deadlock
    rows = conn.execute(
        """
        INSERT INTO optimizer.device_seq AS s (device_id, last_seq)
        SELECT device_id, number FROM unnest(%s::text[], %s::bigint[]) AS t(device_id, number)
        ON CONFLICT (device_id) DO UPDATE SET last_seq = s.last_seq + EXCLUDED.last_seq RETURNING device_id, last_seq
        """,
        (names, [counts[name] for name in names]),
    )
    return {device_id: list(range(last - counts[device_id] + 1, last + 1)) for device_id, last in rows}


def unpushed(conn: psycopg.Connection[Any], site_id: str, now: datetime) -> list[Command]:
    """Commands that a crash kept from being pushed and whose deadline still stands, in order."""
    rows = conn.execute(
        "SELECT message FROM optimizer.command_outbox WHERE site_id = %s AND pushed_at IS NULL AND ended_at IS NULL "
        "AND expires_at > %s ORDER BY device_id, seq",
        (site_id, now),
    )
    return [Command.from_wire(row[0]) for row in rows]


def mark_pushed(conn: psycopg.Connection[Any], command_ids: Sequence[str]) -> None:
    """Remember that commands are in Redis."""
    conn.execute(
        "UPDATE optimizer.command_outbox SET pushed_at = clock_timestamp() WHERE command_id = ANY(%s)",
        (list(command_ids),),
    )


def record_acknowledged(conn: psycopg.Connection[Any], command_id: str, at: datetime) -> None:
    """The device has begun it; a later or repeated word changes nothing."""
    conn.execute(
        "UPDATE command_history SET acknowledged_at = coalesce(acknowledged_at, %s) WHERE command_id = %s AND issued_at = "
        "(SELECT issued_at FROM command_ids WHERE command_id = %s)",
        (at, command_id, command_id),
    )


def record_response(conn: psycopg.Connection[Any], response: Response, *, inferred: bool = False) -> bool:
    """Write a terminal answer; False when the command is unknown or has ended already.

    The first answer of a device stands. An end that is `inferred` (by a dispatcher: no answer came, or no device will see it)
    gives way to a device's answer that comes late; `inferred_before` in the response data then says what stood there.
    """
    written, _ = _write_end(conn, response, inferred=inferred)
    return written


def _write_end(conn: psycopg.Connection[Any], response: Response, *, inferred: bool) -> tuple[bool, bool]:
    """(whether it was written, whether the command had not ended before); see record_response."""
    begun = response.outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.REJECTED, Outcome.INDETERMINATE)
    data = {**response.data, "outcome": response.outcome.value, **({"inferred": True} if inferred else {})}
    with conn.transaction():
        done = conn.execute(
            """
            UPDATE command_history SET acknowledged_at = coalesce(acknowledged_at, %(acknowledged)s),
                completed_at = %(completed)s, success = %(success)s, response_message = %(message)s,
                response_data = CASE WHEN success IS NULL THEN %(data)s::jsonb
                    ELSE %(data)s::jsonb || jsonb_build_object('inferred_before', response_data->'outcome') END
            WHERE command_id = %(id)s AND issued_at = (SELECT issued_at FROM command_ids WHERE command_id = %(id)s)
              AND (success IS NULL OR NOT %(inferred)s AND response_data->'inferred' = 'true'::jsonb)
            """,
            {
                "acknowledged": response.acknowledged_at if begun else None,
                "completed": response.completed_at,
                "success": response.success,
                "message": response.message,
                "data": Jsonb(data),
                "id": response.command_id,
                "inferred": inferred,
            },
        ).rowcount
        first = 0
        if done:
            first = conn.execute(
                "UPDATE optimizer.command_outbox SET ended_at = clock_timestamp() WHERE command_id = %s AND ended_at IS NULL",
                (response.command_id,),
            ).rowcount
    return bool(done), bool(first)


def record(conn: psycopg.Connection[Any], answer: Mapping[str, Any]) -> Outcome | None:
    """Write an answer as it came from Redis (stores.redis.responses.parse_response); the outcome when it ended a command.

    None where it mends an end that was inferred: the command had ended before.
    """
    acknowledged = datetime.fromisoformat(answer["acknowledged_at"])
    if answer["kind"] == "acknowledged":
        record_acknowledged(conn, answer["command_id"], acknowledged)
        return None
    response = Response(
        command_id=answer["command_id"],
        device_id=answer["device_id"],
        outcome=Outcome(answer["outcome"]),
        message=str(answer["message"]),
        data=answer.get("data") or {},
        acknowledged_at=acknowledged,
        completed_at=datetime.fromisoformat(answer["completed_at"]),
    )
    _, first = _write_end(conn, response, inferred=False)
    return response.outcome if first else None


def end_unpushed(conn: psycopg.Connection[Any], command_id: str, outcome: Outcome, why: str, at: datetime) -> bool:
    """End a command that, as far as is known, no device will see (purged, latched, too late) or has answered."""
    return record_response(
        conn,
        Response(
            command_id=command_id,
            device_id="",
            outcome=outcome,
            message=why,
            data={},
            acknowledged_at=at,
            completed_at=at,
        ),
        inferred=True,
    )


def expire_overdue(conn: psycopg.Connection[Any], site_id: str, now: datetime, grace_s: float) -> int:
    """End commands without an answer at deadline + grace: expired, or indeterminate when a device had begun.

    One that was issued later than `now` is from before Redis' clock was set back: no device begins it any more, and it ends, too.
    Returns how many ended here; what another ended meanwhile is not among them.
    """
    rows = conn.execute(
        """
        SELECT o.command_id, h.acknowledged_at IS NOT NULL FROM optimizer.command_outbox o
        JOIN command_history h ON h.command_id = o.command_id AND h.issued_at = o.issued_at
        WHERE o.site_id = %(site)s AND o.ended_at IS NULL
          AND (o.expires_at < %(now)s::timestamptz - %(grace)s OR o.issued_at > %(now)s::timestamptz + %(grace)s)
        """,
        {"site": site_id, "now": now, "grace": timedelta(seconds=grace_s)},
    ).fetchall()
    ended = 0
    for command_id, begun in rows:
        outcome = Outcome.INDETERMINATE if begun else Outcome.EXPIRED
        why = "begun, but never reported as done" if begun else "no device began it before its deadline"
        ended += end_unpushed(conn, command_id, outcome, why, now)
    return ended


def open_commands(conn: psycopg.Connection[Any], site_id: str) -> int:
    """How many commands of the site have not ended."""
    row = conn.execute(
        "SELECT count(*) FROM optimizer.command_outbox WHERE site_id = %s AND ended_at IS NULL", (site_id,)
    ).fetchone()
    return int(row[0]) if row else 0


def last_types(conn: psycopg.Connection[Any], site_id: str) -> dict[str, CommandType]:
    """The last command of each of the site's devices that moved or stopped its power, as far as the device can know of it.

    A stop that ended without being completed (expired, fenced, refused) was never heard: the start before it still counts.
    A start counts whatever became of it: one stop too many is harmless.
    """
    rows = conn.execute(
        """
        SELECT d.device_id, last.command_type FROM device_configurations d CROSS JOIN LATERAL (
            SELECT o.command_type FROM optimizer.command_outbox o
            LEFT JOIN command_history h ON h.command_id = o.command_id AND h.issued_at = o.issued_at
            WHERE o.device_id = d.device_id AND o.site_id = %(site)s
              AND o.command_type NOT IN ('update_parameters', 'request_status')
              AND (o.command_type IN ('start_charge', 'start_discharge') OR h.success IS DISTINCT FROM false)
            ORDER BY o.seq DESC LIMIT 1
        ) last WHERE d.site_id = %(site)s
        """,
        {"site": site_id},
    )
    return {device_id: CommandType(kind) for device_id, kind in rows}


def open_by_state(conn: psycopg.Connection[Any], site_id: str) -> dict[str, int]:
    """Commands of the site that have not ended, by how far they are: recorded, pushed."""
    row = conn.execute(
        "SELECT count(*) FILTER (WHERE pushed_at IS NULL), count(*) FILTER (WHERE pushed_at IS NOT NULL) "
        "FROM optimizer.command_outbox WHERE site_id = %s AND ended_at IS NULL",
        (site_id,),
    ).fetchone()
    return {"recorded": int(row[0]), "pushed": int(row[1])} if row else {}

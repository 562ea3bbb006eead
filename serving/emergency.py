"""An emergency_shutdown by hand: it goes out first, through Redis alone, and is recorded after.

Redis holds it on `commands:unrecorded:{site_id}` from the same transaction that pushes it until PostgreSQL has it, so that
it is never off the record for good. Not here: shutdowns that a dispatcher sends (serving.dispatch.tick), which are recorded
first like every command.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import structlog

from core.commands import Command, CommandType, Outcome, validate_parameters
from core.errors import InputError
from stores.connections import Postgres, Redis
from stores.postgres import outbox
from stores.redis import pending

log = structlog.get_logger()


def send_first(
    client: Redis, *, device_id: str, site_id: str, parameters: Mapping[str, Any], timeout_s: int, issued_by: str
) -> tuple[Command, pending.PushResult]:
    """Push an emergency_shutdown; it has epoch and seq 0, which devices do not judge for this type."""
    now = pending.redis_now(client)
    command = Command(
        command_id=f"cmd_{uuid.uuid4().hex}",
        site_id=site_id,
        device_id=device_id,
        command_type=CommandType.EMERGENCY_SHUTDOWN,
        parameters=validate_parameters(CommandType.EMERGENCY_SHUTDOWN, parameters),
        issued_at=now.replace(microsecond=now.microsecond // 1000 * 1000),
        timeout_s=timeout_s,
        seq=0,
        epoch=0,
        issued_by=issued_by,
    )
    return command, pending.push_unrecorded(client, command)


def record_sent(conn: Postgres, client: Redis, site_id: str) -> int:
    """Write what went out unrecorded into command_history; each entry leaves Redis after its commit. Returns how many."""
    entries = pending.unrecorded(client, site_id)
    for raw in entries:
        try:
            command = pending.parse_unrecorded(raw)
        except InputError as error:
            log.error("unrecorded_unreadable", site_id=site_id, why=str(error))
        else:
            outbox.record_sent(conn, command)
        pending.forget_unrecorded(client, site_id, raw)
    return len(entries)


def end_purged(conn: Postgres, client: Redis, result: pending.PushResult) -> None:
    """Starts that the shutdown purged before a device took them end as superseded."""
    if not result.purged:
        return
    now = pending.redis_now(client)
    for purged in result.purged:
        why = f"purged by emergency_shutdown {result.command_id}"
        outbox.end_unpushed(conn, purged, Outcome.SUPERSEDED, why, now)

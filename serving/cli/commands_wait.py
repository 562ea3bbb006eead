"""`command send --wait`: what became of a command, told as soon as its device or its dispatcher has said it.

An answer lies in Redis until the site's dispatcher has written it into command_history, and is there afterwards: both places are
looked at, so that no dispatcher is needed, and none is in the way. Not here: writing the record (serving.dispatch.tick).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from core.commands import Command, Outcome
from stores.connections import Postgres, Redis
from stores.postgres.history import ended_as
from stores.redis import responses

LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Answered:
    """How a command ended, in the device's or the dispatcher's words."""

    outcome: Outcome
    message: str


def look(client: Redis, pg: Postgres | None, command: Command) -> Answered | None:
    """The command's end, if it has one by now. Without `pg`, Redis alone is asked."""
    word = responses.find_response(client, command.site_id, command.command_id)
    if word is not None:
        return Answered(Outcome(word["outcome"]), str(word["message"]))
    ended = None if pg is None else ended_as(pg, command.command_id)
    return None if ended is None else Answered(Outcome(ended[0]), ended[1])


def wait_for(client: Redis, pg: Postgres | None, command: Command, seconds: float) -> Answered | None:
    """The command's end within so many seconds, or None."""
    ends_s = time.monotonic() + seconds
    while (found := look(client, pg, command)) is None and time.monotonic() < ends_s:
        time.sleep(min(LOOK_EVERY_S, max(0.0, ends_s - time.monotonic())))
    return found

"""The command queue in Redis: push, take, latches, epochs. Every change of more than one key is one Lua script.

Keys: commands:pending:{device}, commands:processing:{device}, commands:pushed:{device} (ids until their deadlines, for
re-pushes), commands:responses:{site}, device:latch:{device} (the id of the shutdown that set it), commands:told:{device} (the
device's own mark of the last answer that it handed in), commands:unrecorded:{site} (shutdowns that went out before they
were recorded), commands:epoch:{site} (the highest epoch that has pushed: older ones are refused), device:site:{device} (so that
a shutdown finds its site without PostgreSQL). The wire format: docs/command_protocol.md. Not here: answers (responses.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from importlib.resources import files
from itertools import chain, groupby
from typing import Any

import redis
from redis.client import Pipeline

from core.commands import Command
from core.errors import InputError


def script(name: str) -> str:
    """A Lua script of this package."""
    return (files(__package__) / "lua" / name).read_text()


PUSH_BATCH = 200
"""Messages of one call of the script: so long, a few milliseconds, the server hears nobody else."""
_RESPONSES = "commands:responses:"
_PUSH, _TAKE, _ANNOUNCE_EPOCH = script("push.lua"), script("take.lua"), script("announce_epoch.lua")
_PUSH_SHA = hashlib.sha1(_PUSH.encode(), usedforsecurity=False).hexdigest()


def pending_key(device_id: str) -> str:
    """The documented pending list."""
    return f"commands:pending:{device_id}"


def processing_key(device_id: str) -> str:
    """What a device has taken and not finished."""
    return f"commands:processing:{device_id}"


def latch_key(device_id: str) -> str:
    """There while the device is latched by an emergency_shutdown."""
    return f"device:latch:{device_id}"


def told_key(device_id: str) -> str:
    """The device's mark of what it has told so far: gone or old when Redis has lost its memory."""
    return f"commands:told:{device_id}"


def responses_key(site_id: str) -> str:
    """Answers on their way into command_history."""
    return f"{_RESPONSES}{site_id}"


def unrecorded_key(site_id: str) -> str:
    """What was pushed before PostgreSQL had it."""
    return f"commands:unrecorded:{site_id}"


def epoch_key(site_id: str) -> str:
    """The highest epoch of the site's dispatchers that Redis has heard of."""
    return f"commands:epoch:{site_id}"


class Pushed(IntEnum):
    """What became of a push."""

    PUSHED = 1
    ALREADY = 0
    TOO_LATE = -1
    LATCHED = -2
    FENCED = -3
    """Its epoch is older than the site's: another dispatcher has taken over."""


@dataclass(frozen=True, slots=True)
class PushResult:
    """Status, and the ids of pending starts that an emergency_shutdown purged."""

    command_id: str
    status: Pushed
    purged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that this device now holds in its processing list."""

    raw: str
    command: Command
    redis_now: datetime


@dataclass(frozen=True, slots=True)
class TakeResult:
    """What a take found: a message or none, messages past their deadline, and messages that cannot be read."""

    taken: Taken | None
    expired: tuple[Command, ...]
    broken: tuple[str, ...]
    latch: str
    """The shutdown whose latch stood at the take; empty for none (see is_latched)."""
    told: str
    """The device's mark of what it had told by then, as it wrote it; empty when there is none."""


def redis_now(client: redis.Redis) -> datetime:
    """Redis TIME: the one clock that judges expiry."""
    seconds, micros = client.time()
    return datetime.fromtimestamp(int(seconds), tz=UTC).replace(microsecond=int(micros))


def push_many(client: redis.Redis, commands: Sequence[Command]) -> list[PushResult]:
    """Push commands in order, in one round trip. Pushing a command again inside its deadline changes nothing."""
    if not commands:
        return []
    pipe = client.pipeline(transaction=False)
    pipe.script_load(_PUSH)  # in the same round trip: a server that was restarted knows the script before it is called
    for _, same_site in groupby(commands, key=lambda command: command.site_id):
        site = list(same_site)
        for first in range(0, len(site), PUSH_BATCH):
            _call_push(pipe, site[first : first + PUSH_BATCH])
    replies = chain.from_iterable(pipe.execute()[1:])
    return [_push_result(command, reply) for command, reply in zip(commands, replies, strict=True)]


def _call_push(pipe: Pipeline, commands: Sequence[Command]) -> None:
    """Commands of one site through one call of the script."""
    keys = [epoch_key(commands[0].site_id)]
    for command in commands:
        device_id = command.device_id
        keys += (pending_key(device_id), latch_key(device_id), f"commands:pushed:{device_id}")
    pipe.evalsha(_PUSH_SHA, len(keys), *keys, *(command.to_wire() for command in commands))


def _push_result(command: Command, reply: Sequence[Any]) -> PushResult:
    return PushResult(command.command_id, Pushed(int(reply[0])), tuple(str(item) for item in reply[1:]))


def push_unrecorded(client: redis.Redis, command: Command) -> PushResult:
    """Push a command that PostgreSQL does not have yet, and keep it for the record, in one transaction."""
    client.script_load(_PUSH)
    pipe = client.pipeline(transaction=True)
    entry = json.dumps({"issued_by": command.issued_by, "message": command.to_wire()})
    pipe.lpush(unrecorded_key(command.site_id), entry)
    _call_push(pipe, [command])
    return _push_result(command, pipe.execute()[1][0])


def known_epoch(client: redis.Redis, site_id: str) -> int:
    """The highest epoch that has reached Redis; 0 when none has, or when Redis came back empty."""
    return int(client.get(epoch_key(site_id)) or 0)


def announce_epoch(client: redis.Redis, site_id: str, epoch: int) -> None:
    """Refuse pushes of older epochs from now on. A newer epoch that is there already stays."""
    client.eval(_ANNOUNCE_EPOCH, 1, epoch_key(site_id), epoch)


def unrecorded(client: redis.Redis, site_id: str) -> list[str]:
    """Entries that wait for their record, oldest first."""
    found: list[str] = client.lrange(unrecorded_key(site_id), 0, -1)  # type: ignore[assignment]
    return list(reversed(found))


def parse_unrecorded(entry: str) -> Command:
    """The command of an entry; InputError when it cannot be read."""
    try:
        raw = json.loads(entry)
        message, issued_by = str(raw["message"]), str(raw["issued_by"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            source="commands:unrecorded", field="entry", value=entry, expected=f"issued_by and message ({error})"
        ) from None
    return replace(Command.from_wire(message), issued_by=issued_by)


def forget_unrecorded(client: redis.Redis, site_id: str, entry: str) -> None:
    """The entry is on record, or no command."""
    client.lrem(unrecorded_key(site_id), 1, entry)


def remember_site(client: redis.Redis, site_id: str, device_ids: Sequence[str]) -> None:
    """Let each device's site be known to Redis."""
    if device_ids:
        client.mset({f"device:site:{device_id}": site_id for device_id in device_ids})


def known_site(client: redis.Redis, device_id: str) -> str | None:
    """The site that a dispatcher has named for the device, or None."""
    found = client.get(f"device:site:{device_id}")
    return None if found is None else str(found)


def push(client: redis.Redis, command: Command) -> PushResult:
    """Push one command; see push_many."""
    return push_many(client, [command])[0]


def take_all(client: redis.Redis, device_id: str) -> TakeResult:
    """Take the oldest message that is not past its deadline; dropped ones come back so that they can be answered.

    The take itself is the acknowledgement: the same script puts it on the site's responses list.
    """
    keys = pending_key(device_id), processing_key(device_id), latch_key(device_id), told_key(device_id)
    reply = client.eval(_TAKE, len(keys), *keys, _RESPONSES)
    now = datetime.fromtimestamp(int(reply[0]) / 1000, tz=UTC)
    expired, broken = [], []
    latch, told = str(reply[2]), str(reply[3])
    for raw in reply[4:]:
        try:
            expired.append(Command.from_wire(raw))
        except InputError:
            broken.append(str(raw))
    raw = str(reply[1])
    if not raw:
        return TakeResult(None, tuple(expired), tuple(broken), latch, told)
    try:
        return TakeResult(Taken(raw, Command.from_wire(raw), now), tuple(expired), tuple(broken), latch, told)
    except InputError:
        discard(client, device_id, raw)
        return TakeResult(None, tuple(expired), (*broken, raw), latch, told)


def take(client: redis.Redis, device_id: str) -> Taken | None:
    """The next message, or None; see take_all."""
    return take_all(client, device_id).taken


def processing(client: redis.Redis, device_id: str) -> list[str]:
    """Messages taken and not finished, oldest first."""
    found: list[str] = client.lrange(processing_key(device_id), 0, -1)  # type: ignore[assignment]
    return list(reversed(found))


def discard(client: redis.Redis, device_id: str, raw: str) -> None:
    """Let go of a taken message that cannot be read, and so cannot be answered."""
    client.lrem(processing_key(device_id), 1, raw)


def is_latched(client: redis.Redis, device_id: str) -> bool:
    """Whether an emergency_shutdown was pushed and no operator's reset has been completed since."""
    return bool(client.exists(latch_key(device_id)))


def latched_among(client: redis.Redis, device_ids: Sequence[str]) -> set[str]:
    """Those of the devices that are latched (see is_latched), in one round trip."""
    pipe = client.pipeline(transaction=False)
    for device_id in device_ids:
        pipe.exists(latch_key(device_id))
    return {device_id for device_id, there in zip(device_ids, pipe.execute(), strict=True) if there}


def latch_of(client: redis.Redis, device_id: str) -> str:
    """The shutdown whose latch stands; empty for none."""
    return str(client.get(latch_key(device_id)) or "")


def announce_latch(client: redis.Redis, device_id: str, latch: str) -> None:
    """The device is latched and Redis does not know it: nobody is to plan with it. A latch that is there stays as it is."""
    client.set(latch_key(device_id), latch, nx=True)


@dataclass(frozen=True, slots=True)
class Depths:
    """Messages in the queues of one site, by where they are."""

    pending: int
    processing: int
    responses: int
    unrecorded: int
    latched: int
    """Devices that are latched."""


def depths(client: redis.Redis, site_id: str, device_ids: Sequence[str]) -> Depths:
    """How much waits where, in one round trip."""
    pipe = client.pipeline(transaction=False)
    pipe.llen(responses_key(site_id))
    pipe.llen(unrecorded_key(site_id))
    for device_id in device_ids:
        pipe.llen(pending_key(device_id))
        pipe.llen(processing_key(device_id))
        pipe.exists(latch_key(device_id))
    responses, waiting, *rest = (int(value) for value in pipe.execute())
    return Depths(sum(rest[0::3]), sum(rest[1::3]), responses, waiting, sum(rest[2::3]))

"""The command queue in Redis: push, take, finish, answers. Every change of more than one key is one Lua script.

Keys: commands:pending:{device}, commands:processing:{device}, commands:pushed:{device} (ids until their deadlines, for
re-pushes), commands:responses:{site}, device:latch:{device} (the id of the shutdown that set it), commands:told:{device} (the
device's own mark of the last answer that it handed in), commands:unrecorded:{site} (shutdowns that went out before they
were recorded), commands:epoch:{site} (the highest epoch that has pushed: older ones are refused), device:site:{device} (so that
a shutdown finds its site without PostgreSQL). docs/command_protocol.md has the wire format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from importlib.resources import files
from itertools import chain, groupby
from typing import Any

import redis
from redis.client import Pipeline

from core.commands import Command, Outcome, Response, iso_utc
from core.errors import InputError


def _script(name: str) -> str:
    return (files(__package__) / "lua" / name).read_text()


PUSH_BATCH = 200
"""Messages of one call of the script: so long, a few milliseconds, the server hears nobody else."""
_RESPONSES = "commands:responses:"
_PUSH, _TAKE, _FINISH = _script("push.lua"), _script("take.lua"), _script("finish.lua")
_PUSH_SHA = hashlib.sha1(_PUSH.encode(), usedforsecurity=False).hexdigest()


_ANNOUNCE = """
if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[1]) or '0') then redis.call('SET', KEYS[1], ARGV[1]) end
return 1
"""


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
        for batch in _batches(list(same_site)):
            _call_push(pipe, batch)
    replies = chain.from_iterable(pipe.execute()[1:])
    return [_push_result(command, reply) for command, reply in zip(commands, replies, strict=True)]


def _batches(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    for first in range(0, len(commands), PUSH_BATCH):
        yield commands[first : first + PUSH_BATCH]


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
    client.eval(_ANNOUNCE, 1, epoch_key(site_id), epoch)


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


def response_json(response: Response) -> str:
    """A terminal answer as it travels."""
    return json.dumps(
        {
            "kind": "response",
            "command_id": response.command_id,
            "device_id": response.device_id,
            "outcome": response.outcome.value,
            "message": response.message,
            "data": dict(response.data),
            "acknowledged_at": iso_utc(response.acknowledged_at),
            "completed_at": iso_utc(response.completed_at),
        },
        allow_nan=False,
    )


def acknowledge(client: redis.Redis, command: Command, at: datetime) -> None:
    """Say again that the device holds the command; the take has said it already."""
    word = {"kind": "acknowledged", "command_id": command.command_id, "acknowledged_at_ms": str(round(at.timestamp() * 1000))}
    client.lpush(responses_key(command.site_id), json.dumps(word))


def finish(
    client: redis.Redis,
    command: Command,
    raw: str,
    response: Response,
    *,
    device_id: str = "",
    clear_latch: str = "",
    told: str = "",
) -> None:
    """Hand in the answer and let the message go, in one step.

    `device_id`: who took it, where that is not whom it is meant for. `clear_latch`: the latch that a completed reset ends, as it
    stood when the reset was taken; another one stays. `told`: the device's new mark of what it has told (see TakeResult.told);
    empty leaves the old one.
    """
    device_id = device_id or command.device_id
    keys = processing_key(device_id), responses_key(command.site_id), latch_key(device_id), told_key(device_id)
    client.eval(_FINISH, len(keys), *keys, raw, response_json(response), clear_latch, told)


def told(client: redis.Redis, device_id: str) -> str:
    """The device's mark of what it has told; empty when there is none."""
    return str(client.get(told_key(device_id)) or "")


def latch_of(client: redis.Redis, device_id: str) -> str:
    """The shutdown whose latch stands; empty for none."""
    return str(client.get(latch_key(device_id)) or "")


def announce(client: redis.Redis, device_id: str, answers: Sequence[tuple[str, str]], mark: str) -> None:
    """Hand in (site id, answer JSON) once more and set the device's mark, in one transaction: Redis had lost them."""
    pipe = client.pipeline(transaction=True)
    for site_id, answer in answers:
        pipe.lpush(responses_key(site_id), answer)
    pipe.set(told_key(device_id), mark)
    pipe.execute()


def announce_latch(client: redis.Redis, device_id: str, latch: str) -> None:
    """The device is latched and Redis does not know it: nobody is to plan with it. A latch that is there stays as it is."""
    client.set(latch_key(device_id), latch, nx=True)


def answer_expired(client: redis.Redis, commands: Iterable[Command], at: datetime) -> None:
    """Answers for messages that a take dropped."""
    for command in commands:
        response = Response(
            command_id=command.command_id,
            device_id=command.device_id,
            outcome=Outcome.EXPIRED,
            message="its deadline passed before the device took it",
            data={},
            acknowledged_at=at,
            completed_at=at,
        )
        client.lpush(responses_key(command.site_id), response_json(response))


def take_responses(client: redis.Redis, site_id: str, limit: int) -> list[str]:
    """Answers, oldest first, left in place until drop_responses: read again after a crash (recording is idempotent)."""
    found: list[str] = client.lrange(responses_key(site_id), -limit, -1)  # type: ignore[assignment]
    return list(reversed(found))


def find_response(client: redis.Redis, site_id: str, command_id: str) -> dict[str, Any] | None:
    """The first terminal answer to a command among those that wait for the record, left in place; None when there is none."""
    waiting: list[str] = client.lrange(responses_key(site_id), 0, -1)  # type: ignore[assignment]
    for text in reversed(waiting):
        if command_id not in text:
            continue
        try:
            word = parse_response(text)
        except InputError:
            continue
        if word["kind"] == "response" and word["command_id"] == command_id:
            return word
    return None


def drop_responses(client: redis.Redis, site_id: str, answers: Sequence[str]) -> None:
    """Drop answers that command_history has."""
    pipe = client.pipeline(transaction=False)
    for answer in answers:
        pipe.lrem(responses_key(site_id), -1, answer)
    pipe.execute()


def parse_response(text: str) -> dict[str, Any]:
    """An answer as a dict, `acknowledged_at` in ISO 8601; InputError when it is none.

    Everything that PostgreSQL would refuse is refused here: one device's rubbish must not hold up the others' answers.
    """
    try:
        raw: dict[str, Any] = json.loads(text, parse_constant=_no_constant)
        json.dumps(raw, ensure_ascii=False).encode()  # a lone surrogate is a UnicodeEncodeError, a ValueError
        if "\\u0000" in text:
            raise ValueError("a NUL character")
        if raw["kind"] == "response":
            Outcome(raw["outcome"])
            _aware(raw["completed_at"])
            raw["device_id"], raw["message"] = str(raw["device_id"]), str(raw["message"])
            raw["data"] = dict(raw.get("data") or {})
        elif raw["kind"] != "acknowledged":
            raise ValueError(raw["kind"])
        if "acknowledged_at" not in raw:
            raw["acknowledged_at"] = iso_utc(datetime.fromtimestamp(int(raw["acknowledged_at_ms"]) / 1000, tz=UTC))
        _aware(raw["acknowledged_at"])
        raw["command_id"] = str(raw["command_id"])
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError) as error:
        raise InputError(source="responses list", field="message", value=text, expected=f"an answer ({error})") from None
    return raw


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _aware(text: str) -> None:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text} has no offset")


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

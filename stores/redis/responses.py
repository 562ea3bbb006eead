"""The site's responses list in Redis: what devices hand in, what the record reads, and the answer as it travels.

An answer is handed in together with what it settles (finish), stays until command_history has it (take_responses,
drop_responses), and is handed in once more when Redis has lost its memory (announce). Not here: the queue itself and the names
of all keys (stores.redis.pending), writing answers down (stores.postgres.outbox). docs/command_protocol.md has the wire format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import redis

from core.commands import Command, Outcome, Response, iso_utc
from core.errors import InputError
from stores.redis.pending import latch_key, processing_key, responses_key, script, told_key

_FINISH = script("finish.lua")


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


def announce(client: redis.Redis, device_id: str, answers: Sequence[tuple[str, str]], mark: str) -> None:
    """Hand in (site id, answer JSON) once more and set the device's mark, in one transaction: Redis had lost them."""
    pipe = client.pipeline(transaction=True)
    for site_id, answer in answers:
        pipe.lpush(responses_key(site_id), answer)
    pipe.set(told_key(device_id), mark)
    pipe.execute()


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

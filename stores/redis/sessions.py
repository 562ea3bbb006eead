"""session:{session_id}: the sessions that PulseBMS services share, with the contract's fields and TTL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import redis

from core.errors import InputError

SESSION_TTL_S = 3600
FIELDS = ("user_id", "site_permissions", "role", "login_time", "last_activity")


def put_session(client: redis.Redis, session_id: str, session: Mapping[str, Any]) -> None:
    """Write a session; InputError naming the field that is missing or unknown."""
    for name in FIELDS:
        if name not in session:
            raise InputError(source=f"session {session_id}", field=name, value=None, expected="a value")
    for name in session:
        if name not in FIELDS:
            raise InputError(source=f"session {session_id}", field=name, value=session[name], expected=f"one of {FIELDS}")
    client.set(f"session:{session_id}", json.dumps(dict(session), allow_nan=False), ex=SESSION_TTL_S)


def get_session(client: redis.Redis, session_id: str) -> dict[str, Any] | None:
    """The session, or None when it has ended."""
    text = client.get(f"session:{session_id}")
    if text is None:
        return None
    parsed: dict[str, Any] = json.loads(str(text))
    return parsed

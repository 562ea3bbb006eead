"""Redis' part of `pulsebms maintain`: keys that should expire and do not, lists that nobody empties.

Status, metrics and session keys without an expiry get the contract's. Commands are only reported: whether one may still be
acted upon is the devices' and the dispatcher's to decide (docs/command_protocol.md), never a cleaner's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import redis

from stores.redis.pending import redis_now
from stores.redis.sessions import SESSION_TTL_S
from stores.redis.status import DEVICE_TTL_S, METRICS_TTL_S

EXPIRIES = {"device:status:*": DEVICE_TTL_S, "site:metrics:*": METRICS_TTL_S, "session:*": SESSION_TTL_S}
STALE_S = 600.0
"""A taken command whose deadline passed this long ago has no device at work on it."""
BATCH = 1_000


def maintain_redis(client: redis.Redis) -> dict[str, int]:
    """Set what is missing, count what is stale; the second run sets nothing."""
    done = {f"{pattern} without expiry, set to {seconds} s": 0 for pattern, seconds in EXPIRIES.items()}
    for pattern, seconds in EXPIRIES.items():
        for keys in _batches(client, pattern):
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.expire(key, seconds, nx=True)  # only where there is none: no race with a writer
                done[f"{pattern} without expiry, set to {seconds} s"] += sum(map(int, pipe.execute()))
    done["commands:pending:* without expiry"] = sum(_without_expiry(client, "commands:pending:*"))
    now_ms = redis_now(client).timestamp() * 1000.0
    done["taken commands past their deadline and not finished"] = sum(
        _is_stale(str(raw), now_ms)
        for keys in _batches(client, "commands:processing:*")
        for key in keys
        for raw in client.lrange(key, 0, -1)
    )
    done["answers waiting for a dispatcher"] = sum(
        int(client.llen(key)) for keys in _batches(client, "commands:responses:*") for key in keys
    )
    return done


def _batches(client: redis.Redis, pattern: str) -> Iterator[list[str]]:
    batch: list[str] = []
    for key in client.scan_iter(match=pattern, count=BATCH):
        batch.append(key)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _without_expiry(client: redis.Redis, pattern: str) -> Iterator[int]:
    for keys in _batches(client, pattern):
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.ttl(key)
            yield sum(ttl == -1 for ttl in pipe.execute())


def _is_stale(raw: str, now_ms: float) -> bool:
    """Also what cannot be read: no device will finish it."""
    try:
        return float(json.loads(raw)["expires_at_ms"]) + STALE_S * 1000.0 < now_ms
    except (ValueError, KeyError, TypeError):
        return True

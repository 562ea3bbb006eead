"""A Redis client as commands need it, with the redis package alone: devices connect without the other stores' drivers."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 15
"""Longer than any blocking read of this program."""
REDIS_FAILURES: tuple[type[Exception], ...] = (redis.RedisError,)
"""Redis was unreachable, restarted, or refused: try again."""
Client = redis.Redis


def client_of(url: str) -> redis.Redis:
    """A client that decodes strings and never repeats a command by itself; nothing is connected yet.

    A driver that retries a push or a pop whose reply was lost does it twice. Raises ValueError when `url` is none.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        health_check_interval=0,
    )

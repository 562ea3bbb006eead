"""The exceptions of all drivers under one name, so that callers need not import a driver to survive one."""

from __future__ import annotations

import psycopg
import pymongo.errors
import redis

from core.errors import StoreError

STORE_FAILURES: tuple[type[Exception], ...] = (
    StoreError,
    psycopg.Error,
    pymongo.errors.PyMongoError,
    redis.RedisError,
)
"""A store was unreachable, restarted, or refused: try again at the next tick, on fresh connections."""

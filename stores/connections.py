"""Connections to the three stores, opened in one place and handed down.

Here: opening, checking, closing, opening again after a failure. Not here: any query.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psycopg
import pymongo
import pymongo.errors
import redis
import structlog
from bson.codec_options import CodecOptions
from pymongo.database import Database
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import StoreError
from stores.embedded import EmbeddedServers, open_embedded
from stores.settings import StoreSettings

log = structlog.get_logger()

Document = dict[str, Any]
CONNECT_TIMEOUT_S = 5


@dataclass(slots=True)
class Stores:
    """PostgreSQL (autocommit, UTC), MongoDB (aware datetimes) and Redis (text, nothing retried silently)."""

    pg: psycopg.Connection[tuple[Any, ...]] = field(repr=False)
    mongo: Database[Document] = field(repr=False)
    redis: redis.Redis = field(repr=False)
    _urls: tuple[str, str, str] = field(default=("", "", ""), repr=False)
    _embedded: EmbeddedServers | None = field(default=None, repr=False)

    def reconnect(self) -> None:
        """Replace a PostgreSQL connection that has died; the other drivers reconnect by themselves."""
        if self.pg.closed or self.pg.broken:
            self.pg = connect_postgres(self._urls[0])

    def close(self) -> None:
        """Close all connections, then give the embedded servers back."""
        self.pg.close()
        self.mongo.client.close()
        self.redis.close()
        if self._embedded is not None:
            self._embedded.close()

    def __enter__(self) -> Stores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect_postgres(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """One connection; StoreError without the password when it cannot be had."""
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        connection.execute("SET TIME ZONE 'UTC'")
    except psycopg.Error as error:
        raise StoreError(f"PostgreSQL (DATABASE_URL) cannot be reached: {type(error).__name__}") from None
    return connection


def connect_mongo(url: str) -> Database[Document]:
    """The database that the URI names, `pulsebms` otherwise."""
    try:
        client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            url, tz_aware=True, serverSelectionTimeoutMS=CONNECT_TIMEOUT_S * 1000
        )
        client.admin.command("ping")
        return client.get_default_database("pulsebms").with_options(codec_options=CodecOptions(tz_aware=True))
    except pymongo.errors.PyMongoError as error:
        raise StoreError(f"MongoDB (MONGODB_URI) cannot be reached: {type(error).__name__}") from None


def connect_redis(url: str) -> redis.Redis:
    """A client that never retries by itself: a lost reply must not become a second push (trap 5)."""
    try:
        client = redis.Redis.from_url(
            url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=10, socket_connect_timeout=5
        )
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StoreError(f"Redis (REDIS_URL) cannot be reached: {type(error).__name__}") from None
    check_durability(client)
    return client


def check_durability(client: redis.Redis) -> list[str]:
    """Warn loudly when a kill or memory pressure could lose a pending stop (trap 13). Returns the warnings."""
    warnings = []
    try:
        settings: dict[str, str] = client.config_get("appendonly", "maxmemory-policy")  # type: ignore[assignment]
    except redis.ResponseError:
        warnings.append("this server does not show its configuration: make sure of appendonly yes and noeviction")
    else:
        if settings.get("appendonly") != "yes":
            warnings.append("appendonly is not yes: a crash of Redis loses pending commands")
        if settings.get("maxmemory-policy") != "noeviction":
            warnings.append("maxmemory-policy is not noeviction: Redis may drop a pending stop")
    for warning in warnings:
        log.warning("redis_durability", warning=warning)
    return warnings


def open_stores(settings: StoreSettings | None = None, *, migrate: bool = False) -> Stores:
    """Connect to all three, starting embedded servers for those without a URL; with `migrate`, bring schemas up to date.

    Raises StoreError naming the store, or the log of a server that does not start.
    """
    settings = settings or StoreSettings.from_env()
    embedded = open_embedded(settings)
    try:
        urls = (
            settings.database_url or embedded.urls["postgres"],
            settings.redis_url or embedded.urls["valkey"],
            settings.mongodb_uri or embedded.urls["mongod"],
        )
        stores = Stores(connect_postgres(urls[0]), connect_mongo(urls[2]), connect_redis(urls[1]), urls, embedded)
        if migrate:
            from stores.mongo.schema import ensure_collections
            from stores.postgres.migrations import migrate as migrate_postgres

            migrate_postgres(stores.pg)
            ensure_collections(stores.mongo)
    except BaseException:
        embedded.close()
        raise
    return stores

"""One place where connections to the three stores are made, checked and closed.

Here: opening, start-up checks, plain errors. Not here: what is read and written (stores.postgres, .mongo, .redis).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import psycopg
import pymongo
import pymongo.errors
import redis
import structlog
from pymongo.database import Database

from core.errors import StoreError
from stores.embedded import EmbeddedServers, open_embedded
from stores.redis.connect import client_of
from stores.settings import StoreSettings

Postgres = psycopg.Connection[Any]
Redis = redis.Redis
"""Types of the connections, for signatures outside of stores, where no driver is imported."""

CONNECT_TIMEOUT_S = 5

DEFAULT_DATABASE = "pulsebms"
NOT_WANTED = "-"
"""Stands for the URL of a store that is not asked for."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Stores:
    """Open connections to the three stores, and the hold on the embedded servers where those are used.

    ``pg``: autocommit, session time zone UTC. ``mongo``: a database of a client that returns aware datetimes.
    ``redis``: strings in and out, and no command is ever sent twice by the driver.
    """

    pg: psycopg.Connection
    mongo: Database[dict[str, Any]]
    redis: redis.Redis
    database_url: str = field(repr=False)
    settings: StoreSettings
    embedded: EmbeddedServers | None = None

    def pg_connect(self) -> psycopg.Connection:
        """Another connection to the same database; the caller closes it."""
        return connect_postgres(self.database_url)

    def reconnect(self) -> None:
        """Replace a PostgreSQL connection that has died; embedded servers that are gone are started again.

        The other drivers reconnect by themselves: their clients are replaced only when the address has changed.
        """
        before = _urls(self.settings, self.embedded)
        if self.embedded is not None:
            self.embedded.refresh()
        self.database_url, redis_url, mongodb_uri = after = _urls(self.settings, self.embedded)
        if before[0] != after[0] or not _lives(self.pg):
            self.pg.close()
            self.pg = connect_postgres(self.database_url)
        if before[1] != after[1]:
            self.redis.close()
            self.redis = connect_redis(redis_url)
        if before[2] != after[2]:
            self.mongo.client.close()
            self.mongo = connect_mongo(mongodb_uri)

    def close(self) -> None:
        """Close everything and let go of the embedded servers. Closing twice is harmless."""
        self.pg.close()
        self.mongo.client.close()
        self.redis.close()
        if self.embedded is not None:
            self.embedded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_stores(settings: StoreSettings | None = None, *, migrate: bool = False) -> Stores:
    """Connect to all three stores, starting or attaching to the embedded servers that the settings leave open.

    Raises StoreError, without any password, when a server cannot be reached or an embedded one will not start.
    """
    settings = settings or StoreSettings.from_env()
    embedded = open_embedded(settings) if settings.wanted else None
    opened: list[psycopg.Connection | pymongo.MongoClient[dict[str, Any]] | redis.Redis] = []
    try:
        database_url, redis_url, mongodb_uri = _urls(settings, embedded)
        pg = connect_postgres(database_url)
        opened.append(pg)
        mongo = connect_mongo(mongodb_uri)
        opened.append(mongo.client)
        cache = connect_redis(redis_url)
        opened.append(cache)
        check_redis(cache)
        if migrate:
            _migrate(pg, mongo)
    except BaseException:
        for connection in opened:
            connection.close()
        if embedded is not None:
            embedded.close()
        raise
    return Stores(pg=pg, mongo=mongo, redis=cache, database_url=database_url, settings=settings, embedded=embedded)


@contextmanager
def open_redis(settings: StoreSettings) -> Iterator[redis.Redis]:
    """Redis alone, also when another store is down; StoreError when it cannot be reached."""
    alone = replace(settings, database_url=settings.database_url or NOT_WANTED, mongodb_uri=settings.mongodb_uri or NOT_WANTED)
    with open_embedded(alone) if alone.wanted else nullcontext() as embedded:
        client = connect_redis(settings.redis_url or (embedded and embedded.redis_url) or "")
        try:
            yield client
        finally:
            client.close()


def connect_postgres(url: str) -> psycopg.Connection:
    """An autocommit connection whose session runs in UTC; StoreError when it cannot be had."""
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        connection.execute("SET TIME ZONE 'UTC'")
    except psycopg.Error as error:
        raise _unreachable("PostgreSQL", "DATABASE_URL", url, error) from None
    return connection


def connect_mongo(uri: str) -> Database[dict[str, Any]]:
    """The database that the URI names (or `pulsebms`), datetimes aware; StoreError when no primary answers."""
    try:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            uri, tz_aware=True, serverSelectionTimeoutMS=CONNECT_TIMEOUT_S * 1000, retryWrites=True
        )
        database = client.get_default_database(DEFAULT_DATABASE)
        try:
            client.admin.command("ping")
            database.list_collection_names(filter={"name": "telemetry_data"})  # ping needs no authorisation; this does
        except BaseException:
            client.close()
            raise
    except (pymongo.errors.PyMongoError, ValueError) as error:
        raise _unreachable("MongoDB", "MONGODB_URI", uri, error) from None
    return database


def connect_redis(url: str) -> redis.Redis:
    """A client that decodes strings and never repeats a command by itself; StoreError when nobody answers."""
    try:
        client = client_of(url)
        try:
            client.ping()
        except BaseException:
            client.close()
            raise
    except (redis.RedisError, ValueError) as error:
        raise _unreachable("Redis", "REDIS_URL", url, error) from None
    return client


def check_redis(client: redis.Redis) -> list[str]:
    """Warnings, also logged, when the server may lose or evict pending commands; empty when all is well."""
    needed = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    warnings = []
    for name, wanted in needed.items():
        try:
            found = client.config_get(name).get(name)
        except redis.ResponseError as error:
            warnings.append(f"cannot read Redis setting {name} ({error}): make sure that it is {wanted!r}")
            continue
        if found != wanted:
            warnings.append(f"Redis setting {name} is {found!r}, should be {wanted!r}: pending commands may be lost")
    for warning in warnings:
        log.warning("redis_settings", problem=warning)
    return warnings


def _lives(connection: psycopg.Connection) -> bool:
    if connection.closed:
        return False
    try:
        connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _urls(settings: StoreSettings, embedded: EmbeddedServers | None) -> tuple[str, str, str]:
    """(database_url, redis_url, mongodb_uri): the user's own, else the embedded server's."""
    database_url = settings.database_url or (embedded and embedded.database_url)
    redis_url = settings.redis_url or (embedded and embedded.redis_url)
    mongodb_uri = settings.mongodb_uri or (embedded and embedded.mongodb_uri)
    if not database_url or not redis_url or not mongodb_uri:
        raise StoreError(f"no server is known for every store in {settings.data_dir}")
    return database_url, redis_url, mongodb_uri


def _migrate(pg: psycopg.Connection, mongo: Database[dict[str, Any]]) -> None:
    # Here, not at the top: those modules use connections, and a plain connection needs none of them.
    from stores.mongo.schema import ensure_collections
    from stores.postgres.migrations import migrate

    migrate(pg)
    ensure_collections(mongo)


def _unreachable(name: str, variable: str, url: str, error: Exception) -> StoreError:
    return StoreError(f"{name} at {_address(url)} cannot be used ({variable}): {_without_secrets(str(error), url)}")


def _address(url: str) -> str:
    """Host and port of the URL, nothing else."""
    location = urlsplit(url).netloc.rpartition("@")[2]
    return location or "an address that is not understood"


def _without_secrets(text: str, url: str) -> str:
    """The first line of a driver's message, cleared of the URL and of its password in either spelling."""
    if "://" not in url:
        return "it is not a URL"  # the driver's message may quote any part of it
    credentials = urlsplit(url).netloc.rpartition("@")[0]
    password = credentials.partition(":")[2]
    for secret in (url, credentials, password, unquote(password)):
        if secret:
            text = text.replace(secret, "***")
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "no reason given"

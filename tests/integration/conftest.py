"""Real servers for the integration tests: one keeper for the session, fresh databases for each test."""

import importlib
import uuid
from collections.abc import Iterator

import psycopg
import pytest
import redis
from psycopg import sql

from stores.connections import Stores, connect_mongo, connect_postgres, connect_redis
from stores.embedded import EmbeddedServers, open_embedded
from stores.settings import StoreSettings

TEMPLATE = "pulsebms_template"


@pytest.fixture(scope="session")
def servers(tmp_path_factory) -> Iterator[EmbeddedServers]:
    """PostgreSQL, Valkey and mongod in a directory of this session.

    Tests have dates of their own, which are long past some day: MongoDB would delete them in the middle of a test.
    """
    with open_embedded(StoreSettings(data_dir=tmp_path_factory.mktemp("servers") / "data")) as running:
        connect_mongo(running.mongodb_uri).client.admin.command({"setParameter": 1, "ttlMonitorEnabled": False})
        yield running


@pytest.fixture(scope="session")
def pg_template(servers) -> str:
    """A migrated database that the tests' databases are copies of."""
    with connect_postgres(servers.database_url) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    with connect_postgres(_database(servers.database_url, TEMPLATE)) as connection:
        _schema("stores.postgres.migrations", "migrate", connection)
    return TEMPLATE


@pytest.fixture
def pg_dsn(servers, pg_template) -> Iterator[str]:
    """URL of a fresh, migrated database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    create = "CREATE DATABASE {} TEMPLATE {}"
    with connect_postgres(servers.database_url) as admin:
        admin.execute(sql.SQL(create).format(sql.Identifier(name), sql.Identifier(pg_template)))
        yield _database(servers.database_url, name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def pg(pg_dsn) -> Iterator[psycopg.Connection]:
    """An autocommit connection to the test's database."""
    connection = connect_postgres(pg_dsn)
    yield connection
    connection.close()


@pytest.fixture
def mongo_db(servers):
    """A fresh MongoDB database with its collections."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    database = connect_mongo(servers.mongodb_uri.replace("/pulsebms?", f"/{name}?"))
    _schema("stores.mongo.schema", "ensure_collections", database)
    yield database
    database.client.drop_database(name)
    database.client.close()


@pytest.fixture
def redis_client(servers) -> Iterator[redis.Redis]:
    """An empty Redis."""
    client = connect_redis(servers.redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def stores(pg, pg_dsn, mongo_db, redis_client, tmp_path) -> Stores:
    """The three together; its connections belong to the other fixtures, which close them."""
    mongo_uri = "mongodb://{}:{}/{}?directConnection=true".format(*mongo_db.client.address, mongo_db.name)
    redis_arguments = redis_client.get_connection_kwargs()
    settings = StoreSettings(
        data_dir=tmp_path / "unused",
        database_url=pg_dsn,
        mongodb_uri=mongo_uri,
        redis_url="redis://:{password}@{host}:{port}/0".format(**redis_arguments),
    )
    return Stores(pg=pg, mongo=mongo_db, redis=redis_client, database_url=pg_dsn, settings=settings)


def _database(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"


def _schema(module, function, connection):
    """Apply a schema whose module may not be in the tree yet; every error of one that is there gets through."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name):
            raise
        return
    getattr(loaded, function)(connection)

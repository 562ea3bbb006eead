"""The fixtures themselves: three real servers, wired as production wires them."""

import pytest
import redis

from core.errors import StoreError
from stores.connections import check_redis, connect_mongo, connect_postgres, connect_redis, open_stores
from stores.settings import StoreSettings

SECRET = "hunter2-secret"


def test_postgres_is_in_utc_durable_and_isolated(pg, servers):
    assert pg.autocommit
    assert pg.execute("SHOW timezone").fetchone() == ("UTC",)
    assert pg.execute("SHOW fsync").fetchone() == ("on",)
    assert pg.execute("SELECT current_database()").fetchone()[0].startswith("test_")


def test_mongod_has_transactions_and_aware_datetimes(mongo_db):
    assert mongo_db.codec_options.tz_aware
    mongo_db.create_collection("probe")
    with mongo_db.client.start_session() as session:
        session.start_transaction()
        mongo_db.probe.insert_one({"a": 1}, session=session)
        session.abort_transaction()
        assert mongo_db.probe.count_documents({}) == 0
        with session.start_transaction():
            mongo_db.probe.insert_one({"a": 1}, session=session)
    assert mongo_db.probe.count_documents({}) == 1


def test_redis_keeps_what_it_is_given(redis_client):
    assert check_redis(redis_client) == []
    assert redis_client.set("a", "1")
    assert redis_client.get("a") == "1"


def test_a_wrong_redis_setting_is_named(redis_client):
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        warnings = check_redis(redis_client)
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert len(warnings) == 1
    assert "maxmemory-policy" in warnings[0]


def test_a_redis_user_without_config_permission_is_told(servers, redis_client):
    redis_client.acl_setuser("limited", enabled=True, passwords=["+pw"], categories=["+@all"], commands=["-config"], keys=["*"])
    address = servers.redis_url.rpartition("@")[2]
    with connect_redis(f"redis://limited:pw@{address}") as limited:
        warnings = check_redis(limited)
    redis_client.acl_deluser("limited")
    assert len(warnings) == 2
    assert all("cannot read" in warning for warning in warnings)


def test_no_redis_command_is_sent_twice_by_the_driver(redis_client):
    assert redis_client.get_retry()._retries == 0


def test_reconnect_gives_working_connections(stores):
    stores.pg.close()
    stores.reconnect()
    try:
        assert stores.pg.execute("SELECT 1").fetchone() == (1,)
        assert stores.redis.ping()
        stores.mongo.command("ping")
        with stores.pg_connect() as another:
            assert another.info.dbname == stores.pg.info.dbname
    finally:
        stores.pg.close()  # the new one; the others belong to the fixtures


def test_open_stores_with_the_users_own_servers_starts_none(servers, pg_dsn, mongo_db, redis_client, tmp_path):
    settings = StoreSettings(
        data_dir=tmp_path / "data", database_url=pg_dsn, redis_url=servers.redis_url, mongodb_uri=servers.mongodb_uri
    )
    with open_stores(settings) as opened:
        assert opened.embedded is None
        assert opened.mongo.name == "pulsebms"
    assert opened.pg.closed
    assert not settings.data_dir.exists()


@pytest.mark.parametrize(
    ("connect", "url"),
    [
        (connect_postgres, f"postgresql://me:{SECRET}@127.0.0.1:1/x"),
        (connect_postgres, f"postgresql://me:{SECRET}@127.0.0.1:1/x?nonsense=1"),
        (connect_postgres, f"postgresql:/me:{SECRET} nonsense"),
        (connect_redis, f"redis://:{SECRET}@127.0.0.1:1/0"),
        (connect_redis, f"rubbish://:{SECRET}@127.0.0.1:1/0"),
        (connect_mongo, f"mongodb://me:{SECRET}@127.0.0.1:1/x?serverSelectionTimeoutMS=100"),
        (connect_mongo, f"rubbish://me:{SECRET}@127.0.0.1:1/x"),
    ],
)
def test_an_unreachable_server_is_one_line_without_the_password(connect, url):
    with pytest.raises(StoreError) as caught:
        connect(url)
    text = str(caught.value)
    assert SECRET not in text
    assert "\n" not in text
    assert "_URL" in text or "_URI" in text


def test_a_wrong_password_is_not_printed(servers):
    for connect, url in ((connect_postgres, servers.database_url), (connect_redis, servers.redis_url)):
        right = url.rpartition("@")[0].rpartition(":")[2]
        with pytest.raises(StoreError) as caught:
            connect(url.replace(right, SECRET))
        assert SECRET not in str(caught.value)


def test_passwords_stay_out_of_repr(servers, stores):
    passwords = [url.rpartition("@")[0].rpartition(":")[2] for url in (servers.database_url, servers.redis_url)]
    for shown in (repr(stores.settings), repr(servers), repr(StoreSettings.from_env())):
        assert not any(password in shown for password in passwords)
    assert passwords[0] not in repr(stores)


def test_settings_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("PULSEBMS_DATA", "REDIS_URL", "MONGODB_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@h/x")
    settings = StoreSettings.from_env()
    assert settings.data_dir == tmp_path / ".pulsebms"
    assert settings.wanted == ["valkey", "mongod"]


def test_plain_redis_errors_are_not_hidden(redis_client):
    redis_client.set("text", "a")
    with pytest.raises(redis.ResponseError):
        redis_client.incr("text")

"""`pulsebms maintain` on real servers: it moves exactly what it should, and the second run does nothing."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from core.errors import StoreError
from serving.cli.app import app
from stores.mongo.maintenance import maintain_mongo
from stores.mongo.schema import DIRTY, PARTS, REJECTED, WORK, ensure_collections
from stores.redis.maintenance import maintain_redis

AT = datetime(2026, 6, 1, tzinfo=UTC)
QUANTITIES = ("voltage", "current", "power", "temperature", "soc")
STATS = {name: {"min": 1.0, "max": 2.0, "avg": 1.5, "std": 0.5} for name in QUANTITIES}


@pytest.fixture
def no_ttl_monitor(mongo_db):
    """The server's own clean-up would race with what is looked at."""
    mongo_db.client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
    yield
    mongo_db.client.admin.command("setParameter", 1, ttlMonitorEnabled=True)


def telemetry(at):
    measured = {"voltage": 400.0, "current": 0.0, "power": 0.0, "temperature": 20.0, "soc": 50.0, "soh": 90.0}
    return {"site_id": "s", "device_id": "d", "timestamp": at, "measurements": measured | {"internal_resistance": 0.1},
            "day": f"{at:%Y-%m-%d}", "hour": at.hour}  # fmt: skip


def metrics(at, period):
    return {"site_id": "s", "device_id": "d", "timestamp": at, "period": period, "aggregates": STATS}


def test_mongo_deletes_what_outlived_its_retention_by_a_day_and_nothing_else(mongo_db, no_ttl_monitor):
    kept = {
        "telemetry_data": (telemetry, 90), "metrics_hourly": (lambda at: metrics(at, "hourly"), 730),
        "metrics_daily": (lambda at: metrics(at, "daily"), 3650), REJECTED: (lambda at: {"at": at}, 30),
        DIRTY: (lambda at: {"hour": at}, 90), PARTS: (lambda at: {"starts_at": at}, 93), WORK: (lambda at: {"at": at}, 1),
    }  # fmt: skip
    for name, (make, days) in kept.items():
        ages = (0, days, days + 0.9, days + 1.1, days + 400)
        mongo_db[name].insert_many([make(AT - timedelta(days=age)) for age in ages])
    done = maintain_mongo(mongo_db, AT)
    assert {name: done[f"{name}: expired, deleted"] for name in kept} == dict.fromkeys(kept, 2)
    assert all(mongo_db[name].count_documents({}) == 3 for name in kept)
    again = maintain_mongo(mongo_db, AT)
    assert {value for name, value in again.items() if "waiting" not in name} == {0}
    assert again[f"{REJECTED}: documents waiting for a look"] == 3


def test_mongo_brings_ttls_validators_and_indexes_back_and_says_which(mongo_db):
    mongo_db.command(
        "collMod", "telemetry_data", index={"keyPattern": {"timestamp": -1}, "expireAfterSeconds": 60 * 60 * 24 * 900}
    )
    mongo_db.command("collMod", "telemetry_ts", expireAfterSeconds="off")
    mongo_db.command("collMod", "metrics_daily", validator={}, validationLevel="off")
    mongo_db["metrics_hourly"].drop_index([("device_id", 1), ("timestamp", -1)])
    changes = str(maintain_mongo(mongo_db, AT)["collections, indexes, TTLs changed"]).split("; ")
    assert sorted(changes) == [
        "metrics_daily: validator set",
        "metrics_hourly: index on device_id, timestamp made",
        "telemetry_data: kept 90 days (was 77760000 s)",
        "telemetry_ts: kept 90 days",
    ]
    assert maintain_mongo(mongo_db, AT)["collections, indexes, TTLs changed"] == 0
    (info,) = mongo_db.list_collections(filter={"name": "telemetry_ts"})
    assert info["options"]["expireAfterSeconds"] == 7_776_000


def test_two_documents_for_one_hour_are_named_not_deleted(mongo_db):
    mongo_db["metrics_hourly"].drop_index([("device_id", 1), ("timestamp", -1)])
    mongo_db["metrics_hourly"].insert_many([metrics(datetime.now(UTC).replace(microsecond=0), "hourly") for _ in range(2)])
    mongo_db["metrics_hourly"].update_many({}, {"$set": {"timestamp": AT}})
    with pytest.raises(StoreError, match="metrics_hourly holds two documents"):
        ensure_collections(mongo_db)
    assert mongo_db["metrics_hourly"].count_documents({}) == 2


def test_redis_gets_the_contracts_expiries_where_there_is_none(redis_client):
    redis_client.set("device:status:a", "{}")
    redis_client.set("device:status:b", "{}", ex=100)
    redis_client.hset("site:metrics:s:current", "total_power", "1")
    redis_client.set("session:x", "{}")
    redis_client.set("device:latch:a", "kept")
    redis_client.lpush("commands:pending:a", "kept")
    now_ms = time.time() * 1000
    for key, deadline in (("a", now_ms - 601_000), ("a", now_ms - 500_000), ("b", now_ms + 9_000)):
        redis_client.lpush(f"commands:processing:{key}", json.dumps({"expires_at_ms": deadline}))
    redis_client.lpush("commands:processing:c", "unreadable")
    redis_client.lpush("commands:responses:s", "1", "2")
    done = maintain_redis(redis_client)
    assert done == {
        "device:status:* without expiry, set to 300 s": 1,
        "site:metrics:* without expiry, set to 3600 s": 1,
        "session:* without expiry, set to 3600 s": 1,
        "commands:pending:* without expiry": 1,
        "taken commands past their deadline and not finished": 2,
        "answers waiting for a dispatcher": 2,
    }
    assert 290 < redis_client.ttl("device:status:a") <= 300
    assert redis_client.ttl("device:status:b") <= 100
    assert 3500 < redis_client.ttl("site:metrics:s:current") <= 3600
    assert redis_client.ttl("device:latch:a") == redis_client.ttl("commands:pending:a") == -1
    assert redis_client.llen("commands:processing:a") == 2
    again = maintain_redis(redis_client)
    assert [count for name, count in again.items() if "set to" in name] == [0, 0, 0]


def test_the_command_says_what_it_did_in_all_three(stores, monkeypatch):
    for name, value in (("DATABASE_URL", stores.database_url), ("REDIS_URL", stores.settings.redis_url),
                        ("MONGODB_URI", stores.settings.mongodb_uri), ("COLUMNS", "200")):  # fmt: skip
        monkeypatch.setenv(name, value)
    stores.redis.set("device:status:a", "{}")
    first, second = (CliRunner().invoke(app, ["maintain"]) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    for output, count in ((first.output, "1"), (second.output, "0")):
        (line,) = [line for line in output.splitlines() if "device:status" in line]
        assert [cell.strip() for cell in line.split("│")][-2] == count
        assert all(store in output for store in ("PostgreSQL", "MongoDB", "Redis"))

"""The metrics service on real servers: status keys with the contract's fields and TTLs, rounds, the commands."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from core.clock import SystemClock
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from serving.cli.app import app
from serving.metrics_service import MetricsServiceOptions, run_metrics, run_round
from stores.mongo.metrics import MetricsOptions
from stores.mongo.telemetry import insert_telemetry
from stores.postgres.devices import upsert_device
from stores.postgres.sites import put_site
from stores.redis.status import read_site_metrics, read_status, write_status

NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE = timedelta(minutes=1)
OPTIONS = MetricsServiceOptions(site_id="s", metrics=MetricsOptions(include_open=True))


def document(device_id, at, *, power=-10_000.0, soc=50.0, flags=()):
    return {
        "site_id": "s", "device_id": device_id, "timestamp": at,
        "measurements": {"voltage": 400.0, "current": power / 400, "power": power, "temperature": 20.0, "soc": soc, "soh": 90.0,
                         "internal_resistance": 0.05},
        "safety": {"alarm_flags": list(flags)}, "metadata": {"data_quality": 0.98},
    }  # fmt: skip


@pytest.fixture
def site(stores):
    put_site(stores.pg, "s", "Site", "Europe/Amsterdam", {})
    for name in ("a", "b", "silent"):
        device = DeviceConfig(
            device_id=name, site_id="s", name=name, chemistry=Chemistry.LFP, nominal_capacity_ah=100, nominal_voltage_v=400,
            max_charge_power_w=20_000, max_discharge_power_w=20_000, series_cells=125, parallel_cells=1,
        )  # fmt: skip
        upsert_device(stores.pg, device, by="test")
    insert_telemetry(
        stores.mongo,
        [
            document("a", NOW - MINUTE, power=-10_000, soc=40, flags=["x"]),
            document("b", NOW - 2 * MINUTE, power=4000, soc=60),
            document("silent", NOW - 6 * MINUTE, power=9000, soc=10),
        ],
    )
    return stores


def test_status_and_site_metrics_as_the_contract_has_them(site):
    run_round(site, OPTIONS, NOW)
    assert read_status(site.redis, "a") == {
        "online": True, "last_telemetry": (NOW - MINUTE).isoformat(), "current_soc": 40.0, "current_power": -10_000.0,
        "alarm_count": 1, "communication_quality": 0.98,
    }  # fmt: skip
    assert read_status(site.redis, "silent") is None
    assert 290 < site.redis.ttl("device:status:a") <= 300
    assert read_site_metrics(site.redis, "s", "current") == {
        "total_power": -6000, "total_capacity": 120, "average_soc": 50, "device_count": 3, "online_count": 2, "alarm_count": 1,
    }  # fmt: skip
    for period in ("current", "hourly", "daily"):
        assert 3590 < site.redis.ttl(f"site:metrics:s:{period}") <= 3600
    newest = site.mongo["metrics_daily"].find_one(sort=[("timestamp", -1)])["timestamp"]
    of_day = list(site.mongo["metrics_daily"].find({"timestamp": newest}))
    found = read_site_metrics(site.redis, "s", "daily")
    assert (found["device_count"], found["online_count"]) == (3, len(of_day))
    assert found["total_power"] == pytest.approx(sum(made["aggregates"]["power"]["avg"] for made in of_day))


def test_the_devices_own_newer_word_stands(site):
    own = {"online": True, "last_telemetry": NOW.isoformat(), "current_soc": 41.0, "current_power": 0.0, "alarm_count": 0}
    write_status(site.redis, "a", own)
    write_status(site.redis, "b", own | {"last_telemetry": (NOW - 5 * MINUTE).isoformat()})
    site.redis.set("device:status:silent", "not json", ex=100)
    run_round(site, OPTIONS, NOW)
    assert read_status(site.redis, "a") == own
    assert read_status(site.redis, "b")["current_power"] == 4000
    assert read_site_metrics(site.redis, "s", "current")["total_power"] == 4000


def test_nobody_online_leaves_no_number_that_is_none(site):
    run_round(site, OPTIONS, NOW + timedelta(hours=1))
    found = read_site_metrics(site.redis, "s", "current")
    assert (found["online_count"], found["total_power"], found["device_count"]) == (0, 0, 3)
    assert "average_soc" not in found


def test_days_follow_the_sites_time_zone(site):
    run_round(site, OPTIONS, NOW)
    for made in site.mongo["metrics_daily"].find():
        from zoneinfo import ZoneInfo

        assert made["timestamp"].astimezone(ZoneInfo("Europe/Amsterdam")).hour == 0


def test_a_site_that_is_not_loaded_is_named(site):
    with pytest.raises(InputError, match=r"--site.*nowhere.*a loaded site"):
        run_round(site, MetricsServiceOptions(site_id="nowhere"), NOW)


def test_rounds_until_it_is_stopped(site):
    stop = threading.Event()
    worker = threading.Thread(target=run_metrics, args=(site, SystemClock(), OPTIONS, stop))
    worker.start()
    for _ in range(600):
        if read_site_metrics(site.redis, "s", "current"):
            break
        stop.wait(0.05)
    stop.set()
    worker.join(timeout=30)
    assert not worker.is_alive()
    assert read_site_metrics(site.redis, "s", "current")["device_count"] == 3


def test_the_commands(site, monkeypatch, tmp_path):
    for name, value in (("DATABASE_URL", site.database_url), ("REDIS_URL", site.settings.redis_url),
                        ("MONGODB_URI", site.settings.mongodb_uri), ("COLUMNS", "200")):  # fmt: skip
        monkeypatch.setenv(name, value)
    path = tmp_path / "t.jsonl"
    lines = [document("a", (NOW - timedelta(hours=3, seconds=k)).isoformat()) for k in range(5)] + [document("a", "today")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = lambda *arguments: CliRunner().invoke(app, list(arguments))  # noqa: E731
    imported = run("telemetry", "import", str(path))
    assert imported.exit_code == 0, imported.output
    assert "set aside: timestamp" in imported.output
    assert "t.jsonl" in run("telemetry", "rejected").output
    done = run("metrics", "run", "--site", "s", "--once", "--include-open")
    assert done.exit_code == 0, done.output
    assert site.mongo["metrics_hourly"].count_documents({"device_id": "a"}) >= 2
    assert isinstance(run("metrics", "run", "--site", "nowhere", "--once").exception, InputError)

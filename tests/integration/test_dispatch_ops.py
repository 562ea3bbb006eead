"""The dispatcher as it is run: many sites, metrics and health, once and dry-run, rows that change, one site's faults."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from core.clock import ScaledClock
from core.commands import CommandType, Outcome, Response
from core.errors import InputError
from core.pack import Pack
from core.series import Series
from serving.cli.dispatch_cli import dispatch
from serving.clock_config import VARIABLE, to_text
from serving.dispatch.health import Health, HealthServer
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from serving.dispatch.loop import LoopOptions
from serving.dispatch.metrics import DispatchMetrics
from serving.dispatch.notify import notify
from serving.dispatch.supervisor import Supervisor
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.site_loader import load_site
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres import leases, outbox
from stores.postgres.decisions import decisions, last_decision
from stores.postgres.devices import list_devices
from stores.postgres.history import history
from stores.postgres.series import write_series
from stores.redis import pending, responses

pytestmark = pytest.mark.timeout(120)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
OPTIONS = TickOptions(interval_s=900, horizon_s=86_400, valid_for_s=60)


def make_site(stores, site_id="demo"):
    """A site of one pack with fresh telemetry and three days of series; without predictions the rule decides."""
    file = yaml.safe_load(SITE_FILE.read_text()) | {"site_id": site_id}
    file["packs"] = [{**file["packs"][0], "device_id": f"pack-{site_id}"}]
    config = load_site(stores.pg, yaml.safe_dump(file))
    start, hours = NOW - timedelta(days=1), 24 * 3
    flat = np.ones(hours)
    cheap_now = np.where(np.arange(hours) < 30, 0.05, 0.30)
    for name, values in ((PRICE, cheap_now), (LOAD_FORECAST, 2e4 * flat), (PV_FORECAST, 0 * flat), (AMBIENT, 20 * flat)):
        write_series(stores.pg, site_id, Series(name, start, 3600.0, values), start)
    measure(stores, site_id)
    return config


def measure(stores, site_id, age_s=10, **measured):
    (device,) = list_devices(stores.pg, site_id)
    pack = Pack(device, soc_pct=50.0, soh_pct=85.0, temperature_c=22.0, ambient_c=20.0)
    document = pack_document(pack.state(NOW - timedelta(seconds=age_s)), site_id=site_id, firmware="1")
    document["measurements"] |= measured
    insert_telemetry(stores.mongo, [document])


def tick(stores, site_id, dispatcher=None):
    lease = leases.acquire(stores.pg, site_id, "test", 60.0)
    return (dispatcher or SiteDispatcher(stores, site_id)).tick(NOW, OPTIONS, lease)


def sample(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"pulsebms_{name}", labels)


def test_rows_take_effect_at_the_next_tick_without_a_restart(stores):
    make_site(stores)
    dispatcher = SiteDispatcher(stores, "demo")
    before = tick(stores, "demo", dispatcher).decision.passed_over
    assert before[0][0] == "mpc-24h"
    stores.pg.execute("UPDATE optimization_policies SET config = '{\"solvr\": 1}'")
    stores.mongo["digital_twin_predictions"].delete_many({})
    stores.pg.execute(
        "INSERT INTO optimization_policies (site_id, name, policy_type, config, status, performance_score, horizon_hours, "
        "update_interval_seconds) VALUES ('demo', 'better', 'RL', '{}', 'active', 0.99, 24, 900)"
    )
    names = [name for name, _ in tick(stores, "demo", dispatcher).decision.passed_over]
    assert names[:2] == ["better", "mpc-24h"]
    stores.pg.execute("UPDATE optimization_policies SET status = 'inactive'")
    assert tick(stores, "demo", dispatcher).decision.passed_over == (("optimization_policies", "no active policy"),)


def test_who_decided_and_why_better_ones_did_not_is_in_the_metrics(stores):
    make_site(stores)
    metrics = DispatchMetrics()
    tick(stores, "demo", SiteDispatcher(stores, "demo", metrics=metrics.site("demo")))
    assert sample(metrics, "decisions_total", site="demo", source="rule") == 1
    assert sample(metrics, "policy_passed_over_total", site="demo", policy="mpc-24h", why="ineligible") == 1
    assert sample(metrics, "ticks_total", site="demo", result="decided") == 1
    assert sample(metrics, "commands_issued_total", site="demo", type="start_charge") == 1
    assert sample(metrics, "queue_depth", site="demo", queue="pending") == 1
    assert sample(metrics, "commands_open", site="demo", state="pushed") == 1
    assert sample(metrics, "input_age_seconds", site="demo", input="telemetry") == 10
    assert sample(metrics, "devices", site="demo", state="commanded") == 1


def test_the_end_of_a_command_is_counted_once_though_the_device_mends_it_later(stores):
    """It stood as overdue when the device's own word came after all."""
    metrics = DispatchMetrics()
    dispatcher = SiteDispatcher(stores, "demo", metrics=metrics.site("demo"))
    draft = outbox.CommandDraft(
        device_id="pack-demo", site_id="demo", command_type=CommandType.REQUEST_STATUS, parameters={}, issued_by="test"
    )
    now = pending.redis_now(stores.redis)
    mended, answered = (
        outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=issued)[0] for issued in (now - timedelta(minutes=1), now)
    )
    assert dispatcher.expire_overdue() == 1
    assert sample(metrics, "commands_ended_total", site="demo", outcome="overdue") == 1
    for command in (mended, answered, answered):
        response = Response(
            command_id=command.command_id, device_id="pack-demo", outcome=Outcome.COMPLETED, message="done", data={},
            acknowledged_at=now, completed_at=now,
        )  # fmt: skip
        stores.redis.lpush(pending.responses_key("demo"), responses.response_json(response))
    assert dispatcher.settle() == 3
    assert [row.response_data["outcome"] for row in history(stores.pg, "demo")] == ["completed", "completed"]
    assert sample(metrics, "commands_ended_total", site="demo", outcome="completed") == 1, "the one that was answered in time"
    assert sample(metrics, "commands_ended_total", site="demo", outcome="overdue") == 1


def test_a_measurement_gravely_beyond_its_limit_shuts_the_device_down_and_the_latch_stays(stores):
    make_site(stores)
    measure(stores, "demo", age_s=5, temperature=78.0)
    stores.mongo["telemetry_data"].update_many({}, {"$unset": {"cell_data": 1}})
    metrics = DispatchMetrics()
    dispatcher = SiteDispatcher(stores, "demo", metrics=metrics.site("demo"))
    assert tick(stores, "demo", dispatcher).commands == 1
    (row,) = history(stores.pg, "demo")
    assert row.command_type is CommandType.EMERGENCY_SHUTDOWN
    assert "temperature_max exceeded by" in row.parameters["reason"]
    measure(stores, "demo", age_s=1)
    assert not any(row.command_type.is_start for row in history(stores.pg, "demo"))
    tick(stores, "demo", dispatcher)
    assert sample(metrics, "devices", site="demo", state="latched") == 1, "cool again, and still an operator's to release"
    assert not any(row.command_type.is_start and row.success for row in history(stores.pg, "demo"))


def test_a_dry_run_writes_nothing_and_needs_no_lease(stores):
    make_site(stores)
    result = SiteDispatcher(stores, "demo").tick(NOW, replace(OPTIONS, dry_run=True), None)
    assert result.decision.source == "rule"
    assert (result.commands, last_decision(stores.pg, "demo"), history(stores.pg, "demo")) == (0, None, [])
    assert stores.redis.keys("*") == []
    assert leases.current_epoch(stores.pg, "demo") == 0


def ran(stores, sites, *, until_ticks, **options):
    """A supervisor on a clock of 300 times the wall's until each of these sites has so many ticks."""
    clock = ScaledClock(NOW - timedelta(seconds=600), time.monotonic(), 300.0)
    stop, seen = threading.Event(), []

    def on_tick(site_id, at, result):
        seen.append((site_id, at))
        if all([site for site, _ in seen].count(name) >= number for name, number in until_ticks.items()):
            stop.set()

    base = LoopOptions(site_id="", telemetry_max_age_s=1e6, **options)
    supervisor = Supervisor(stores.settings, clock, base, sites, on_tick=on_tick)
    timer = threading.Timer(60.0, stop.set)
    timer.start()
    ticks = supervisor.run(stores, stop)
    timer.cancel()
    return supervisor, ticks, seen


def test_all_sites_on_one_controller_and_one_sites_faults_stay_its_own(stores):
    for name in ("a", "b", "broken"):
        make_site(stores, name)
    stores.pg.execute("UPDATE optimizer.sites SET config = '{}' WHERE site_id = 'broken'")
    stores.pg.execute("UPDATE optimization_policies SET horizon_hours = NULL WHERE site_id = 'b'")
    supervisor, ticks, seen = ran(stores, [], until_ticks={"a": 2, "b": 2})
    assert ticks["a"] >= 2
    assert ticks["b"] >= 2
    for name in ("a", "b"):
        rows = [at for site, at in seen if site == name]
        assert rows == sorted(set(rows)), "no interval twice"
        assert all(at.timestamp() % 300 == 0 for at in rows), "no drift"
        assert {d.source for d in decisions(stores.pg, name)} == {"rule"}
    assert decisions(stores.pg, "broken") == []
    assert sample(supervisor.metrics, "ticks_total", site="broken", result="decided") is None
    held = stores.pg.execute("SELECT count(*) FROM optimizer.site_leases WHERE holder IS NOT NULL").fetchone()
    assert held == (0,), "each gave its lease back"


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_healthz_says_what_is_wrong_and_metrics_are_served():
    metrics, health = DispatchMetrics(), Health()
    server = HealthServer(0, health, metrics.registry, lambda: None)
    try:
        assert get(server.port, "/healthz")[0] == 503, "nothing is dispatched"
        site = health.site("s")
        status, text = get(server.port, "/healthz")
        assert (status, json.loads(text)["sites"][0]["lease"]) == (200, "standby")
        site.lead(3)
        site.interval_wall_s, site.leading_since_s = 10.0, time.monotonic() - 60.0
        status, text = get(server.port, "/healthz")
        assert status == 503
        assert "no tick for 60 s" in json.loads(text)["sites"][0]["problems"][0]
        site.ticked_s = time.monotonic()
        assert get(server.port, "/healthz")[0] == 200
        site.store_error = "PostgreSQL is away"
        assert json.loads(get(server.port, "/healthz")[1])["sites"][0]["stores"] == "PostgreSQL is away"
        assert health.moves(), "a store that is down is no reason to restart"
        site.looped_s -= 1000
        assert not health.moves()
        metrics.site("s").lost_tick("OperationalError")
        assert 'pulsebms_ticks_total{result="lost",site="s"} 1.0' in get(server.port, "/metrics")[1]
        assert get(server.port, "/else")[0] == 404
    finally:
        server.close()


def test_systemd_is_told(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    notify("WATCHDOG=1")  # nobody listens any more: no error


def test_every_metric_is_in_the_runbook():
    text = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
    for family in DispatchMetrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"`{name}" in text, name
    assert not re.search(r"pulsebms_\w+", re.sub(r"`[^`]*`|```.*?```", "", text, flags=re.DOTALL))


@pytest.fixture
def pulsebms(stores, tmp_path):
    clock = ScaledClock(NOW + timedelta(seconds=60), time.monotonic(), 1.0)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "serving.cli", "--json-logs", *arguments],
            env={
                **os.environ,
                "COLUMNS": "200",
                "DATABASE_URL": stores.settings.database_url,
                "REDIS_URL": stores.settings.redis_url,
                "MONGODB_URI": stores.settings.mongodb_uri,
                "PULSEBMS_DATA": str(tmp_path),
                VARIABLE: to_text(clock),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_once_from_the_command_line_decides_for_the_running_interval(stores, pulsebms):
    make_site(stores)
    done = pulsebms("dispatch", "--site", "demo", "--once")
    assert done.returncode == 0, done.stderr
    assert "by rule" in done.stdout
    assert last_decision(stores.pg, "demo").starts_at == NOW
    assert [row.command_type for row in history(stores.pg, "demo")] == [CommandType.START_CHARGE]
    stores.pg.execute("DELETE FROM optimizer.site_series WHERE name = %s", (PRICE,))
    none = pulsebms("dispatch", "--site", "demo", "--once", "--dry-run")
    assert none.returncode == 1
    assert "no decision" in none.stdout
    assert len(history(stores.pg, "demo")) == 1, "a dry run stops nothing either"


def test_sites_are_named_or_all_are_meant():
    for sites, everything in (([], False), (["a"], True)):
        with pytest.raises(InputError, match="one or more sites, or --all"):
            dispatch(site=sites, all_sites=everything)

"""The real `pulsebms dispatch`, killed and told to end, beside a real device: every command ends, none acts twice."""

import os
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import processes
import pytest
import yaml

from core.clock import ScaledClock
from core.series import Series
from serving.clock_config import VARIABLE, to_text
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from serving.dispatch.tick import SiteDispatcher
from serving.site_loader import load_site
from stores.postgres import leases, outbox
from stores.postgres.history import history
from stores.postgres.series import write_series
from stores.redis import pending

pytestmark = pytest.mark.timeout(200)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
DEVICE = "pack-lfp"
SPEED = 300.0
"""An interval of 900 s takes 3 s."""


@pytest.fixture
def world(stores, tmp_path):
    """A site of one pack whose price is lowest now: without a twin the rule charges it at every tick."""
    site = yaml.safe_load(SITE_FILE.read_text())
    site["packs"] = [pack for pack in site["packs"] if pack["device_id"] == DEVICE]
    load_site(stores.pg, yaml.safe_dump(site))
    now = datetime.now(UTC).replace(minute=5, second=0, microsecond=0) - timedelta(days=1)
    start = now.replace(minute=0) - timedelta(days=1)
    hours = 24 * 4
    price = np.where(np.arange(hours) < 30, 0.05, 0.30)
    flat = np.ones(hours)
    for name, values in ((PRICE, price), (LOAD_FORECAST, 2e4 * flat), (PV_FORECAST, 0 * flat), (AMBIENT, 20 * flat)):
        write_series(stores.pg, "demo", Series(name, start, 3600.0, values), start)
    return {
        "DATABASE_URL": stores.settings.database_url,
        "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri,
        "PULSEBMS_DATA": str(tmp_path / "data"),
        VARIABLE: to_text(ScaledClock(now, time.monotonic(), SPEED)),
    }


@pytest.fixture
def start(world, tmp_path):
    running = []

    def begin(name, *arguments):
        running.append(processes.start(list(arguments), world, tmp_path / f"{name}.log"))
        return running[-1]

    yield begin
    for child in running:
        child.kill()
        child.wait()


def dispatch(start, name, *more):
    return start(name, "dispatch", "--site", "demo", "--telemetry-max-age", "1800", "--validity-grace", "20", *more)


def commanding(tmp_path, name, more_than=0):
    """Ticks of this dispatcher that issued commands, once there are more than so many."""
    return processes.until(
        lambda: len([line for line in processes.events(tmp_path / f"{name}.log", "tick") if '"commands": 1' in line]) > more_than,
        f"{name} commands",
        deadline_s=60,
    )


def judge(stores, tmp_path, device):
    """End the device; then every command has one terminal answer, and what is completed was begun once."""
    dispatcher = SiteDispatcher(stores, "demo")

    def ended():
        dispatcher.settle()
        outbox.expire_overdue(stores.pg, "demo", pending.redis_now(stores.redis), 1.0)
        return not outbox.open_commands(stores.pg, "demo")

    processes.until(ended, "every command has ended", deadline_s=45)
    device.send_signal(signal.SIGTERM)
    assert device.wait(30) == 0
    rows = history(stores.pg, "demo", limit=1000)
    outcomes = {row.command_id: row.response_data["outcome"] for row in rows}
    completed = {command_id for command_id, outcome in outcomes.items() if outcome == "completed"}
    assert completed
    assert set(outcomes.values()) <= {"completed", "expired", "rejected"}
    acted = [line for line in processes.events(tmp_path / "device.log", "command") if '"outcome": "completed"' in line]
    assert len(acted) == len(completed), "as many acts as completed commands: none twice, none off the record"
    journal = sqlite3.connect(tmp_path / "data" / "devices" / f"{DEVICE}.sqlite")
    done = {row[0] for row in journal.execute("SELECT command_id FROM commands WHERE response LIKE 'completed%'")}
    journal.close()
    assert done == completed


def test_sigterm_ends_it_after_the_tick_and_a_standby_takes_over_at_once(stores, start, tmp_path):
    device = start("device", "device", "run", DEVICE)
    first = dispatch(start, "first")
    commanding(tmp_path, "first")
    second = dispatch(start, "second")
    processes.until(lambda: processes.events(tmp_path / "second.log", "standby"), "the second stands by", deadline_s=60)
    assert processes.events(tmp_path / "second.log", "tick") == []
    before = leases.current_epoch(stores.pg, "demo")
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    assert "ended after" in (tmp_path / "first.log").read_text()
    commanding(tmp_path, "second")
    assert leases.current_epoch(stores.pg, "demo") == before + 1
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 0
    holder = stores.pg.execute("SELECT holder FROM optimizer.site_leases").fetchone()
    assert holder == (None,)
    judge(stores, tmp_path, device)


def test_a_leader_that_sleeps_past_its_lease_is_replaced_and_commands_nothing_when_it_wakes(stores, start, tmp_path):
    lease_s = 3.0
    device = start("device", "device", "run", DEVICE)
    first = dispatch(start, "first", "--lease", str(lease_s))
    commanding(tmp_path, "first")
    second = dispatch(start, "second", "--lease", str(lease_s))
    processes.until(lambda: processes.events(tmp_path / "second.log", "standby"), "the second stands by", deadline_s=60)
    os.kill(first.pid, signal.SIGSTOP)
    slept_s = time.monotonic()
    processes.until(lambda: leases.current_epoch(stores.pg, "demo") == 2, "the second has the lease")
    assert time.monotonic() - slept_s < 2 * lease_s
    commanding(tmp_path, "second")
    before = holders(stores)
    os.kill(first.pid, signal.SIGCONT)
    commanding(tmp_path, "second", more_than=3)
    after = holders(stores)
    assert {name: after[name] for name in after if name.split(":")[1] == str(first.pid)} == {
        name: before[name] for name in before if name.split(":")[1] == str(first.pid)
    }, "the first has not commanded since"
    for child in (first, second):
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    judge(stores, tmp_path, device)


def holders(stores):
    """Commands by who issued them."""
    return dict(stores.pg.execute("SELECT issued_by, count(*) FROM command_history GROUP BY 1").fetchall())


def kill_and_take_over(stores, start, tmp_path, *, kills, wait_for_the_lease):
    device = start("device", "device", "run", DEVICE)
    epochs = []
    for k in range(kills + 1):
        child = dispatch(start, f"dispatcher{k}")
        commanding(tmp_path, f"dispatcher{k}")
        epochs.append(leases.current_epoch(stores.pg, "demo"))
        child.kill()
        child.wait()
        if not wait_for_the_lease:
            stores.pg.execute("UPDATE optimizer.site_leases SET expires_at = clock_timestamp()")
    assert epochs == list(range(1, kills + 2)), "each took over with an epoch of its own"
    judge(stores, tmp_path, device)


def test_kill_9_leaves_no_command_without_an_end_and_the_next_takes_over(stores, start, tmp_path):
    kill_and_take_over(stores, start, tmp_path, kills=1, wait_for_the_lease=False)


@pytest.mark.full
def test_kill_9_again_and_again_and_the_lease_runs_out_by_itself(stores, start, tmp_path):
    kill_and_take_over(stores, start, tmp_path, kills=3, wait_for_the_lease=True)

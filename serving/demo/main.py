"""Runs the demo from beginning to end: servers, site, data, processes, meter, account.

Here: the order of things and the cleaning up. Not here: the world (serving.demo.world), the account
(serving.demo.account), the processes' own work.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core.clock import ScaledClock
from core.limits import power_bounds, tightest
from core.pack import Pack
from core.site import SiteConfig
from core.twin import predict
from serving.clock_config import START_WAIT_S, VARIABLE, to_text
from serving.demo.account import make_account, print_account
from serving.demo.foresight import store_perfect_foresight
from serving.demo.processes import ChildFailedError, Children
from serving.demo.world import Meter, plant_start, prepare
from serving.dispatch.tick import SiteDispatcher
from serving.site_loader import load_site
from stores import datasets
from stores.connections import Stores, open_stores
from stores.postgres import outbox
from stores.postgres.constraints import constraint_rows
from stores.postgres.devices import list_devices
from stores.redis import pending
from stores.settings import StoreSettings

log = structlog.get_logger()

VALIDITY_GRACE_S = 20.0
"""Wall seconds: on a busy machine a tick may come late by more than a whole (simulated) interval."""
SETTLE_DEADLINE_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What `pulsebms demo` may be told."""

    days: float
    speed: float
    site_file: Path
    plot: Path


def run_demo(options: DemoOptions, stop: threading.Event, console: Console) -> int:
    """Run it; returns 0, or 130 when interrupted. Every process that it starts has ended when it returns."""
    settings = StoreSettings.from_env()
    began_s = time.monotonic()
    console.print("starting PostgreSQL, Valkey and mongod, migrating ...")
    with open_stores(settings, migrate=True) as stores:
        site = load_site(stores.pg, options.site_file)
        datasets.fetch(settings.data_dir, console.print)
        prices = datasets.load_prices(settings.data_dir)
        start = plant_start(site, options.days, datetime.now(UTC))
        end = start + timedelta(days=options.days)
        scenario = prepare(stores, site, prices, start, options.days)
        console.print(
            f"site {site.site_id}: {len(site.packs)} packs; plant time {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
            f" at {options.speed:g} times the wall's speed; prices of {start - scenario.price_shift:%Y-%m-%d} onward"
        )
        run_dir = settings.data_dir / "demo"
        run_dir.mkdir(parents=True, exist_ok=True)
        clock_file = run_dir / f"clock-{os.getpid()}"
        since = pending.redis_now(stores.redis)
        _compile_once(stores, site, start)
        children = Children(run_dir / "logs", {"PULSEBMS_DATA": str(settings.data_dir), VARIABLE: f"@{clock_file}"})
        try:
            code = _simulate(stores, site, scenario, start, end, options, children, clock_file, stop, console)
        finally:
            children.stop()
            for path in run_dir.glob(f"{clock_file.name}*"):
                path.unlink(missing_ok=True)
        if code:
            console.print("interrupted; nothing is left running")
            return code
        _settle(stores, site.site_id, stop)
        console.print("solving the same days with perfect foresight ...")
        store_perfect_foresight(stores, site, scenario, start, end)
        account = make_account(stores, site, start, end, since)
        print_account(account, console, options.plot)
        console.print(f"picture: {options.plot.resolve()}   logs: {run_dir / 'logs'}")
        console.print(f"done in {time.monotonic() - began_s:.0f} s")
    return 0


def _simulate(
    stores: Stores,
    site: SiteConfig,
    scenario: datasets.Scenario,
    start: datetime,
    end: datetime,
    options: DemoOptions,
    children: Children,
    clock_file: Path,
    stop: threading.Event,
    console: Console,
) -> int:
    interval_s = next(p.update_interval_seconds for p in site.policies if p.update_interval_seconds)
    late = end + timedelta(seconds=interval_s)
    for pack in site.packs:
        children.start(f"device-{pack.device_id}", ["device", "run", pack.device_id, "--until", late.isoformat()])
    children.start("twin", ["twin", "run", "--site", site.site_id, "--until", end.isoformat()])
    wall = ["--validity-grace", str(VALIDITY_GRACE_S), "--telemetry-max-age", str(2 * interval_s)]
    children.start("dispatcher", ["dispatch", "--site", site.site_id, "--until", end.isoformat(), *wall])
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=False,
    ) as progress:
        task = progress.add_task("starting processes", total=(end - start).total_seconds())
        if not _all_ready(children, clock_file, stop):
            return 130
        # A moment before the first boundary, so that devices and twin have spoken when the first tick comes.
        clock = ScaledClock(start - timedelta(seconds=interval_s * 1.9), time.monotonic(), options.speed)
        partial = clock_file.with_suffix(".new")
        partial.write_text(to_text(clock))
        partial.replace(clock_file)
        meter = Meter(stores, site, scenario, interval_s, start)
        while clock.now() < late:
            if stop.wait(0.2):
                return 130
            children.check()
            now = clock.now()
            meter.publish_until(min(now, end))
            done_s = max(0.0, (min(now, end) - start).total_seconds())
            progress.update(task, completed=done_s, description=f"plant time {now:%d %b %H:%M}")
        still = children.wait(SETTLE_DEADLINE_S)
        children.check()
        if still:
            raise ChildFailedError(f"did not end by themselves: {', '.join(still)}")
    return 0


def _compile_once(stores: Stores, site: SiteConfig, start: datetime) -> None:
    """Run the compiled kernels once, so that the children find them in the cache on disk instead of each compiling."""
    device = list_devices(stores.pg, site.site_id)[0]
    pack = Pack(device, soc_pct=50.0, soh_pct=80.0, temperature_c=20.0, ambient_c=20.0)
    pack.step(0.0, 60.0)
    limits = tightest(device, constraint_rows(stores.pg, site.site_id)[device.device_id], start)
    power_bounds(limits, pack.condition(60.0), 60.0)
    predict(device, pack.state(start), np.zeros(4), dt_s=900.0, start=start, ambient_c=20.0)


def _all_ready(children: Children, clock_file: Path, stop: threading.Event) -> bool:
    deadline_s = time.monotonic() + START_WAIT_S
    waiting = set(children.pids)
    while waiting:
        children.check()
        waiting = {pid for pid in waiting if not clock_file.with_name(f"{clock_file.name}.{pid}.ready").exists()}
        if stop.wait(0.05):
            return False
        if time.monotonic() > deadline_s:
            raise ChildFailedError(f"processes {sorted(waiting)} were not ready after {START_WAIT_S:.0f} s")
    return True


def _settle(stores: Stores, site_id: str, stop: threading.Event) -> None:
    """Wait until every command has ended: answered, or past its deadline and so expired."""
    dispatcher = SiteDispatcher(stores, site_id)
    deadline_s = time.monotonic() + SETTLE_DEADLINE_S
    while time.monotonic() < deadline_s:
        dispatcher.settle()
        outbox.expire_overdue(stores.pg, site_id, pending.redis_now(stores.redis), 1.0)
        if not outbox.open_commands(stores.pg, site_id) or stop.wait(0.5):
            return

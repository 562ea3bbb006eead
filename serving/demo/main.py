"""Runs the demo from beginning to end: servers, site, data, processes, meter, account.

Here: the order of things and the cleaning up. Not here: the world (serving.demo.world), the account
(serving.demo.account), the processes' own work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import InputError, StoreError
from core.limits import power_bounds, tightest
from core.pack import Pack
from core.site import SiteConfig
from core.twin import predict
from serving.calibration import CalibrateOptions, calibrate_site
from serving.clock_config import START_WAIT_S
from serving.demo.account import failures, make_account, print_account
from serving.demo.clocks import PlantClocks
from serving.demo.foresight import store_perfect_foresight
from serving.demo.ownership import check_data, check_servers
from serving.demo.processes import ChildFailedError, Children
from serving.demo.world import Meter, plant_start, prepare
from serving.dispatch.loop import LEASE_TTL_S
from serving.dispatch.tick import SiteDispatcher
from serving.metrics_service import MetricsServiceOptions, run_round
from serving.site_loader import load_site, read_site_file
from stores import datasets
from stores.connections import Stores, open_stores
from stores.embedded.runtime import lock
from stores.mongo.metrics import MetricsOptions
from stores.mongo.predictions import latest_predictions
from stores.mongo.telemetry import latest_states
from stores.postgres import leases, outbox
from stores.postgres.constraints import constraint_rows
from stores.postgres.devices import list_devices
from stores.redis import pending
from stores.settings import StoreSettings

log = structlog.get_logger()

VALIDITY_GRACE_S = 20.0
"""Wall seconds: on a busy machine a tick may come late by more than a whole (simulated) interval."""
SETTLE_DEADLINE_S = 45.0
METRICS_EVERY_S = 3600
"""Plant seconds between two rounds of the metrics service."""
LEAD_S = 300.0
"""Plant seconds before the first interval at which the clock stands until devices and twin have spoken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What `pulsebms demo` may be told."""

    days: float
    speed: float
    site_file: Path
    plot: Path
    on_these_servers: bool = False
    """Also when the environment names servers."""
    forget: bool = False
    """Delete the site's data whoever wrote them."""


def run_demo(options: DemoOptions, stop: threading.Event, console: Console) -> int:
    """Run it; returns 0, 1 when the account shows that something failed, 130 when interrupted.

    Every process that it starts has ended when it returns. Raises InputError when it would delete what is not a demo's.
    """
    if options.days <= 0 or abs(options.days * 24 - round(options.days * 24)) > 1e-6:
        raise InputError(source="command line", field="--days", value=options.days, expected="whole hours, such as 0.25, 1 or 2")
    settings = StoreSettings.from_env()
    check_servers(settings, allowed=options.on_these_servers)
    run_dir = settings.data_dir / "demo"
    console.print("starting PostgreSQL, Valkey and mongod, migrating ...")
    with open_stores(settings, migrate=True) as stores, _alone(run_dir):
        return _run(options, settings, stores, run_dir, stop, console)


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """One demo a data directory, since it begins by forgetting the last one; StoreError when another runs."""
    run_dir.mkdir(parents=True, exist_ok=True)
    held = lock(run_dir / "lock", exclusive=True, block=False)
    if held is None:
        raise StoreError(f"a demo is already running in {run_dir.parent}")
    with held:
        for left in run_dir.glob("clock-*"):  # of a demo that was killed
            left.unlink(missing_ok=True)
        yield


def _run(
    options: DemoOptions, settings: StoreSettings, stores: Stores, run_dir: Path, stop: threading.Event, console: Console
) -> int:
    began_s = time.monotonic()
    if not options.forget:
        check_data(stores, read_site_file(options.site_file).site_id)
    site = load_site(stores.pg, options.site_file)
    datasets.fetch(settings.data_dir, console.print)
    prices = datasets.load_prices(settings.data_dir)
    if not _quiet(stores, site.site_id, stop, console):
        return _interrupted(console)
    start = plant_start(site, options.days, datetime.now(UTC))
    end = start + timedelta(days=options.days)
    scenario = prepare(stores, site, prices, start, options.days)
    console.print(
        f"site {site.site_id}: {len(site.packs)} packs; plant time {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        f" at {options.speed:g} times the wall's speed; prices of {start - scenario.price_shift:%Y-%m-%d} onward"
    )
    since = pending.redis_now(stores.redis)
    _compile_once(stores, site, start)
    clocks = PlantClocks(run_dir, start - timedelta(seconds=LEAD_S), options.speed)
    children = Children(run_dir / "logs", {"PULSEBMS_DATA": str(settings.data_dir)})
    try:
        finished = _simulate(stores, site, scenario, start, end, options, children, clocks, stop, console)
    finally:
        children.stop()
        clocks.remove()
    if not finished:
        return _interrupted(console)
    _settle(stores, site.site_id, stop)
    console.print("bringing the metrics up to date, calibrating the twin on the days that were run ...")
    last = MetricsServiceOptions(site_id=site.site_id, metrics=MetricsOptions(include_open=True))
    run_round(stores, last, end + timedelta(seconds=LEAD_S))
    calibrate_site(stores, CalibrateOptions(site_id=site.site_id, days=options.days), end)
    console.print("solving the same days with perfect foresight ...")
    store_perfect_foresight(stores, site, scenario, start, end)
    account = make_account(stores, site, start, end, since)
    print_account(account, console, options.plot)
    console.print(f"picture: {options.plot.resolve()}\nlogs:    {run_dir / 'logs'}", soft_wrap=True)
    failed = failures(account)
    for what in failed:
        console.print(f"[red]failed[/]: {what}", soft_wrap=True)
    console.print(f"done in {time.monotonic() - began_s:.0f} s")
    return 1 if failed else 0


def _interrupted(console: Console) -> int:
    console.print("interrupted; nothing is left running")
    return 130


def _quiet(stores: Stores, site_id: str, stop: threading.Event, console: Console) -> bool:
    """Wait until a demo that was killed has no command under way and no lease; False when interrupted.

    Raises StoreError when a dispatcher keeps renewing its lease: then the site is in use.
    """
    if outbox.open_commands(stores.pg, site_id):
        console.print("waiting until the commands of an earlier run have ended (half a minute at most) ...")
        _settle(stores, site_id, stop)
    deadline_s = time.monotonic() + 2 * LEASE_TTL_S
    while (lease := leases.acquire(stores.pg, site_id, f"demo:{os.getpid()}", LEASE_TTL_S)) is None:
        if time.monotonic() > deadline_s:
            raise StoreError(f"another dispatcher commands site {site_id}: end it before the demo")
        if stop.wait(0.2):
            return False
    leases.release(stores.pg, lease)
    return not stop.is_set()


def _simulate(
    stores: Stores,
    site: SiteConfig,
    scenario: datasets.Scenario,
    start: datetime,
    end: datetime,
    options: DemoOptions,
    children: Children,
    clocks: PlantClocks,
    stop: threading.Event,
    console: Console,
) -> bool:
    """Two days in processes of their own; False when interrupted."""
    interval_s = next(p.update_interval_seconds for p in site.policies if p.update_interval_seconds)
    late = end + timedelta(seconds=interval_s)
    for pack in site.packs:
        arguments = ["device", "run", pack.device_id, "--until", late.isoformat()]
        children.start(f"device-{pack.device_id}", arguments, clocks.environment(clocks.devices))
    control = clocks.environment(clocks.control)
    children.start("twin", ["twin", "run", "--site", site.site_id, "--until", end.isoformat()], control)
    wall = ["--validity-grace", str(VALIDITY_GRACE_S), "--telemetry-max-age", str(2 * interval_s)]
    every = ["--interval", str(METRICS_EVERY_S), "--until", end.isoformat()]
    children.start("metrics", ["metrics", "run", "--site", site.site_id, *every], control)
    children.start("dispatcher", ["dispatch", "--site", site.site_id, "--no-watch", "--until", end.isoformat(), *wall], control)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=False,
    ) as progress:
        task = progress.add_task("starting processes", total=(end - start).total_seconds())
        if not _prepared(stores, site, children, clocks, stop):
            return False
        clock = clocks.run()
        meter = Meter(stores, site, scenario, interval_s, start)
        while clock.now() < late:
            if stop.wait(0.2):
                return False
            children.check()
            now = clock.now()
            meter.publish_until(min(now, end))
            done_s = max(0.0, (min(now, end) - start).total_seconds())
            progress.update(task, completed=done_s, description=f"plant time {min(now, end):%d %b %H:%M}")
        still = children.wait(SETTLE_DEADLINE_S)
        children.check()
        if still:
            raise ChildFailedError(f"did not end by themselves: {', '.join(still)}")
    return True


def _prepared(stores: Stores, site: SiteConfig, children: Children, clocks: PlantClocks, stop: threading.Event) -> bool:
    """Bring everything up while the plant's clock stands; False when interrupted.

    Devices measure first, then the twin predicts from that, so that the dispatcher's first tick finds both.
    """
    ids = [pack.device_id for pack in site.packs]
    if not _await(lambda: children.all_ready((clocks.devices, clocks.control)), "every process to be ready", children, stop):
        return False
    clocks.stand(clocks.devices)
    if not _await(lambda: len(latest_states(stores.mongo, ids)) == len(ids), "telemetry of every pack", children, stop):
        return False
    clocks.stand(clocks.control)
    if not _await(lambda: len(latest_predictions(stores.mongo, ids)) == len(ids), "a prediction for every pack", children, stop):
        return False
    return _await(lambda: leases.is_held(stores.pg, site.site_id), "the dispatcher to lead", children, stop)


def _await(condition: Callable[[], bool], what: str, children: Children, stop: threading.Event) -> bool:
    deadline_s = time.monotonic() + START_WAIT_S
    while not condition():
        children.check()
        if stop.wait(0.05):
            return False
        if time.monotonic() > deadline_s:
            raise ChildFailedError(f"waited {START_WAIT_S:.0f} s in vain for {what}; logs: {children.log_dir}")
    return True


def _compile_once(stores: Stores, site: SiteConfig, start: datetime) -> None:
    """Run the compiled kernels once, so that the children find them in the cache on disk instead of each compiling."""
    device = list_devices(stores.pg, site.site_id)[0]
    pack = Pack(device, soc_pct=50.0, soh_pct=80.0, temperature_c=20.0, ambient_c=20.0)
    pack.step(0.0, 60.0)
    limits = tightest(device, constraint_rows(stores.pg, site.site_id)[device.device_id], start)
    power_bounds(limits, pack.condition(60.0), 60.0)
    predict(device, pack.state(start), np.zeros(4), dt_s=900.0, start=start, ambient_c=20.0)


def _settle(stores: Stores, site_id: str, stop: threading.Event) -> None:
    """Wait until every command has ended: answered, or past its deadline and so expired."""
    dispatcher = SiteDispatcher(stores, site_id)
    deadline_s = time.monotonic() + SETTLE_DEADLINE_S
    while time.monotonic() < deadline_s:
        dispatcher.settle()
        outbox.expire_overdue(stores.pg, site_id, pending.redis_now(stores.redis), 1.0)
        if not outbox.open_commands(stores.pg, site_id) or stop.wait(0.5):
            return

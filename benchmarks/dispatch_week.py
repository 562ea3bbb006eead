"""A week of dispatch for a hundred devices, as fast as it goes: what grows? Memory, keys and bytes in Redis, partitions, outbox.

Plant time runs by intervals, wall time by itself: history is stamped by the wall, so that the week's rows lie in this month's
partition; maintenance is told the plant's day. The whole tick runs (SiteDispatcher.tick) and each device is the client library
with its journal on disk; only the packs stand still.
"""

from __future__ import annotations

import resource
import time
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import yaml

from benchmarks.dispatch_load import must
from core.pack import Pack
from core.series import Series
from serving.device_client import CommandGuard, DeviceClient, Journal
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.site_loader import load_site
from stores.connections import Stores
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres import leases
from stores.postgres.devices import list_devices
from stores.postgres.maintenance import maintain_postgres
from stores.postgres.series import write_series
from stores.redis.maintenance import maintain_redis

SITE_FILE = Path(__file__).resolve().parents[1] / "configs" / "sites" / "demo.yaml"
SITE = "demo"
INTERVAL_S = 900
TICKS_A_DAY = 86_400 // INTERVAL_S


def week(stores: Stores, directory: Path, devices: int, days: int) -> list[dict[str, float]]:
    """One row a day."""
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days + 1)
    packs = _site(stores, devices, days, start)
    clients = [
        DeviceClient(stores.redis, CommandGuard(device_id=name), Journal(directory / "journals" / f"{name}.sqlite"))
        for name in packs
    ]
    dispatcher = SiteDispatcher(stores, SITE)
    options = TickOptions(interval_s=INTERVAL_S, horizon_s=86_400, valid_for_s=60.0, deadline_s=30.0)
    rows, commands = [], 0
    for day in range(days):
        begun_s = time.perf_counter()
        for k in range(TICKS_A_DAY):
            at = start + timedelta(seconds=INTERVAL_S * (day * TICKS_A_DAY + k))
            insert_telemetry(
                stores.mongo, [pack_document(pack.state(at), site_id=SITE, firmware="benchmark") for pack in packs.values()]
            )
            lease = leases.acquire(stores.pg, SITE, "benchmark", 100.0)
            result = dispatcher.tick(at, options, lease)
            must(result.decision is not None, result.why_no_decision)
            commands += result.commands
            for client in clients:
                while work := client.take():
                    if client.begin(work):
                        client.complete(work)
        dispatcher.settle()
        done = maintain_postgres(stores.pg, start + timedelta(days=day + 1))
        maintain_redis(stores.redis)
        rows.append(
            {"day": day + 1, "wall_s": time.perf_counter() - begun_s, "commands": commands, **_sizes(stores), **_pg(stores)}
        )
        rows[-1]["partitions_made"] = done["partitions made"]
    for client in clients:
        client.close()
    return rows


def _site(stores: Stores, devices: int, days: int, start: datetime) -> dict[str, Pack]:
    site = yaml.safe_load(SITE_FILE.read_text())
    models = site["packs"]
    # Copies: site files take no YAML aliases.
    site["packs"] = [
        deepcopy(models[k % len(models)]) | {"device_id": f"pack-{k:03d}", "name": f"pack {k}"} for k in range(devices)
    ]
    site["policies"] = []
    load_site(stores.pg, yaml.safe_dump(site))
    hours = 24 * (days + 4)
    price = 0.10 + 0.08 * np.sin(np.arange(hours) / 24 * 2 * np.pi)
    first, flat = start - timedelta(days=2), np.ones(hours)
    for name, values in ((PRICE, price), (LOAD_FORECAST, 6e4 * flat), (PV_FORECAST, 0 * flat), (AMBIENT, 20 * flat)):
        write_series(stores.pg, SITE, Series(name, first, 3600.0, values), first)
    return {
        device.device_id: Pack(device, soc_pct=50.0, soh_pct=80.0, temperature_c=20.0, ambient_c=20.0)
        for device in list_devices(stores.pg, SITE)
    }


def _sizes(stores: Stores) -> dict[str, float]:
    with Path("/proc/self/statm").open() as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    memory = stores.redis.info("memory")
    return {
        "rss_mb": resident / 1e6,
        "redis_keys": stores.redis.dbsize(),
        "redis_mb": float(memory["used_memory"]) / 1e6,
    }


def _pg(stores: Stores) -> dict[str, int]:
    row = stores.pg.execute(
        "SELECT (SELECT count(*) FROM pg_inherits WHERE inhparent = 'command_history'::regclass), "
        "(SELECT count(*) FROM command_history), (SELECT count(*) FROM command_history WHERE success IS NULL), "
        "(SELECT count(*) FROM command_history_default)"
    ).fetchone()
    return dict(zip(("partitions", "history", "open", "in_default"), row or (), strict=True))

"""The metrics service: brings metrics_hourly and metrics_daily up to date, and writes device:status and site:metrics.

Here: when, for which sites, and what the status keys say. Not here: the metrics (stores.mongo.metrics).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from core.clock import Clock
from core.devices import DeviceConfig
from core.errors import InputError
from stores.connections import Stores
from stores.failures import STORE_FAILURES
from stores.mongo.current import newest_statuses, period_sums
from stores.mongo.metrics import MetricsOptions, MetricsResult, refresh
from stores.postgres.devices import list_devices
from stores.postgres.sites import list_sites
from stores.redis.status import DEVICE_TTL_S, read_statuses, write_site_metrics, write_statuses

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsServiceOptions:
    """What `pulsebms metrics run` may be told."""

    site_id: str | None = None
    """One site; None: all telemetry, also of sites that no file describes (their days are UTC's)."""
    interval_s: float = 60.0
    """Plant seconds between two rounds, well below the 300 s of device:status."""
    metrics: MetricsOptions = field(default_factory=MetricsOptions)


def run_round(
    stores: Stores, options: MetricsServiceOptions, now: datetime, on_progress: Callable[[int, int], None] | None = None
) -> MetricsResult:
    """Metrics of what has changed, then the status keys. Raises InputError for a site that is not loaded."""
    sites = {site.site_id: site for site in list_sites(stores.pg)}
    if options.site_id is not None and options.site_id not in sites:
        known = ", ".join(sites) or "none is loaded"
        raise InputError(source="command line", field="--site", value=options.site_id, expected=f"a loaded site ({known})")
    zones = {site_id: site.timezone for site_id, site in sites.items()}
    wanted = None if options.site_id is None else [options.site_id]
    result = refresh(stores.mongo, zones, now, options.metrics, site_ids=wanted, on_progress=on_progress)
    for site_id in sites if wanted is None else wanted:
        write_site_status(stores, site_id, now)
    return result


def write_site_status(stores: Stores, site_id: str, now: datetime) -> None:
    """device:status of the site's devices, where telemetry is newer than what is there, and site:metrics of each period.

    A device is online while its telemetry is at most 300 s old; a silent one keeps no key. total_capacity is the nominal
    energy of the site's packs in kWh: ampere hours of packs of different voltage cannot be added.
    """
    devices = list_devices(stores.pg, site_id)
    ids = [device.device_id for device in devices]
    measured = newest_statuses(stores.mongo, ids, not_after=now)
    fresh = {
        device_id: {"online": True, **status}
        for device_id, status in measured.items()
        if now - datetime.fromisoformat(status["last_telemetry"]) <= timedelta(seconds=DEVICE_TTL_S)
    }
    present = read_statuses(stores.redis, ids)
    newer = {name: status for name, status in fresh.items() if _is_newer(status, present.get(name))}
    write_statuses(stores.redis, newer)
    present |= newer
    write_site_metrics(stores.redis, site_id, "current", current_metrics(devices, present))
    for period in ("hourly", "daily"):
        found = period_sums(stores.mongo, period, site_id)
        if found is not None:
            sums = {"device_count": len(devices), "total_capacity": _capacity_kwh(devices), **found[1]}
            write_site_metrics(stores.redis, site_id, period, sums)


def _is_newer(status: Mapping[str, Any], present: Mapping[str, Any] | None) -> bool:
    """The device's own word stands unless telemetry is later, or its time cannot be read."""
    try:
        return present is None or datetime.fromisoformat(status["last_telemetry"]) > datetime.fromisoformat(
            str(present["last_telemetry"])
        )
    except (KeyError, ValueError, TypeError):
        return True


def current_metrics(devices: list[DeviceConfig], statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The contract's site:metrics fields; average_soc (a plain mean over devices online) is left out when none is."""
    online = [status for status in statuses.values() if status.get("online") is True]
    metrics = {
        "total_power": sum(float(status.get("current_power", 0.0)) for status in online),
        "total_capacity": _capacity_kwh(devices),
        "device_count": float(len(devices)),
        "online_count": float(len(online)),
        "alarm_count": float(sum(int(status.get("alarm_count", 0)) for status in online)),
    }
    if online:
        metrics["average_soc"] = sum(float(status.get("current_soc", 0.0)) for status in online) / len(online)
    return metrics


def _capacity_kwh(devices: list[DeviceConfig]) -> float:
    return sum(device.nominal_energy_wh for device in devices) / 1000.0


def run_metrics(
    stores: Stores,
    clock: Clock,
    options: MetricsServiceOptions,
    stop: threading.Event,
    *,
    ends_at: datetime | None = None,
) -> int:
    """Round after round until `stop` or plant time `ends_at`; a store that fails costs the round. Returns the rounds."""
    rounds, due = 0, clock.now()
    while not stop.is_set() and (ends_at is None or due < ends_at):
        if stop.wait(min(clock.wall_seconds_until(due), 0.5)):
            break
        if clock.now() < due:
            continue
        try:
            result = run_round(stores, options, clock.now())
            rounds += 1
            log.info(
                "metrics", device_hours=result.device_hours, hourly=result.hourly, daily=result.daily, waiting=result.waiting
            )
        except STORE_FAILURES as error:
            log.error("metrics_failed", why=f"{type(error).__name__}: {error}")
            stop.wait(1.0)
            try:
                stores.reconnect()
            except STORE_FAILURES as again:
                log.error("metrics_reconnect_failed", why=type(again).__name__)
        due = max(due + timedelta(seconds=options.interval_s), clock.now())
    return rounds

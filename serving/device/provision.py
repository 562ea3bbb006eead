"""Gives the reference device what a real one is provisioned with: its configuration, limits and site.

Only here does a device read PostgreSQL; afterwards it talks to Redis and MongoDB alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from core.clock import Clock
from core.device_logic import DeviceController
from core.devices import CYCLE_HOURS, DeviceStatus, PackState
from core.errors import InputError
from core.limits import tightest
from core.pack import Pack
from core.series import Series
from core.soc_window import SocWindow
from serving.device.agent import DeviceAgent
from serving.device_client import Journal
from serving.dispatch.inputs import AMBIENT
from serving.site_loader import site_config
from stores.connections import Stores
from stores.failures import STORE_FAILURES
from stores.mongo.ingest import Ingest
from stores.mongo.telemetry import latest_states, pack_document, telemetry_range
from stores.postgres.constraints import constraint_rows
from stores.postgres.devices import get_device, touch_device
from stores.postgres.series import read_series

log = structlog.get_logger()
FIRMWARE = "reference-1.0"


def run_reference_device(
    stores: Stores,
    device_id: str,
    clock: Clock,
    data_dir: Path,
    *,
    stop: threading.Event,
    ends_at: datetime | None = None,
) -> None:
    """Run one simulated pack until `stop` or `ends_at`. It goes on from its last telemetry where there is any."""
    config = get_device(stores.pg, device_id)
    if config is None:
        raise InputError(source="device_configurations", field="device_id", value=device_id, expected="a loaded device")
    site = site_config(stores.pg, config.site_id)
    pack_config = site.pack(device_id)
    now = clock.now()
    limits = tightest(config, constraint_rows(stores.pg, config.site_id).get(device_id, []), now)
    last = latest_states(stores.mongo, [device_id], not_after=now).get(device_id)
    ambient = _ambient(stores, config.site_id, now)
    pack = Pack(
        config,
        soc_pct=pack_config.initial_soc_pct if last is None else last.soc_pct,
        soh_pct=pack_config.soh_pct if last is None else last.soh_pct,
        temperature_c=pack_config.initial_temperature_c if last is None else last.temperature_c,
        ambient_c=float(ambient.values[0]) if ambient is not None else pack_config.initial_temperature_c,
    )

    def sink(states: Sequence[PackState]) -> None:
        # The ingest that files go through: judged against the contract, idempotent, known to the metrics. A pack near empty
        # has a state of charge below 1 %, and what the device measured itself replaces what it sent before.
        ingest = Ingest(stores.mongo, now=clock.now, source=f"device {device_id}", replace=True, soc_is_percent=True)
        ingest.add(
            [
                pack_document(state, site_id=config.site_id, firmware=FIRMWARE, chemistry=config.chemistry.value)
                for state in states
            ]
        )
        result = ingest.finish()
        for reason, count in result.set_aside.items():
            log.error("telemetry_set_aside", device_id=device_id, reason=reason, count=count, example=result.examples[reason])

    journal = Journal(data_dir / "devices" / f"{device_id}.sqlite")
    agent = DeviceAgent(
        stores=stores,
        controller=DeviceController(device_id=device_id, limits=limits),
        pack=pack,
        journal=journal,
        clock=clock,
        sink=sink,
        ambient_c=ambient,
        cycle=_cycle_so_far(stores, device_id, now),
    )
    touch_device(stores.pg, device_id, DeviceStatus.ONLINE, pending_now())
    try:
        agent.run(stop, ends_at)
    finally:
        journal.close()
        _say_offline(stores, device_id)


def _cycle_so_far(stores: Stores, device_id: str, now: datetime) -> SocWindow:
    """The last day's SoC, from the device's own telemetry: a restart begins no new cycle."""
    cycle = SocWindow()
    for document in telemetry_range(stores.mongo, device_id, now - timedelta(hours=CYCLE_HOURS), now):
        cycle.add(document["timestamp"], float(document["measurements"]["soc"]))
    return cycle


def _say_offline(stores: Stores, device_id: str) -> None:
    """PostgreSQL was last needed at the start and may have been restarted since, or be away: no reason to end badly."""
    try:
        stores.reconnect()
        touch_device(stores.pg, device_id, DeviceStatus.OFFLINE, pending_now())
    except STORE_FAILURES as error:
        log.warning("not_said_offline", device_id=device_id, why=type(error).__name__)


def pending_now() -> datetime:
    """Wall time, for last_seen."""
    from datetime import UTC

    return datetime.now(UTC)


def _ambient(stores: Stores, site_id: str, now: datetime) -> Series | None:
    """The site's ambient temperature as far as it is known; None when there is no series: the pack's own is held."""
    try:
        return read_series(stores.pg, site_id, AMBIENT, now - timedelta(hours=1), now + timedelta(days=7), known_at=now)
    except InputError:
        return None

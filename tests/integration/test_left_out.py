"""Devices that may not be commanded: latched, in maintenance, in error, with rubbish in their telemetry; none counts on them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from core.devices import DeviceStatus
from core.pack import Pack
from core.series import Series
from core.twin import predict
from serving.dispatch.inputs import AMBIENT, LATCHED, LOAD_FORECAST, PRICE, PV_FORECAST, Freshness, gather
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.emergency import send_first
from serving.site_loader import load_site
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres import leases
from stores.postgres.devices import get_device, list_devices, touch_device
from stores.postgres.history import history
from stores.postgres.series import write_series
from stores.redis import pending

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
OPTIONS = TickOptions(interval_s=900, horizon_s=86_400, valid_for_s=60)
LOAD_W, IMPORT_LIMIT_W = 20_000.0, 18_000.0


@pytest.fixture
def site(stores, tmp_path):
    """Two packs behind a meter that the load alone overloads for two hours: together they must discharge 2 kW."""
    raw = yaml.safe_load(SITE_FILE.read_text())
    raw["packs"] = raw["packs"][:2]
    raw["grid"]["import_limit_w"] = IMPORT_LIMIT_W
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(raw))
    config = load_site(stores.pg, path)
    start, flat = NOW - timedelta(days=1), np.ones(72)
    load_w = 5_000.0 * flat
    load_w[24:26] = LOAD_W
    for name, values in ((PRICE, 0.1 * flat), (LOAD_FORECAST, load_w), (PV_FORECAST, 0 * flat), (AMBIENT, 20 * flat)):
        write_series(stores.pg, config.site_id, Series(name, start, 3600.0, values), start)
    for device in list_devices(stores.pg, config.site_id):
        state = Pack(device, soc_pct=60.0, soh_pct=90.0, temperature_c=22.0, ambient_c=20.0).state(NOW - timedelta(seconds=10))
        insert_telemetry(stores.mongo, [pack_document(state, site_id=config.site_id, firmware="1.0")])
        predicted = predict(device, state, np.zeros(104), dt_s=900.0, start=NOW - timedelta(seconds=900), ambient_c=20.0)
        write_predictions(stores.mongo, [predicted])
    return config


def dispatcher(stores, site):
    lease = leases.acquire(stores.pg, site.site_id, "test", 60.0)
    return lambda: SiteDispatcher(stores, site.site_id).tick(NOW, OPTIONS, lease)


def powers(result):
    return {point.device_id: point.power_w for point in result.decision.set_points}


def busiest(result):
    """The device that carries the meter now, and the other one."""
    by_power = sorted(powers(result), key=lambda device_id: -powers(result)[device_id])
    assert powers(result)[by_power[0]] >= 1000.0
    return by_power


def shut_down(stores, site, device_id):
    send_first(stores.redis, device_id=device_id, site_id=site.site_id, parameters={}, timeout_s=30, issued_by="test")


def test_a_latched_pack_is_not_planned_with_and_the_other_keeps_the_import_limit(stores, site):
    tick = dispatcher(stores, site)
    first, second = busiest(tick())
    shut_down(stores, site, first)
    result = tick()
    assert result.left_out == {first: LATCHED}
    assert result.decision.inputs["left_out"] == {first: LATCHED}
    assert set(powers(result)) == {second}
    assert LOAD_W - sum(powers(result).values()) <= IMPORT_LIMIT_W + 1.0


def test_a_latched_pack_is_told_nothing_more_and_no_command_of_it_is_rejected(stores, site):
    tick = dispatcher(stores, site)
    first, _ = busiest(tick())
    shut_down(stores, site, first)
    for _ in range(3):
        tick()
    rows = history(stores.pg, site.site_id, device_id=first)
    kinds = sorted(row.command_type.value for row in rows)
    assert kinds == ["emergency_shutdown", "start_discharge"], "the shutdown is its stop"
    assert not [row for row in rows if "latched" in str(row.response_message)]


def test_a_reset_brings_the_pack_back(stores, site):
    first = site.packs[0].device_id
    shut_down(stores, site, first)
    stores.redis.delete(pending.latch_key(first))  # what a completed reset does
    assert first in powers(dispatcher(stores, site)())


@pytest.mark.parametrize("status", [DeviceStatus.MAINTENANCE, DeviceStatus.ERROR])
def test_a_device_out_of_service_is_stopped_and_left_out(stores, site, status):
    tick = dispatcher(stores, site)
    first, second = busiest(tick())
    touch_device(stores.pg, first, status, NOW)
    result = tick()
    assert set(powers(result)) == {second}
    assert status.value in result.left_out[first]
    assert history(stores.pg, site.site_id, device_id=first)[0].command_type.value == "stop_discharge"


def test_maintenance_is_not_ended_by_a_device_that_is_heard(stores, site):
    first = site.packs[0].device_id
    touch_device(stores.pg, first, DeviceStatus.MAINTENANCE, NOW)
    for status in (DeviceStatus.ONLINE, DeviceStatus.OFFLINE):
        touch_device(stores.pg, first, status, NOW + timedelta(seconds=5))
        assert get_device(stores.pg, first).status is DeviceStatus.MAINTENANCE
    seen = stores.pg.execute("SELECT last_seen FROM device_configurations WHERE device_id = %s", (first,)).fetchone()[0]
    assert seen == NOW + timedelta(seconds=5)
    touch_device(stores.pg, first, DeviceStatus.ERROR, NOW)
    touch_device(stores.pg, first, DeviceStatus.ONLINE, NOW)
    assert get_device(stores.pg, first).status is DeviceStatus.ONLINE


@pytest.mark.parametrize("field", ["current_a", "power_w", "cell_voltages_v", "cell_temperatures_c"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_leaves_that_device_alone_out(stores, site, monkeypatch, field, value):
    """Where telemetry came past the collection's validator."""
    from serving.dispatch import inputs

    first, second = (pack.device_id for pack in site.packs)
    read = inputs.latest_states

    def spoilt(*arguments, **named):
        states = read(*arguments, **named)
        changed = (*states[first].cell_voltages_v[:1], value) if field.startswith("cell") else value
        return {**states, first: replace(states[first], **{field: changed})}

    monkeypatch.setattr(inputs, "latest_states", spoilt)
    found = gather(stores, site.site_id, NOW, 900, horizon_s=86_400, fresh=Freshness())
    assert found.left_out == {first: f"telemetry holds a number that is not finite: {field}"}
    assert [device.device_id for device in found.observation.devices] == [second]

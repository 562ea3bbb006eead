"""One tick against real servers: from telemetry to a recorded, pushed command; and each failure manner."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from core.commands import CommandType
from core.pack import Pack
from core.series import Series
from core.twin import predict
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.site_loader import load_site
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres import leases, outbox
from stores.postgres.decisions import last_decision
from stores.postgres.devices import list_devices
from stores.postgres.history import history
from stores.postgres.series import write_series
from stores.redis import pending

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
OPTIONS = TickOptions(interval_s=900, horizon_s=86_400, valid_for_s=60)


@pytest.fixture
def site(stores):
    """The demo's site with a day of series, telemetry and predictions."""
    config = load_site(stores.pg, SITE_FILE)
    hours = 24 * 3
    start = NOW - timedelta(days=1)
    price = 0.10 + 0.08 * np.sin(np.arange(hours) / 24 * 2 * np.pi)
    flat = np.ones(hours)
    for name, values in ((PRICE, price), (LOAD_FORECAST, 2e4 * flat), (PV_FORECAST, 0 * flat), (AMBIENT, 20 * flat)):
        write_series(stores.pg, config.site_id, Series(name, start, 3600.0, values), start)
    for pack, device in zip(config.packs, list_devices(stores.pg, config.site_id), strict=True):
        publish(stores, config, device, pack)
    return config


def publish(stores, config, device, pack, *, age_s=10, with_prediction=True, flags=(), protection=None, **changes):
    simulated = Pack(device, soc_pct=50.0, soh_pct=pack.soh_pct, temperature_c=22.0, ambient_c=20.0)
    state = simulated.state(NOW - timedelta(seconds=age_s))
    document = pack_document(state, site_id=config.site_id, firmware="1.0")
    document["measurements"] |= changes
    document["safety"] = {"alarm_flags": list(flags), "protection_status": protection or {}}
    insert_telemetry(stores.mongo, [document])
    if with_prediction:
        steps = 26 * 4
        write_predictions(
            stores.mongo,
            [predict(device, state, np.zeros(steps), dt_s=900.0, start=NOW - timedelta(seconds=900), ambient_c=20.0)],
        )


def alarm(stores, site, *flags, age_s=5, **arguments):
    """The first pack's latest telemetry holds these flags; returns its id."""
    first = site.packs[0].device_id
    device = next(d for d in list_devices(stores.pg, site.site_id) if d.device_id == first)
    publish(stores, site, device, site.packs[0], age_s=age_s, with_prediction=False, flags=flags, **arguments)
    return first


def set_point(result, device_id):
    return next(point for point in result.decision.set_points if point.device_id == device_id)


def tick(stores, site_id):
    lease = leases.acquire(stores.pg, site_id, "test", 60.0)
    assert lease is not None
    return SiteDispatcher(stores, site_id).tick(NOW, OPTIONS, lease)


def test_a_tick_plans_records_and_pushes(stores, site):
    result = tick(stores, site.site_id)
    assert result.decision is not None
    assert result.decision.passed_over == ()
    assert result.decision.source == site.policies[0].name
    stored = last_decision(stores.pg, site.site_id)
    assert {point.device_id for point in stored.set_points} == {pack.device_id for pack in site.packs}
    assert len(stored.plan["devices"][0]["reasons"]) == 96
    rows = history(stores.pg, site.site_id)
    assert len(rows) == result.commands
    for row in rows:
        taken = pending.take(stores.redis, row.device_id)
        assert taken is not None
        assert taken.command.command_id == row.command_id
        assert taken.command.epoch >= 1


def test_a_missing_prediction_costs_its_device_and_no_other(stores, site):
    first = site.packs[0].device_id
    stores.mongo["digital_twin_predictions"].delete_many({"device_id": first})
    result = tick(stores, site.site_id)
    assert result.decision.source == site.policies[0].name
    points = {point.device_id: point for point in result.decision.set_points}
    assert set(points) == {pack.device_id for pack in site.packs}
    assert (points[first].power_w, points[first].detail) == (0.0, "prediction: missing")
    assert {part["device_id"] for part in result.decision.plan["devices"]} == set(points) - {first}


def test_no_prediction_at_all_falls_to_the_rule(stores, site):
    stores.mongo["digital_twin_predictions"].delete_many({})
    result = tick(stores, site.site_id)
    assert result.decision.source == "rule"
    name, why = result.decision.passed_over[0]
    assert name == site.policies[0].name
    assert "missing" in why


def test_stale_telemetry_leaves_the_device_out_and_stops_it(stores, site):
    first = site.packs[0].device_id
    lease = leases.acquire(stores.pg, site.site_id, "test", 60.0)
    dispatcher = SiteDispatcher(stores, site.site_id)
    draft = outbox.CommandDraft(
        device_id=first,
        site_id=site.site_id,
        command_type=CommandType.START_CHARGE,
        parameters={"target_power": 1000.0},
        issued_by="test",
    )
    assert dispatcher.send([draft], lease) == 1
    stores.mongo["telemetry_data"].delete_many({"device_id": first})
    device = next(d for d in list_devices(stores.pg, site.site_id) if d.device_id == first)
    publish(stores, site, device, site.packs[0], age_s=4000, with_prediction=False)
    result = dispatcher.tick(NOW, OPTIONS, lease)
    assert "old" in result.left_out[first]
    assert first not in {point.device_id for point in result.decision.set_points}
    newest = history(stores.pg, site.site_id, device_id=first)[0]
    assert newest.command_type is CommandType.STOP_CHARGE


def test_no_active_policy_falls_to_the_rule(stores, site):
    stores.pg.execute("UPDATE optimization_policies SET status = 'inactive'")
    result = tick(stores, site.site_id)
    assert result.decision.source == "rule"
    assert result.decision.passed_over[0] == ("optimization_policies", "no active policy")


def test_invalid_config_is_passed_over_with_the_field(stores, site):
    stores.pg.execute('UPDATE optimization_policies SET config = \'{"solvr": "piqp"}\'')
    result = tick(stores, site.site_id)
    assert result.decision.source == "rule"
    assert "did you mean 'solver'" in result.decision.passed_over[0][1]


def test_contradictory_limits_leave_the_device_out(stores, site):
    first = site.packs[0].device_id
    stores.pg.execute(
        "INSERT INTO safety_constraints (device_id, min_soc, max_soc, effective_from) VALUES (%s, 96, 99, NULL)", (first,)
    )
    result = tick(stores, site.site_id)
    assert "soc_min_pct and soc_max_pct" in result.left_out[first]
    assert result.decision.source == site.policies[0].name


def test_no_price_stops_what_runs_and_starts_nothing(stores, site):
    lease = leases.acquire(stores.pg, site.site_id, "test", 60.0)
    dispatcher = SiteDispatcher(stores, site.site_id)
    first = dispatcher.tick(NOW, OPTIONS, lease)
    running = {row.device_id for row in history(stores.pg, site.site_id) if row.command_type.is_start}
    assert first.commands > 0
    stores.pg.execute("DELETE FROM optimizer.site_series WHERE name = %s", (PRICE,))
    second = dispatcher.tick(NOW + timedelta(seconds=900), OPTIONS, lease)
    assert second.decision is None
    assert PRICE in second.why_no_decision
    assert second.commands == len(running)
    newest = history(stores.pg, site.site_id, limit=second.commands)
    assert not any(row.command_type.is_start for row in newest)


def test_a_lost_lease_commands_nothing(stores, site):
    lease = leases.acquire(stores.pg, site.site_id, "test", 60.0)
    leases.release(stores.pg, lease)
    rival = leases.acquire(stores.pg, site.site_id, "rival", 60.0)
    assert rival is not None
    assert rival.epoch > lease.epoch
    assert leases.acquire(stores.pg, site.site_id, "test", 60.0) is None


def test_a_flag_that_stops_takes_the_pack_alone_out_and_not_the_policy(stores, site):
    plain = tick(stores, site.site_id)
    moving = {point.device_id for point in plain.decision.set_points if abs(point.power_w) > 1000}
    first = alarm(stores, site, "contactor_fault")
    assert first in moving
    result = tick(stores, site.site_id)
    assert result.decision.source == site.policies[0].name
    point = set_point(result, first)
    assert (point.power_w, point.reason.value, point.detail) == (0.0, "stop", "alarm: contactor_fault")
    assert result.decision.inputs["gate"][first] == "alarm: contactor_fault"
    assert not history(stores.pg, site.site_id, device_id=first)[0].command_type.is_start


def test_a_tripped_protection_stops_the_pack(stores, site):
    first = alarm(stores, site, protection={"overcurrent": True, "overvoltage": False})
    result = tick(stores, site.site_id)
    assert set_point(result, first).detail == "protection tripped: overcurrent"


def test_a_warning_is_noted_and_stops_nothing(stores, site):
    first = alarm(stores, site, "high_temp_warning")
    result = tick(stores, site.site_id)
    assert abs(set_point(result, first).power_w) > 1000
    assert first not in result.decision.inputs["gate"]


def test_an_emergency_flag_shuts_down_once_even_without_prices_and_with_old_telemetry(stores, site):
    first = alarm(stores, site, "smoke_detected")
    stores.pg.execute("DELETE FROM optimizer.site_series")
    lease = leases.acquire(stores.pg, site.site_id, "test", 60.0)
    dispatcher = SiteDispatcher(stores, site.site_id)
    late = NOW + timedelta(seconds=9000)
    assert dispatcher.tick(late, OPTIONS, lease).commands == 1
    (row,) = history(stores.pg, site.site_id)
    assert (row.device_id, row.command_type) == (first, CommandType.EMERGENCY_SHUTDOWN)
    assert row.parameters == {"reason": "alarm: smoke_detected"}
    assert dispatcher.tick(late, OPTIONS, lease).commands == 0, "the device is latched: nothing more to say"
    stores.redis.delete(pending.latch_key(first))  # what a completed reset does
    assert dispatcher.tick(late, OPTIONS, lease).commands == 1, "released while the flag stands"


def test_an_emergency_flag_does_not_keep_the_others_from_their_plan(stores, site):
    first = alarm(stores, site, "smoke_detected")
    result = tick(stores, site.site_id)
    assert result.decision.source == site.policies[0].name
    assert first in result.left_out
    assert [row.command_type for row in history(stores.pg, site.site_id, device_id=first)] == [CommandType.EMERGENCY_SHUTDOWN]
    assert result.commands == len(history(stores.pg, site.site_id)) > 1

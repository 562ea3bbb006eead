"""The client library for device makers: an emergency_shutdown latches, heard or not, and only its own reset releases."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from core.commands import CommandType
from core.device_logic import DeviceController
from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, tightest
from core.pack import Pack
from serving.device_client import DeviceClient, Journal
from stores.redis import pending
from stores.redis.connect import client_of

sys.path.insert(0, str(Path(__file__).parent))

import device_client_cases
from device_client_cases import DEVICE, SITE, answers, carry_out, push

url, client = device_client_cases.url, device_client_cases.client


def test_the_latch_outlives_a_restart_and_a_lost_redis_until_an_operator_resets_it(url, redis_client, tmp_path):
    first = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    push(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=1)
    work = first.take()
    assert first.begin(work)
    first.close()  # killed while it shut down
    redis_client.flushall()
    second = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    second.recover()
    assert answers(redis_client) == [(work.command.command_id, "indeterminate")]
    assert pending.is_latched(redis_client, DEVICE), "announced again: nobody is to plan with it"
    redis_client.delete(pending.latch_key(DEVICE))
    start = push(redis_client, CommandType.START_CHARGE, seq=2)  # by somebody who has not heard of it
    assert second.take() is None
    assert answers(redis_client)[1:] == [(start.command_id, "rejected")]
    push(redis_client, CommandType.UPDATE_PARAMETERS, seq=3, reset_latch=1.0)
    work = second.take()
    second.begin(work)
    second.complete(work)
    push(redis_client, CommandType.START_CHARGE, seq=4)
    assert second.take() is not None
    second.close()


def miss_a_shutdown(redis_client, **changes):
    """Pushed while the device is away, and its deadline passes before anybody asks for it."""
    command = push(redis_client, CommandType.EMERGENCY_SHUTDOWN, **changes)
    raw = redis_client.rpop(pending.pending_key(DEVICE))
    late = json.loads(raw) | {"expires_at_ms": 1}
    redis_client.rpush(pending.pending_key(DEVICE), json.dumps(late))
    return command


def test_a_shutdown_that_expired_unheard_latches_all_the_same(url, redis_client, tmp_path):
    first = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    missed = miss_a_shutdown(redis_client, seq=2)
    assert not first.latched
    assert first.take() is None
    assert first.latched
    assert answers(redis_client) == [(missed.command_id, "expired")]
    first.close()
    redis_client.flushall()  # the journal has it, too
    second = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    second.recover()
    assert second.latched
    second.close()


def test_the_set_point_of_a_device_that_missed_its_shutdown_ends(url, redis_client, tmp_path):
    """The reference device's controller: away while it runs, and still inside its set point's validity when it comes back."""
    config = DeviceConfig(
        device_id=DEVICE, site_id=SITE, name=DEVICE, chemistry=Chemistry.NMC, nominal_capacity_ah=100.0, nominal_voltage_v=370.0,
        max_charge_power_w=2e4, max_discharge_power_w=2e4, series_cells=100, parallel_cells=20,
    )  # fmt: skip
    pack = Pack(config, soc_pct=50.0, soh_pct=90.0, temperature_c=25.0, ambient_c=20.0)
    limits = tightest(config, [ConstraintRow(row_id="r", device_id=DEVICE)], datetime.now(UTC))
    controller = DeviceController(device_id=DEVICE, limits=limits)
    device = DeviceClient(client_of(url), controller, Journal(tmp_path / "journal.sqlite"))

    def power_w():
        return controller.applied_power(monotonic_s=0.0, soc_pct=50.0, condition=pack.condition(60.0), dt_s=60.0)

    push(redis_client, CommandType.START_DISCHARGE, seq=1, target_power=3000.0, valid_for_seconds=900.0)
    work = device.take()
    assert device.begin(work)
    controller.execute(work.command, monotonic_s=0.0, condition=pack.condition(60.0), state=dict)
    device.complete(work)
    assert power_w() == 3000.0
    miss_a_shutdown(redis_client, seq=2)
    device.recover()
    assert device.latched
    assert power_w() == 0.0
    device.close()


def test_a_restarted_device_is_latched_before_it_begins_anything(client, redis_client):
    push(redis_client, CommandType.START_DISCHARGE, seq=1)
    assert client.take() is not None  # and then the device was away
    miss_a_shutdown(redis_client, seq=2)
    assert client.recover() == []
    assert client.latched
    assert [outcome for _, outcome in answers(redis_client)] == ["rejected"]


def test_a_reset_ends_the_latch_of_a_missed_shutdown_for_good(client, redis_client):
    miss_a_shutdown(redis_client, seq=1)
    assert client.take() is None
    push(redis_client, CommandType.UPDATE_PARAMETERS, seq=2, reset_latch=1.0)
    work = client.take()
    assert client.begin(work)
    client.complete(work)
    assert client.take() is None
    assert not client.latched
    push(redis_client, CommandType.START_CHARGE, seq=3)
    assert client.take() is not None


def test_a_reset_whose_answer_was_lost_does_not_latch_again(client, redis_client):
    miss_a_shutdown(redis_client, seq=1)
    push(redis_client, CommandType.UPDATE_PARAMETERS, seq=2, reset_latch=1.0)
    work = client.take()
    assert client.latched
    assert client.begin(work)
    client.guard.latched = False
    client.journal.done(work.command.command_id, "completed|done", {"latched": False})  # and then Redis is gone
    assert client.recover() == []
    assert not client.latched
    assert not pending.is_latched(redis_client, DEVICE)


def shut_down(redis_client, client, seq):
    command = push(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=seq)
    assert carry_out(client) == command.command_id


def test_a_latch_that_redis_lost_is_announced_at_the_next_take(client, redis_client):
    shut_down(redis_client, client, seq=1)
    redis_client.flushall()
    assert client.take() is None
    assert pending.is_latched(redis_client, DEVICE)
    push(redis_client, CommandType.UPDATE_PARAMETERS, seq=2, reset_latch=1.0)
    carry_out(client)
    assert not pending.is_latched(redis_client, DEVICE)
    assert client.take() is None
    assert not pending.is_latched(redis_client, DEVICE), "released is not announced"


def test_a_shutdown_between_a_reset_and_its_answer_stays_latched(client, url, redis_client, tmp_path):
    """Also when the second shutdown expires unheard: its latch is not the one that the reset was for."""
    shut_down(redis_client, client, seq=1)
    push(redis_client, CommandType.UPDATE_PARAMETERS, seq=2, reset_latch=1.0)
    work = client.take()
    assert client.begin(work)
    miss_a_shutdown(redis_client, seq=3)
    client.complete(work)
    assert pending.is_latched(redis_client, DEVICE)
    assert client.take() is None
    assert client.latched
    client.close()
    after = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    assert after.take() is None
    assert after.latched
    after.close()


def test_a_reset_does_not_release_a_latch_that_was_heard_after_it_was_taken(client, redis_client):
    shut_down(redis_client, client, seq=1)
    push(redis_client, CommandType.UPDATE_PARAMETERS, seq=2, reset_latch=1.0)
    work = client.take()
    assert client.begin(work)
    miss_a_shutdown(redis_client, seq=3)
    assert client.take() is None
    client.complete(work)
    assert client.latched
    assert answers(redis_client)[-1] == (work.command.command_id, "failed")


def test_a_reset_that_waits_is_purged_by_a_shutdown(client, redis_client):
    """One by hand carries no sequence number: the reset behind it would undo it."""
    reset = push(redis_client, CommandType.UPDATE_PARAMETERS, seq=1, reset_latch=1.0)
    tighter = push(redis_client, CommandType.UPDATE_PARAMETERS, seq=2, max_charge_power=100.0)
    stop = replace(push(redis_client, seq=3), command_type=CommandType.EMERGENCY_SHUTDOWN, seq=0, epoch=0, command_id="by-hand")
    assert pending.push(redis_client, stop).purged == (reset.command_id,)
    assert carry_out(client) == "by-hand"
    assert carry_out(client) == tighter.command_id
    assert client.latched


def test_a_reset_that_was_taken_before_a_crash_is_not_carried_out_after_it(client, redis_client):
    shut_down(redis_client, client, seq=1)
    reset = push(redis_client, CommandType.UPDATE_PARAMETERS, seq=2, reset_latch=1.0)
    assert client.take() is not None  # and then the device was away
    miss_a_shutdown(redis_client, seq=3)
    assert client.recover() == []
    assert answers(redis_client)[-1] == (reset.command_id, "rejected")
    assert client.latched

"""The client library for device makers: the documentation's example as pasted, with Redis alone, and the library's promises."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.commands import Command, CommandType, Outcome
from core.device_logic import DeviceController
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError, StoreError
from core.limits import ConstraintRow, tightest
from core.pack import Pack
from serving.device_client import DeviceClient, Journal, RevertTimer
from stores.postgres import outbox
from stores.postgres.history import history
from stores.redis import pending
from stores.redis.connect import client_of
from stores.redis.status import read_status

ROOT = Path(__file__).parents[2]
DEVICE, SITE = "pack-9", "s"


@pytest.fixture
def url(redis_client):
    return "redis://:{password}@{host}:{port}/0".format(**redis_client.get_connection_kwargs())


@pytest.fixture
def client(url, tmp_path):
    made = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    yield made
    made.close()


def push(redis_client, kind=CommandType.REQUEST_STATUS, *, seq=1, epoch=1, timeout_s=30, device_id=DEVICE, **parameters):
    if kind.is_start:
        parameters.setdefault("target_power", 1000.0)
    command = Command(
        command_id=uuid.uuid4().hex,
        site_id=SITE,
        device_id=device_id,
        command_type=kind,
        parameters=parameters,
        issued_at=pending.redis_now(redis_client),
        timeout_s=timeout_s,
        seq=seq,
        epoch=epoch,
    )
    pending.push(redis_client, command)
    return command


def answers(redis_client):
    found = [json.loads(text) for text in pending.take_responses(redis_client, SITE, 1000)]
    return [(word["command_id"], word["outcome"]) for word in found if word["kind"] == "response"]


def example():
    """The first block of Python in docs/device_makers.md."""
    return re.search(r"```python\n(.*?)```", (ROOT / "docs" / "device_makers.md").read_text(), re.DOTALL).group(1)


def said(process, line):
    """Read the program's output until it says this line."""
    seen = []
    for text in process.stdout:
        seen.append(text.strip())
        if seen[-1] == line:
            return
    raise AssertionError(f"it never said {line!r}: {seen}, {process.stderr.read()}")


def test_the_documented_example_works_as_pasted_and_needs_redis_alone(redis_client, url, tmp_path):
    assert len(example().strip().splitlines()) <= 35
    blocked = (
        "import sys\nfor name in ('psycopg', 'pymongo', 'numpy', 'numba', 'structlog', 'pydantic'): sys.modules[name] = None\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", blocked + example()],
        cwd=tmp_path,
        env={**os.environ, "REDIS_URL": url, "DEVICE_ID": DEVICE, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said(process, "inverter 0 W")
        push(redis_client, CommandType.START_CHARGE, seq=1, target_power=1500.0)
        said(process, "inverter -1500 W")
        push(redis_client, CommandType.STOP_CHARGE, seq=2)
        said(process, "inverter 0 W")
        push(redis_client, CommandType.START_DISCHARGE, seq=3, target_power=700.0, valid_for_seconds=0.5)
        said(process, "inverter 700 W")
        said(process, "inverter 0 W")  # nobody spoke: idle by itself
        push(redis_client, CommandType.START_CHARGE, seq=4, target_power=900.0)
        said(process, "inverter -900 W")
        redis_client.set(pending.latch_key(DEVICE), "a shutdown that expired unheard")
        said(process, "inverter 0 W")
        push(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=5)
        said(process, "inverter 0 W")
        assert read_status(redis_client, DEVICE)["online"] is True
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_take_begin_complete_is_recorded_in_order(client, redis_client):
    command = push(redis_client, CommandType.START_DISCHARGE, target_power=250.0, valid_for_seconds=90.0)
    work = client.take()
    assert (work.set_point_w, work.valid_for_s) == (250.0, 90.0)
    assert client.begin(work)
    client.acknowledge(work)
    client.complete(work, Outcome.COMPLETED, "done", {"set_point": 250.0})
    words = [json.loads(text)["kind"] for text in pending.take_responses(redis_client, SITE, 10)]
    assert words == ["acknowledged", "acknowledged", "response"]
    assert answers(redis_client) == [(command.command_id, "completed")]
    assert client.take() is None
    assert pending.processing(redis_client, DEVICE) == []


def test_what_must_be_refused_never_comes_to_the_device(client, redis_client):
    first = push(redis_client, seq=5, epoch=3)
    work = client.take()
    with pytest.raises(InputError, match="begun"):
        client.complete(work)
    assert client.begin(work)
    client.complete(work)
    refused = [
        push(redis_client, seq=5, epoch=3),  # not newer
        push(redis_client, CommandType.START_CHARGE, seq=7, epoch=3, target_power=float(10**10)),  # out of range
    ]
    redis_client.delete(pending.epoch_key(SITE))
    refused.append(push(redis_client, seq=8, epoch=2))  # an older controller
    fine = push(redis_client, seq=9, epoch=3)
    work = client.take()
    assert work.command.command_id == fine.command_id
    assert answers(redis_client)[1:] == [(command.command_id, "rejected") for command in refused]
    assert answers(redis_client)[0] == (first.command_id, "completed")


def test_begun_before_a_crash_is_indeterminate_and_what_was_not_begun_comes_again(url, redis_client, tmp_path):
    crashed = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    begun, taken = push(redis_client, seq=1), push(redis_client, seq=2)
    assert crashed.begin(crashed.take())
    assert crashed.take() is not None
    crashed.close()  # the process ends here
    after = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    (work,) = after.recover()
    assert work.command.command_id == taken.command_id
    assert answers(redis_client) == [(begun.command_id, "indeterminate")]
    assert after.begin(work)
    after.complete(work)
    assert after.recover() == []
    after.close()


def test_an_answer_that_was_lost_is_given_again_and_nothing_is_done_twice(client, redis_client):
    command = push(redis_client)
    work = client.take()
    client.begin(work)
    client.journal.done(work.command.command_id, "failed|the contactor did not close", {})  # and then Redis is gone
    assert client.recover() == []
    assert answers(redis_client) == [(command.command_id, "failed")]


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


def test_a_command_whose_deadline_passes_while_it_is_being_begun_is_not_acted_upon(client, redis_client):
    command = push(redis_client)
    work = client.take()
    slow = replace(work, taken_s=work.taken_s - 31.0)  # the disk took so long
    assert not client.begin(slow)
    assert answers(redis_client) == [(command.command_id, "expired")]


def test_rubbish_is_told_and_dropped(client, redis_client):
    dropped = []
    client.on_dropped = dropped.append
    redis_client.lpush(pending.pending_key(DEVICE), "rubbish")
    assert client.take() is None
    assert dropped == ["rubbish"]


def test_a_full_disk_means_that_nothing_is_done(client, redis_client):
    push(redis_client)
    work = client.take()
    pages = client.journal._db.execute("PRAGMA page_count").fetchone()[0]
    client.journal._db.execute(f"PRAGMA max_page_count={pages}")
    filler = "x" * 100_000
    with pytest.raises(StoreError, match="cannot be written"):
        client.journal.begin(work.command.command_id, {"filler": filler})
    client.journal._db.execute("PRAGMA max_page_count=1000000")
    assert client.journal.seen(work.command.command_id) is None, "nothing is half-written"
    (again,) = client.recover()
    assert client.begin(again)


def test_a_heartbeat_expires_and_holds_no_nan(client, redis_client):
    client.heartbeat(last_telemetry=datetime.now(UTC), soc_pct=55.5, power_w=-120.0, alarm_count=1)
    assert read_status(redis_client, DEVICE)["current_soc"] == 55.5
    assert 0 < redis_client.ttl(f"device:status:{DEVICE}") <= 300
    with pytest.raises(InputError, match="finite"):
        client.heartbeat(last_telemetry=datetime.now(UTC), soc_pct=float("nan"), power_w=0.0)


def test_the_revert_timer_ends_once_and_each_fresh_set_point_renews_it():
    timer = RevertTimer()
    assert not timer.over()
    timer.start(0.0)
    assert timer.over()
    assert not timer.over()
    timer.start(3600.0)
    assert not timer.over()
    timer.start(0.0)
    timer.stop()
    assert not timer.over()


def carry_out(client, outcome=Outcome.COMPLETED):
    work = client.take()
    assert client.begin(work)
    client.complete(work, outcome)
    return work.command.command_id


def test_answers_that_redis_lost_are_given_again_from_the_journal(client, url, redis_client, tmp_path):
    push(redis_client, seq=1)
    first = carry_out(client)
    push(redis_client, seq=2)
    second = carry_out(client, Outcome.FAILED)
    refused = push(redis_client, seq=2)
    assert client.take() is None
    told = [(first, "completed"), (second, "failed"), (refused.command_id, "rejected")]
    assert answers(redis_client) == told
    redis_client.flushall()
    assert client.take() is None
    assert answers(redis_client) == told
    assert client.take() is None
    assert answers(redis_client) == told, "once"
    client.close()
    redis_client.flushall()
    again = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    again.recover()
    assert answers(redis_client) == told
    again.close()


def test_of_a_redis_that_lost_its_last_second_only_that_is_told_again(client, redis_client):
    push(redis_client, seq=1)
    carry_out(client)
    mark = pending.told(redis_client, DEVICE)
    push(redis_client, seq=2)
    second = carry_out(client)
    redis_client.delete(pending.responses_key(SITE))
    redis_client.set(pending.told_key(DEVICE), mark)  # as its file had it
    assert client.take() is None
    assert answers(redis_client) == [(second, "completed")]


def test_what_is_being_done_is_not_told_as_indeterminate(client, redis_client):
    push(redis_client, seq=1)
    work = client.take()
    assert client.begin(work)
    redis_client.flushall()
    assert client.take() is None
    assert answers(redis_client) == []
    client.complete(work)
    assert answers(redis_client) == [(work.command.command_id, "completed")]


def test_an_answer_that_did_not_get_through_is_told_before_the_mark_moves_past_it(client, redis_client, monkeypatch):
    push(redis_client, seq=1)
    push(redis_client, seq=2)
    works = [client.take(), client.take()]
    assert all(map(client.begin, works))
    with monkeypatch.context() as patch:
        patch.setattr(pending, "finish", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(ConnectionError):
            client.complete(works[0])
    redis_client.flushall()
    client.complete(works[1])
    assert client.take() is None
    assert set(answers(redis_client)) == {(work.command.command_id, "completed") for work in works}


def test_a_late_word_of_the_device_mends_what_the_dispatcher_had_to_infer(client, stores):
    """Redis lost its memory after the device acted: the command stood as expired."""
    draft = outbox.CommandDraft(
        device_id=DEVICE, site_id=SITE, command_type=CommandType.REQUEST_STATUS, parameters={}, issued_by="test"
    )
    (command,) = outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=pending.redis_now(stores.redis))
    pending.push(stores.redis, command)
    assert carry_out(client) == command.command_id
    stores.redis.flushall()
    outbox.expire_overdue(stores.pg, SITE, command.expires_at + timedelta(seconds=6), 5.0)
    assert outcome_of(stores, command) == "expired"
    assert client.take() is None
    for text in pending.take_responses(stores.redis, SITE, 10):
        outbox.record(stores.pg, pending.parse_response(text))
    assert outcome_of(stores, command) == "completed"
    (row,) = history(stores.pg, SITE)
    assert row.success
    assert row.response_data["inferred_before"] == "expired"
    assert not outbox.end_unpushed(stores.pg, command.command_id, Outcome.EXPIRED, "late", command.expires_at)
    assert outcome_of(stores, command) == "completed"


def outcome_of(stores, command):
    (row,) = [row for row in history(stores.pg, SITE) if row.command_id == command.command_id]
    return (row.response_data or {}).get("outcome")


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


def test_a_message_for_another_device_does_not_stay_in_the_processing_list(client, redis_client):
    other = push(redis_client, device_id="pack-10")
    redis_client.lpush(pending.pending_key(DEVICE), other.to_wire())
    assert client.take() is None
    assert answers(redis_client) == [(other.command_id, "rejected")]
    assert pending.processing(redis_client, DEVICE) == []
    assert pending.told(redis_client, "pack-10") == ""


def test_a_command_whose_deadline_acting_would_miss_is_not_begun(client, redis_client):
    command = push(redis_client)
    work = client.take()
    close = replace(work, taken_s=work.taken_s - 29.9)
    assert 0 < close.left_s() < client.act_margin_s
    assert not client.begin(close)
    assert client.journal.seen(command.command_id) is None
    assert answers(redis_client) == [(command.command_id, "expired")]


def test_the_deadline_is_judged_again_after_the_disk(client, redis_client, monkeypatch):
    command = push(redis_client)
    work = client.take()
    original, times = client.journal.begin, []

    def slow(*arguments):
        original(*arguments)
        times.append(time.monotonic())
        monkeypatch.setattr(time, "monotonic", lambda: times[0] + 29.9)

    monkeypatch.setattr(client.journal, "begin", slow)
    assert not client.begin(work)
    assert answers(redis_client) == [(command.command_id, "expired")]

"""A device that is killed, paused or cut off: nothing is executed twice, late, out of order, or kept from the record."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.commands import Command, CommandType, Outcome
from core.errors import StoreError
from serving.device_client import Journal
from stores.failures import STORE_FAILURES
from stores.postgres import leases, outbox
from stores.postgres.history import outcome_counts
from stores.redis import pending, responses

pytestmark = pytest.mark.timeout(120)
SCRIPT = Path(__file__).with_name("dispatch_device.py")
_SPEC = importlib.util.spec_from_file_location("dispatch_device", SCRIPT)
device_script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(device_script)
DEVICE = device_script.DEVICE


def make(client, kind=CommandType.START_CHARGE, *, seq=1, timeout_s=30, epoch=1, **parameters):
    if kind.is_start:
        parameters.setdefault("target_power", 1000.0)
    return Command(
        command_id=uuid.uuid4().hex,
        site_id="s",
        device_id=DEVICE,
        command_type=kind,
        parameters=parameters,
        issued_at=pending.redis_now(client),
        timeout_s=timeout_s,
        seq=seq,
        epoch=epoch,
    )


def until(condition, what, deadline_s=20.0):
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"still not so: {what}"
        time.sleep(0.01)


@pytest.fixture
def start(stores, tmp_path):
    """Start the device's process; `stand_still` names the moment at which it stops to be killed."""
    urls = {
        "DATABASE_URL": stores.settings.database_url,
        "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri,
    }
    running = []

    def begin(stand_still="never"):
        child = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / "journal.sqlite"), str(tmp_path / "inverter.log"), stand_still],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **urls},
        )
        running.append(child)
        said(child, "ready")
        return child

    yield begin
    for child in running:
        child.kill()
        child.communicate()


def said(child, word):
    """Wait for a line of the child; what else it writes (its log) is passed over."""
    for line in child.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"the device ended without saying {word!r}")


def kill(child):
    child.send_signal(signal.SIGKILL)
    child.wait()


def acts(tmp_path):
    """(command_id, seq, wall time, type, outcome) of everything that reached the inverter."""
    log = tmp_path / "inverter.log"
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(row[0], int(row[1]), float(row[2]), row[3], row[4]) for row in rows]


def answers(client):
    parsed = [responses.parse_response(text) for text in responses.take_responses(client, "s", 10_000)]
    return [answer for answer in parsed if answer["kind"] == "response"]


@pytest.fixture
def in_process(stores, tmp_path):
    """An agent of this process, for what needs no kill."""
    journal = Journal(tmp_path / "here.sqlite")
    yield device_script.agent(stores, journal, tmp_path / "inverter.log")
    journal.close()


@pytest.mark.parametrize(
    ("killed", "outcome", "executions"),
    [
        ("before_begin", "completed", 1),
        ("before_act", "indeterminate", 0),
        ("before_done", "indeterminate", 1),
        ("before_finish", "completed", 1),
    ],
)
def test_kill_9_at_every_step_of_a_command(start, redis_client, tmp_path, killed, outcome, executions):
    """Traps 4 and 5: executed at most once, and never again after "begun"."""
    command = make(redis_client)
    pending.push(redis_client, command)
    child = start(killed)
    said(child, killed)
    kill(child)
    assert len(pending.processing(redis_client, DEVICE)) == 1
    again = start()
    until(lambda: answers(redis_client), "an answer")
    kill(again)
    (answer,) = answers(redis_client)
    assert (answer["command_id"], answer["outcome"]) == (command.command_id, outcome)
    assert [act[0] for act in acts(tmp_path)] == [command.command_id] * executions
    assert pending.processing(redis_client, DEVICE) == []


def test_a_device_that_never_comes_back_leaves_indeterminate(start, stores):
    draft = outbox.CommandDraft(
        device_id=DEVICE,
        site_id="s",
        command_type=CommandType.START_CHARGE,
        parameters={"target_power": 500.0},
        issued_by="test",
    )
    now = pending.redis_now(stores.redis)
    (command,) = outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=now)
    pending.push(stores.redis, command)
    child = start("before_done")
    said(child, "before_done")
    kill(child)
    for text in responses.take_responses(stores.redis, "s", 10):
        outbox.record(stores.pg, responses.parse_response(text))
    outbox.expire_overdue(stores.pg, "s", command.expires_at + timedelta(seconds=10), 5.0)
    assert outcome_counts(stores.pg, "s", command.issued_at)["indeterminate"] == 1


def test_taken_before_a_kill_is_not_begun_after_its_deadline(start, in_process, redis_client, tmp_path):
    child = start("before_begin")
    command = make(redis_client, timeout_s=3)
    pending.push(redis_client, command)
    said(child, "before_begin")
    kill(child)
    until(lambda: pending.redis_now(redis_client) > command.expires_at, "the deadline has passed")
    in_process.recover()
    assert [answer["outcome"] for answer in answers(redis_client)] == ["expired"]
    assert acts(tmp_path) == []


def test_a_start_taken_before_an_emergency_shutdown_is_not_executed_after_it(in_process, redis_client, tmp_path):
    start_command = make(redis_client, seq=1)
    pending.push(redis_client, start_command)
    pending.take(redis_client, DEVICE)  # and here the device died
    stop = make(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=2)
    assert pending.push(redis_client, stop).purged == ()
    in_process.recover()
    assert in_process.poll()
    assert [(a["command_id"], a["outcome"]) for a in answers(redis_client)] == [
        (start_command.command_id, "rejected"),
        (stop.command_id, "completed"),
    ]
    assert [act[3] for act in acts(tmp_path)] == ["emergency_shutdown"]


def test_the_latch_outlives_the_device(start, redis_client, tmp_path):
    """Latched, killed, restarted, and Redis has lost the key: still latched; only an operator's reset ends it."""
    child = start()
    pending.push(redis_client, make(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=1))
    until(lambda: len(answers(redis_client)) == 1, "shut down")
    kill(child)
    redis_client.delete(pending.latch_key(DEVICE))
    start()
    until(lambda: pending.is_latched(redis_client, DEVICE), "the device announces its latch")
    assert pending.push(redis_client, make(redis_client, seq=2)).status is pending.Pushed.LATCHED
    pending.push(redis_client, make(redis_client, CommandType.UPDATE_PARAMETERS, seq=3, reset_latch=1.0))
    until(lambda: len(answers(redis_client)) == 2, "reset")
    pending.push(redis_client, make(redis_client, seq=4))
    until(lambda: len(answers(redis_client)) == 3, "all answered")
    assert [answer["outcome"] for answer in answers(redis_client)] == ["completed"] * 3
    assert [act[1] for act in acts(tmp_path)] == [1, 3, 4]


def test_an_older_leader_is_refused_after_a_restart_too(start, stores, tmp_path):
    """Trap 8: a leader that was paused past its lease wakes up and pushes; the device remembers the newer epoch."""
    first = leases.acquire(stores.pg, "s", "a", 30)
    stores.pg.execute("UPDATE optimizer.site_leases SET expires_at = clock_timestamp() - interval '1 second'")
    second = leases.acquire(stores.pg, "s", "b", 30)
    child = start()
    pending.push(stores.redis, make(stores.redis, seq=1, epoch=second.epoch))
    until(lambda: len(answers(stores.redis)) == 1, "the newer leader is obeyed")
    kill(child)
    start()
    old = make(stores.redis, seq=2, epoch=first.epoch)
    assert pending.push(stores.redis, old).status is pending.Pushed.FENCED, "Redis refuses it"
    stores.redis.delete(pending.epoch_key("s"))  # as after a restart that lost it: then the device does
    assert pending.push(stores.redis, old).status is pending.Pushed.PUSHED
    until(lambda: len(answers(stores.redis)) == 2, "the older leader is answered")
    assert answers(stores.redis)[1]["outcome"] == "rejected"
    assert [act[1] for act in acts(tmp_path)] == [1]


def test_a_second_agent_of_the_same_device_does_not_start(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    with pytest.raises(StoreError, match="already running"):
        Journal(tmp_path / "j.sqlite")
    journal.close()
    Journal(tmp_path / "j.sqlite").close()


def test_a_lost_reply_to_a_push_leaves_one_copy(proxied, redis_client):
    """Trap 5: the pusher cannot know, asks again, and nothing is doubled."""
    client, proxy = proxied
    command = make(redis_client)
    proxy.drop_next = 1
    with pytest.raises(STORE_FAILURES):
        pending.push(client, command)
    assert pending.push(client, command).status is pending.Pushed.ALREADY
    assert redis_client.llen(pending.pending_key(DEVICE)) == 1


def test_a_lost_reply_to_a_take_loses_no_command(proxied, in_process, redis_client, tmp_path):
    """Trap 5: a retried RPOP lost a command silently."""
    client, proxy = proxied
    in_process.stores = replace(in_process.stores, redis=client)
    command = make(redis_client)
    pending.push(redis_client, command)
    proxy.drop_next = 1
    with pytest.raises(STORE_FAILURES):
        in_process.poll()
    in_process.recover()
    assert [act[0] for act in acts(tmp_path)] == [command.command_id]


def test_a_lost_reply_to_an_answer_answers_once_more_and_the_first_stands(proxied, in_process, stores, tmp_path):
    client, proxy = proxied
    in_process.stores = replace(in_process.stores, redis=client)
    draft = outbox.CommandDraft(
        device_id=DEVICE, site_id="s", command_type=CommandType.REQUEST_STATUS, parameters={}, issued_by="test"
    )
    (command,) = outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=pending.redis_now(stores.redis))
    pending.push(stores.redis, command)
    original = responses.finish

    def finish_once_unheard(*arguments, **named):
        proxy.drop_next = 1
        original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "finish", finish_once_unheard)
        with pytest.raises(STORE_FAILURES):
            in_process.poll()
    in_process.recover()
    texts = responses.take_responses(stores.redis, "s", 10)
    for text in texts * 2:  # and the dispatcher, too, may write them twice
        outbox.record(stores.pg, responses.parse_response(text))
    assert outcome_counts(stores.pg, "s", command.issued_at)["completed"] == 1
    assert len(acts(tmp_path)) == 1


def test_a_reply_that_was_long_on_its_way_makes_a_command_older(proxied, in_process, redis_client, tmp_path):
    """Trap 9: the age counts from before the take, not from when its answer came."""
    client, proxy = proxied
    in_process.stores = replace(in_process.stores, redis=client)
    pending.push(redis_client, make(redis_client, timeout_s=1))
    proxy.delay_s = 1.3
    assert not in_process.poll(), "it is answered, and never comes to the device"
    assert [answer["outcome"] for answer in answers(redis_client)] == ["expired"]
    assert acts(tmp_path) == []


def test_what_a_command_needs_is_computed_before_its_deadline_is_judged(in_process, redis_client, tmp_path, monkeypatch):
    """After a restart the first command had compiled code loaded between "in time" and the inverter."""
    real, passed_s = time.monotonic, [0.0]
    original = in_process.pack.condition

    def compiling(dt_s):
        passed_s[0] += 30.0
        return original(dt_s)

    pending.push(redis_client, make(redis_client))
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed_s[0])
    monkeypatch.setattr(in_process.pack, "condition", compiling)
    in_process.poll()
    assert acts(tmp_path) == []
    assert [answer["outcome"] for answer in answers(redis_client)] == ["expired"]


def test_cut_off_from_redis_the_set_point_ends_by_itself(proxied, in_process, redis_client):
    """Trap 10: the pack keeps running, and goes idle when its revert timer ends."""
    client, proxy = proxied
    in_process.stores = replace(in_process.stores, redis=client)
    pending.push(redis_client, make(redis_client, valid_for_seconds=1.5))
    stop = threading.Event()
    seen = []

    def cut_it_off():
        try:
            until(lambda: in_process.pack.state(datetime.now(UTC)).power_w < -900, "charging")
            proxy.cut()
            until(lambda: in_process.pack.state(datetime.now(UTC)).power_w == 0, "idle by itself", 10)
            seen.append("idle")
        finally:
            stop.set()

    other = threading.Thread(target=cut_it_off)
    other.start()
    in_process.run(stop)
    other.join()
    assert seen == ["idle"]


def test_telemetry_that_cannot_be_sent_is_kept_and_keeps_no_command_waiting(in_process, redis_client, tmp_path):
    def refuse(_batch):
        raise StoreError("away")

    in_process.sink = refuse
    in_process.advance()
    until(lambda: not in_process.advance() and in_process._unsent, "telemetry is due")
    in_process.send_telemetry()
    assert in_process._unsent
    pending.push(redis_client, make(redis_client))
    assert in_process.poll()
    assert len(acts(tmp_path)) == 1


class StepClock:
    """A plant's clock that the test sets."""

    def __init__(self):
        self.at = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def now(self):
        return self.at

    def step(self, seconds):
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def stepped(in_process):
    """The agent with a clock to be stepped, charging at 10 kW."""
    in_process.clock = StepClock()
    in_process.advance()
    in_process.controller.power_w = -10_000.0
    in_process.controller.valid_until_s = time.monotonic() + 3600.0
    return in_process


def test_a_clock_that_is_set_back_neither_stops_the_pack_nor_charges_it_twice(stepped):
    stepped.clock.step(60)
    stepped.advance()
    soc_pct, power_w = stepped.pack.soc_pct, stepped.pack.state(stepped.clock.now()).power_w
    assert power_w < -9_000
    stepped.clock.step(-300)
    stepped.advance()
    assert stepped.pack.soc_pct == soc_pct, "no time has passed"
    stepped.clock.step(60)
    stepped.advance()
    assert stepped.pack.soc_pct - soc_pct == pytest.approx(soc_pct - 50.0, rel=0.02), "and then a minute as any other"
    stamps = [state.measured_at for state in stepped._unsent]
    assert max(stamps) <= stepped.clock.now() + timedelta(seconds=300)
    assert stamps[-1] >= stepped.clock.now() - timedelta(seconds=60), "telemetry follows the clock"


def test_a_clock_that_is_set_ahead_is_caught_up_in_substeps(stepped):
    before_pct = stepped.pack.soc_pct
    stepped.clock.step(60)
    stepped.advance()
    minute_pct = stepped.pack.soc_pct - before_pct
    stepped.clock.step(300)
    stepped.advance()
    assert stepped.pack.soc_pct - before_pct == pytest.approx(6 * minute_pct, rel=0.02)
    stamps = [state.measured_at for state in stepped._unsent]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("seconds", [-300, 300])
def test_no_step_of_the_plants_clock_holds_a_set_point_longer(stepped, seconds):
    stepped.controller.valid_until_s = time.monotonic() - 1.0
    stepped.clock.step(seconds)
    stepped.advance()
    stepped.clock.step(1)
    stepped.advance()
    assert stepped.pack.state(stepped.clock.now()).power_w == 0
    assert stepped.pack.soc_pct == pytest.approx(50.0, abs=1e-3)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_no_step_of_the_plants_clock_ages_a_command(stepped, redis_client, tmp_path, seconds):
    command = make(redis_client, timeout_s=30)
    pending.push(redis_client, command)
    stepped.clock.step(seconds)
    assert stepped.poll()
    assert [act[0] for act in acts(tmp_path)] == [command.command_id]


@pytest.mark.full
def test_kill_9_at_random(start, redis_client, tmp_path):
    chaos(start, redis_client, tmp_path, kills=25, seed=7)


def test_kill_9_at_random_briefly(start, redis_client, tmp_path):
    chaos(start, redis_client, tmp_path, kills=3, seed=11)


def chaos(start, client, tmp_path, *, kills, seed):
    """The device is killed at random while commands keep coming; its record is judged at the end."""
    rng = random.Random(seed)  # noqa: S311
    sent, stop = {}, threading.Event()
    kinds = [CommandType.START_CHARGE, CommandType.START_DISCHARGE, CommandType.STOP_CHARGE, CommandType.REQUEST_STATUS]

    def send():
        seq = 0
        while not stop.wait(0.01):
            seq += 1
            command = make(client, rng.choice(kinds), seq=seq, timeout_s=2)
            sent[command.command_id] = command
            pending.push(client, command)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(kills):
            child = start()
            time.sleep(rng.uniform(0.05, 0.6))
            kill(child)
    finally:
        stop.set()
        sender.join()
    last = start()
    idle = (pending.pending_key(DEVICE), pending.processing_key(DEVICE))
    until(lambda: not client.exists(*idle), "everything is answered or expired")
    kill(last)
    executed = acts(tmp_path)
    assert executed, "the device never came to act: the test showed nothing"
    assert len({act[0] for act in executed}) == len(executed), "executed twice"
    assert [act[1] for act in executed] == sorted(act[1] for act in executed), "out of order"
    late = [act for act in executed if act[2] > sent[act[0]].expires_at.timestamp() + 0.05]
    assert late == []
    outcomes = {}
    for answer in answers(client):
        outcomes.setdefault(answer["command_id"], set()).add(Outcome(answer["outcome"]))
    for command_id, *_, outcome in executed:
        assert outcomes[command_id] <= {Outcome(outcome), Outcome.INDETERMINATE}
    refused = {Outcome.EXPIRED, Outcome.REJECTED}
    never = set(outcomes) - {act[0] for act in executed}
    assert all(outcomes[command_id] & (refused | {Outcome.INDETERMINATE}) for command_id in never)

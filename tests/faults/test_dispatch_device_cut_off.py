"""A device that is paused, cut off or has its clock set: nothing is executed twice, late, or kept from the record."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import device_cases
import pytest
from device_cases import DEVICE, acts, answers, make, until

from core.commands import CommandType
from core.errors import StoreError
from stores.failures import STORE_FAILURES
from stores.postgres import outbox
from stores.postgres.history import outcome_counts
from stores.redis import pending, responses

pytestmark = pytest.mark.timeout(120)
in_process = device_cases.in_process


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

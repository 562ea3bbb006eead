"""A device that is killed: nothing is executed twice, late, out of order, or kept from the record.

Not here: one that is cut off, or whose clock is set (test_dispatch_device_cut_off).
"""

import random
import threading
import time
from datetime import timedelta

import device_cases
import pytest
from device_cases import DEVICE, acts, answers, kill, make, said, until

from core.commands import CommandType, Outcome
from core.errors import StoreError
from serving.device_client import Journal
from stores.postgres import leases, outbox
from stores.postgres.history import outcome_counts
from stores.redis import pending, responses

pytestmark = pytest.mark.timeout(120)
start, in_process = device_cases.start, device_cases.in_process


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

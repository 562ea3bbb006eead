"""The queue's traps (docs/command_protocol.md), each against a real server and each failing on the naive way."""

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from core.commands import Command, CommandType, Outcome, Response
from core.errors import InputError
from stores.postgres import leases, outbox
from stores.postgres.history import history, outcome_counts
from stores.redis import pending, responses
from stores.redis.pending import Pushed
from stores.redis.sessions import get_session, put_session
from stores.redis.status import read_site_metrics, read_status, write_site_metrics, write_status

DEVICE = "pack-1"


def make(client, kind=CommandType.REQUEST_STATUS, *, seq=1, timeout_s=30, age_s=0.0, epoch=1, **parameters):
    if kind.is_start:
        parameters.setdefault("target_power", 1000.0)
    return Command(
        command_id=uuid.uuid4().hex,
        site_id="s",
        device_id=DEVICE,
        command_type=kind,
        parameters=parameters,
        issued_at=pending.redis_now(client) - timedelta(seconds=age_s),
        timeout_s=timeout_s,
        seq=seq,
        epoch=epoch,
    )


def draft(kind=CommandType.REQUEST_STATUS, device_id=DEVICE, **parameters):
    if kind.is_start:
        parameters.setdefault("target_power", 1000.0)
    return outbox.CommandDraft(device_id=device_id, site_id="s", command_type=kind, parameters=parameters, issued_by="test")


def answer(command, outcome=Outcome.COMPLETED, message="done"):
    return Response(
        command_id=command.command_id,
        device_id=command.device_id,
        outcome=outcome,
        message=message,
        data={"x": 1},
        acknowledged_at=command.issued_at,
        completed_at=command.issued_at,
    )


def test_a_short_message_does_not_kill_a_long_one(redis_client):
    """Trap 1: EXPIRE on the list let a 1 s request take a 30 s stop with it."""
    pending.push(redis_client, make(redis_client, CommandType.STOP_CHARGE, seq=1, timeout_s=30))
    pending.push(redis_client, make(redis_client, seq=2, timeout_s=1))
    assert redis_client.pttl(pending.pending_key(DEVICE)) > 25_000


def test_expired_messages_are_dropped_and_named(redis_client):
    """Trap 1: a push revived old entries."""
    old = make(redis_client, CommandType.START_CHARGE, seq=1, timeout_s=1)
    redis_client.lpush(pending.pending_key(DEVICE), old.to_wire().replace(
        str(round(old.expires_at.timestamp() * 1000)), str(round(old.expires_at.timestamp() * 1000) - 60_000)))  # fmt: skip
    fresh = make(redis_client, seq=2)
    pending.push(redis_client, fresh)
    found = pending.take_all(redis_client, DEVICE)
    assert found.taken is not None
    assert found.taken.command.command_id == fresh.command_id
    assert [command.command_id for command in found.expired] == [old.command_id]


def test_every_push_leaves_a_ttl(redis_client):
    """Trap 2: LPUSH, crash, no EXPIRE."""
    pending.push(redis_client, make(redis_client))
    assert redis_client.ttl(pending.pending_key(DEVICE)) > 0


def test_first_in_first_out(redis_client):
    """Trap 3: LPUSH and LPOP ran a stop before the start that it answers."""
    commands = [make(redis_client, CommandType.START_CHARGE, seq=1), make(redis_client, CommandType.STOP_CHARGE, seq=2)]
    pending.push_many(redis_client, commands)
    taken = [pending.take(redis_client, DEVICE).command.seq for _ in commands]
    assert taken == [1, 2]


def test_emergency_shutdown_purges_starts_goes_first_and_latches(redis_client):
    start = make(redis_client, CommandType.START_CHARGE, seq=1)
    status = make(redis_client, CommandType.REQUEST_STATUS, seq=2)
    stop = make(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=3)
    pending.push_many(redis_client, [start, status])
    assert pending.push(redis_client, stop).purged == (start.command_id,)
    assert pending.take(redis_client, DEVICE).command.command_id == stop.command_id
    assert pending.take(redis_client, DEVICE).command.command_id == status.command_id
    late = make(redis_client, CommandType.START_DISCHARGE, seq=4)
    assert pending.push(redis_client, late).status is Pushed.LATCHED
    reset = make(redis_client, CommandType.UPDATE_PARAMETERS, seq=5, reset_latch=1.0)
    assert pending.push(redis_client, reset).status is Pushed.PUSHED
    taken = pending.take(redis_client, DEVICE)
    responses.finish(redis_client, reset, taken.raw, answer(reset), clear_latch=stop.command_id)
    assert pending.push(redis_client, make(redis_client, CommandType.START_CHARGE, seq=6)).status is Pushed.PUSHED


def test_what_is_taken_waits_in_processing_until_it_is_answered(redis_client):
    """Trap 4: pop before execute lost work."""
    command = make(redis_client)
    pending.push(redis_client, command)
    taken = pending.take(redis_client, DEVICE)
    assert pending.processing(redis_client, DEVICE) == [taken.raw]
    responses.finish(redis_client, command, taken.raw, answer(command))
    assert pending.processing(redis_client, DEVICE) == []
    words = [responses.parse_response(text) for text in responses.take_responses(redis_client, "s", 10)]
    assert [(word["kind"], word["command_id"]) for word in words] == [
        ("acknowledged", command.command_id),
        ("response", command.command_id),
    ]
    assert words[0]["acknowledged_at"] >= words[1]["acknowledged_at"]


def test_a_repeated_push_leaves_one_copy(redis_client):
    """Trap 5: a client's retry left up to eleven."""
    command = make(redis_client, CommandType.START_CHARGE)
    results = [pending.push(redis_client, command).status for _ in range(5)]
    assert results == [Pushed.PUSHED] + [Pushed.ALREADY] * 4
    assert redis_client.llen(pending.pending_key(DEVICE)) == 1
    pending.take(redis_client, DEVICE)
    assert pending.push(redis_client, command).status is Pushed.ALREADY


def test_the_client_never_retries_by_itself(redis_client):
    assert redis_client.connection_pool.make_connection().retry._retries == 0


def test_a_command_past_its_deadline_is_not_pushed(redis_client):
    """Trap 7 and 9: by Redis TIME, whatever the host's clock says."""
    assert pending.push(redis_client, make(redis_client, timeout_s=1, age_s=5)).status is Pushed.TOO_LATE
    assert redis_client.llen(pending.pending_key(DEVICE)) == 0


def test_rubbish_in_the_list_is_dropped_not_executed(redis_client):
    redis_client.lpush(pending.pending_key(DEVICE), "not json")
    redis_client.lpush(pending.pending_key(DEVICE), '{"expires_at_ms": 99999999999999}')
    found = pending.take_all(redis_client, DEVICE)
    assert found.taken is None
    assert len(found.broken) == 2
    assert pending.processing(redis_client, DEVICE) == []


def test_rubbish_in_the_list_does_not_keep_an_emergency_shutdown_out(redis_client):
    key = pending.pending_key(DEVICE)
    for rubbish in ("not json", "3", "null", '{"type": "start_charge"}', '{"type": "start_charge", "command_id": null}'):
        redis_client.lpush(key, rubbish)
    start = make(redis_client, CommandType.START_CHARGE, seq=1)
    pending.push(redis_client, start)
    stop = make(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=2)
    result = pending.push(redis_client, stop)
    assert (result.status, result.purged) == (Pushed.PUSHED, (start.command_id,))
    assert pending.take(redis_client, DEVICE).command.command_id == stop.command_id


def test_ids_of_pushes_are_forgotten_at_their_deadline_under_steady_traffic(redis_client):
    """The key of a busy device never dies: its members must."""
    key = f"commands:pushed:{DEVICE}"
    old_ms = round(pending.redis_now(redis_client).timestamp() * 1000) - 1
    redis_client.zadd(key, {f"old-{k}": old_ms for k in range(100)})
    pending.push(redis_client, make(redis_client))
    assert redis_client.zcard(key) == 1


def test_a_message_whose_numbers_overflow_is_dropped_not_executed(redis_client):
    text = make(redis_client).to_wire()
    assert '"timeout":30,' in text
    for timeout in ("Infinity", "1e300", "100000000000", "-1"):
        redis_client.lpush(pending.pending_key(DEVICE), text.replace('"timeout":30,', f'"timeout":{timeout},'))
    for _ in range(4):
        assert pending.take_all(redis_client, DEVICE).taken is None
    assert pending.processing(redis_client, DEVICE) == []


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"x": float("nan")}},
        {"data": [1]},
        {"message": "a\x00b"},
        {"message": "\ud800"},
        {"completed_at": "2026-01-01T00:00:00"},
        {"completed_at": None},
        {"outcome": "fine"},
        {"kind": "gossip"},
    ],
)
def test_an_answer_that_postgresql_would_refuse_is_refused_alone(redis_client, change):
    """One such answer would roll back the whole batch, at every attempt."""
    good = json.loads(responses.response_json(answer(make(redis_client))))
    assert responses.parse_response(json.dumps(good))["kind"] == "response"
    with pytest.raises(InputError, match="an answer"):
        responses.parse_response(json.dumps({**good, **change}))


def test_two_takers_never_get_the_same(redis_client):
    commands = [make(redis_client, seq=k) for k in range(200)]
    pending.push_many(redis_client, commands)
    together = threading.Barrier(4)

    def take_until_empty(_):
        together.wait()
        found = []
        while (taken := pending.take(redis_client, DEVICE)) is not None:
            found.append(taken.command.command_id)
        return found

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(take_until_empty, range(4)))
    taken = [command_id for share in shares for command_id in share]
    assert sorted(taken) == sorted(command.command_id for command in commands)
    assert pending.take(redis_client, DEVICE) is None


def test_outbox_writes_all_three_tables_or_nothing(pg, redis_client):
    """Trap 6: the dual write."""
    now = pending.redis_now(redis_client)
    (command,) = outbox.enqueue(pg, [draft(CommandType.START_CHARGE)], epoch=4, redis_now=now)
    for table in ("command_ids", "command_history", "optimizer.command_outbox"):
        assert pg.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 1
    assert [c.command_id for c in outbox.unpushed(pg, "s", now)] == [command.command_id]
    outbox.mark_pushed(pg, [command.command_id])
    assert outbox.unpushed(pg, "s", now) == []
    bad = draft(device_id="x" * 300)
    with pytest.raises(Exception, match="too long"):
        outbox.enqueue(pg, [draft(), bad], epoch=4, redis_now=now)
    assert pg.execute("SELECT count(*) FROM command_history").fetchone()[0] == 1


def test_sequence_numbers_grow_per_device(pg, redis_client):
    now = pending.redis_now(redis_client)
    made = outbox.enqueue(pg, [draft(), draft(), draft(device_id="other")], epoch=1, redis_now=now)
    made += outbox.enqueue(pg, [draft()], epoch=1, redis_now=now)
    assert [(c.device_id, c.seq) for c in made] == [(DEVICE, 1), (DEVICE, 2), ("other", 1), (DEVICE, 3)]


def test_an_unpushed_command_past_its_deadline_is_never_pushed_again(pg, redis_client):
    """Trap 7."""
    now = pending.redis_now(redis_client)
    outbox.enqueue(pg, [draft(CommandType.START_CHARGE)], epoch=1, redis_now=now)
    assert outbox.unpushed(pg, "s", now + timedelta(seconds=31)) == []


def test_the_first_terminal_answer_stands(pg, redis_client):
    now = pending.redis_now(redis_client)
    (command,) = outbox.enqueue(pg, [draft()], epoch=1, redis_now=now)
    assert outbox.record_response(pg, answer(command))
    assert not outbox.record_response(pg, answer(command, Outcome.FAILED, "again"))
    (row,) = history(pg, "s")
    assert (row.success, row.response_message, row.response_data["outcome"]) == (True, "done", "completed")
    assert outbox.open_commands(pg, "s") == 0
    assert not outbox.record_response(pg, answer(make(redis_client)))  # unknown id


@pytest.mark.parametrize(("begun", "outcome"), [(False, "expired"), (True, "indeterminate")])
def test_silence_ends_at_deadline_and_grace(pg, redis_client, begun, outcome):
    now = pending.redis_now(redis_client)
    (command,) = outbox.enqueue(pg, [draft()], epoch=1, redis_now=now)
    if begun:
        outbox.record_acknowledged(pg, command.command_id, now)
    assert outbox.expire_overdue(pg, "s", now + timedelta(seconds=32), 5.0) == 0
    assert outbox.expire_overdue(pg, "s", now + timedelta(seconds=36), 5.0) == 1
    assert outcome_counts(pg, "s", now - timedelta(hours=1))[outcome] == 1


def test_lease_epoch_grows_with_the_holder(pg):
    """Trap 8."""
    first = leases.acquire(pg, "s", "a", 30)
    assert leases.acquire(pg, "s", "a", 30).epoch == first.epoch
    assert leases.acquire(pg, "s", "b", 30) is None
    pg.execute("UPDATE optimizer.site_leases SET expires_at = clock_timestamp() - interval '1 second'")
    second = leases.acquire(pg, "s", "b", 30)
    assert second.epoch == first.epoch + 1
    leases.release(pg, first)  # passed on: nothing happens
    assert leases.acquire(pg, "s", "a", 30) is None
    assert leases.current_epoch(pg, "s") == second.epoch
    assert not leases.acquire(pg, "t", "a", 0.0).valid()


def test_status_metrics_and_sessions_have_the_contracts_ttls(redis_client):
    write_status(redis_client, DEVICE, {"online": True, "current_soc": 67.5})
    assert 295 <= redis_client.ttl(f"device:status:{DEVICE}") <= 300
    assert read_status(redis_client, DEVICE)["current_soc"] == 67.5
    with pytest.raises(ValueError, match="JSON compliant"):
        write_status(redis_client, DEVICE, {"current_soc": float("nan")})
    write_site_metrics(redis_client, "s", "current", {"total_power": -45680, "online_count": 11})
    assert 3595 <= redis_client.ttl("site:metrics:s:current") <= 3600
    assert read_site_metrics(redis_client, "s", "current")["total_power"] == -45680
    session = dict.fromkeys(("user_id", "site_permissions", "role", "login_time", "last_activity"), "x")
    put_session(redis_client, "1", session)
    assert 3595 <= redis_client.ttl("session:1") <= 3600
    assert get_session(redis_client, "1") == session
    with pytest.raises(Exception, match="role"):
        put_session(redis_client, "2", {key: value for key, value in session.items() if key != "role"})

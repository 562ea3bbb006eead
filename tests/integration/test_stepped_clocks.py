"""Clocks that are set back: nothing becomes younger by it, and nothing waits for the clock to catch up."""

from dataclasses import replace
from datetime import timedelta

import pytest
import typer
from typer.testing import CliRunner

from core.commands import Command, CommandType, Outcome
from core.device_protocol import CommandGuard
from core.errors import InputError
from serving.cli.dispatch_cli import dispatch
from serving.dispatch.lease import LeaseKeeper
from stores.postgres import leases, outbox
from stores.postgres.history import history
from stores.redis import pending

AHEAD = timedelta(seconds=300)


def ahead(redis_client, kind=CommandType.START_CHARGE, seq=1):
    """A command as Redis had it issued while its clock was 300 s ahead."""
    return Command(
        command_id=f"c{seq}",
        site_id="s",
        device_id="p",
        command_type=kind,
        parameters={"target_power": 1000.0} if kind.is_start else {},
        issued_at=pending.redis_now(redis_client) + AHEAD,
        timeout_s=30,
        seq=seq,
        epoch=1,
    )


def test_a_message_of_before_the_step_is_handed_back_not_taken(redis_client):
    stepped, right = ahead(redis_client), replace(ahead(redis_client, seq=2), issued_at=pending.redis_now(redis_client))
    redis_client.lpush(pending.pending_key("p"), stepped.to_wire())
    pending.push(redis_client, right)
    found = pending.take_all(redis_client, "p")
    assert [command.command_id for command in found.expired] == ["c1"]
    assert found.taken.command.command_id == "c2"


def test_an_emergency_shutdown_of_before_the_step_is_taken(redis_client):
    stepped = ahead(redis_client, CommandType.EMERGENCY_SHUTDOWN)
    assert pending.push(redis_client, stepped).status is pending.Pushed.PUSHED
    assert pending.take(redis_client, "p").command.command_id == "c1"


def test_it_is_not_pushed_either(redis_client):
    assert pending.push(redis_client, ahead(redis_client)).status is pending.Pushed.TOO_LATE
    assert redis_client.exists(pending.pending_key("p")) == 0


def test_a_device_that_took_it_before_the_step_does_not_begin_it(redis_client):
    command = ahead(redis_client)
    guard = CommandGuard(device_id="p")
    now = pending.redis_now(redis_client)
    assert guard.check(command, redis_now=now, taken_age_s=0.0).outcome is Outcome.EXPIRED
    assert guard.check(command, redis_now=command.issued_at, taken_age_s=0.0) is None


def test_it_ends_on_record_without_waiting_for_the_clock(stores):
    draft = outbox.CommandDraft(
        device_id="p", site_id="s", command_type=CommandType.REQUEST_STATUS, parameters={}, issued_by="test"
    )
    now = pending.redis_now(stores.redis)
    outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=now + AHEAD)
    outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=now)
    assert outbox.expire_overdue(stores.pg, "s", now, 5.0) == 1
    outcomes = {(row.issued_at > now, (row.response_data or {}).get("outcome")) for row in history(stores.pg, "s")}
    assert outcomes == {(True, "expired"), (False, None)}


@pytest.mark.parametrize(("ahead_s", "taken"), [(300, True), (60, False)])
def test_a_lease_from_before_the_step_does_not_bind_for_as_long(pg, ahead_s, taken):
    """PostgreSQL was 300 s ahead when the holder renewed last, and the holder has died: the site is not left alone for 300 s."""
    first = leases.acquire(pg, "s", "a", 20.0)
    pg.execute("UPDATE optimizer.site_leases SET expires_at = clock_timestamp() + make_interval(secs => %s)", (ahead_s,))
    second = leases.acquire(pg, "s", "b", 20.0)
    assert (second is not None) == taken
    if taken:
        assert second.epoch == first.epoch + 1


def test_a_lease_longer_than_the_longest_is_refused(pg, stores):
    for made in (lambda: leases.acquire(pg, "s", "a", 120.1), lambda: LeaseKeeper(stores, "s", "a", 120.1)):
        with pytest.raises(InputError, match=r"0 to 120"):
            made()
    assert pg.execute("SELECT count(*) FROM optimizer.site_leases").fetchone() == (0,)


def test_the_command_line_refuses_it_before_anything_is_opened():
    app = typer.Typer()
    app.command()(dispatch)
    result = CliRunner().invoke(app, ["--site", "s", "--lease", "500"])
    assert result.exit_code == 2
    assert "--lease" in result.output
    assert "120" in result.output

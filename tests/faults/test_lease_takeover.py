"""One dispatcher a site: a standby takes over in time, and a leader that slept past its lease commands nothing, at any store."""

import time

import pytest
from processes import until

from core.commands import CommandType, Outcome
from core.devices import Chemistry, DeviceConfig
from serving.dispatch.lease import LeaseKeeper
from serving.dispatch.tick import SiteDispatcher, push_and_settle
from stores.connections import connect_postgres
from stores.postgres import leases, outbox
from stores.postgres.devices import upsert_device
from stores.postgres.history import history
from stores.postgres.session import bound_session
from stores.redis import pending

pytestmark = pytest.mark.timeout(120)
SITE, DEVICE = "s", "pack-1"
TTL_S = 2.0
CONFIG = DeviceConfig(
    device_id=DEVICE,
    site_id=SITE,
    name=DEVICE,
    chemistry=Chemistry.LFP,
    nominal_capacity_ah=100,
    nominal_voltage_v=320,
    max_charge_power_w=10_000,
    max_discharge_power_w=10_000,
    series_cells=100,
    parallel_cells=1,
)


@pytest.fixture
def keeper(stores):
    made = []

    def make(holder, ttl_s=TTL_S):
        made.append(LeaseKeeper(stores, SITE, holder, ttl_s))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def draft(kind=CommandType.START_CHARGE, **parameters):
    if kind.is_start:
        parameters.setdefault("target_power", 1000.0)
    return outbox.CommandDraft(device_id=DEVICE, site_id=SITE, command_type=kind, parameters=parameters, issued_by="test")


def run_out(stores):
    stores.pg.execute("UPDATE optimizer.site_leases SET expires_at = clock_timestamp() - interval '1 second'")


def commands(stores):
    return stores.pg.execute("SELECT count(*) FROM command_history").fetchone()[0]


def test_the_lease_outlives_a_tick_that_is_slower_than_its_ttl(keeper):
    """Without the renewal in the background, the trust ends after 0.8 TTL, in the middle of the tick."""
    first = keeper("a")
    first.start()
    lease = until(first.lease, "held")
    ends_s = time.monotonic() + 2.5 * TTL_S
    until(lambda: time.monotonic() > ends_s, "a tick of two and a half leases")
    assert lease.valid()
    assert lease.epoch == 1


def test_a_standby_takes_over_within_two_lease_periods_of_the_leaders_death(stores, keeper):
    first, second = keeper("a"), keeper("b")
    first.start()
    until(first.lease, "the first leads")
    second.start()
    first._stop.set()  # it dies: no renewal, no release
    died_s = time.monotonic()
    until(second.lease, "the second leads")
    assert time.monotonic() - died_s < 2 * TTL_S
    assert second.held.epoch == 2
    assert first.lease() is None
    assert pending.known_epoch(stores.redis, SITE) == 2


def test_a_released_lease_is_taken_at_the_next_look(keeper):
    first, second = keeper("a", 30.0), keeper("b", 2.0)
    first.start()
    until(first.lease, "the first leads")
    second.start()
    first.stop()
    until(second.lease, "the second leads, long before the first's lease would have run out", deadline_s=10)


def test_a_tick_that_began_under_an_older_epoch_commands_nothing_even_if_its_holder_leads_again(stores, keeper):
    """The process slept, lost the lease, and won it back: what it decided before is too old."""
    first = keeper("a", 30.0)
    first.renew()
    tick = first.lease()
    run_out(stores)
    leases.acquire(stores.pg, SITE, "b", 30.0)
    run_out(stores)
    first.held = None
    first.renew()
    assert first.lease().epoch == 3
    assert not tick.valid()
    assert SiteDispatcher(stores, SITE).send([draft()], tick) == 0
    assert commands(stores) == 0


class Trusting:
    """A leader that woke up and has not looked at its clock yet: the check of its own that the naive way relies on passes."""

    def __init__(self, epoch):
        self.epoch = epoch

    def valid(self):
        return True


def test_postgresql_refuses_the_commands_of_a_leader_that_was_paused(stores):
    old = leases.acquire(stores.pg, SITE, "a", 30.0)
    run_out(stores)
    leases.acquire(stores.pg, SITE, "b", 30.0)
    assert SiteDispatcher(stores, SITE).send([draft()], Trusting(old.epoch)) == 0
    assert commands(stores) == 0
    assert stores.redis.llen(pending.pending_key(DEVICE)) == 0


def test_nothing_is_written_when_nobody_holds_the_lease(stores):
    old = leases.acquire(stores.pg, SITE, "a", 30.0)
    leases.release(stores.pg, old)
    assert SiteDispatcher(stores, SITE).send([draft()], Trusting(old.epoch)) == 0
    assert commands(stores) == 0


def test_redis_refuses_what_a_paused_leader_recorded_but_had_not_pushed(stores, keeper):
    old = leases.acquire(stores.pg, SITE, "a", 30.0)
    now = pending.redis_now(stores.redis)
    late = outbox.enqueue(stores.pg, [draft()], epoch=old.epoch, redis_now=now, fence_site=SITE)
    run_out(stores)
    second = keeper("b", 30.0)
    second.renew()  # the new leader has pushed nothing to this device yet: its epoch is known all the same
    results = push_and_settle(stores, late)
    assert [result.status for result in results] == [pending.Pushed.FENCED]
    assert stores.redis.llen(pending.pending_key(DEVICE)) == 0
    (row,) = history(stores.pg, SITE)
    assert row.response_data["outcome"] == "rejected"
    assert "newer epoch" in row.response_message


def test_an_emergency_shutdown_is_never_fenced(stores, keeper):
    old = leases.acquire(stores.pg, SITE, "a", 30.0)
    now = pending.redis_now(stores.redis)
    shutdown = outbox.enqueue(stores.pg, [draft(CommandType.EMERGENCY_SHUTDOWN)], epoch=old.epoch, redis_now=now)
    run_out(stores)
    keeper("b", 30.0).renew()
    (result,) = push_and_settle(stores, shutdown)
    assert result.status is pending.Pushed.PUSHED


def test_a_takeover_waits_for_the_commit_of_the_leader_and_no_longer_than_the_idle_timeout(stores):
    """A leader that is stopped inside its transaction holds the row; PostgreSQL ends its session."""
    old = leases.acquire(stores.pg, SITE, "a", 30.0)
    run_out(stores)
    stopped = connect_postgres(stores.database_url)
    bound_session(stopped)
    stopped.execute("SET idle_in_transaction_session_timeout = '700ms'")
    waited_s = []

    def stop_inside_its_transaction():
        with stopped.transaction():
            leases.check_fence(stopped, SITE, old.epoch)
            asked_s = time.monotonic()
            assert leases.acquire(stores.pg, SITE, "b", 30.0).epoch == old.epoch + 1
            waited_s.append(time.monotonic() - asked_s)
            stopped.execute("SELECT 1")

    with pytest.raises(Exception, match="idle-in-transaction"):
        stop_inside_its_transaction()
    assert waited_s[0] > 0.3, "it did not wait: the fence holds no lock"
    stopped.close()


def test_a_lease_row_from_a_backup_is_lifted_above_what_redis_has_heard(stores, keeper):
    pending.announce_epoch(stores.redis, SITE, 41)
    first = keeper("a", 30.0)
    first.renew()
    assert first.held.epoch == 42
    pending.announce_epoch(stores.redis, SITE, 7)
    assert pending.known_epoch(stores.redis, SITE) == 42, "it never goes back"


def test_a_stop_that_never_reached_the_device_is_not_taken_for_one(stores):
    """The old leader's stop was fenced: to the new one the device still runs."""
    upsert_device(stores.pg, CONFIG, by="test")
    now = pending.redis_now(stores.redis)
    outbox.enqueue(stores.pg, [draft()], epoch=1, redis_now=now)
    assert outbox.last_types(stores.pg, SITE) == {DEVICE: CommandType.START_CHARGE}
    (stop,) = outbox.enqueue(stores.pg, [draft(CommandType.STOP_CHARGE)], epoch=1, redis_now=now)
    assert outbox.last_types(stores.pg, SITE) == {DEVICE: CommandType.STOP_CHARGE}, "it is on its way"
    outbox.end_unpushed(stores.pg, stop.command_id, Outcome.REJECTED, "fenced", now)
    assert outbox.last_types(stores.pg, SITE) == {DEVICE: CommandType.START_CHARGE}

"""One tick: settle what came back, gather, decide, gate, record, enqueue, push.

Here: the order of things, which is what makes commands safe (docs/command_protocol.md). Not here: when ticks happen
(serving.dispatch.loop), what each store operation does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from core.commands import Command, CommandType, Outcome
from core.decisions import Decision
from core.errors import InputError
from serving.dispatch.alarms import AlarmAction, flags_with
from serving.dispatch.inputs import Freshness, Gathered, gather
from serving.dispatch.ranking import PolicyBench, with_record
from serving.dispatch.translate import drafts_of, stop_drafts
from serving.emergency import end_purged, record_sent
from stores.connections import Stores
from stores.mongo.telemetry import latest_states
from stores.postgres import outbox
from stores.postgres.decisions import record_decision
from stores.postgres.devices import list_devices
from stores.postgres.leases import Lease
from stores.postgres.policies import ranked_policies
from stores.redis import pending

log = structlog.get_logger()

RESPONSES_A_TICK = 5000
EXPIRY_GRACE_S = 5.0


@dataclass(slots=True, kw_only=True)
class TickOptions:
    """What a dispatcher may be told."""

    interval_s: int
    horizon_s: int
    valid_for_s: float
    """Wall seconds a device holds a set point without a fresh one."""
    timeout_s: int = 30
    """Wall seconds within which a device must begin a command."""
    fresh: Freshness = field(default_factory=Freshness)
    issued_by: str = "dispatcher"
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TickResult:
    """What a tick did."""

    decision: Decision | None
    commands: int
    responses: int
    expired: int
    left_out: dict[str, str]
    wall_s: float
    why_no_decision: str = ""


@dataclass(slots=True)
class SiteDispatcher:
    """The state of one site's dispatcher between ticks; everything that matters is in the stores."""

    stores: Stores
    site_id: str
    bench: PolicyBench = field(default_factory=PolicyBench)

    def tick(self, starts_at: datetime, options: TickOptions, lease: Lease) -> TickResult:
        """Decide and command for [starts_at, starts_at + interval).

        Raises StoreError when a store is unreachable; devices then revert by themselves.
        """
        begun_s = time.monotonic()
        responses = self.settle()
        expired = outbox.expire_overdue(self.stores.pg, self.site_id, pending.redis_now(self.stores.redis), EXPIRY_GRACE_S)
        self.push_unpushed()
        decision: Decision | None = None
        why = ""
        left_out: dict[str, str] = {}
        count = self._shut_down_alarmed(starts_at, options, lease)
        try:
            gathered = gather(
                self.stores,
                self.site_id,
                starts_at,
                options.interval_s,
                horizon_s=options.horizon_s,
                fresh=options.fresh,
            )
            left_out = dict(gathered.left_out)
            pending.remember_site(self.stores.redis, self.site_id, [d.device_id for d in gathered.all_devices])
            decision, ordered = self._decide_and_command(gathered, options, lease)
            count += ordered
        except InputError as error:
            # Inputs for the whole site are unusable: no plan, and running set points end.
            why = str(error)
            log.error("no_decision", site_id=self.site_id, why=why)
            count += self._stop_all(why, options, lease)
        result = TickResult(
            decision=decision,
            commands=count,
            responses=responses,
            expired=expired,
            left_out=left_out,
            wall_s=time.monotonic() - begun_s,
            why_no_decision=why,
        )
        log.info(
            "tick",
            site_id=self.site_id,
            starts_at=starts_at.isoformat(),
            source=decision.source if decision else "none",
            solver=decision.solver if decision else "",
            commands=count,
            responses=responses,
            expired=expired,
            left_out=left_out,
            passed_over=decision.passed_over if decision else (),
            wall_ms=round(result.wall_s * 1e3, 1),
        )
        return result

    def settle(self) -> int:
        """Write what devices answered into command_history; each answer is dropped from Redis only after that."""
        count = 0
        while True:
            batch = pending.take_responses(self.stores.redis, self.site_id, RESPONSES_A_TICK)
            # After the read: whatever answer is in the batch, its command was put here before it went out.
            record_sent(self.stores.pg, self.stores.redis, self.site_id)
            if not batch:
                break
            with self.stores.pg.transaction():
                for item in batch:
                    try:
                        outbox.record(self.stores.pg, pending.parse_response(item))
                    except InputError as error:
                        log.error("answer_unreadable", why=str(error))
            pending.drop_responses(self.stores.redis, self.site_id, batch)
            count += len(batch)
            if len(batch) < RESPONSES_A_TICK:
                break
        return count

    def push_unpushed(self) -> int:
        """Push outbox rows that a crash left behind and whose deadline still stands."""
        rows = outbox.unpushed(self.stores.pg, self.site_id, pending.redis_now(self.stores.redis))
        if rows:
            push_and_settle(self.stores, rows)
        return len(rows)

    def _shut_down_alarmed(self, starts_at: datetime, options: TickOptions, lease: Lease) -> int:
        """emergency_shutdown for each device whose last telemetry, however old, holds a flag that calls for it.

        Before and apart from the decision: no price, prediction or limit is needed for it. A device that is latched
        already hears nothing; one that an operator released while the flag stands is shut down again.
        """
        if options.dry_run:
            return 0
        ids = [device.device_id for device in list_devices(self.stores.pg, self.site_id)]
        states = latest_states(self.stores.mongo, ids, not_after=starts_at + timedelta(seconds=options.interval_s))
        drafts = []
        for device_id, state in states.items():
            flags = flags_with(state.alarm_flags, AlarmAction.EMERGENCY_SHUTDOWN)
            if not flags or pending.is_latched(self.stores.redis, device_id):
                continue
            log.error("alarm_shutdown", site_id=self.site_id, device_id=device_id, flags=flags)
            drafts.append(
                outbox.CommandDraft(
                    device_id=device_id,
                    site_id=self.site_id,
                    command_type=CommandType.EMERGENCY_SHUTDOWN,
                    parameters={"reason": f"alarm: {', '.join(flags)}"},
                    timeout_s=options.timeout_s,
                    issued_by=options.issued_by,
                )
            )
        return self.send(drafts, lease)

    def _decide_and_command(self, gathered: Gathered, options: TickOptions, lease: Lease) -> tuple[Decision, int]:
        records = ranked_policies(self.stores.pg, self.site_id)
        gated, passed_over = self.bench.decide(records, gathered.observation)
        decision = with_record(gated, passed_over, dict(gathered.left_out))
        if options.dry_run:
            return decision, 0
        decision_id = record_decision(self.stores.pg, decision)
        last_type = outbox.last_types(self.stores.pg, self.site_id)
        states = gathered.observation.states
        drafts = drafts_of(
            decision,
            states,
            valid_for_s=options.valid_for_s,
            timeout_s=options.timeout_s,
            issued_by=options.issued_by,
            last_type=last_type,
            decision_id=decision_id,
        )
        drafts += stop_drafts(
            self.site_id,
            gathered.left_out,
            states,
            reason="left out: " + "; ".join(gathered.left_out.values()),
            timeout_s=options.timeout_s,
            issued_by=options.issued_by,
            last_type=last_type,
        )
        return decision, self.send(drafts, lease)

    def _stop_all(self, why: str, options: TickOptions, lease: Lease) -> int:
        if options.dry_run:
            return 0
        last_type = outbox.last_types(self.stores.pg, self.site_id)
        drafts = stop_drafts(
            self.site_id,
            last_type,
            {},
            reason=why,
            timeout_s=options.timeout_s,
            issued_by=options.issued_by,
            last_type=last_type,
        )
        return self.send(drafts, lease)

    def send(self, drafts: list[outbox.CommandDraft], lease: Lease) -> int:
        """Outbox first, push after the commit, and neither without a lease that is still trusted."""
        if not drafts:
            return 0
        if not lease.valid():
            log.error("lease_lost", site_id=self.site_id, epoch=lease.epoch)
            return 0
        commands = outbox.enqueue(self.stores.pg, drafts, epoch=lease.epoch, redis_now=pending.redis_now(self.stores.redis))
        if not lease.valid():
            # Recorded but never pushed by us: they expire on the record, and the new leader's epoch is higher.
            log.error("lease_lost_before_push", site_id=self.site_id, epoch=lease.epoch)
            return 0
        push_and_settle(self.stores, commands)
        return len(commands)


def push_and_settle(stores: Stores, commands: Sequence[Command]) -> list[pending.PushResult]:
    """Push recorded commands, and end on the record those that no device will see: late, latched, purged."""
    results = pending.push_many(stores.redis, commands)
    outbox.mark_pushed(stores.pg, [result.command_id for result in results])
    now = pending.redis_now(stores.redis)
    for result in results:
        if result.status is pending.Pushed.TOO_LATE:
            outbox.end_unpushed(stores.pg, result.command_id, Outcome.EXPIRED, "too late to be pushed", now)
        elif result.status is pending.Pushed.LATCHED:
            why = "the device is latched by an emergency_shutdown; an operator must reset it"
            outbox.end_unpushed(stores.pg, result.command_id, Outcome.REJECTED, why, now)
        end_purged(stores.pg, stores.redis, result)
    return results


def next_boundary(now: datetime, interval_s: int) -> datetime:
    """The first interval boundary after `now`; intervals are aligned to the Unix epoch."""
    done = int(now.timestamp() // interval_s) + 1
    return datetime.fromtimestamp(0, tz=now.tzinfo) + timedelta(seconds=done * interval_s)

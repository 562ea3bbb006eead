"""One tick: settle what came back, gather, decide, gate, record, enqueue, push.

Here: the order of things, which is what makes commands safe (docs/command_protocol.md). Not here: when ticks happen
(serving.dispatch.loop), what each store operation does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from core.commands import Command, CommandType, Outcome
from core.decisions import Decision
from core.devices import DeviceConfig
from core.errors import InputError
from core.limits import PackLimits, tightest
from policies.base import Observation
from serving.dispatch.alarms import shutdown_reason
from serving.dispatch.inputs import Freshness, Gathered, gather
from serving.dispatch.meter import Meter, latest_meter
from serving.dispatch.metrics import SiteMetrics
from serving.dispatch.ranking import LONGEST_S, PassedOver, PolicyBench, with_record
from serving.dispatch.translate import drafts_of, stop_drafts
from serving.emergency import end_purged, record_sent
from stores.connections import Stores
from stores.mongo.telemetry import latest_states
from stores.postgres import outbox
from stores.postgres.constraints import constraint_rows
from stores.postgres.decisions import record_decision
from stores.postgres.devices import list_devices
from stores.postgres.leases import FencedError, HeldLease, check_fence
from stores.postgres.policies import ranked_policies
from stores.redis import pending, responses

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
    deadline_s: float = LONGEST_S
    """Wall seconds that one policy may take."""
    dry_run: bool = False
    """Read and decide; write, push and record nothing."""


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
    observation: Observation | None = None
    """What was decided on; None where nothing could be gathered."""
    meter: Meter | None = None


@dataclass(slots=True)
class SiteDispatcher:
    """The state of one site's dispatcher between ticks; everything that matters is in the stores."""

    stores: Stores
    site_id: str
    bench: PolicyBench = field(default_factory=PolicyBench)
    metrics: SiteMetrics = field(default_factory=SiteMetrics.unwatched)

    def tick(self, starts_at: datetime, options: TickOptions, lease: HeldLease | None) -> TickResult:
        """Decide and command for [starts_at, starts_at + interval); a lease of None is for a dry run.

        Raises StoreError when a store is unreachable; devices then revert by themselves.
        """
        begun_s = time.monotonic()
        commanding = lease if not options.dry_run else None
        answered = expired = count = 0
        if commanding is not None:
            answered = self.settle()
            expired = self.expire_overdue()
            self.push_unpushed(commanding)
            count = self._shut_down_alarmed(starts_at, options, commanding)
        decision: Decision | None = None
        why = ""
        left_out: dict[str, str] = {}
        devices: tuple[DeviceConfig, ...] = ()
        gathered: Gathered | None = None
        meter: Meter | None = None
        try:
            gathered = gather(
                self.stores,
                self.site_id,
                starts_at,
                options.interval_s,
                horizon_s=options.horizon_s,
                fresh=options.fresh,
            )
            left_out, devices = dict(gathered.left_out), gathered.all_devices
            meter = latest_meter(self.stores, self.site_id, starts_at, options.interval_s)
            decision, passed_over = self._decide(gathered, meter, options)
            if commanding is not None:
                pending.remember_site(self.stores.redis, self.site_id, [device.device_id for device in devices])
                count += self._command(decision, gathered, options, commanding)
        except InputError as error:
            # Inputs for the whole site are unusable: no plan, and running set points end.
            why = str(error)
            log.error("no_decision", site_id=self.site_id, why=why)
            if commanding is not None:
                count += self._stop_all(why, options, commanding)
            passed_over = []
        result = TickResult(
            decision=decision,
            commands=count,
            responses=answered,
            expired=expired,
            left_out=left_out,
            wall_s=time.monotonic() - begun_s,
            why_no_decision=why,
            observation=gathered.observation if gathered is not None else None,
            meter=meter,
        )
        self._report(result, starts_at, passed_over, devices, watched=commanding is not None)
        return result

    def _report(
        self,
        result: TickResult,
        starts_at: datetime,
        passed_over: Sequence[PassedOver],
        devices: Sequence[DeviceConfig],
        *,
        watched: bool,
    ) -> None:
        decision = result.decision
        log.info(
            "tick",
            site_id=self.site_id,
            starts_at=starts_at.isoformat(),
            source=decision.source if decision else "none",
            solver=decision.solver if decision else "",
            commands=result.commands,
            responses=result.responses,
            expired=result.expired,
            left_out=result.left_out,
            passed_over=[(item.name, item.why.value, item.text) for item in passed_over],
            wall_ms=round(result.wall_s * 1e3, 1),
        )
        self.metrics.tick("decided" if decision else "no_decision", result.wall_s, time.time())
        if watched:
            self.metrics.counted(
                commanded=len(devices) - len(result.left_out),
                left_out=len(result.left_out),
                depths=pending.depths(self.stores.redis, self.site_id, [device.device_id for device in devices]),
                open_by_state=outbox.open_by_state(self.stores.pg, self.site_id),
            )

    def settle(self) -> int:
        """Write what devices answered into command_history; each answer is dropped from Redis only after that."""
        count = 0
        while True:
            batch = responses.take_responses(self.stores.redis, self.site_id, RESPONSES_A_TICK)
            # After the read: whatever answer is in the batch, its command was put here before it went out.
            record_sent(self.stores.pg, self.stores.redis, self.site_id)
            if not batch:
                break
            ended: list[Outcome] = []
            with self.stores.pg.transaction():
                for item in batch:
                    try:
                        outcome = outbox.record(self.stores.pg, responses.parse_response(item))
                    except InputError as error:
                        log.error("answer_unreadable", why=str(error))
                    else:
                        ended += [outcome] if outcome is not None else []
            responses.drop_responses(self.stores.redis, self.site_id, batch)
            for outcome in ended:
                self.metrics.ended(outcome)
            count += len(batch)
            if len(batch) < RESPONSES_A_TICK:
                break
        return count

    def expire_overdue(self) -> int:
        """End what has no answer by its deadline and grace."""
        count = outbox.expire_overdue(self.stores.pg, self.site_id, pending.redis_now(self.stores.redis), EXPIRY_GRACE_S)
        self.metrics.overdue(count)
        return count

    def push_unpushed(self, lease: HeldLease) -> int:
        """Push outbox rows that a crash left behind and whose deadline still stands.

        Those of an older epoch are refused by Redis and end on the record: this tick plans afresh.
        """
        rows = outbox.unpushed(self.stores.pg, self.site_id, pending.redis_now(self.stores.redis))
        if rows and lease.valid():
            push_and_settle(self.stores, rows)
        return len(rows)

    def _shut_down_alarmed(self, starts_at: datetime, options: TickOptions, lease: HeldLease) -> int:
        """emergency_shutdown for each device whose last telemetry, however old, calls for it by its flags or measurements.

        Before and apart from the decision: no price or prediction is needed for it. A device that is latched already hears
        nothing; one that an operator released while the cause stands is shut down again.
        """
        devices = {device.device_id: device for device in list_devices(self.stores.pg, self.site_id)}
        rows = constraint_rows(self.stores.pg, self.site_id)
        states = latest_states(self.stores.mongo, list(devices), not_after=starts_at + timedelta(seconds=options.interval_s))
        reasons: dict[str, str] = {}
        for device_id, state in states.items():
            limits: PackLimits | None
            try:
                limits = tightest(devices[device_id], rows.get(device_id, []), starts_at)
            except InputError:
                limits = None  # such a device is left out and stopped; its flags are obeyed all the same
            if reason := shutdown_reason(state, limits, devices[device_id]):
                reasons[device_id] = reason
        latched = pending.latched_among(self.stores.redis, list(reasons)) if reasons else set()
        drafts = []
        for device_id, reason in reasons.items():
            if device_id in latched:
                continue
            log.error("alarm_shutdown", site_id=self.site_id, device_id=device_id, why=reason)
            self.metrics.shutdown()
            drafts.append(
                outbox.CommandDraft(
                    device_id=device_id,
                    site_id=self.site_id,
                    command_type=CommandType.EMERGENCY_SHUTDOWN,
                    parameters={"reason": reason},
                    timeout_s=options.timeout_s,
                    issued_by=options.issued_by,
                )
            )
        return self.send(drafts, lease)

    def _decide(self, gathered: Gathered, meter: Meter | None, options: TickOptions) -> tuple[Decision, list[PassedOver]]:
        records = ranked_policies(self.stores.pg, self.site_id)
        observation = gathered.observation
        gated, passed_over = self.bench.decide(records, observation, meter=meter, deadline_s=options.deadline_s)
        self.metrics.decision(gated, passed_over)
        # What was gathered is on the record whoever decided: a rule copies no inputs.
        decided = replace(gated, decision=replace(gated.decision, inputs={**observation.inputs, **gated.decision.inputs}))
        decision = with_record(decided, passed_over, gathered.left_out)
        self.metrics.inputs(decision)
        return decision, passed_over

    def _command(self, decision: Decision, gathered: Gathered, options: TickOptions, lease: HeldLease) -> int:
        """Record the decision and its commands in one transaction, then push."""
        states = gathered.observation.states
        last_type = outbox.last_types(self.stores.pg, self.site_id)
        drafts = drafts_of(
            decision,
            states,
            valid_for_s=options.valid_for_s,
            timeout_s=options.timeout_s,
            issued_by=options.issued_by,
            last_type=last_type,
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
        return self.send(drafts, lease, decision)

    def _stop_all(self, why: str, options: TickOptions, lease: HeldLease) -> int:
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

    def send(self, drafts: Sequence[outbox.CommandDraft], lease: HeldLease, decision: Decision | None = None) -> int:
        """Outbox first, push after the commit, and neither without a lease that is still held; returns how many went out.

        A `decision` is recorded in the same transaction, and its id with each of its commands.
        """
        if not drafts and decision is None:
            return 0
        if not lease.valid():
            log.error("lease_lost", site_id=self.site_id, epoch=lease.epoch)
            return 0
        now = pending.redis_now(self.stores.redis)
        try:
            with self.stores.pg.transaction():
                decision_id = None
                if decision is not None:
                    decision_id = record_decision(self.stores.pg, decision)
                    check_fence(self.stores.pg, self.site_id, lease.epoch)
                commands = []
                if drafts:
                    commands = outbox.enqueue(
                        self.stores.pg,
                        drafts,
                        epoch=lease.epoch,
                        redis_now=now,
                        fence_site=self.site_id,
                        decision_id=decision_id,
                    )
        except FencedError as error:
            log.error("lease_lost", site_id=self.site_id, epoch=lease.epoch, why=str(error))
            return 0
        if not lease.valid():
            # Recorded but never pushed by us: they expire on the record, and the new leader's epoch is higher.
            log.error("lease_lost_before_push", site_id=self.site_id, epoch=lease.epoch)
            return 0
        push_and_settle(self.stores, commands)
        for kind, count in Counter(command.command_type for command in commands).items():
            self.metrics.issued(kind, count)
        return len(commands)


def push_and_settle(stores: Stores, commands: Sequence[Command]) -> list[pending.PushResult]:
    """Push recorded commands, and end on the record those that no device will see: late, latched, fenced, purged."""
    if not commands:
        return []
    results = pending.push_many(stores.redis, commands)
    outbox.mark_pushed(stores.pg, [result.command_id for result in results])
    now = pending.redis_now(stores.redis)
    for result in results:
        if result.status is pending.Pushed.TOO_LATE:
            outbox.end_unpushed(stores.pg, result.command_id, Outcome.EXPIRED, "too late to be pushed", now)
        elif result.status is pending.Pushed.FENCED:
            why = "fenced: another dispatcher with a newer epoch commands this site"
            outbox.end_unpushed(stores.pg, result.command_id, Outcome.REJECTED, why, now)
        elif result.status is pending.Pushed.LATCHED:
            why = "the device is latched by an emergency_shutdown; an operator must reset it"
            outbox.end_unpushed(stores.pg, result.command_id, Outcome.REJECTED, why, now)
        end_purged(stores.pg, stores.redis, result)
    return results


def next_boundary(now: datetime, interval_s: int) -> datetime:
    """The first interval boundary after `now`; intervals are aligned to the Unix epoch."""
    done = int(now.timestamp() // interval_s) + 1
    return datetime.fromtimestamp(0, tz=now.tzinfo) + timedelta(seconds=done * interval_s)

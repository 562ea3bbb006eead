"""The dispatcher's loop of one site: lease, ticks on interval boundaries, answers in between, a clean end.

Here: when things happen. Not here: what a tick does (serving.dispatch.tick), many sites (serving.dispatch.supervisor).
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from core.clock import Clock
from core.commands import DEFAULT_TIMEOUT_S
from serving.dispatch.artefacts import StoredArtefacts
from serving.dispatch.eligibility import Artefacts
from serving.dispatch.health import SiteHealth
from serving.dispatch.inputs import Freshness
from serving.dispatch.lease import LEASE_TTL_S, LeaseKeeper, TickLease
from serving.dispatch.metrics import SiteMetrics
from serving.dispatch.policy_factory import Factory, policy_of
from serving.dispatch.ranking import PolicyBench, deadline_of
from serving.dispatch.runner import ProcessRunner
from serving.dispatch.tick import SiteDispatcher, TickOptions, TickResult, next_boundary
from serving.dispatch.warm import settle_memory, warm_kernels
from serving.shadow.desk import ShadowDesk
from serving.shadow.keeper import DayKeeper
from serving.shadow.watch import Watch
from stores.connections import Stores
from stores.failures import STORE_FAILURES
from stores.postgres.decisions import last_decision
from stores.postgres.policies import ranked_policies
from stores.postgres.session import bound_session

__all__ = ["LEASE_TTL_S", "LoopOptions", "SiteLoop", "following", "run_loop"]

log = structlog.get_logger()

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Waits after store failures in a row; the tick is tried again while its interval runs."""
SETTLE_EVERY_S = 0.5
"""Wall seconds between two looks for answers while waiting for the next tick."""
STANDBY_LOOK_S = 0.25
ONCE_WAIT_S = 5.0
"""A single tick gives up when the lease cannot be had for this long."""
DEFAULT_INTERVAL_S = 300
DEFAULT_HORIZON_S = 24 * 3600
CATCH_UP_INTERVALS = 4
"""A new leader ticks for the running interval when the site was dispatched within so many intervals before it."""
FAST_CLOCK_DEADLINE_S = 5.0
"""Least deadline of a policy where the plant's clock runs faster than the wall's: a demo's interval is less than a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """What `pulsebms dispatch` may be told of a site."""

    site_id: str
    validity_grace_s: float = 60.0
    """Wall seconds past the end of the interval that a set point stays valid without a fresh one."""
    ends_at: datetime | None = None
    """Plant time after which no tick begins; None runs until told to stop."""
    dry_run: bool = False
    """Decide and log at each boundary, without the lease and without writing anything."""
    once: bool = False
    """One tick for the running interval, then end."""
    telemetry_max_age_s: float = 300.0
    """Plant seconds after which a pack's telemetry counts as missing."""
    min_calibration_score: float = 0.5
    require_calibration: bool = False
    """Which predictions count as missing: serving.dispatch.inputs.Freshness."""
    deadline_s: float | None = None
    """Wall seconds that one policy may take; None: a fifth of the interval, a minute at most."""
    lease_ttl_s: float = LEASE_TTL_S
    command_timeout_s: int = DEFAULT_TIMEOUT_S
    """Wall seconds within which a device must begin a command."""
    watch: bool = False
    """Shadows beside the ticks, daily scores, drift (docs/shadow_and_drift.md); not with `once` or `dry_run`."""
    artefacts: Artefacts | None = None
    """Where learned policies' files are; None: GridFS of the stores."""
    factory: Factory = policy_of


def interval_of(stores: Stores, site_id: str) -> tuple[int, int]:
    """(interval_s, horizon_s) of the best active policy that has both; documented defaults otherwise."""
    for record in ranked_policies(stores.pg, site_id):
        if record.update_interval_seconds and record.horizon_hours:
            return record.update_interval_seconds, record.horizon_hours * 3600
    return DEFAULT_INTERVAL_S, DEFAULT_HORIZON_S


def run_loop(
    stores: Stores,
    clock: Clock,
    options: LoopOptions,
    stop: threading.Event,
    on_tick: Callable[[datetime, TickResult], None] | None = None,
    *,
    metrics: SiteMetrics | None = None,
    health: SiteHealth | None = None,
) -> int:
    """Tick at each interval boundary of the plant's clock until `stop` is set or `ends_at` has passed; returns the ticks.

    A store that fails costs the tick (devices revert by themselves), not the loop.
    """
    loop = SiteLoop(
        stores,
        clock,
        options,
        stop,
        metrics=metrics or SiteMetrics.unwatched(),
        health=health or SiteHealth(options.site_id),
        on_tick=on_tick,
    )
    return loop.run()


class SiteLoop:
    """One site's loop; see run_loop."""

    def __init__(
        self,
        stores: Stores,
        clock: Clock,
        options: LoopOptions,
        stop: threading.Event,
        *,
        metrics: SiteMetrics,
        health: SiteHealth,
        on_tick: Callable[[datetime, TickResult], None] | None = None,
    ) -> None:
        self.stores, self.clock, self.options, self.stop = stores, clock, options, stop
        self.metrics, self.health, self.on_tick = metrics, health, on_tick
        # Unique to this loop: hosts of the same name with the same pid must not take each other's lease for their own.
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.keeper = LeaseKeeper(stores, options.site_id, self.holder, options.lease_ttl_s, on_change=health.lead)
        self.runner = ProcessRunner(factory=options.factory, on_restart=metrics.policy_restart)
        self.dispatcher = SiteDispatcher(
            stores, options.site_id, PolicyBench(self.runner, options.artefacts or StoredArtefacts(stores)), metrics
        )
        self.watch = self._watch() if options.watch and not options.once and not options.dry_run else None
        self.last: TickResult | None = None
        self.ticks = 0
        self._failures = 0
        self._led = False
        self._said_standby = False
        health.lease_seconds_left = self.keeper.seconds_left

    def run(self) -> int:
        """Until told to stop, or `ends_at`; the lease is given back and the policy process ended, however it ends."""
        try:
            bound_session(self.stores.pg)
            interval_s, horizon_s = interval_of(self.stores, self.options.site_id)
            # Ready first: whoever holds the lease can tick at once.
            self.runner.warm()
            warm_kernels()
            self.dispatcher.bench.prepare(ranked_policies(self.stores.pg, self.options.site_id))
            settle_memory()
            if not self.options.dry_run:
                self.keeper.start()
            if self.watch is not None:
                self.watch.start()
            self._rounds(interval_s, horizon_s)
        finally:
            self._end()
        return self.ticks

    def _watch(self) -> Watch:
        options, artefacts = self.options, self.options.artefacts or StoredArtefacts(self.stores)
        desk = ShadowDesk(self.stores, options.site_id, artefacts, options.factory, self.metrics)
        return Watch(desk, DayKeeper(self.stores, options.site_id, self.clock, self.holder, self.metrics))

    def _rounds(self, interval_s: int, horizon_s: int) -> None:
        boundary = next_boundary(self.clock.now(), interval_s)
        begun_s = time.monotonic()
        if self.options.once:
            boundary -= timedelta(seconds=interval_s)
        while not self.stop.is_set() and (self.options.ends_at is None or boundary < self.options.ends_at):
            self.health.looped_s = time.monotonic()
            self.metrics.lease(self.health.epoch, self.keeper.seconds_left())
            lease = self.keeper.lease()
            if lease is None and not self.options.dry_run:
                self._stand_by()
                if self.options.once and time.monotonic() - begun_s > ONCE_WAIT_S:
                    return
                if not self.options.once:
                    boundary = max(boundary, next_boundary(self.clock.now(), interval_s))
                continue
            try:
                if lease is not None and not self._led:
                    boundary = self._first(boundary, interval_s)
                    self._led = True
                # A clock that was set back must not keep the site waiting until it has caught up.
                boundary = min(boundary, next_boundary(self.clock.now(), interval_s))
                boundary = self._running(boundary, interval_s)
                wait_s = self.clock.wall_seconds_until(boundary)
                if wait_s > 0:
                    self._wait(wait_s)
                    continue
                interval_s, horizon_s = interval_of(self.stores, self.options.site_id)
                self._tick(boundary, interval_s, horizon_s, lease)
                self._went_well()
            except STORE_FAILURES as error:
                self._failed(error)
                if self.clock.now() < boundary + timedelta(seconds=interval_s):
                    continue  # the interval still runs, or has yet to begin: nothing is lost so far
            if self.options.once:
                return
            boundary, missed = following(boundary, self.clock.now(), interval_s)
            self.metrics.missed(missed)

    def _running(self, boundary: datetime, interval_s: int) -> datetime:
        """The boundary itself, or that of the running interval when the clock has jumped past the end of its own."""
        if self.clock.now() < boundary + timedelta(seconds=interval_s):
            return boundary
        running = next_boundary(self.clock.now(), interval_s) - timedelta(seconds=interval_s)
        missed = round((running - boundary).total_seconds() / interval_s)
        log.warning("ticks_missed", count=missed)
        self.metrics.missed(missed)
        return running

    def _tick(self, boundary: datetime, interval_s: int, horizon_s: int, lease: TickLease | None) -> None:
        wall_s = _wall_seconds(self.clock, boundary, interval_s)
        self.health.interval_wall_s = wall_s
        # A clock that is set back just now must not make a set point valid for longer than an interval.
        left_s = min(wall_s, self.clock.wall_seconds_until(boundary + timedelta(seconds=interval_s)))
        self.metrics.late(max(0.0, wall_s - left_s))
        options = TickOptions(
            interval_s=interval_s,
            horizon_s=horizon_s,
            valid_for_s=left_s + self.options.validity_grace_s,
            timeout_s=self.options.command_timeout_s,
            dry_run=self.options.dry_run,
            fresh=Freshness(
                telemetry_s=self.options.telemetry_max_age_s,
                min_calibration_score=self.options.min_calibration_score,
                require_calibration=self.options.require_calibration,
            ),
            issued_by=self.holder,
            deadline_s=self._deadline_s(interval_s, wall_s),
        )
        self.last = self.dispatcher.tick(boundary, options, lease)
        self.ticks += 1
        self.health.ticked_s = time.monotonic()
        self.health.source = self.last.decision.source if self.last.decision else "none"
        if self.watch is not None and lease is not None:
            self.watch.ticked(self.last, deadline_s=options.deadline_s, interval_wall_s=wall_s)
        if self.on_tick is not None:
            self.on_tick(boundary, self.last)

    def _deadline_s(self, interval_s: int, wall_s: float) -> float:
        if self.options.deadline_s is not None:
            return self.options.deadline_s
        fast = wall_s < 0.99 * interval_s
        return max(FAST_CLOCK_DEADLINE_S, deadline_of(wall_s)) if fast else deadline_of(wall_s)

    def _first(self, boundary: datetime, interval_s: int) -> datetime:
        """Where a new leader begins: in the running interval when the site's last dispatcher has left it without a decision."""
        running = next_boundary(self.clock.now(), interval_s) - timedelta(seconds=interval_s)
        last = last_decision(self.stores.pg, self.options.site_id)
        oldest = running - timedelta(seconds=CATCH_UP_INTERVALS * interval_s)
        if self.options.once or last is None or not oldest <= last.starts_at < running:
            return boundary
        log.info("catching_up", site_id=self.options.site_id, starts_at=running.isoformat())
        return running

    def _stand_by(self) -> None:
        if self._led or not self._said_standby:
            log.info("standby", site_id=self.options.site_id, why="another dispatcher holds the lease, or it cannot be asked for")
        self._said_standby = True
        self._led = False
        if self.keeper.error:
            self._failed_to(self.keeper.error)
            return
        self._went_well()
        self.keeper.changed.wait(STANDBY_LOOK_S)
        self.keeper.changed.clear()

    def _wait(self, wait_s: float) -> None:
        """Until the boundary, or for a while; answers are taken in meanwhile."""
        self.stop.wait(min(wait_s, SETTLE_EVERY_S))
        if not self.options.dry_run:
            self.dispatcher.settle()
            self._went_well()

    def _went_well(self) -> None:
        self._failures = 0
        self.health.store_error = ""

    def _failed(self, error: Exception) -> None:
        log.error("store_failed", site_id=self.options.site_id, why=f"{type(error).__name__}: {error}")
        self.metrics.lost_tick(type(error).__name__)
        self._failed_to(f"{type(error).__name__}: {error}")

    def _failed_to(self, why: str) -> None:
        """Wait a little longer each time, then connect anew: embedded servers may have come back on other ports."""
        self.health.store_error = why[:300]
        self.stop.wait(BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)])
        self._failures += 1
        try:
            self.stores.reconnect()
            bound_session(self.stores.pg)
        except STORE_FAILURES as again:
            log.error("reconnect_failed", site_id=self.options.site_id, why=f"{type(again).__name__}: {again}")

    def _end(self) -> None:
        """Take in the last answers and give the lease back, so that a standby need not wait for it to run out."""
        try:
            if not self.options.dry_run and self._led:
                self.dispatcher.settle()
        except STORE_FAILURES as error:
            log.error("end_failed", site_id=self.options.site_id, why=f"{type(error).__name__}: {error}")
        finally:
            self.keeper.stop()
            self.dispatcher.bench.close()
            if self.watch is not None:
                self.watch.close()
            self.metrics.lease(0, 0.0)


def following(boundary: datetime, now: datetime, interval_s: int) -> tuple[datetime, int]:
    """The boundary after `boundary` and how many were missed before it: old ones are not caught up.

    Boundaries are multiples of the interval: however long ticks take, they neither drift nor pile up.
    """
    running = next_boundary(now, interval_s) - timedelta(seconds=interval_s)
    nxt = next_boundary(boundary, interval_s)
    missed = max(0, round((running - nxt).total_seconds() / interval_s))
    if missed:
        log.warning("ticks_missed", count=missed)
    return max(nxt, running), missed


def _wall_seconds(clock: Clock, boundary: datetime, interval_s: int) -> float:
    """Wall length of an interval on this clock."""
    later = boundary + timedelta(seconds=100 * interval_s)
    return (clock.wall_seconds_until(later + timedelta(seconds=interval_s)) - clock.wall_seconds_until(later)) or 1.0

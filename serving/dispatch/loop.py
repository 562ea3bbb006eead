"""The dispatcher's loop: lease, ticks on interval boundaries, answers in between, a clean end.

Here: when things happen. Not here: what a tick does (serving.dispatch.tick).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from core.clock import Clock
from serving.dispatch.inputs import Freshness
from serving.dispatch.tick import SiteDispatcher, TickOptions, TickResult, next_boundary
from stores.connections import Stores
from stores.failures import STORE_FAILURES
from stores.postgres import leases
from stores.postgres.policies import ranked_policies

log = structlog.get_logger()

LEASE_TTL_S = 20.0
RECONNECT_S = 1.0
SETTLE_EVERY_S = 0.5
"""Wall seconds between two looks for answers while waiting for the next tick."""
DEFAULT_INTERVAL_S = 300
DEFAULT_HORIZON_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """What `pulsebms dispatch` may be told."""

    site_id: str
    validity_grace_s: float = 60.0
    """Wall seconds past the end of the interval that a set point stays valid without a fresh one."""
    ends_at: datetime | None = None
    """Plant time after which no tick begins; None runs until told to stop."""
    dry_run: bool = False
    telemetry_max_age_s: float = 300.0
    """Plant seconds after which a pack's telemetry counts as missing."""
    min_calibration_score: float = 0.5
    require_calibration: bool = False
    """Of serving.dispatch.inputs.Freshness, both."""


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
) -> int:
    """Tick at each interval boundary of the plant's clock until `stop` is set or `ends_at` has passed.

    Returns the number of ticks. A store that fails costs the tick (devices revert by themselves), not the loop.
    """
    dispatcher = SiteDispatcher(stores, options.site_id)
    holder = f"{socket.gethostname()}:{os.getpid()}"
    ticks = 0
    interval_s, horizon_s = interval_of(stores, options.site_id)
    boundary = next_boundary(clock.now(), interval_s)
    lease: leases.Lease | None = None
    while not stop.is_set() and (options.ends_at is None or boundary < options.ends_at):
        try:
            wait_s = clock.wall_seconds_until(boundary)
            if wait_s > 0:
                stop.wait(min(wait_s, SETTLE_EVERY_S))
                dispatcher.settle()
                continue
            lease = leases.acquire(stores.pg, options.site_id, holder, LEASE_TTL_S)
            if lease is None:
                log.info("standby", site_id=options.site_id, why="another dispatcher holds the lease")
            else:
                interval_s, horizon_s = interval_of(stores, options.site_id)
                tick_options = TickOptions(
                    interval_s=interval_s,
                    horizon_s=horizon_s,
                    valid_for_s=_wall_seconds(clock, boundary, interval_s) + options.validity_grace_s,
                    dry_run=options.dry_run,
                    fresh=Freshness(
                        telemetry_s=options.telemetry_max_age_s,
                        min_calibration_score=options.min_calibration_score,
                        require_calibration=options.require_calibration,
                    ),
                    issued_by=holder,
                )
                result = dispatcher.tick(boundary, tick_options, lease)
                if on_tick is not None:
                    on_tick(boundary, result)
                ticks += 1
        except STORE_FAILURES as error:
            log.error("store_failed", site_id=options.site_id, why=f"{type(error).__name__}: {error}")
            stop.wait(RECONNECT_S)
            _reconnect(stores)
        boundary = following(boundary, clock.now(), interval_s)
    _end(dispatcher, lease)
    return ticks


def following(boundary: datetime, now: datetime, interval_s: int) -> datetime:
    """The boundary after `boundary`; when ticks were missed, the one that `now` lies in: old ones are not caught up."""
    running = next_boundary(now, interval_s) - timedelta(seconds=interval_s)
    nxt = next_boundary(boundary, interval_s)
    if running > nxt:
        log.warning("ticks_missed", count=round((running - nxt).total_seconds() / interval_s))
    return max(nxt, running)


def _wall_seconds(clock: Clock, boundary: datetime, interval_s: int) -> float:
    """Wall length of an interval on this clock."""
    later = boundary + timedelta(seconds=100 * interval_s)
    return (clock.wall_seconds_until(later + timedelta(seconds=interval_s)) - clock.wall_seconds_until(later)) or 1.0


def _reconnect(stores: Stores) -> None:
    try:
        stores.reconnect()
    except STORE_FAILURES as error:
        log.error("reconnect_failed", why=f"{type(error).__name__}: {error}")


def _end(dispatcher: SiteDispatcher, lease: leases.Lease | None) -> None:
    """Take in the last answers and give the lease back, so that a standby need not wait for it to run out."""
    try:
        dispatcher.settle()
        if lease is not None:
            leases.release(dispatcher.stores.pg, lease)
    except STORE_FAILURES as error:
        log.error("end_failed", why=f"{type(error).__name__}: {error}")

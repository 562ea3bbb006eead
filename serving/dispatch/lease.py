"""Keeps a site's lease while ticks run: renews it in the background, takes it over when it is free.

A thread with a connection of its own renews at a quarter of the TTL, so that a slow tick loses nothing, and a standby that asks
as often takes over within a TTL and a quarter of the last renewal. Not here: the row (stores.postgres.leases), when ticks
happen (serving.dispatch.loop).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from stores.connections import Postgres, Stores
from stores.failures import STORE_FAILURES
from stores.postgres import leases
from stores.postgres.session import bound_session
from stores.redis import pending

log = structlog.get_logger()

LEASE_TTL_S = 20.0
RENEWALS_A_TTL = 4
STOP_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class TickLease:
    """The lease under one epoch, through all its renewals: invalid for good once another epoch has begun."""

    keeper: LeaseKeeper
    epoch: int

    def valid(self) -> bool:
        """Whether commands of this epoch may still go out."""
        held = self.keeper.held
        return held is not None and held.epoch == self.epoch and held.valid()


@dataclass(slots=True)
class LeaseKeeper:
    """One site's lease for one process. `changed` is set whenever the lease is won or lost."""

    stores: Stores
    site_id: str
    holder: str
    ttl_s: float = LEASE_TTL_S
    changed: threading.Event = field(default_factory=threading.Event)
    on_change: Callable[[int], None] = lambda epoch: None
    """Called with the new epoch when the lease is won, with 0 when it is lost."""
    held: leases.Lease | None = None
    error: str = ""
    """Why the lease could not be asked for at the last attempt."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _pg: Postgres | None = None

    def __post_init__(self) -> None:
        leases.check_ttl(self.ttl_s)

    def start(self) -> None:
        """Begin to ask for the lease; returns at once."""
        self._thread = threading.Thread(target=self._run, name=f"lease-{self.site_id}", daemon=True)
        self._thread.start()

    def lease(self) -> TickLease | None:
        """The lease for a tick that begins now; None for a standby, or when the trust has run out."""
        held = self.held
        return TickLease(self, held.epoch) if held is not None and held.valid() else None

    def seconds_left(self) -> float:
        """Seconds of trust left; 0 for a standby."""
        held = self.held
        return max(0.0, held.trusted_until_s - time.monotonic()) if held is not None else 0.0

    def stop(self) -> None:
        """Stop renewing and give the lease back, so that a standby need not wait for it to run out."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_WAIT_S)
        held, self.held = self.held, None
        try:
            if held is not None and self._pg is not None and not self._pg.closed:
                leases.release(self._pg, held)
        except STORE_FAILURES as error:
            log.warning("lease_not_released", site_id=self.site_id, why=f"{type(error).__name__}: {error}")
        finally:
            self._close()

    def renew(self) -> None:
        """Ask once. Raises a store failure when PostgreSQL or Redis cannot be asked; the trust then runs out by itself."""
        if self._pg is None or self._pg.closed:
            self._pg = self.stores.pg_connect()
            bound_session(self._pg)
        above = 0
        if self.held is None:
            above = pending.known_epoch(self.stores.redis, self.site_id)
        found = leases.acquire(self._pg, self.site_id, self.holder, self.ttl_s, above_epoch=above)
        before = 0 if self.held is None else self.held.epoch
        if found is not None and found.epoch != before:
            # Before anything is commanded: from here on Redis refuses the pushes of whoever had it before.
            pending.announce_epoch(self.stores.redis, self.site_id, found.epoch)
        self.held = found
        epoch = 0 if found is None else found.epoch
        if epoch != before:
            log.info("lease", site_id=self.site_id, epoch=epoch, state="held" if epoch else "lost")
            self.on_change(epoch)
            self.changed.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.renew()
                self.error = ""
            except STORE_FAILURES as error:
                self.error = f"{type(error).__name__}: {error}"
                log.warning("lease_not_renewed", site_id=self.site_id, why=self.error)
                self._close()
            self._stop.wait(self.ttl_s / RENEWALS_A_TTL)

    def _close(self) -> None:
        if self._pg is not None:
            self._pg.close()
            self._pg = None

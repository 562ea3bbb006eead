"""One dispatcher a site: a lease row with an epoch that grows whenever the holder changes (fencing).

The holder trusts its lease for the TTL less a margin, counted on its own monotonic clock from BEFORE the request, so that a
slow reply or a stepped wall clock can only shorten the trust. A paused old leader's commands carry an old epoch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

from core.errors import InputError, StoreError

MARGIN_SHARE = 0.2
LONGEST_TTL_S = 120.0
"""No lease is longer. One that ends later than this from now was written before PostgreSQL's clock was set back: it counts as
run out, so that a holder's end does not leave the site without a dispatcher; a holder that lives is fenced as by any takeover."""


class FencedError(StoreError):
    """Another dispatcher has taken over: nothing was written."""


class HeldLease(Protocol):
    """What a dispatcher must ask before it commands."""

    @property
    def epoch(self) -> int:
        """Of the lease under which the tick began."""
        ...

    def valid(self) -> bool:
        """Whether its holder may still command under this epoch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease as the holder may trust it, without being told any more of it."""

    site_id: str
    holder: str
    epoch: int
    trusted_until_s: float
    """On this process's monotonic clock."""

    def valid(self) -> bool:
        """Whether the holder may still command."""
        return time.monotonic() < self.trusted_until_s


def check_ttl(ttl_s: float) -> None:
    """InputError unless a lease may be that long; one that was cut in silence would surprise whoever waits for a takeover."""
    if not 0.0 <= ttl_s <= LONGEST_TTL_S:
        raise InputError(source="lease", field="seconds", value=ttl_s, expected=f"0 to {LONGEST_TTL_S:g}")


def acquire(conn: psycopg.Connection[Any], site_id: str, holder: str, ttl_s: float, *, above_epoch: int = 0) -> Lease | None:
    """Take or renew the lease; None while another holds it. The database's clock decides what has run out.

    A new holder's epoch is above the row's and above `above_epoch`: what Redis has heard of, should the row be from a backup.
    `holder` must be unique to the process. Raises InputError for a `ttl_s` above LONGEST_TTL_S.
    """
    check_ttl(ttl_s)
    asked_s = time.monotonic()
    row = conn.execute(
        """
        INSERT INTO optimizer.site_leases AS l (site_id, holder, epoch, expires_at)
        VALUES (%(site)s, %(holder)s, %(above)s + 1, clock_timestamp() + make_interval(secs => %(ttl)s))
        ON CONFLICT (site_id) DO UPDATE SET
            epoch = CASE WHEN l.holder = EXCLUDED.holder AND l.expires_at > clock_timestamp() THEN l.epoch
                         ELSE greatest(l.epoch, %(above)s) + 1 END,
            holder = EXCLUDED.holder,
            expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)
        WHERE l.holder IS NULL OR l.holder = EXCLUDED.holder OR l.expires_at <= clock_timestamp()
           OR l.expires_at > clock_timestamp() + make_interval(secs => %(longest)s)
        RETURNING epoch
        """,
        {"site": site_id, "holder": holder, "ttl": ttl_s, "above": above_epoch, "longest": LONGEST_TTL_S},
    ).fetchone()
    if row is None:
        return None
    trusted = asked_s + ttl_s * (1 - MARGIN_SHARE)
    return Lease(site_id=site_id, holder=holder, epoch=int(row[0]), trusted_until_s=trusted)


def release(conn: psycopg.Connection[Any], lease: Lease) -> None:
    """Give it back, so that a standby need not wait; a lease that has passed on stays untouched."""
    conn.execute(
        "UPDATE optimizer.site_leases SET holder = NULL, expires_at = clock_timestamp() "
        "WHERE site_id = %s AND holder = %s AND epoch = %s",
        (lease.site_id, lease.holder, lease.epoch),
    )


def check_fence(conn: psycopg.Connection[Any], site_id: str, epoch: int) -> None:
    """Last step of a transaction that commands: FencedError unless this epoch's lease is still held.

    The row stays locked until the commit: a takeover waits for it, so that no command is written after it by the old holder.
    """
    row = conn.execute(
        "SELECT epoch FROM optimizer.site_leases WHERE site_id = %s AND holder IS NOT NULL FOR SHARE", (site_id,)
    ).fetchone()
    if row is None or int(row[0]) != epoch:
        held = "nobody" if row is None else f"epoch {row[0]}"
        raise FencedError(f"lease of {site_id}: held by {held}, not by epoch {epoch}: nothing was commanded")


def current_epoch(conn: psycopg.Connection[Any], site_id: str) -> int:
    """The site's epoch now, for commands by hand; 0 before the first lease."""
    row = conn.execute("SELECT epoch FROM optimizer.site_leases WHERE site_id = %s", (site_id,)).fetchone()
    return int(row[0]) if row else 0


def is_held(conn: psycopg.Connection[Any], site_id: str) -> bool:
    """Whether a dispatcher leads the site now."""
    row = conn.execute(
        "SELECT holder IS NOT NULL AND expires_at > clock_timestamp() FROM optimizer.site_leases WHERE site_id = %s", (site_id,)
    ).fetchone()
    return bool(row and row[0])

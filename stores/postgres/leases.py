"""One dispatcher a site: a lease row with an epoch that grows whenever the holder changes (fencing).

The holder trusts its lease for the TTL less a margin, counted on its own monotonic clock from BEFORE the request, so that a
slow reply or a stepped wall clock can only shorten the trust. A paused old leader's commands carry an old epoch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg

MARGIN_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease as the holder may trust it."""

    site_id: str
    holder: str
    epoch: int
    trusted_until_s: float
    """On this process's monotonic clock."""

    def valid(self) -> bool:
        """Whether the holder may still command."""
        return time.monotonic() < self.trusted_until_s


def acquire(conn: psycopg.Connection[Any], site_id: str, holder: str, ttl_s: float) -> Lease | None:
    """Take or renew the lease; None while another holds it. The database's clock decides what has run out."""
    asked_s = time.monotonic()
    row = conn.execute(
        """
        INSERT INTO optimizer.site_leases AS l (site_id, holder, epoch, expires_at)
        VALUES (%(site)s, %(holder)s, 1, clock_timestamp() + make_interval(secs => %(ttl)s))
        ON CONFLICT (site_id) DO UPDATE SET
            epoch = CASE WHEN l.holder = EXCLUDED.holder AND l.expires_at > clock_timestamp() THEN l.epoch
                         ELSE l.epoch + 1 END,
            holder = EXCLUDED.holder,
            expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)
        WHERE l.holder IS NULL OR l.holder = EXCLUDED.holder OR l.expires_at <= clock_timestamp()
        RETURNING epoch
        """,
        {"site": site_id, "holder": holder, "ttl": ttl_s},
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


def current_epoch(conn: psycopg.Connection[Any], site_id: str) -> int:
    """The site's epoch now, for commands by hand; 0 before the first lease."""
    row = conn.execute("SELECT epoch FROM optimizer.site_leases WHERE site_id = %s", (site_id,)).fetchone()
    return int(row[0]) if row else 0

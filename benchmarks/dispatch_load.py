"""Ten thousand devices in one tick, and one command at a time: from a decision to the record and the pending lists.

Here: the dispatcher's own path (SiteDispatcher.send), on real servers. Not here: deciding, which is the optimizer's time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from core.decisions import Decision, Reason, SetPoint
from core.devices import PackState
from serving.dispatch.tick import SiteDispatcher
from serving.dispatch.translate import drafts_of
from serving.dispatch.warm import settle_memory
from stores.connections import Stores
from stores.postgres import leases
from stores.redis import pending

SITE = "load"
LEASE_S = 100.0


def must(held: bool, what: str) -> None:
    """A benchmark of something that does not work says nothing."""
    if not held:
        raise SystemExit(f"not so: {what}")


def decision(device_ids: Sequence[str]) -> Decision:
    """A set point for each device."""
    return Decision(
        site_id=SITE,
        starts_at=datetime.now(UTC).replace(microsecond=0),
        interval_s=300,
        source="benchmark",
        set_points=tuple(
            SetPoint(device_id=name, power_w=1000.0 + k, reason=Reason.RULE, detail="") for k, name in enumerate(device_ids)
        ),
    )


def send_one(dispatcher: SiteDispatcher, made: Decision, lease: leases.Lease) -> int:
    """Everything that a tick does after its decision: drafts, one transaction with the fence, pushes, what was pushed."""
    states: dict[str, PackState] = {}
    drafts = drafts_of(made, states, valid_for_s=360.0, timeout_s=30, issued_by="benchmark", last_type={})
    return dispatcher.send(drafts, lease, made)


def bulk(stores: Stores, devices: int, ticks: int) -> list[dict[str, float]]:
    """Each tick's commands a second, with the CPU seconds that this process took."""
    names = [f"device-{k:05d}" for k in range(devices)]
    dispatcher = SiteDispatcher(stores, SITE)
    settle_memory()  # as the loop does before its first tick
    rows = []
    for _ in range(ticks):
        made, lease = decision(names), _lease(stores)
        cpu_s, begun_s = time.process_time(), time.perf_counter()
        count = send_one(dispatcher, made, lease)
        wall_s = time.perf_counter() - begun_s
        must(count == pending.depths(stores.redis, SITE, names).pending == devices, "every command is on its pending list")
        rows.append({"wall_s": wall_s, "cpu_s": time.process_time() - cpu_s, "per_s": count / wall_s})
        stores.redis.flushall()
    row = stores.pg.execute("SELECT count(*) FROM command_history WHERE site_id = %s", (SITE,)).fetchone()
    must(row is not None and row[0] == devices * ticks, "every command is on record")
    return rows


def single(stores: Stores, commands: int, pause_s: float) -> dict[str, float]:
    """Milliseconds from a decision for one device to its command on the pending list, with pauses between."""
    dispatcher = SiteDispatcher(stores, SITE)
    lease = _lease(stores)
    taken_ms = []
    for k in range(commands):
        made = decision([f"single-{k % 50}"])
        begun_s = time.perf_counter()
        must(send_one(dispatcher, made, lease) == 1, "the command went out")
        taken_ms.append((time.perf_counter() - begun_s) * 1e3)
        time.sleep(pause_s)
        lease = _lease(stores)
    return {f"p{q}_ms": float(np.percentile(taken_ms, q)) for q in (50, 90, 99)}


def _lease(stores: Stores) -> leases.Lease:
    lease = leases.acquire(stores.pg, SITE, "benchmark", LEASE_S)
    if lease is None:
        raise SystemExit("another run holds the lease")
    return lease

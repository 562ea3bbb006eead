"""The naive dispatcher and the protocol under the same kills: what is executed twice, late, out of order.

Naive is the documented keys taken at their word: LPUSH, EXPIRE on the list, RPOP, a sweep that pushes again, `retry_count` times,
what was not answered. The protocol is this program's stores and its client library for devices. Both command eight devices with a
timeout of one second; kill -9 of dispatcher, device, Valkey and PostgreSQL follows one seeded schedule for both.

Here: both programs as child processes (`python -m benchmarks.dispatch_chaos ROLE DIR`), and the count. Not here: the gate with
every kind of fault on the real programs (tests/faults/chaos).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psycopg
import redis

from core.commands import CommandType
from serving.device_client import FAILURES, DeviceClient
from serving.dispatch.tick import SiteDispatcher
from stores.connections import Stores, open_stores
from stores.embedded.servers import STARTERS, Server
from stores.failures import STORE_FAILURES
from stores.postgres import leases, outbox
from stores.settings import StoreSettings

__all__ = ["compare"]
SITE = "chaos"
DEVICES = tuple(f"device-{k}" for k in range(8))
TIMEOUT_S = 1
RETRIES = 3
EVERY_S = 0.02
SLACK_S = 0.05
SETTLE_S = 15.0


def compare(directory: Path, seconds: float, seed: int) -> dict[str, dict[str, float]]:
    """Run both, one after the other; counts by program."""
    return {name: _run(name, directory / name, seconds, seed) for name in ("naive", "protocol")}


def _run(name: str, directory: Path, seconds: float, seed: int) -> dict[str, float]:
    directory.mkdir(parents=True)
    servers = {store: STARTERS[store](directory / store) for store in ("postgres", "valkey", "mongod")}
    urls = {"DATABASE_URL": servers["postgres"].url, "REDIS_URL": servers["valkey"].url, "MONGODB_URI": servers["mongod"].url}
    os.environ.update(urls, PULSEBMS_DATA=str(directory))
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        stores.pg.execute(
            "CREATE TABLE naive_commands (command_id text PRIMARY KEY, device_id text, seq bigserial, issued_s float8, "
            "expires_s float8, status text DEFAULT 'issued', retry_count int DEFAULT 0)"
        )
    children = {role: _start(f"{name}-{role}", directory) for role in ("dispatcher", "device")}
    kills = _chaos(children, servers, name, directory, seconds, random.Random(seed))  # noqa: S311 - reproducible, not secret
    time.sleep(SETTLE_S)
    for child in children.values():
        child.kill()
        child.wait()
    with open_stores(StoreSettings.from_env()) as stores:
        counts = _count(stores, name, directory / "acts.log")
    for server in servers.values():
        server.stop()
    return {"kills": kills, **counts}


def _chaos(
    children: dict[str, subprocess.Popen[bytes]],
    servers: dict[str, Server],
    name: str,
    directory: Path,
    seconds: float,
    rng: random.Random,
) -> int:
    kills, end_s = 0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(rng.uniform(2.0, 5.0))
        victim = rng.choice(("dispatcher", "device", "dispatcher", "device", "valkey", "postgres"))
        pause_s = rng.choice((0.05, 0.5, 2.0))
        kills += 1
        process = children[victim] if victim in children else servers[victim].process
        process.kill()
        process.wait()
        time.sleep(pause_s)
        if victim in children:
            children[victim] = _start(f"{name}-{victim}", directory)
        else:
            servers[victim] = STARTERS[victim](directory / victim)
    return kills


def _start(role: str, directory: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "benchmarks.dispatch_chaos", role, str(directory)]
    with (directory / f"{role}.log").open("ab") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)


def _count(stores: Stores, name: str, acts: Path) -> dict[str, float]:
    """Executions against the record: time of issue and sequence come from PostgreSQL, execution from the device's log."""
    if name == "naive":
        rows = stores.pg.execute(
            "SELECT command_id, device_id, seq, issued_s, status IN ('completed', 'failed') FROM naive_commands"
        )
    else:
        rows = stores.pg.execute(
            "SELECT o.command_id, o.device_id, o.seq, extract(epoch FROM o.issued_at)::float8, o.ended_at IS NOT NULL "
            "FROM optimizer.command_outbox o"
        )
    known = {row[0]: row for row in rows}
    executed: dict[str, list[float]] = defaultdict(list)
    order, last = 0, dict.fromkeys(DEVICES, 0)
    for line in acts.read_text().splitlines():
        command_id, at = line.split()
        executed[command_id].append(float(at))
        _, device_id, seq, *_ = known[command_id]
        order += seq < last[device_id]
        last[device_id] = max(last[device_id], seq)
    return {
        "commands": len(known),
        "executed": len(executed),
        "twice": sum(len(times) > 1 for times in executed.values()),
        "late": sum(max(times) > known[key][3] + TIMEOUT_S + SLACK_S for key, times in executed.items()),
        "out_of_order": order,
        "without_an_end": sum(not row[4] for row in known.values()),
    }


def _act(directory: Path, command_id: str) -> None:
    handle = os.open(directory / "acts.log", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, f"{command_id} {time.time():.6f}\n".encode())
    os.close(handle)
    time.sleep(0.004)  # what an inverter takes


def naive_dispatcher(_directory: Path) -> None:
    client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)

    def push(command_id: str, device_id: str) -> None:
        client.lpush(f"commands:pending:{device_id}", json.dumps({"command_id": command_id}))
        client.expire(f"commands:pending:{device_id}", TIMEOUT_S)

    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as pg:
        while True:
            command_id, device_id, now_s = uuid.uuid4().hex, random.choice(DEVICES), time.time()  # noqa: S311
            pg.execute(
                "INSERT INTO naive_commands (command_id, device_id, issued_s, expires_s) VALUES (%s, %s, %s, %s)",
                (command_id, device_id, now_s, now_s + TIMEOUT_S),
            )
            push(command_id, device_id)
            again = pg.execute(
                "UPDATE naive_commands SET retry_count = retry_count + 1, expires_s = %s "
                "WHERE status = 'issued' AND expires_s < %s AND retry_count < %s RETURNING command_id, device_id",
                (now_s + TIMEOUT_S, now_s, RETRIES),
            )
            for row in again.fetchall():
                push(*row)
            pg.execute("UPDATE naive_commands SET status = 'failed' WHERE status = 'issued' AND expires_s < %s", (now_s,))
            time.sleep(EVERY_S)


def naive_device(directory: Path) -> None:
    client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    keys = [f"commands:pending:{device_id}" for device_id in DEVICES]
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as pg:
        while True:
            found = client.brpop(keys, timeout=1)
            if not found:
                continue
            command_id = json.loads(found[1])["command_id"]
            _act(directory, command_id)
            pg.execute("UPDATE naive_commands SET status = 'completed' WHERE command_id = %s", (command_id,))


def protocol_dispatcher(_directory: Path) -> None:
    holder = uuid.uuid4().hex
    with open_stores() as stores:
        dispatcher = SiteDispatcher(stores, SITE)
        while True:
            lease = leases.acquire(stores.pg, SITE, holder, 2.0)
            if lease is None:
                time.sleep(0.1)
                continue
            dispatcher.settle()
            dispatcher.expire_overdue()
            dispatcher.push_unpushed(lease)
            draft = outbox.CommandDraft(
                device_id=random.choice(DEVICES),  # noqa: S311
                site_id=SITE,
                command_type=CommandType.START_CHARGE,
                parameters={"target_power": 1000.0},
                timeout_s=TIMEOUT_S,
                issued_by=holder,
            )
            dispatcher.send([draft], lease)
            time.sleep(EVERY_S)


def protocol_device(directory: Path) -> None:
    clients = [
        DeviceClient.connect(os.environ["REDIS_URL"], device_id, directory / "journals" / f"{device_id}.sqlite")
        for device_id in DEVICES
    ]
    ready = False
    while True:
        try:
            for client in clients:
                works = [] if ready else client.recover()
                work = client.take()
                for one in (*works, *([work] if work else [])):
                    if client.begin(one):
                        _act(directory, one.command.command_id)
                        client.complete(one)
            ready = True
            time.sleep(0.005)
        except FAILURES:
            ready = False
            time.sleep(0.2)


ROLES: dict[str, Callable[[Path], None]] = {
    "naive-dispatcher": naive_dispatcher,
    "naive-device": naive_device,
    "protocol-dispatcher": protocol_dispatcher,
    "protocol-device": protocol_device,
}


def _serve(role: str, directory: Path) -> None:
    """Again after a store's failure, as a service manager would."""
    while True:
        try:
            ROLES[role](directory)
        except (*STORE_FAILURES, OSError):
            time.sleep(0.2)


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))

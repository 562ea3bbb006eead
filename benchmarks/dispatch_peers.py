"""RQ and procrastinate on the same servers: how fast jobs are handed over. Runs in an environment that has them.

    python dispatch_peers.py REDIS_URL DATABASE_URL JOBS ROUNDS

Prints one JSON line. Neither does what the protocol does: RQ keeps jobs in Redis alone, procrastinate in PostgreSQL alone; no
deadline, no order by device, no fence, no history beside the queue.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import procrastinate
import redis
import rq


def main() -> None:
    redis_url, database_url, jobs, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    print(json.dumps({"rq": with_rq(redis_url, jobs, rounds), "procrastinate": with_procrastinate(database_url, jobs, rounds)}))


def with_rq(url: str, jobs: int, rounds: int) -> dict[str, object]:
    connection = redis.Redis.from_url(url)
    queue = rq.Queue("commands", connection=connection)
    rates, single_ms = [], []
    for _ in range(rounds):
        begun_s = time.perf_counter()
        prepared = [rq.Queue.prepare_data("devices.act", args=(f"device-{k:05d}", 1000.0 + k), timeout=30) for k in range(jobs)]
        queue.enqueue_many(prepared)
        rates.append(jobs / (time.perf_counter() - begun_s))
        if queue.count != jobs:
            raise SystemExit(f"RQ holds {queue.count} jobs")
        connection.flushall()
    for k in range(200):
        begun_s = time.perf_counter()
        queue.enqueue("devices.act", f"device-{k:05d}", 1000.0)
        single_ms.append((time.perf_counter() - begun_s) * 1e3)
        time.sleep(0.02)
    connection.flushall()
    return {"version": version("rq"), "per_s": rates, "p99_ms": sorted(single_ms)[197]}


def with_procrastinate(url: str, jobs: int, rounds: int) -> dict[str, object]:
    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=url))
    rates, single_ms = [], []
    with app.open():
        app.schema_manager.apply_schema()
        deferrer = app.configure_task("act", queue="commands", allow_unknown=True)
        for _ in range(rounds):
            begun_s = time.perf_counter()
            deferrer.batch_defer(*({"device_id": f"device-{k:05d}", "power_w": 1000.0 + k} for k in range(jobs)))
            rates.append(jobs / (time.perf_counter() - begun_s))
        for k in range(200):
            begun_s = time.perf_counter()
            deferrer.defer(device_id=f"device-{k:05d}", power_w=1000.0)
            single_ms.append((time.perf_counter() - begun_s) * 1e3)
            time.sleep(0.02)
    return {"version": version("procrastinate"), "per_s": rates, "p99_ms": sorted(single_ms)[197]}


if __name__ == "__main__":
    main()

"""Telemetry: documents ingested per second, and the time to aggregate an hour of a fleet.

    python benchmarks/telemetry.py ingest    --path DIR [--devices 1000] [--documents 300000] [--cells 16]
    python benchmarks/telemetry.py aggregate --path DIR [--devices 10000] [--step 10]

Starts a mongod of its own in DIR (about 1 GB for a million documents) and removes DIR afterwards. The wall time of the store
and of this process both count; other load on the machine shows in the figures.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pymongo.database import Database

from core.telemetry import Document, normalise
from stores.connections import connect_mongo
from stores.embedded import open_embedded
from stores.mongo.dirty import mark, touched_hours
from stores.mongo.ingest import Ingest
from stores.mongo.metrics import MetricsOptions, refresh
from stores.mongo.schema import ensure_collections
from stores.mongo.telemetry import identity
from stores.settings import StoreSettings

CHUNK = 20_000


def fleet(devices: int, count: int, start: datetime, step_s: float, cells: int, seed: int = 1) -> Iterator[list[Document]]:
    """Chunks of documents as a fleet sends them: all devices at each moment, in order of time."""
    dice = random.Random(seed)  # noqa: S311
    soc = [dice.uniform(20, 80) for _ in range(devices)]
    power = [dice.uniform(-20e3, 20e3) for _ in range(devices)]
    chunk: list[Document] = []
    for k in range(count):
        device, moment = k % devices, start + timedelta(seconds=step_s * (k // devices))
        if dice.random() < 0.02:
            power[device] = dice.uniform(-20e3, 20e3)
        soc[device] = min(95.0, max(5.0, soc[device] - power[device] * step_s / 3600 / 1e5 * 100))
        cell_v = 3.2 + dice.random() * 0.2
        chunk.append(
            {
                "site_id": f"site_{device % 10:03d}",
                "device_id": f"battery_pack_{device:05d}",
                "timestamp": moment,
                "measurements": {
                    "voltage": 400.0 + dice.random(),
                    "current": power[device] / 400.0,
                    "power": power[device],
                    "temperature": 23.0 + dice.random(),
                    "soc": soc[device],
                    "soh": 87.2,
                    "internal_resistance": 0.045,
                },
                "cell_data": {
                    "voltages": [cell_v] * cells, "temperatures": [23.4] * cells, "balancing_status": [0] * cells,
                },
                "safety": {
                    "alarm_flags": ["high_temp_warning"] if dice.random() < 0.01 else [],
                    "protection_status": {
                        "overvoltage": False, "undervoltage": False, "overcurrent": False, "overtemperature": False,
                    },
                },
                "metadata": {
                    "data_quality": 0.98, "source": "edge_device", "firmware_version": "1.2.3",
                    "communication_latency": 85, "chemistry": "LFP",
                },
            }
        )  # fmt: skip
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def ingest(options: argparse.Namespace, path: Path) -> None:
    """Documents per second, first time and again."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=6)
    with open_embedded(_settings(path)) as servers:
        assert servers.mongodb_uri is not None  # noqa: S101
        db = connect_mongo(servers.mongodb_uri)
        ensure_collections(db)
        chunks = list(fleet(options.devices, options.documents, start, options.step, options.cells))
        gc.set_threshold(200_000)  # as `pulsebms telemetry import` does
        gc.collect()
        gc.freeze()  # the input is the caller's: a real one is not kept
        for label in ("new", "again"):
            run = Ingest(db, now=lambda: datetime.now(UTC), source="benchmark")
            begun = Stopwatch(db)
            for chunk in chunks:
                run.add(chunk)
            result = run.finish()
            print(
                f"{label}: {result.read} documents, {result.written} written, {result.unchanged} unchanged, "
                f"{result.set_aside.total()} set aside in {begun.report(result.read)}"
            )


def aggregate(options: argparse.Namespace, path: Path) -> None:
    """One hour of a fleet into metrics_hourly and metrics_daily; first, again, and after one late document."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    count = int(options.devices * 3600 / options.step)
    with open_embedded(_settings(path)) as servers:
        assert servers.mongodb_uri is not None  # noqa: S101
        db = connect_mongo(servers.mongodb_uri)
        ensure_collections(db)
        begun = Stopwatch(db)
        load(db, fleet(options.devices, count, start, options.step, options.cells))
        print(f"made and loaded {db['telemetry_data'].estimated_document_count()} documents in {begun.report(count)}")
        zones = {f"site_{k:03d}": "Europe/Amsterdam" for k in range(10)}
        everything = MetricsOptions(look_back=timedelta(0))
        begun = Stopwatch(db)
        done = refresh(db, zones, datetime.now(UTC), everything)
        print(f"aggregated: {done.device_hours} device-hours, {done.hourly} hourly, {done.daily} daily in {begun.report(count)}")
        late = next(fleet(options.devices, 1, start + timedelta(minutes=30, seconds=5), options.step, options.cells))
        run = Ingest(db, now=lambda: datetime.now(UTC), source="benchmark")
        run.add(late)
        run.finish()
        begun = Stopwatch(db)
        done = refresh(db, zones, datetime.now(UTC), everything)
        print(f"one late document: {done.device_hours} device-hour in {begun.report(1)}")
        begun = Stopwatch(db)
        done = refresh(db, zones, datetime.now(UTC), MetricsOptions(look_back=timedelta(hours=4)))
        print(f"nothing new, 4 hours counted: {done.device_hours} device-hours in {begun.report(count)}")


def load(db: Database[Document], chunks: Iterator[list[Document]]) -> None:
    """What Ingest would leave, faster: the indexes are built afterwards, and telemetry_ts, which metrics do not read, is not."""
    for name in db["telemetry_data"].index_information():
        if name != "_id_":
            db["telemetry_data"].drop_index(name)
    touched: dict[tuple[str, int], str] = {}
    for chunk in chunks:
        made = []
        for document in chunk:
            stored, stamp_ms = normalise(document)
            made.append(stored | {"_id": identity(document["device_id"], stamp_ms)})
        touched |= touched_hours(made)
        db["telemetry_data"].insert_many(made, ordered=False, bypass_document_validation=True)
    mark(db, touched)
    ensure_collections(db)


class Stopwatch:
    """Wall time, and processor time of this process and of mongod: what the machine's other load does not change."""

    def __init__(self, db: Database[Document]) -> None:
        self.db, self.begun = db, self._now(db)

    @staticmethod
    def _now(db: Database[Document]) -> tuple[float, float, float]:
        info = db.command("serverStatus")["extra_info"]
        return time.perf_counter(), time.process_time(), (info["user_time_us"] + info["system_time_us"]) / 1e6

    def report(self, count: int) -> str:
        """What has passed since the start, for `count` documents."""
        wall_s, own_s, mongod_s = (after - before for after, before in zip(self._now(self.db), self.begun, strict=True))
        return (
            f"{wall_s:.2f} s wall = {count / wall_s:,.0f} documents/s; processor per document: "
            f"{own_s / count * 1e6:.1f} us here, {mongod_s / count * 1e6:.1f} us mongod"
        )


def _settings(path: Path) -> StoreSettings:
    unused = "unused://127.0.0.1"
    return StoreSettings(data_dir=path, database_url=unused, redis_url=unused)


def main() -> None:
    """Read the arguments, run, tidy up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ingest", "aggregate"])
    parser.add_argument("--path", type=Path, required=True, help="An empty or new directory; removed afterwards.")
    parser.add_argument("--devices", type=int)
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--cells", type=int, default=16)
    parser.add_argument("--step", type=float, default=10.0, help="Seconds between two documents of a device.")
    options = parser.parse_args()
    if options.path.exists() and any(options.path.iterdir()):
        parser.error(f"{options.path} is not empty")
    options.devices = options.devices or {"ingest": 1_000, "aggregate": 10_000}[options.what]
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    try:
        ingest(options, options.path) if options.what == "ingest" else aggregate(options, options.path)
    finally:
        shutil.rmtree(options.path, ignore_errors=True)


if __name__ == "__main__":
    main()

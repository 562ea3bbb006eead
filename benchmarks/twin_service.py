"""The twin service: seconds per round of a site, from telemetry in the database to predictions in the database.

    python -m benchmarks.twin_service --path DIR [--devices 100 1000 10000] [--rounds 3]

Starts PostgreSQL and mongod of its own in DIR and removes DIR afterwards. Each device has its plan of 24 h, a calibration, and
telemetry with 16 cells; horizon 26 h in steps of 15 minutes. Wall time depends on other load; processor time hardly.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from pymongo.database import Database

from core.calibration import Factors
from core.decisions import Decision
from core.devices import Chemistry, DeviceConfig
from core.pack import Pack
from core.series import Series
from serving.dispatch.inputs import AMBIENT
from serving.twin_service import TwinOptions, predict_site
from stores.connections import Stores, open_stores
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres.calibrations import CalibrationRow, record_calibration
from stores.postgres.decisions import record_decision
from stores.postgres.devices import upsert_device
from stores.postgres.series import write_series
from stores.settings import StoreSettings

AT = datetime.now(UTC).replace(minute=10, second=0, microsecond=0) - timedelta(hours=2)
SINCE = AT.replace(minute=0) - timedelta(days=2)


def prepare(stores: Stores, site_id: str, count: int) -> None:
    """Devices, telemetry (two documents each), a plan, calibrations and ambient of a site."""
    dice = np.random.default_rng(count)
    write_series(stores.pg, site_id, Series(AMBIENT, SINCE, 3600.0, np.full(96, 20.0)), SINCE)
    shown = {chemistry: _pack(site_id, chemistry) for chemistry in Chemistry}
    documents, parts = [], []
    with stores.pg.transaction():
        for k in range(count):
            chemistry = list(Chemistry)[k % 4]
            device = replace(shown[chemistry].config, device_id=f"{site_id}-{k:05d}")
            upsert_device(stores.pg, device, by="benchmark")
            state = shown[chemistry].state(AT)
            for age_s in (20 + 10 * (k % 6), 10 * (k % 6)):  # six moments: devices report every minute, not all at once
                moment = replace(state, device_id=device.device_id, measured_at=AT - timedelta(seconds=age_s))
                moment = replace(
                    moment, cell_voltages_v=moment.cell_voltages_v * 2, cell_temperatures_c=moment.cell_temperatures_c * 2
                )
                documents.append(pack_document(moment, site_id=site_id, firmware="1"))
            wave = 15e3 * np.sin(np.arange(96) / 8 + dice.uniform(0, 6)) + 2e3 * dice.normal(size=96)
            parts.append({"device_id": device.device_id, "power_w": wave.round(1).tolist()})
            record_calibration(
                stores.pg,
                CalibrationRow(
                    device_id=device.device_id, site_id=site_id, calibrated_at=AT - timedelta(days=1),
                    data_from=AT - timedelta(days=8), data_to=AT - timedelta(days=1), accepted=True, reason="", score=0.95,
                    factors=Factors(resistance=float(dice.uniform(0.8, 2.0))), details={},
                ),
            )  # fmt: skip
    for begin in range(0, len(documents), 5000):
        insert_telemetry(stores.mongo, documents[begin : begin + 5000])
    plan = {"starts_at": (AT - timedelta(minutes=10)).isoformat(), "dt_s": 900.0, "devices": parts}
    record_decision(
        stores.pg,
        Decision(
            site_id=site_id, starts_at=AT - timedelta(minutes=10), interval_s=900, source="benchmark", policy_id=None, solver="",
            objective_eur=None, set_points=(), passed_over=(), plan=plan, inputs={},
        ),
    )  # fmt: skip


def _pack(site_id: str, chemistry: Chemistry) -> Pack:
    config = DeviceConfig(
        device_id="", site_id=site_id, name="pack", chemistry=chemistry, nominal_capacity_ah=150, nominal_voltage_v=360,
        max_charge_power_w=40e3, max_discharge_power_w=40e3, series_cells=100, parallel_cells=10,
    )  # fmt: skip
    return Pack(config, soc_pct=55.0, soh_pct=80.0, temperature_c=22.0, ambient_c=20.0)


def measure(stores: Stores, site_id: str, count: int, rounds: int) -> None:
    """Rounds of one site; the first compiles or loads the kernels and is not counted."""
    for k in range(rounds + 1):
        begun = time.perf_counter(), time.process_time(), _mongod_s(stores.mongo)
        made = predict_site(stores, TwinOptions(site_id=site_id), AT)
        wall_s, own_s, mongod_s = (
            time.perf_counter() - begun[0],
            time.process_time() - begun[1],
            _mongod_s(stores.mongo) - begun[2],
        )
        assert len(made.predictions) == count  # noqa: S101
        assert not made.left_out  # noqa: S101
        if k:
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in made.seconds.items())
            print(f"{count} devices: {wall_s:.2f} s wall ({stages}); processor {own_s:.2f} s here, {mongod_s:.2f} s mongod")


def _mongod_s(db: Database[dict[str, object]]) -> float:
    info = db.command("serverStatus")["extra_info"]
    return float(info["user_time_us"] + info["system_time_us"]) / 1e6


def main() -> None:
    """Read the arguments, run, tidy up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="An empty or new directory; removed afterwards.")
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.path.exists() and any(options.path.iterdir()):
        parser.error(f"{options.path} is not empty")
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    try:
        with open_stores(StoreSettings(data_dir=options.path), migrate=True) as stores:
            for count in options.devices:
                site_id = f"bench{count}"
                prepare(stores, site_id, count)
                measure(stores, site_id, count, options.rounds)
    finally:
        shutil.rmtree(options.path, ignore_errors=True)


if __name__ == "__main__":
    main()

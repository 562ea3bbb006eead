"""Observations for the tests of gate, ranking and runner: one site, packs by default in the middle of everything."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, tightest
from core.pack import Pack
from core.policy_record import PolicyRecord
from core.series import Series
from core.site import SiteConfig
from policies.base import Observation

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
INTERVAL_S = 900
CELL_V = {Chemistry.LFP: 3.2, Chemistry.NMC: 3.7, Chemistry.LCO: 3.7, Chemistry.NCA: 3.6}


def device(name="p1", chemistry=Chemistry.NMC, **changes):
    fields = {
        "device_id": name,
        "site_id": "s",
        "name": name,
        "chemistry": chemistry,
        "nominal_capacity_ah": 100.0,
        "nominal_voltage_v": 100 * CELL_V[chemistry],
        "max_charge_power_w": 20_000.0,
        "max_discharge_power_w": 20_000.0,
        "series_cells": 100,
        "parallel_cells": 20,
    }
    return DeviceConfig(**{**fields, **changes})


def limits(config, **changes):
    return tightest(config, [ConstraintRow(row_id="r", device_id=config.device_id, **changes)], NOW)


def state(config, soc_pct=50.0, temperature_c=25.0, soh_pct=90.0, **changes):
    pack = Pack(config, soc_pct=soc_pct, soh_pct=soh_pct, temperature_c=temperature_c, ambient_c=20.0)
    return replace(pack.state(NOW - timedelta(seconds=10)), **changes)


def site(*configs, import_limit_w=100_000.0, export_limit_w=100_000.0):
    return SiteConfig.model_validate(
        {
            "site_id": "s",
            "name": "s",
            "timezone": "UTC",
            "grid": {"import_limit_w": import_limit_w, "export_limit_w": export_limit_w},
            "packs": [
                {
                    "device_id": c.device_id,
                    "name": c.name,
                    "chemistry": c.chemistry.value,
                    "nominal_capacity_ah": c.nominal_capacity_ah,
                    "nominal_voltage_v": c.nominal_voltage_v,
                    "max_charge_power_w": c.max_charge_power_w,
                    "max_discharge_power_w": c.max_discharge_power_w,
                    "series_cells": c.series_cells,
                    "constraints": [{}],
                }
                for c in configs
            ],
        }
    )


def observation(
    *configs, states=None, bounds=None, load_w=0.0, pv_w=0.0, import_limit_w=100_000.0, export_limit_w=100_000.0, **changes
):
    configs = configs or (device(),)
    hours = np.ones(48)

    def series(name, value):
        return Series(name, NOW - timedelta(hours=1), 3600.0, value * hours)

    fields = {
        "site": site(*configs, import_limit_w=import_limit_w, export_limit_w=export_limit_w),
        "starts_at": NOW,
        "interval_s": INTERVAL_S,
        "devices": tuple(configs),
        "limits": bounds or {c.device_id: limits(c) for c in configs},
        "states": states or {c.device_id: state(c) for c in configs},
        "predictions": {},
        "price_eur_per_kwh": series("price", 0.1),
        "load_w": series("load_w", load_w),
        "pv_w": series("pv_w", pv_w),
        "ambient_c": series("ambient_c", 20.0),
    }
    return Observation(**{**fields, **changes})


def record(name="best", **config):
    return PolicyRecord(
        policy_id=f"id-{name}",
        site_id="s",
        name=name,
        policy_type="MPC",
        config=config,
        horizon_hours=24,
        update_interval_seconds=INTERVAL_S,
        status="active",
    )

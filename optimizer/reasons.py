"""Why a slot of a plan is what it is: one reason, and the limits that bind.

Derived from the replay and from the shadow prices, not from what the solver was told. Not here: the plan itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.decisions import Reason
from optimizer.problem import DeviceData, SiteProblem
from optimizer.replay import Replay

FloatArray = NDArray[np.float64]
IDLE_SHARE = 1e-3
"""Of the device's largest power in the horizon; less is idle."""
NEAR_SHARE = 2e-3
WHEN_IDLE = (
    ("no_power", Reason.POWER_LIMIT),
    ("temperature_max", Reason.THERMAL_LIMIT),
    ("temperature_min", Reason.THERMAL_LIMIT),
    ("voltage_max", Reason.VOLTAGE_LIMIT),
    ("voltage_min", Reason.VOLTAGE_LIMIT),
    ("soc_max", Reason.SOC_LIMIT),
    ("soc_min", Reason.SOC_LIMIT),
    ("cycle_depth", Reason.CYCLE_DEPTH),
    ("grid_import", Reason.GRID_LIMIT),
    ("grid_export", Reason.GRID_LIMIT),
)


def explain(
    problem: SiteProblem,
    power_w: FloatArray,
    run: Replay,
    i: int,
    energy_value: FloatArray | None = None,
    meter_price: FloatArray | None = None,
) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
    """(reason, binding limits separated by spaces) of each slot of device i.

    `power_w` (devices, N); the shadow prices of stored energy and of power at the meter (N,) in EUR/kWh tell a slot that
    is idle because of wear from one that no price could move; without them every idle slot of a wearing device is the former.
    """
    d = problem.devices[i]
    idle_w = max(1.0, IDLE_SHARE * float(max(d.charge_max_w.max(), d.discharge_max_w.max())))
    reasons, bindings = [], []
    for k in range(problem.steps):
        p = float(power_w[i, k])
        names = _binding(problem, d, p, run, i, k)
        if abs(p) > idle_w:
            reasons.append(_active(problem, d, p, run, i, k, names))
        else:
            value = None if energy_value is None or meter_price is None else (energy_value[k], meter_price[k])
            reasons.append(_idle(d, k, names, value))
        bindings.append(" ".join(names))
    return tuple(reasons), tuple(bindings)


def _before(d: DeviceData, run: Replay, i: int, k: int) -> float:
    return d.energy_wh if k == 0 else float(run.energy_wh[i, k - 1])


def _binding(problem: SiteProblem, d: DeviceData, p: float, run: Replay, i: int, k: int) -> list[str]:
    near = NEAR_SHARE * d.capacity_wh
    energy, before = float(run.energy_wh[i, k]), _before(d, run, i, k)
    taper_c = d.charge_taper_w[k] - d.charge_taper_w_per_wh[k] * before
    taper_d = d.discharge_taper_w[k] + d.discharge_taper_w_per_wh[k] * before
    path = run.energy_wh[i]
    high = max(d.energy_wh, d.energy_high_wh, float(path.max()))
    low = min(d.energy_wh, d.energy_low_wh, float(path.min()))
    deep = high - low >= d.cycle_depth_wh - near and (energy >= high - near or energy <= low + near)
    most = 1 - NEAR_SHARE
    grid = problem.grid
    held = {
        "no_power": d.charge_max_w[k] <= 0 and d.discharge_max_w[k] <= 0,
        "soc_max": energy >= d.energy_max_wh - near,
        "soc_min": energy <= d.energy_min_wh + near,
        "cycle_depth": deep,
        "charge_power": p < 0 and -p >= most * d.charge_max_w[k],
        "charge_taper": p < 0 and -p >= most * taper_c,
        "discharge_power": p > 0 and p >= most * d.discharge_max_w[k],
        "discharge_taper": p > 0 and p >= most * taper_d,
        "temperature_max": run.temperature_c[i, k] >= d.temperature_max_c[k] - 0.05,
        "temperature_min": run.temperature_c[i, k] <= d.temperature_min_c + 0.05,
        "voltage_max": run.voltage_v[i, k] >= d.voltage_max_v - 0.05,
        "voltage_min": run.voltage_v[i, k] <= d.voltage_min_v + 0.05,
        "grid_import": run.import_w[k] > 0 and run.import_w[k] >= grid.import_limit_w[k] * most,
        "grid_export": run.export_w[k] > 0 and run.export_w[k] >= grid.export_limit_w[k] * most,
        "peak": grid.peak_price_eur_per_kw > 0 and run.import_w[k] > 0 and run.import_w[k] >= run.peak_w * most,
    }
    return [name for name, holds in held.items() if holds]


def _idle(d: DeviceData, k: int, names: list[str], value: tuple[float, float] | None) -> Reason:
    for name, reason in WHEN_IDLE:
        if name in names:
            return reason
    if d.wear_eur_per_kwh <= 0:
        return Reason.IDLE
    if value is None:
        return Reason.IDLE_SPREAD
    stored, price = value
    pays_without_wear = stored * d.eta_charge[k] > price or price > stored / d.eta_discharge[k]
    return Reason.IDLE_SPREAD if pays_without_wear else Reason.IDLE


def _active(problem: SiteProblem, d: DeviceData, p: float, run: Replay, i: int, k: int, names: list[str]) -> Reason:
    grid, before = problem.grid, _before(d, run, i, k)
    if (p > 0 and before > d.energy_max_wh) or (p < 0 and before < d.energy_min_wh):
        return Reason.SOC_RECOVERY
    if grid.target_w is not None and grid.tracking_weight > 0:
        return Reason.TRACKING
    if p > 0:
        if "grid_import" in names:
            return Reason.GRID_LIMIT
        return Reason.PEAK_SHAVING if "peak" in names else Reason.PRICE_HIGH
    if "grid_export" in names:
        return Reason.GRID_LIMIT
    return Reason.SELF_CONSUMPTION if grid.pv_w[k] > grid.load_w[k] else Reason.PRICE_LOW

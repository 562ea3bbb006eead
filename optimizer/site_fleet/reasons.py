"""Why each slot of a large plan is what it is, as codes: optimizer.reasons for ten thousand devices at once.

A code is an index into REASONS, limits that hold are bits in the order of LIMITS. Those of devices are told by nearness, as there
for a plan without duals of limits, those of the meter by their shadow prices too; idle slots compare the price at the meter with
the value of stored energy. Not here: the plan itself.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202, PLR0912 - compiled by numba, which infers types

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from core.decisions import Reason
from optimizer.fleet import FleetData
from optimizer.problem import GridData
from optimizer.reasons import PRICE_FLOOR
from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.site_fleet.replay import FleetReplay

FloatArray = NDArray[np.float64]
REASONS: tuple[Reason, ...] = tuple(Reason)
LIMITS = (
    "no_power", "soc_max", "soc_min", "cycle_depth", "charge_power", "charge_taper", "discharge_power", "discharge_taper",
    "temperature_max", "temperature_min", "voltage_max", "voltage_min", "grid_import", "grid_export", "peak",
)  # fmt: skip
(NO_POWER, SOC_MAX, SOC_MIN, DEPTH, CHARGE, CHARGE_TAPER, DISCHARGE, DISCHARGE_TAPER, HOT, COLD, HIGH_V, LOW_V, IMPORT, EXPORT,
 PEAK) = range(15)  # fmt: skip
IDLE_SHARE = 1e-3
NEAR_SHARE = 2e-3
NEAR_K = NEAR_V = 0.05
_CODE = {reason: np.int8(i) for i, reason in enumerate(REASONS)}
P_LIMIT, T_LIMIT, V_LIMIT, S_LIMIT, D_LIMIT, G_LIMIT = (
    int(_CODE[r])
    for r in (
        Reason.POWER_LIMIT, Reason.THERMAL_LIMIT, Reason.VOLTAGE_LIMIT, Reason.SOC_LIMIT, Reason.CYCLE_DEPTH, Reason.GRID_LIMIT,
    )
)  # fmt: skip
RECOVERY, TRACKING, PEAKS, HIGH_PRICE, LOW_PRICE, OWN_USE, SPREAD, IDLE = (
    int(_CODE[r])
    for r in (
        Reason.SOC_RECOVERY, Reason.TRACKING, Reason.PEAK_SHAVING, Reason.PRICE_HIGH, Reason.PRICE_LOW, Reason.SELF_CONSUMPTION,
        Reason.IDLE_SPREAD, Reason.IDLE,
    )
)  # fmt: skip


@kept_on_disk
def _explain(
    codes, bits, power, energy, temperature, voltage, value, price, meter_bits, tracked, surplus, energy_now, capacity,
    energy_min,
    energy_max, depth, low_so_far, high_so_far, temperature_min, voltage_min, voltage_max, wear, charge_max, discharge_max,
    taper_c,
    slope_c, taper_d, slope_d, eta_c, eta_d, temperature_max,
):  # fmt: skip
    most = 1.0 - NEAR_SHARE
    for i in range(power.shape[0]):
        near = NEAR_SHARE * capacity[i]
        high = max(energy_now[i], high_so_far[i], energy[i].max())
        low = min(energy_now[i], low_so_far[i], energy[i].min())
        idle = max(1.0, IDLE_SHARE * max(charge_max[i].max(), discharge_max[i].max()))
        deep = high - low >= depth[i] - near
        for k in range(power.shape[1]):
            p, e = power[i, k], energy[i, k]
            before = energy_now[i] if k == 0 else energy[i, k - 1]
            held = meter_bits[k]
            if charge_max[i, k] <= 0.0 and discharge_max[i, k] <= 0.0:
                held |= 1 << NO_POWER
            if e >= energy_max[i] - near:
                held |= 1 << SOC_MAX
            if e <= energy_min[i] + near:
                held |= 1 << SOC_MIN
            if deep and (e >= high - near or e <= low + near):
                held |= 1 << DEPTH
            if p < 0.0 and -p >= most * charge_max[i, k]:
                held |= 1 << CHARGE
            if p < 0.0 and -p >= most * (taper_c[i, k] - slope_c[i, k] * before):
                held |= 1 << CHARGE_TAPER
            if p > 0.0 and p >= most * discharge_max[i, k]:
                held |= 1 << DISCHARGE
            if p > 0.0 and p >= most * (taper_d[i, k] + slope_d[i, k] * before):
                held |= 1 << DISCHARGE_TAPER
            if temperature[i, k] >= temperature_max[i, k] - NEAR_K:
                held |= 1 << HOT
            if temperature[i, k] <= temperature_min[i] + NEAR_K:
                held |= 1 << COLD
            if voltage[i, k] >= voltage_max[i] - NEAR_V:
                held |= 1 << HIGH_V
            if voltage[i, k] <= voltage_min[i] + NEAR_V:
                held |= 1 << LOW_V
            bits[i, k] = held
            code = IDLE
            if abs(p) > idle:
                if (p > 0.0 and before > energy_max[i]) or (p < 0.0 and before < energy_min[i]):
                    code = RECOVERY
                elif tracked[k]:
                    code = TRACKING
                elif p > 0.0:
                    code = G_LIMIT if held >> IMPORT & 1 else (PEAKS if held >> PEAK & 1 else HIGH_PRICE)
                else:
                    code = G_LIMIT if held >> EXPORT & 1 else (OWN_USE if surplus[k] else LOW_PRICE)
            elif held >> NO_POWER & 1:
                code = P_LIMIT
            elif held >> HOT & 1 or held >> COLD & 1:
                code = T_LIMIT
            elif held >> HIGH_V & 1 or held >> LOW_V & 1:
                code = V_LIMIT
            elif held >> SOC_MAX & 1 or held >> SOC_MIN & 1:
                code = S_LIMIT
            elif held >> DEPTH & 1:
                code = D_LIMIT
            elif held >> IMPORT & 1 or held >> EXPORT & 1:
                code = G_LIMIT
            elif wear[i] > 0.0 and (value[i, k] * eta_c[i, k] > price[k] or price[k] > value[i, k] / eta_d[i, k]):
                code = SPREAD
            codes[i, k] = code


def explain(
    grid: GridData,
    fleet: FleetData,
    power_w: FloatArray,
    run: FleetReplay,
    value: FloatArray,
    price: FloatArray,
    limits: Mapping[str, FloatArray],
) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """(reason codes, limit bits), (B, N) each; `value` (B, N) of stored energy and `price` (N,) at the meter in EUR/kWh.

    `limits`: shadow prices of the meter's limits in EUR/kW, (N,) each. A limit of the meter holds where it is touched or has one.
    """
    codes, bits = np.zeros(power_w.shape, dtype=np.int8), np.zeros(power_w.shape, dtype=np.uint16)
    most = 1.0 - NEAR_SHARE
    at_import = (run.import_w > 0) & (run.import_w >= grid.import_limit_w * most)
    at_export = (run.export_w > 0) & (run.export_w >= grid.export_limit_w * most)
    at_peak = (grid.peak_price_eur_per_kw > 0) & (run.import_w > 0) & (run.import_w >= run.peak_w * most)
    at_import, at_export, at_peak = (
        held | (limits[name] > PRICE_FLOOR) if name in limits else held
        for name, held in (("grid_import", at_import), ("grid_export", at_export), ("peak", at_peak))
    )
    meter = (at_import.astype(np.int64) << IMPORT) | (at_export.astype(np.int64) << EXPORT) | (at_peak.astype(np.int64) << PEAK)
    f = fleet
    _explain(
        codes, bits, power_w, run.energy_wh, run.temperature_c, run.voltage_v, value, price, meter, grid.tracking_weights() > 0,
        grid.pv_w > grid.load_w, f.energy_wh, f.capacity_wh, f.energy_min_wh, f.energy_max_wh, f.cycle_depth_wh, f.energy_low_wh,
        f.energy_high_wh, f.temperature_min_c, f.voltage_min_v, f.voltage_max_v, f.wear_eur_per_kwh, f.charge_max_w,
        f.discharge_max_w, f.charge_taper_w, f.charge_taper_w_per_wh, f.discharge_taper_w, f.discharge_taper_w_per_wh,
        f.eta_charge,
        f.eta_discharge, f.temperature_max_c,
    )  # fmt: skip
    codes[(codes == G_LIMIT) & _reserved(grid, run)] = _CODE[Reason.RESERVE]
    return codes, bits


def _reserved(grid: GridData, run: FleetReplay) -> NDArray[np.bool_]:
    """Steps in which the meter itself has room and only what plans leave free of it is reached, (N,)."""
    most, found = 1.0 - NEAR_SHARE, np.zeros(len(run.import_w), dtype=np.bool_)
    for flow, limit, reserve in (
        (run.import_w, grid.import_limit_w, grid.import_reserve_w),
        (run.export_w, grid.export_limit_w, grid.export_reserve_w),
    ):
        found |= (reserve > 0) & (flow > 0) & (limit * most <= flow) & (flow < limit + reserve * most)
    return found

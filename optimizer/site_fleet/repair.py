"""From the solver's powers to a plan that keeps every device's hard limits and the meter's, moved as little as needed.

Step by step: powers within bounds, tapers and energy limits; where the meter's limit is exceeded first what flows the wrong way
is curtailed in proportion (charge at import, PV and then discharge at export), then what devices have left is asked of them in
proportion (headroom), energy, taper, voltage and temperature limits kept. Not here: judging the plan (replay).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202 - compiled by numba, which infers types

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.fleet import FleetData
from optimizer.problem import GridData
from optimizer.site_fleet.compiled import kept_on_disk

FloatArray = NDArray[np.float64]
INSIDE = 1e-9
"""Share of energy and meter limits that is left, so that rounding never decides."""


@kept_on_disk
def _rooms(
    i, k, h, e, t, charge_max, discharge_max, taper_c, slope_c, taper_d, slope_d, eta_c, eta_d, energy_min, energy_max, leak
):  # fmt: skip
    """Charge and discharge (W) that bounds, taper and energy limits leave device i in step k at energy e."""
    charge = min(charge_max[i, k], max(0.0, taper_c[i, k] - slope_c[i, k] * e))
    discharge = min(discharge_max[i, k], max(0.0, taper_d[i, k] + slope_d[i, k] * e))
    charge = min(charge, max(0.0, energy_max[i] * (1.0 - INSIDE) - e + leak[i]) / (h * eta_c[i, k]))
    discharge = min(discharge, max(0.0, e - leak[i] - energy_min[i] * (1.0 + INSIDE)) * eta_d[i, k] / h)
    return charge, discharge


@kept_on_disk
def _repair(
    power, curtail, h, load, pv, import_limit, export_limit, curtailable, energy_wh, temperature_c, charge_max, discharge_max,
    taper_c, slope_c, taper_d, slope_d, eta_c, eta_d, energy_min, energy_max, leak, decay, heat_c, heat_d, drift, temperature_max,
    volts, volts_per_wh, volts_per_w, voltage_min, voltage_max,
):  # fmt: skip
    count, n = power.shape
    energy, temperature = energy_wh.copy(), temperature_c.copy()
    room = np.zeros(count)
    touched = 0
    for k in range(n):
        total = charged = discharged = 0.0
        for i in range(count):
            charge, discharge = _rooms(
                i, k, h, energy[i], temperature[i], charge_max, discharge_max, taper_c, slope_c, taper_d, slope_d, eta_c, eta_d,
                energy_min, energy_max, leak,
            )  # fmt: skip
            p = min(max(power[i, k], -charge), discharge)
            power[i, k] = p
            total += p
            charged += max(-p, 0.0)
            discharged += max(p, 0.0)
        net = load[k] - pv[k] + curtail[k] - total
        limit_in, limit_out = import_limit[k] * (1.0 - INSIDE), export_limit[k] * (1.0 - INSIDE)
        excess, sign = net - limit_in, -1.0  # too much import: less charge
        if -net > limit_out:
            excess, sign = -net - limit_out, 1.0  # too much export: less discharge
            if curtailable:
                more = min(excess, pv[k] - curtail[k])
                curtail[k] += more
                excess -= more
        if excess > 0.0:
            touched += 1
            flowing = charged if sign < 0.0 else discharged
            share = min(1.0, excess / flowing) if flowing > 0.0 else 0.0
            excess -= share * flowing
            available = 0.0
            for i in range(count):
                if sign * power[i, k] > 0.0:
                    power[i, k] *= 1.0 - share
                room[i] = 0.0
                if excess > 0.0:
                    charge, discharge = _rooms(
                        i, k, h, energy[i], temperature[i], charge_max, discharge_max, taper_c, slope_c, taper_d, slope_d, eta_c,
                        eta_d, energy_min, energy_max, leak,
                    )  # fmt: skip
                    heat = heat_d[i, k] if sign < 0.0 else heat_c[i, k]
                    cool = temperature_max[i, k] - decay[i] * temperature[i] - drift[i, k]
                    v = volts[i, k] + volts_per_wh[i, k] * energy[i]
                    span = v - voltage_min[i] if sign < 0.0 else voltage_max[i] - v
                    most = discharge if sign < 0.0 else charge
                    if heat > 0.0:
                        most = min(most, max(0.0, cool) / heat)
                    if volts_per_w[i, k] > 0.0:
                        most = min(most, max(0.0, span) / volts_per_w[i, k])
                    room[i] = max(0.0, most - max(0.0, -sign * power[i, k]))
                    available += room[i]
            if excess > 0.0 and available > 0.0:
                share = min(1.0, excess / available)
                for i in range(count):
                    power[i, k] -= sign * share * room[i]
        for i in range(count):
            p = power[i, k]
            charge, discharge = max(-p, 0.0), max(p, 0.0)
            energy[i] += h * (eta_c[i, k] * charge - discharge / eta_d[i, k]) - leak[i]
            temperature[i] = decay[i] * temperature[i] + heat_c[i, k] * charge + heat_d[i, k] * discharge + drift[i, k]
    return touched


def repair(
    grid: GridData, fleet: FleetData, dt_s: float, power_w: FloatArray, curtail_w: FloatArray
) -> tuple[FloatArray, FloatArray, int]:
    """Net powers (B, N), curtailment (N,), and in how many steps the meter's limit asked for a change."""
    power = np.where(np.isfinite(power_w), power_w, 0.0)
    curtail = np.clip(np.where(np.isfinite(curtail_w), curtail_w, 0.0), 0.0, grid.pv_w if grid.curtailable else 0.0)
    f = fleet
    touched = _repair(
        power, curtail, dt_s / 3600.0, grid.load_w, grid.pv_w, grid.import_limit_w, grid.export_limit_w, grid.curtailable,
        f.energy_wh, f.temperature_c, f.charge_max_w, f.discharge_max_w, f.charge_taper_w, f.charge_taper_w_per_wh,
        f.discharge_taper_w, f.discharge_taper_w_per_wh, f.eta_charge, f.eta_discharge, f.energy_min_wh, f.energy_max_wh,
        f.leak_wh,
        f.temperature_a, f.temperature_charge_k_per_w, f.temperature_discharge_k_per_w, f.temperature_drift_c,
        f.temperature_max_c,
        f.voltage_v, f.voltage_v_per_wh, f.voltage_v_per_w, f.voltage_min_v, f.voltage_max_v,
    )  # fmt: skip
    return power, curtail, int(touched)

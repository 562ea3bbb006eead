"""The replay of fleets: what powers really do to a device, what it costs, and which limits are broken, by plain recursion.

Shares no code with any solver, nor with what cuts plans (rooms): it is what those are judged by. Power bounds, tapers and energy
are hard. Temperature, voltage and cycle depth are hard where the state keeps them at the start and would keep them without power;
elsewhere what exceeds them is counted as soft. Tolerances cover solvers' rounding, and what self-discharge alone takes.
Not here: sites with several devices behind one meter (optimizer.site_fleet.replay), few devices (optimizer.replay).
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

import numpy as np

from core.lanes import stage, whole_pass

TOLERANCE_W = 0.5
TOLERANCE_SHARE = 1e-5
"""Of the capacity."""
TOLERANCE_K = 1e-3
TOLERANCE_V = 1e-2
KINDS = (
    "power", "taper", "energy", "temperature", "voltage", "cycle depth", "grid", "energy beyond its limits",
    "temperature beyond its limits", "voltage beyond its limits", "cycle depth beyond its limit", "terminal energy",
)  # fmt: skip
"""Columns of what is exceeded; the first HARD of them by more than their tolerance, else 0."""
HARD = 7
POWER, TAPER, ENERGY, TEMPERATURE, VOLTAGE, DEPTH, GRID = range(HARD)
SOFT_ENERGY, SOFT_TEMPERATURE, SOFT_VOLTAGE, SOFT_DEPTH, TERMINAL = range(HARD, len(KINDS))


@stage
def note(excess: Any, kind: int, amount: float, tolerance: float) -> None:
    """Keep the largest amount above the tolerance; one that is no number is infinite."""
    if not amount <= tolerance:
        excess[kind] = max(excess[kind], amount) if amount > 0.0 else np.inf


@whole_pass
def run_device(
    p: Any, i: int, h: float, soft: Any, flow: Any, other: Any, net: bool, energy: Any, temperature: Any, voltage: Any,
    excess: Any,
) -> tuple[float, float]:  # fmt: skip
    """(cost without the meter's, wear) of device i, EUR; `excess` (len(KINDS),) is filled.

    `flow` (B, N) is net power, discharge positive, where `net` is set; else it is charge and `other` discharge. States at the END
    of each step go to row i of energy, temperature and voltage, unless these have no rows.
    """
    excess[:] = 0.0
    keep = energy.shape[0] > 0
    e, t, leak, full = p.energy_wh[i], p.temperature_c[i], p.leak_wh[i], p.capacity_wh[i]
    e_rest, t_rest = e, t
    v_min, v_max, t_min = p.voltage_min_v[i], p.voltage_max_v[i], p.temperature_min_c[i]
    mild = t_min <= t <= p.temperature_max_c[i, 0]
    in_range = v_min <= p.voltage_v[i, 0] + p.voltage_v_per_wh[i, 0] * e <= v_max
    high, low = max(e, p.energy_high_wh[i]), min(e, p.energy_low_wh[i])
    high_rest, low_rest = high, low
    slack, taken = TOLERANCE_SHARE * full + leak, leak * flow.shape[1]
    cost = worn = 0.0
    for k in range(flow.shape[1]):
        charge = max(-flow[i, k], 0.0) if net else flow[i, k]
        discharge = max(flow[i, k], 0.0) if net else other[i, k]
        if np.isnan(flow[i, k]):
            charge = np.nan
        note(excess, POWER, charge - p.charge_max_w[i, k], TOLERANCE_W)
        note(excess, POWER, discharge - p.discharge_max_w[i, k], TOLERANCE_W)
        note(excess, POWER, -min(charge, discharge), TOLERANCE_W)
        c_room = max(0.0, p.charge_taper_w[i, k] - p.charge_taper_w_per_wh[i, k] * e)
        d_room = max(0.0, p.discharge_taper_w[i, k] + p.discharge_taper_w_per_wh[i, k] * e)
        note(excess, TAPER, charge - c_room, TOLERANCE_W)
        note(excess, TAPER, discharge - d_room, TOLERANCE_W)
        slope = p.voltage_v_per_wh[i, k]
        v = p.voltage_v[i, k] + slope * e + p.voltage_v_per_w[i, k] * (charge - discharge)
        v_rest = p.voltage_v[i, k] + slope * e_rest
        over_v = max(0.0, v - v_max, v_min - v)
        if in_range and v_min <= v_rest <= v_max:
            note(excess, VOLTAGE, over_v, TOLERANCE_V + abs(slope) * taken)
        out_before = max(0.0, e - p.energy_max_wh[i], p.energy_min_wh[i] - e)
        e += h * (p.eta_charge[i, k] * charge - discharge / p.eta_discharge[i, k]) - leak
        e_rest -= leak
        heat = p.temperature_charge_k_per_w[i, k] * charge + p.temperature_discharge_k_per_w[i, k] * discharge
        t = p.temperature_a[i] * t + heat + p.temperature_drift_c[i, k]
        t_rest = p.temperature_a[i] * t_rest + p.temperature_drift_c[i, k]
        over_e = max(0.0, e - p.energy_max_wh[i], p.energy_min_wh[i] - e)
        # A state outside may stay there by no fault of the plan's, and go no further.
        note(excess, ENERGY, over_e - out_before, slack)
        over_t = max(0.0, t - p.temperature_max_c[i, k], t_min - t)
        if mild and t_min <= t_rest <= p.temperature_max_c[i, k]:
            note(excess, TEMPERATURE, over_t, TOLERANCE_K)
        excess[SOFT_ENERGY] = max(excess[SOFT_ENERGY], over_e - slack)
        excess[SOFT_TEMPERATURE] = max(excess[SOFT_TEMPERATURE], over_t)
        excess[SOFT_VOLTAGE] = max(excess[SOFT_VOLTAGE], over_v)
        high, low = max(high, e), min(low, e)
        worn += h * p.wear_eur_per_kwh[i] * (charge + discharge) * 1e-3
        cost += h * p.wear_quadratic[i] * (charge * charge + discharge * discharge) * 1e-6
        if p.move_weight[i] > 0.0:
            r = p.reference_w[i, k]
            squares = charge * charge + discharge * discharge
            cost += h * p.move_weight[i] * (squares + r * r - 2.0 * r * (discharge - charge)) * 1e-6
        cost += h * p.soc_stress_eur_per_h[i] * (e / full - p.soc_stress_centre[i]) ** 2
        kwh = over_e * 1e-3
        cost += kwh * (soft.energy_eur_per_kwh + 0.5 * soft.energy_quadratic * kwh)
        cost += over_t * (soft.temperature_eur_per_k + 0.5 * soft.temperature_quadratic * over_t)
        cost += over_v * (soft.voltage_eur_per_v + 0.5 * soft.voltage_quadratic * over_v)
        if keep:
            energy[i, k], temperature[i, k], voltage[i, k] = e, t, v
    depth, limit = max(0.0, high - low - p.cycle_depth_wh[i]), p.cycle_depth_wh[i]
    if high_rest - min(low_rest, e_rest) <= limit:
        note(excess, DEPTH, depth, TOLERANCE_SHARE * full + taken)
    excess[SOFT_DEPTH] = depth
    cost += soft.depth_eur_per_kwh * depth * 1e-3 - p.terminal_value_eur_per_kwh[i] * e * 1e-3
    if not np.isnan(p.terminal_energy_wh[i]):
        missed = abs(e - p.terminal_energy_wh[i])
        excess[TERMINAL] = missed
        cost += soft.terminal_eur_per_kwh * missed * 1e-3
    return cost + worn, worn


@whole_pass
def run_meter(m: Any, i: int, h: float, soft: Any, c: Any, d: Any, u: Any, excess: Any) -> float:
    """Cost of meter i behind which one device charges c and discharges d while u of the PV is curtailed (W), EUR."""
    cost, peak = 0.0, m.peak_incurred_w[i]
    for k in range(c.shape[1]):
        alone = m.load_w[i, k] - m.pv_w[i, k] + u[i, k]
        net = alone + c[i, k] - d[i, k]
        bought, sold = max(net, 0.0), max(-net, 0.0)
        peak = max(peak, bought)
        cost += h * (m.buy_eur_per_kwh[i, k] * bought - m.sell_eur_per_kwh[i, k] * sold) * 1e-3
        cost += h * m.curtailment_cost_eur_per_kwh[i] * u[i, k] * 1e-3
        if m.tracking_weight[i, k] > 0.0:
            cost += h * m.tracking_weight[i, k] * ((net - m.target_w[i, k]) * 1e-3) ** 2
        cost += soft.grid_eur_per_kw * max(0.0, bought - m.import_limit_w[i, k], sold - m.export_limit_w[i, k]) * 1e-3
        note(excess, GRID, net - max(m.import_limit_w[i, k], alone), TOLERANCE_W)
        note(excess, GRID, -net - max(m.export_limit_w[i, k], -alone), TOLERANCE_W)
        note(excess, GRID, max(-u[i, k], u[i, k] - m.pv_w[i, k] * m.curtailable[i]), TOLERANCE_W)
    return float(cost + m.peak_price_eur_per_kw[i] * peak * 1e-3)


@stage
def unbroken(excess: Any) -> bool:
    """Whether no hard limit is exceeded."""
    worst = 0.0
    for kind in range(HARD):
        worst = max(worst, excess[kind])
    return bool(worst <= 0.0)

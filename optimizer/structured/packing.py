"""From watts, watt-hours and euros to the scaled numbers of a block, and back.

`pack` writes one device into one lane, `unpack` reads a lane's plan. Plain scalar code; the units are those of layout.
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from collections import namedtuple
from dataclasses import fields
from typing import Any

import numpy as np

from core.lanes import stage, whole_pass
from optimizer import fleet
from optimizer.problem import SoftCosts
from optimizer.structured import layout as f
from optimizer.structured import meters
from optimizer.structured.layout import BAND, FAR, HEAD, KELVIN, MONEY_EUR_PER_KW, STEP, THIN, VOLT
from optimizer.structured.rooms import never_broken

FLAT_EUR_PER_KWH = 2e-6
"""Import and export prices closer than this are one price."""
IDLE_PRICE = 1e-2

# numba reads the arrays of FleetData and MeterData, and the numbers of SoftCosts, as fields of named tuples.
FleetArrays: Any = namedtuple("FleetArrays", (*fleet.SCALARS, *fleet.PROFILES))  # type: ignore[misc]
MeterArrays: Any = namedtuple("MeterArrays", (*meters.SCALARS, *meters.PROFILES))  # type: ignore[misc]
SoftArrays: Any = namedtuple("SoftArrays", [*(item.name for item in fields(SoftCosts)), "firm"])  # type: ignore[misc]
"""`firm`: how many times the penalties of a device's limits count that it need never break; 1 where all count once."""
FIRM_FROM_WH = 100e3
"""A kelvin or a volt is worth more to a larger pack: from this capacity on their penalties grow with it where they are firm."""


def soft_arrays(soft: SoftCosts, firm: float = 1.0) -> Any:
    """Penalties as the kernels read them."""
    return SoftArrays._make([*(float(getattr(soft, item.name)) for item in fields(SoftCosts)), firm])


@stage
def power_scale(p: Any, i: int) -> float:
    """P in kW: the largest power of the horizon, never so small that energy becomes huge in its units."""
    largest = 0.0
    for k in range(p.charge_max_w.shape[1]):
        largest = max(largest, p.charge_max_w[i, k], p.discharge_max_w[i, k])
    return float(max(largest, 0.01 * p.capacity_wh[i], 1.0) / 1000.0)


@stage
def optional_rows(p: Any, m: Any, i: int) -> int:
    """Bits of the optional rows that device i needs."""
    flags = 0
    if p.temperature_min_c[i] > -np.inf:
        flags |= f.COLD
    for k in range(p.charge_taper_w.shape[1]):
        if p.charge_taper_w[i, k] < np.inf or p.discharge_taper_w[i, k] < np.inf:
            flags |= f.TAPER
        if m.curtailable[i] > 0.0 and m.pv_w[i, k] > 0.0:
            flags |= f.CURTAIL
        if m.tracking_weight[i, k] > 0.0:
            flags |= f.TRACKED
    return flags


@whole_pass
def pack(view: Any, lane: int, flags: int, p: Any, m: Any, soft: Any, i: int, h: float) -> None:
    """Write device i behind meter i into a lane of `view` (fields, lanes); h is the step in hours; what belongs to optional rows
    only where `flags` has them."""
    steps = p.charge_max_w.shape[1]
    kw = power_scale(p, i)
    per_w, per_eur = 1e-3 / kw, 1.0 / (MONEY_EUR_PER_KW * kw)
    price, curve = 1.0 / MONEY_EUR_PER_KW, kw / MONEY_EUR_PER_KW  # EUR/kW and EUR/kW^2 in units
    largest = 0.0
    for k in range(steps):
        largest = max(largest, abs(m.load_w[i, k]) + m.pv_w[i, k])
    far = FAR + 4.0 * largest * per_w
    peak_price = m.peak_price_eur_per_kw[i]

    view[f.DECAY, lane] = p.temperature_a[i]
    view[f.WEAR, lane] = h * p.wear_eur_per_kwh[i] * price
    view[f.CURVE, lane] = 2.0 * h * (p.wear_quadratic[i] + p.move_weight[i]) * curve
    stress = 2.0 * h * p.soc_stress_eur_per_h[i] * (1e3 * kw / p.capacity_wh[i]) ** 2 * per_eur
    view[f.STRESS, lane] = stress
    view[f.STRESS_0, lane] = stress * (p.energy_wh[i] - p.soc_stress_centre[i] * p.capacity_wh[i]) * per_w
    view[f.TERMINAL, lane] = p.terminal_value_eur_per_kwh[i] * price
    energy = heat = volts = depth = 1.0
    if soft.firm > 1.0:
        kept, larger = never_broken(p, i), soft.firm * max(1.0, p.capacity_wh[i] / FIRM_FROM_WH)
        energy, depth = soft.firm if kept[0] else 1.0, soft.firm if kept[3] else 1.0
        heat, volts = larger if kept[1] else 1.0, larger if kept[2] else 1.0
    view[f.E_LINEAR, lane] = energy * soft.energy_eur_per_kwh * price
    view[f.E_SQUARE, lane] = soft.energy_quadratic * curve
    view[f.T_LINEAR, lane] = heat * soft.temperature_eur_per_k / KELVIN * per_eur
    view[f.T_SQUARE, lane] = soft.temperature_quadratic / KELVIN**2 * per_eur
    view[f.V_LINEAR, lane] = volts * soft.voltage_eur_per_v / VOLT * per_eur
    view[f.V_SQUARE, lane] = soft.voltage_quadratic / VOLT**2 * per_eur
    view[f.GRID_LINEAR, lane] = soft.grid_eur_per_kw * price
    view[f.DEPTH_LINEAR, lane] = depth * soft.depth_eur_per_kwh * price
    view[f.END_LINEAR, lane] = soft.terminal_eur_per_kwh * price
    view[f.PEAK_PRICE, lane] = peak_price * price if peak_price > 0.0 else IDLE_PRICE
    view[f.PEAK_0, lane] = m.peak_incurred_w[i] * per_w if peak_price > 0.0 else 0.0
    start = p.energy_wh[i]
    view[f.HIGH_0, lane] = max(0.0, p.energy_high_wh[i] - start) * per_w
    view[f.LOW_0, lane] = min(0.0, p.energy_low_wh[i] - start) * per_w
    view[f.DEPTH, lane] = min(p.cycle_depth_wh[i] * per_w, FAR)
    view[f.EURO, lane] = per_eur
    _pack_steps(view, lane, flags, p, m, i, h, kw, far)


@stage
def _pack_steps(view: Any, lane: int, flags: int, p: Any, m: Any, i: int, h: float, kw: float, far: float) -> None:
    """The steps, and what is known after the last: the end's bounds, the cost of idling."""
    per_w, price, curve = 1e-3 / kw, 1.0 / MONEY_EUR_PER_KW, kw / MONEY_EUR_PER_KW
    heat, volts, start = 1e3 * kw * KELVIN, 1e3 * kw * VOLT, p.energy_wh[i]
    e, t, cost = start, p.temperature_c[i], 0.0
    peaked = m.peak_price_eur_per_kw[i] > 0.0
    for k in range(p.charge_max_w.shape[1]):
        s = HEAD + STEP * k
        view[s + f.HC, lane] = h * p.eta_charge[i, k]
        view[s + f.HD, lane] = h / p.eta_discharge[i, k]
        view[s + f.BC, lane] = p.temperature_charge_k_per_w[i, k] * heat
        view[s + f.BD, lane] = p.temperature_discharge_k_per_w[i, k] * heat
        view[s + f.VE, lane] = p.voltage_v_per_wh[i, k] * volts
        view[s + f.VP, lane] = p.voltage_v_per_w[i, k] * volts
        view[s + f.C_MAX, lane] = max(p.charge_max_w[i, k] * per_w, THIN)
        view[s + f.D_MAX, lane] = max(p.discharge_max_w[i, k] * per_w, THIN)
        need = (m.load_w[i, k] - m.pv_w[i, k]) * per_w
        spread = m.buy_eur_per_kwh[i, k] - m.sell_eur_per_kwh[i, k]
        costly = spread > FLAT_EUR_PER_KWH
        view[s + f.SPREAD, lane] = h * spread * price if costly else IDLE_PRICE
        view[s + f.R_NEED, lane] = -need if costly else far
        sell = h * m.sell_eur_per_kwh[i, k] * price
        cost += sell * need
        move = 2.0 * h * p.move_weight[i] * p.reference_w[i, k] * 1e-3 * price
        if flags & f.TRACKED:
            weight = 2.0 * h * m.tracking_weight[i, k]
            view[s + f.TRACK, lane] = weight * curve
            sell += weight * (m.load_w[i, k] - m.pv_w[i, k] - m.target_w[i, k]) * 1e-3 * price
        view[s + f.PRICE, lane] = sell + move
        if flags & f.CURTAIL:
            view[s + f.U_PRICE, lane] = h * m.curtailment_cost_eur_per_kwh[i] * price - move
            view[s + f.U_MAX, lane] = max(m.pv_w[i, k] * per_w * m.curtailable[i], THIN)
        view[s + f.R_IMPORT, lane] = min(m.import_limit_w[i, k] * per_w - need, far)
        view[s + f.R_EXPORT, lane] = min(m.export_limit_w[i, k] * per_w + need, far)
        view[s + f.R_OVER_PEAK, lane] = -need if peaked else far
        volt = p.voltage_v[i, k] + p.voltage_v_per_wh[i, k] * e
        view[s + f.V_ABOVE, lane] = min((p.voltage_max_v[i] - volt) * VOLT, FAR)
        view[s + f.V_BELOW, lane] = min((volt - p.voltage_min_v[i]) * VOLT, FAR)
        if flags & f.TAPER:
            c_room = (p.charge_taper_w[i, k] - p.charge_taper_w_per_wh[i, k] * e) * per_w
            d_room = (p.discharge_taper_w[i, k] + p.discharge_taper_w_per_wh[i, k] * e) * per_w
            view[s + f.C_SLOPE, lane] = p.charge_taper_w_per_wh[i, k] if c_room < FAR else 0.0
            view[s + f.D_SLOPE, lane] = p.discharge_taper_w_per_wh[i, k] if d_room < FAR else 0.0
            view[s + f.C_ROOM, lane] = min(c_room if k > 0 else max(c_room, THIN), FAR)
            view[s + f.D_ROOM, lane] = min(d_room if k > 0 else max(d_room, THIN), FAR)
        e = e - p.leak_wh[i]
        t = p.temperature_a[i] * t + p.temperature_drift_c[i, k]
        view[s + f.E_IDLE, lane] = (e - start) * per_w
        view[s + f.E_ABOVE, lane] = (p.energy_max_wh[i] - e) * per_w
        view[s + f.E_BELOW, lane] = (e - p.energy_min_wh[i]) * per_w
        view[s + f.T_ABOVE, lane] = min((p.temperature_max_c[i, k] - t) * KELVIN, FAR)
        if flags & f.COLD:
            view[s + f.T_BELOW, lane] = min((t - p.temperature_min_c[i]) * KELVIN, FAR)
    end = p.terminal_energy_wh[i]
    free = np.isnan(end)
    view[f.END_HIGH, lane] = FAR if free else (end - e) * per_w + BAND
    view[f.END_LOW, lane] = FAR if free else (e - end) * per_w + BAND
    view[f.COST_0, lane] = cost - p.terminal_value_eur_per_kwh[i] * e * 1e-3 * view[f.EURO, lane]


@whole_pass
def unpack(view: Any, lane: int, flags: int, p: Any, m: Any, i: int, h: float, out: Any) -> None:
    """Write a lane's plan into row i of the outputs."""
    watts = 1e3 / (MONEY_EUR_PER_KW * view[f.EURO, lane])
    for k in range(p.charge_max_w.shape[1]):
        s = HEAD + STEP * k
        out[0][i, k] = min(max(view[s + f.X_C, lane] * watts, 0.0), p.charge_max_w[i, k])
        out[1][i, k] = min(max(view[s + f.X_D, lane] * watts, 0.0), p.discharge_max_w[i, k])
        out[2][i, k] = 0.0
        if flags & f.CURTAIL:
            out[2][i, k] = min(max(view[s + f.X_U, lane] * watts, 0.0), m.pv_w[i, k] * m.curtailable[i])
        out[3][i, k] = view[s + f.VALUE, lane] * MONEY_EUR_PER_KW
        move = 2.0 * p.move_weight[i] * p.reference_w[i, k] * 1e-3
        out[4][i, k] = view[s + f.METER, lane] * MONEY_EUR_PER_KW / h - move

"""Plans made to keep every hard limit, and priced: plain recursion over the problem data, apart from the solver's algebra.

`settle_plan` cuts charge, discharge and curtailment to power bounds and to tapers at the energy that the plan really reaches,
and returns the objective of the convex problem (charge and discharge may overlap), slacks at their true size. A plan that
cannot be priced is refused. Not here: plans of a site, and the replay of net set points (optimizer.replay).
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer.structured.lanes import stage


@stage
def settle_plan(p: Any, m: Any, soft: Any, i: int, h: float, c: Any, d: Any, u: Any) -> float:
    """Cut row i of c, d, u (W) in place; EUR, or NaN."""
    e, t = p.energy_wh[i], p.temperature_c[i]
    high, low = max(e, p.energy_high_wh[i]), min(e, p.energy_low_wh[i])
    peak, cost = m.peak_incurred_w[i], 0.0
    stress, centre, full = h * p.soc_stress_eur_per_h[i], p.soc_stress_centre[i], p.capacity_wh[i]
    for k in range(p.charge_max_w.shape[1]):
        c_room = p.charge_taper_w[i, k] - p.charge_taper_w_per_wh[i, k] * e
        d_room = p.discharge_taper_w[i, k] + p.discharge_taper_w_per_wh[i, k] * e
        c[i, k] = max(0.0, min(c[i, k], p.charge_max_w[i, k], c_room))
        d[i, k] = max(0.0, min(d[i, k], p.discharge_max_w[i, k], d_room))
        u[i, k] = max(0.0, min(u[i, k], m.pv_w[i, k] * m.curtailable[i]))
        charge, discharge = c[i, k], d[i, k]
        v = p.voltage_v[i, k] + p.voltage_v_per_wh[i, k] * e + p.voltage_v_per_w[i, k] * (charge - discharge)
        over_v = max(0.0, v - p.voltage_max_v[i], p.voltage_min_v[i] - v)
        e += h * (p.eta_charge[i, k] * charge - discharge / p.eta_discharge[i, k]) - p.leak_wh[i]
        t = (
            p.temperature_a[i] * t
            + p.temperature_charge_k_per_w[i, k] * charge
            + p.temperature_discharge_k_per_w[i, k] * discharge
            + p.temperature_drift_c[i, k]
        )
        over_e = max(0.0, e - p.energy_max_wh[i], p.energy_min_wh[i] - e) * 1e-3
        over_t = max(0.0, t - p.temperature_max_c[i, k], p.temperature_min_c[i] - t)
        net = m.load_w[i, k] - m.pv_w[i, k] + u[i, k] + charge - discharge
        bought, sold = max(net, 0.0), max(-net, 0.0)
        high, low, peak = max(high, e), min(low, e), max(peak, bought)
        cost += h * (m.buy_eur_per_kwh[i, k] * bought - m.sell_eur_per_kwh[i, k] * sold) * 1e-3
        cost += h * m.curtailment_cost_eur_per_kwh[i] * u[i, k] * 1e-3
        cost += h * m.tracking_weight[i, k] * ((net - m.target_w[i, k]) * 1e-3) ** 2
        cost += soft.grid_eur_per_kw * max(0.0, bought - m.import_limit_w[i, k], sold - m.export_limit_w[i, k]) * 1e-3
        cost += h * p.wear_eur_per_kwh[i] * (charge + discharge) * 1e-3
        squares = (charge * charge + discharge * discharge) * 1e-6
        r = p.reference_w[i, k]
        cost += h * p.wear_quadratic[i] * squares
        cost += h * p.move_weight[i] * (squares + (r * r - 2.0 * r * (discharge - charge)) * 1e-6)
        cost += stress * (e / full - centre) ** 2
        cost += over_e * (soft.energy_eur_per_kwh + 0.5 * soft.energy_quadratic * over_e)
        cost += over_t * (soft.temperature_eur_per_k + 0.5 * soft.temperature_quadratic * over_t)
        cost += over_v * (soft.voltage_eur_per_v + 0.5 * soft.voltage_quadratic * over_v)
    cost += (m.peak_price_eur_per_kw[i] * peak - p.terminal_value_eur_per_kwh[i] * e) * 1e-3
    cost += soft.depth_eur_per_kwh * max(0.0, high - low - p.cycle_depth_wh[i]) * 1e-3
    if not np.isnan(p.terminal_energy_wh[i]):
        cost += soft.terminal_eur_per_kwh * abs(e - p.terminal_energy_wh[i]) * 1e-3
    return float(cost) if np.isfinite(cost) else np.nan


@stage
def beyond_kernel(p: Any, m: Any, i: int) -> bool:
    """Whether device i is a case for the general solver, known beforehand.

    Export that earns more than import costs (the meter's cost is not convex), a taper that the state is beyond (it gives way with
    the energy slack of another step), and numbers outside 1e-9 .. 1e12, which scaled arithmetic cannot hold.
    """
    e = p.energy_wh[i]
    outside = not (p.energy_min_wh[i] <= e <= p.energy_max_wh[i])
    tapered, none_left = False, False
    odd = not (1e-3 <= p.capacity_wh[i] <= 1e12 and abs(p.temperature_c[i]) <= 1e6)
    for k in range(p.charge_max_w.shape[1]):
        c_taper, d_taper = p.charge_taper_w[i, k], p.discharge_taper_w[i, k]
        tapered = tapered or c_taper < np.inf or d_taper < np.inf
        none_left = none_left or c_taper < p.charge_taper_w_per_wh[i, k] * e
        none_left = none_left or d_taper + p.discharge_taper_w_per_wh[i, k] * e < 0.0
        odd = odd or m.buy_eur_per_kwh[i, k] < m.sell_eur_per_kwh[i, k] - 1e-9
        size = abs(m.load_w[i, k]) + m.pv_w[i, k] + p.charge_max_w[i, k] + p.discharge_max_w[i, k]
        odd = odd or not size + 1e6 * (abs(m.buy_eur_per_kwh[i, k]) + abs(m.sell_eur_per_kwh[i, k])) <= 1e12
    return odd or (tapered and (outside or none_left))

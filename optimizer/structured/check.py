"""Plans made to keep every hard limit, replayed, and priced, apart from the solver's algebra; cases for the general solver.

`finish` cuts charge, discharge and curtailment to power bounds and to tapers at the energy that the plan really reaches, nets
what overlaps by rounding, and has it replayed (judge). Only where a hard limit is broken is the plan cut to what energy,
temperature, voltage, depth and meter leave (rooms), and where that is not enough once more, net and strictly. The problem is the
convex one: charge and discharge may overlap. Not here: plans of a site, and the replay of net set points (optimizer.replay).
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

import numpy as np

from core.lanes import stage, whole_pass
from optimizer.structured.judge import run_device, run_meter, unbroken
from optimizer.structured.rooms import (
    bounds,
    charge_room,
    discharge_room,
    energy_after,
    kept_limits,
    place,
    temperature_after,
)

OVERLAP_W = 1.0
"""An interior point leaves this much of charge beside discharge, and no more where not both pay."""


@whole_pass
def cut_to_bounds(p: Any, m: Any, i: int, h: float, c: Any, d: Any, u: Any) -> None:
    """Cut row i of c, d, u (W) in place to power bounds, tapers and the PV there is."""
    e = p.energy_wh[i]
    for k in range(c.shape[1]):
        at = place(p, i, k)
        charge, discharge = bounds(at, e)
        c[i, k] = max(0.0, min(c[i, k], charge))
        d[i, k] = max(0.0, min(d[i, k], discharge))
        u[i, k] = max(0.0, min(u[i, k], m.pv_w[i, k] * m.curtailable[i]))
        e = energy_after(at, h, e, c[i, k], d[i, k])


@whole_pass
def net_rounding(p: Any, c: Any, d: Any, i: int) -> bool:
    """Take from row i of c and d (W) what overlaps by OVERLAP_W or less; whether there was any. More than that is no rounding.

    The smaller goes, and of the larger what keeps the energy: no limit of it is touched, and only losses are saved.
    """
    any_there = False
    for k in range(c.shape[1]):
        charge, discharge = c[i, k], d[i, k]
        if 0.0 < min(charge, discharge) <= OVERLAP_W:
            both_ways = p.eta_charge[i, k] * p.eta_discharge[i, k]
            c[i, k] = max(0.0, charge - discharge / both_ways) if discharge <= charge else 0.0
            d[i, k] = max(0.0, discharge - charge * both_ways) if discharge > charge else 0.0
            any_there = True
    return any_there


@whole_pass
def cut_to_limits(p: Any, m: Any, i: int, h: float, c: Any, d: Any, u: Any, strict: bool) -> None:
    """Cut row i of c, d, u (W) in place to every limit that can be kept; `strict`: net flows, looking ahead."""
    steps = c.shape[1]
    hot, high, low, kept = np.empty(steps), np.empty(steps), np.empty(steps), np.empty(steps, np.bool_)
    depth = kept_limits(p, i, strict, hot, high, low, kept)
    e, t = p.energy_wh[i], p.temperature_c[i]
    highest, lowest = max(e, p.energy_high_wh[i]), min(e, p.energy_low_wh[i])
    for k in range(steps):
        if strict:
            both = min(c[i, k], d[i, k])
            c[i, k], d[i, k] = c[i, k] - both, d[i, k] - both
        at = place(p, i, k)
        charge, discharge = bounds(at, e)
        charge, discharge = min(c[i, k], charge), min(d[i, k], discharge)
        if charge >= discharge:
            top = min(high[k], lowest + depth)
            charge = min(charge, charge_room(at, h, e, t, discharge, top, hot[k], kept[k]))
        else:
            bottom = max(low[k], highest - depth)
            discharge = min(discharge, discharge_room(at, h, e, t, charge, bottom, hot[k], kept[k]))
        net = m.load_w[i, k] - m.pv_w[i, k] + u[i, k] + charge - discharge
        if net > m.import_limit_w[i, k]:
            charge = max(0.0, charge - (net - m.import_limit_w[i, k]))
        elif -net > m.export_limit_w[i, k]:
            more = min(-net - m.export_limit_w[i, k], (m.pv_w[i, k] - u[i, k]) * m.curtailable[i])
            u[i, k] += more
            discharge = max(0.0, discharge - (-net - m.export_limit_w[i, k] - more))
        c[i, k], d[i, k] = charge, discharge
        e = energy_after(at, h, e, charge, discharge)
        t = temperature_after(at, t, charge, discharge)
        highest, lowest = max(highest, e), min(lowest, e)


@whole_pass
def price(p: Any, m: Any, soft: Any, i: int, h: float, c: Any, d: Any, u: Any, excess: Any) -> float:
    """The plan's objective, EUR, or NaN; `excess` says what it breaks."""
    none = np.empty((0, 0))
    cost, _ = run_device(p, i, h, soft, c, d, False, none, none, none, excess)
    cost += run_meter(m, i, h, soft, c, d, u, excess)
    return cost if np.isfinite(cost) else np.nan


@whole_pass
def finish(p: Any, m: Any, soft: Any, i: int, h: float, c: Any, d: Any, u: Any, excess: Any) -> tuple[float, float, bool]:
    """Cut row i of c, d, u; (objective, what keeping limits that the solver left has cost, whether the replay passes it)."""
    cut_to_bounds(p, m, i, h, c, d, u)
    first = price(p, m, soft, i, h, c, d, u, excess)
    value, fine = first, unbroken(excess) and not np.isnan(first)
    if net_rounding(p, c, d, i):
        value = price(p, m, soft, i, h, c, d, u, excess)
        fine = unbroken(excess) and not np.isnan(value)
    if fine or np.isnan(first):
        return value, max(0.0, value - first), fine
    for strict in (False, True):
        if not fine:
            cut_to_limits(p, m, i, h, c, d, u, strict)
            value = price(p, m, soft, i, h, c, d, u, excess)
            fine = unbroken(excess) and not np.isnan(value)
    return value, max(0.0, value - first), fine


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

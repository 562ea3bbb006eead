"""A store run through a record by tables of optimizer.peak_plan: what it saves against an idle one.

Here: with loads seen before powers are chosen (`operate`), and after (`walk`). Not here: the tables.
"""

from __future__ import annotations

import numpy as np

from optimizer.peak_plan import (
    TIE_EUR,
    BoolArray,
    FloatArray,
    Plant,
    after_level,
    after_power,
    at_point,
    compiled,
    expected_eur,
    level_of,
    power_of,
    step_eur,
)


@compiled
def operate(
    p: Plant, price: FloatArray, load: FloatArray, month_ends: BoolArray, tables: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """EUR saved against an idle store at each step whose load is seen (peaks paid when they rise), kWh stored; both (T,).

    From half full; import and export at the same price.
    """
    saved, stored = np.zeros(len(price)), np.zeros(len(price))
    soc, peak, idle = 0.5, 0.0, 0.0
    for t in range(len(price)):
        best, chosen = 1e300, 0
        for k in range(2 * p.levels + 1):
            after, kw = after_level(p, soc, level_of(k))
            cost = step_eur(p, price[t], price[t], load[t], kw) + at_point(p, tables[t], after, max(peak, load[t] + kw))
            if cost < best - TIE_EUR:
                best, chosen = cost, level_of(k)
        soc, kw = after_level(p, soc, chosen)
        bought = load[t] + kw
        saved[t] = (-kw * price[t] - p.wear_eur_per_kwh * max(-kw, 0.0)) * p.dt_h
        saved[t] -= p.peak_eur_per_kw * (max(bought - peak, 0.0) - max(load[t] - idle, 0.0))
        peak, idle = max(peak, bought), max(idle, load[t])
        stored[t] = soc * p.capacity_kwh
        if month_ends[t]:
            peak, idle = 0.0, 0.0
    return saved, stored


@compiled
def cheapest(
    p: Plant, soc: float, peak_kw: float, buy: float, sell: float, load: FloatArray, chance: FloatArray, tables: FloatArray,
    month_ends: bool,
) -> float:  # fmt: skip
    """The power of least mean cost: of the levels, and of those that bring a load to the peak or to 0. See `expected_eur`."""
    even = 2 * p.levels + 1
    powers = np.zeros(even + 2 * len(load))
    for k in range(even):
        powers[k] = power_of(p, level_of(k))
    for c in range(len(load)):
        powers[even + 2 * c] = min(max(peak_kw - load[c], -p.discharge_kw), p.charge_kw)
        powers[even + 2 * c + 1] = min(max(-load[c], -p.discharge_kw), p.charge_kw)
    cost = expected_eur(p, powers, soc, peak_kw, buy, sell, load, chance, tables, month_ends)
    best = 0
    for m in range(1, len(powers)):
        if cost[m] < cost[best] - TIE_EUR:
            best = m
    kw: float = after_power(p, soc, powers[best])[1]
    return kw


@compiled
def walk(
    p: Plant, buy: FloatArray, sell: FloatArray, load: FloatArray, month_ends: BoolArray, state_load: FloatArray,
    chance: FloatArray, tables: FloatArray, plan_load: FloatArray, plan_tables: FloatArray, share: float, margin_kw: float,
    account: FloatArray,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """EUR saved against an idle store at each step, kWh stored after it; both (T,). Loads are seen after powers are chosen.

    A power is `share` of the best by chances (T, B) of loads `state_load` (T, B) and `tables` (T, B, socs, peaks) after the step,
    the rest of it of the best by one expected load (T,) and `plan_tables` (T, socs, peaks), which keeps `margin_kw` below the
    peak. Tables are not yet closed where a step ends a month. `account`: level, month's peak, and that of an idle store, in kW;
    begun with, and left as they end.
    """
    saved, stored, one = np.zeros(len(buy)), np.zeros(len(buy)), np.ones(1)
    soc, peak, idle = account[0], account[1], account[2]
    for t in range(len(buy)):
        kw = 0.0
        if share > 0.0:
            kw += share * cheapest(p, soc, peak, buy[t], sell[t], state_load[t], chance[t], tables[t], month_ends[t])
        if share < 1.0:
            low = max(peak - margin_kw, 0.0)
            kw += (1.0 - share) * cheapest(
                p, soc, low, buy[t], sell[t], plan_load[t : t + 1], one, plan_tables[t : t + 1], month_ends[t]
            )
        soc, kw = after_power(p, soc, kw)
        bought = load[t] + kw
        saved[t] = step_eur(p, buy[t], sell[t], load[t], 0.0) - step_eur(p, buy[t], sell[t], load[t], kw)
        saved[t] -= p.peak_eur_per_kw * (max(bought - peak, 0.0) - max(load[t] - idle, 0.0))
        peak, idle = max(peak, bought), max(idle, load[t])
        stored[t] = soc * p.capacity_kwh
        if month_ends[t]:
            peak, idle = 0.0, 0.0
    account[0], account[1], account[2] = soc, peak, idle
    return saved, stored

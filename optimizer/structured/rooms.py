"""What limits leave a device's power, step by step, so that a plan can be cut to what it may do: for fleets, compiled.

Limits of temperature, voltage and cycle depth are kept where the state keeps them at the start and would keep them without power;
elsewhere they are soft and nothing is cut for them. `strict` looks ahead: whatever is reached, resting from then on keeps the
voltage of every later step. Not here: judging a plan (replay), the same for a handful of devices (optimizer.kept_limits).
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

import numpy as np

from core.lanes import stage, whole_pass

INSIDE = 1e-9
"""Share of energy limits that is left, so that rounding never decides."""


@whole_pass
def kept_limits(p: Any, i: int, strict: bool, hot: Any, high: Any, low: Any, kept: Any) -> float:
    """Fill (N,) arrays of device i and return the cycle depth (Wh), inf where it is soft.

    hot: highest temperature at the end of each step from which rest keeps all later limits; high, low: energy at the end of each
    step; kept: whether the voltage limits of the step are kept ones.
    """
    steps = hot.shape[0]
    e, t, leak = p.energy_wh[i], p.temperature_c[i], p.leak_wh[i]
    mild = p.temperature_min_c[i] <= t <= p.temperature_max_c[i, 0]
    v = p.voltage_v[i, 0] + p.voltage_v_per_wh[i, 0] * e
    in_range = p.voltage_min_v[i] <= v <= p.voltage_max_v[i]
    for k in range(steps):
        v = p.voltage_v[i, k] + p.voltage_v_per_wh[i, k] * e
        kept[k] = in_range and p.voltage_min_v[i] <= v <= p.voltage_max_v[i]
        e -= leak
        t = p.temperature_a[i] * t + p.temperature_drift_c[i, k]
        hot[k] = p.temperature_max_c[i, k] if mild and t <= p.temperature_max_c[i, k] else np.inf
    warmest, above, below = np.inf, np.inf, -np.inf
    for k in range(steps - 1, -1, -1):
        warmest = min(warmest, hot[k])
        hot[k] = warmest
        warmest = (warmest - p.temperature_drift_c[i, k]) / p.temperature_a[i] if p.temperature_a[i] > 0.0 else np.inf
        high[k] = min(p.energy_max_wh[i] * (1.0 - INSIDE), above)
        low[k] = max(p.energy_min_wh[i] * (1.0 + INSIDE), below)
        above, below = above + leak, below + leak
        slope = p.voltage_v_per_wh[i, k]
        if strict and kept[k] and slope > 0.0:
            above = min(above, (p.voltage_max_v[i] - p.voltage_v[i, k]) / slope)
            below = max(below, (p.voltage_min_v[i] - p.voltage_v[i, k]) / slope)
    highest, lowest = max(p.energy_wh[i], p.energy_high_wh[i]), min(p.energy_wh[i], p.energy_low_wh[i])
    return float(p.cycle_depth_wh[i]) if highest - min(lowest, e) <= p.cycle_depth_wh[i] else np.inf


@stage
def place(p: Any, i: int, k: int) -> tuple[float, ...]:
    """What the functions below need to know of device i in step k, as plain numbers.

    Handing on `p` itself would have numba count references to all of its arrays in every branch, which costs more than the rest.
    """
    return (
        p.charge_max_w[i, k], p.charge_taper_w[i, k], p.charge_taper_w_per_wh[i, k],
        p.discharge_max_w[i, k], p.discharge_taper_w[i, k], p.discharge_taper_w_per_wh[i, k],
        p.eta_charge[i, k], p.eta_discharge[i, k], p.leak_wh[i],
        p.temperature_charge_k_per_w[i, k], p.temperature_discharge_k_per_w[i, k], p.temperature_a[i],
        p.temperature_drift_c[i, k],
        p.voltage_v[i, k], p.voltage_v_per_wh[i, k], p.voltage_v_per_w[i, k], p.voltage_min_v[i], p.voltage_max_v[i],
    )  # fmt: skip


@stage
def bounds(at: tuple[float, ...], e: float) -> tuple[float, float]:
    """Charge and discharge (W) that power bounds and tapers leave at energy e; `at` as of place."""
    charge_max, charge_taper, charge_slope, discharge_max, discharge_taper, discharge_slope = at[:6]
    charge = min(charge_max, max(0.0, charge_taper - charge_slope * e))
    discharge = min(discharge_max, max(0.0, discharge_taper + discharge_slope * e))
    return charge, discharge


@stage
def charge_room(
    at: tuple[float, ...], h: float, e: float, t: float, other: float, energy_high: float, hot: float, kept: bool
) -> float:
    """Charge (W) at which energy, temperature and voltage stay below their limits while `other` W are discharged."""
    eta_charge, eta_discharge, leak = at[6:9]
    heat, heat_other, decay, drift = at[9:13]
    volt, volt_per_wh, volt_per_w, _, volt_max = at[13:18]
    most = max(0.0, energy_high - e + leak + h * other / eta_discharge) / (h * eta_charge)
    if heat > 0.0:
        most = min(most, max(0.0, hot - decay * t - drift - heat_other * other) / heat)
    if kept and volt_per_w > 0.0:
        most = min(most, max(0.0, (volt_max - volt - volt_per_wh * e) / volt_per_w + other))
    return float(most)


@stage
def discharge_room(
    at: tuple[float, ...], h: float, e: float, t: float, other: float, energy_low: float, hot: float, kept: bool
) -> float:
    """The same for discharge (W) while `other` W are charged."""
    eta_charge, eta_discharge, leak = at[6:9]
    heat_other, heat, decay, drift = at[9:13]
    volt, volt_per_wh, volt_per_w, volt_min, _ = at[13:18]
    most = max(0.0, e - leak + h * other * eta_charge - energy_low) * eta_discharge / h
    if heat > 0.0:
        most = min(most, max(0.0, hot - decay * t - drift - heat_other * other) / heat)
    if kept and volt_per_w > 0.0:
        most = min(most, max(0.0, (volt + volt_per_wh * e - volt_min) / volt_per_w + other))
    return float(most)


@stage
def energy_after(at: tuple[float, ...], h: float, e: float, charge: float, discharge: float) -> float:
    """Energy (Wh) at the end of the step."""
    return float(e + h * (at[6] * charge - discharge / at[7]) - at[8])


@stage
def temperature_after(at: tuple[float, ...], t: float, charge: float, discharge: float) -> float:
    """Temperature (deg C) at the end of the step."""
    return float(at[11] * t + at[9] * charge + at[10] * discharge + at[12])


@whole_pass
def never_broken(p: Any, i: int) -> tuple[bool, bool, bool, bool]:
    """Whether (energy, temperature, voltage, depth) are within their limits at the start and in every step without power."""
    e, t = p.energy_wh[i], p.temperature_c[i]
    v = p.voltage_v[i, 0] + p.voltage_v_per_wh[i, 0] * e
    energy = p.energy_min_wh[i] <= e <= p.energy_max_wh[i]
    heat = p.temperature_min_c[i] <= t <= p.temperature_max_c[i, 0]
    volts = p.voltage_min_v[i] <= v <= p.voltage_max_v[i]
    highest, lowest = max(e, p.energy_high_wh[i]), min(e, p.energy_low_wh[i])
    for k in range(p.charge_max_w.shape[1]):
        v = p.voltage_v[i, k] + p.voltage_v_per_wh[i, k] * e
        volts = volts and p.voltage_min_v[i] <= v <= p.voltage_max_v[i]
        e -= p.leak_wh[i]
        t = p.temperature_a[i] * t + p.temperature_drift_c[i, k]
        energy = energy and p.energy_min_wh[i] <= e
        heat = heat and p.temperature_min_c[i] <= t <= p.temperature_max_c[i, k]
    return energy, heat, volts, highest - min(lowest, e) <= p.cycle_depth_wh[i]

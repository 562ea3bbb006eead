"""What limits leave a device's power, step by step, so that a plan can be cut to what it may do: for fleets, compiled.

Limits of temperature, voltage and cycle depth are kept where the state keeps them at the start and would keep them without power;
elsewhere they are soft and nothing is cut for them. `strict` looks ahead: whatever is reached, resting from then on keeps the
voltage of every later step. Not here: judging a plan (replay), the same for a handful of devices (optimizer.kept_limits).
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer.structured.lanes import stage, whole_pass

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
def bounds(p: Any, i: int, k: int, e: float) -> tuple[float, float]:
    """Charge and discharge (W) that power bounds and tapers leave device i in step k at energy e."""
    charge = min(p.charge_max_w[i, k], max(0.0, p.charge_taper_w[i, k] - p.charge_taper_w_per_wh[i, k] * e))
    discharge = min(p.discharge_max_w[i, k], max(0.0, p.discharge_taper_w[i, k] + p.discharge_taper_w_per_wh[i, k] * e))
    return charge, discharge


@stage
def charge_room(
    p: Any, i: int, k: int, h: float, e: float, t: float, other: float, energy_high: float, hot: float, kept: bool
) -> float:
    """Charge (W) at which energy, temperature and voltage stay below their limits while `other` W are discharged."""
    most = max(0.0, energy_high - e + p.leak_wh[i] + h * other / p.eta_discharge[i, k]) / (h * p.eta_charge[i, k])
    heat, used = p.temperature_charge_k_per_w[i, k], p.temperature_discharge_k_per_w[i, k] * other
    if heat > 0.0:
        most = min(most, max(0.0, hot - p.temperature_a[i] * t - p.temperature_drift_c[i, k] - used) / heat)
    if kept and p.voltage_v_per_w[i, k] > 0.0:
        span = p.voltage_max_v[i] - p.voltage_v[i, k] - p.voltage_v_per_wh[i, k] * e
        most = min(most, max(0.0, span / p.voltage_v_per_w[i, k] + other))
    return float(most)


@stage
def discharge_room(
    p: Any, i: int, k: int, h: float, e: float, t: float, other: float, energy_low: float, hot: float, kept: bool
) -> float:
    """The same for discharge (W) while `other` W are charged."""
    most = max(0.0, e - p.leak_wh[i] + h * other * p.eta_charge[i, k] - energy_low) * p.eta_discharge[i, k] / h
    heat, used = p.temperature_discharge_k_per_w[i, k], p.temperature_charge_k_per_w[i, k] * other
    if heat > 0.0:
        most = min(most, max(0.0, hot - p.temperature_a[i] * t - p.temperature_drift_c[i, k] - used) / heat)
    if kept and p.voltage_v_per_w[i, k] > 0.0:
        span = p.voltage_v[i, k] + p.voltage_v_per_wh[i, k] * e - p.voltage_min_v[i]
        most = min(most, max(0.0, span / p.voltage_v_per_w[i, k] + other))
    return float(most)


@stage
def energy_after(p: Any, i: int, k: int, h: float, e: float, charge: float, discharge: float) -> float:
    """Energy (Wh) at the end of step k."""
    return float(e + h * (p.eta_charge[i, k] * charge - discharge / p.eta_discharge[i, k]) - p.leak_wh[i])


@stage
def temperature_after(p: Any, i: int, k: int, t: float, charge: float, discharge: float) -> float:
    """Temperature (deg C) at the end of step k."""
    heat = p.temperature_charge_k_per_w[i, k] * charge + p.temperature_discharge_k_per_w[i, k] * discharge
    return float(p.temperature_a[i] * t + heat + p.temperature_drift_c[i, k])


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

"""What limits leave a device's power when its plan is cut to them, for a handful of devices.

Limits of temperature, voltage and cycle depth are kept where the state keeps them at the start and would keep them without power;
elsewhere they are soft and nothing is cut for them. `strict` looks ahead: whatever is reached, resting from then on keeps the
voltage of every later step. Not here: judging (optimizer.replay), the same for fleets (optimizer.structured.rooms).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.problem import DeviceData

FloatArray = NDArray[np.float64]


@dataclass(slots=True)
class KeptLimits:
    """A device's limits over the horizon, and where a plan has taken it so far; arrays (N,)."""

    device: DeviceData
    dt_h: float
    hot_c: FloatArray
    """Highest temperature at the end of a step from which rest keeps all later limits; inf where it is soft."""
    high_wh: FloatArray
    low_wh: FloatArray
    """Energy at the end of a step."""
    keeps_voltage: NDArray[np.bool_]
    depth_wh: float
    """Inf where it is soft."""
    energy_wh: float
    temperature_c: float
    highest_wh: float
    lowest_wh: float

    def room_w(self, k: int) -> tuple[float, float]:
        """Charge and discharge that step k has room for."""
        d, h, e = self.device, self.dt_h, self.energy_wh
        charge = min(d.charge_max_w[k], max(0.0, d.charge_taper_w[k] - d.charge_taper_w_per_wh[k] * e))
        discharge = min(d.discharge_max_w[k], max(0.0, d.discharge_taper_w[k] + d.discharge_taper_w_per_wh[k] * e))
        rest = e - d.leak_wh
        top = min(self.high_wh[k], self.lowest_wh + self.depth_wh)
        bottom = max(self.low_wh[k], self.highest_wh - self.depth_wh)
        charge = min(charge, max(0.0, top - rest) / (h * d.eta_charge[k]))
        discharge = min(discharge, max(0.0, rest - bottom) * d.eta_discharge[k] / h)
        cool = max(0.0, self.hot_c[k] - d.temperature_a * self.temperature_c - d.temperature_drift_c[k])
        if d.temperature_charge_k_per_w[k] > 0:
            charge = min(charge, cool / d.temperature_charge_k_per_w[k])
        if d.temperature_discharge_k_per_w[k] > 0:
            discharge = min(discharge, cool / d.temperature_discharge_k_per_w[k])
        if self.keeps_voltage[k] and d.voltage_v_per_w[k] > 0:
            v = d.voltage_v[k] + d.voltage_v_per_wh[k] * e
            charge = min(charge, max(0.0, d.voltage_max_v - v) / d.voltage_v_per_w[k])
            discharge = min(discharge, max(0.0, v - d.voltage_min_v) / d.voltage_v_per_w[k])
        return float(charge), float(discharge)

    def advance(self, k: int, power_w: float) -> None:
        """Take step k at net power, discharge positive."""
        d, charge, discharge = self.device, max(-power_w, 0.0), max(power_w, 0.0)
        self.energy_wh += self.dt_h * (d.eta_charge[k] * charge - discharge / d.eta_discharge[k]) - d.leak_wh
        heat = d.temperature_charge_k_per_w[k] * charge + d.temperature_discharge_k_per_w[k] * discharge
        self.temperature_c = float(d.temperature_a * self.temperature_c + heat + d.temperature_drift_c[k])
        self.highest_wh, self.lowest_wh = max(self.highest_wh, self.energy_wh), min(self.lowest_wh, self.energy_wh)


def kept_limits(d: DeviceData, dt_h: float, *, strict: bool) -> KeptLimits:
    """The limits of a device that its plan is cut to."""
    steps = len(d.charge_max_w)
    rest_wh = d.energy_wh - d.leak_wh * np.arange(steps + 1)
    rest_v = d.voltage_v + d.voltage_v_per_wh * rest_wh[:-1]
    inside = (d.voltage_min_v <= rest_v) & (rest_v <= d.voltage_max_v)
    keeps_voltage = inside & inside[0]
    hot, high, low = np.empty(steps), np.empty(steps), np.empty(steps)
    mild = d.temperature_min_c <= d.temperature_c <= d.temperature_max_c[0]
    t = d.temperature_c
    for k in range(steps):
        t = d.temperature_a * t + d.temperature_drift_c[k]
        hot[k] = d.temperature_max_c[k] if mild and t <= d.temperature_max_c[k] else np.inf
    warmest, above, below = np.inf, np.inf, -np.inf
    for k in range(steps - 1, -1, -1):
        hot[k] = warmest = min(warmest, hot[k])
        warmest = (warmest - d.temperature_drift_c[k]) / d.temperature_a if d.temperature_a > 0 else np.inf
        high[k], low[k] = min(d.energy_max_wh, above), max(d.energy_min_wh, below)
        above, below, slope = above + d.leak_wh, below + d.leak_wh, d.voltage_v_per_wh[k]
        if strict and keeps_voltage[k] and slope > 0:
            above = min(above, (d.voltage_max_v - d.voltage_v[k]) / slope)
            below = max(below, (d.voltage_min_v - d.voltage_v[k]) / slope)
    highest, lowest = max(d.energy_wh, d.energy_high_wh), min(d.energy_wh, d.energy_low_wh)
    depth = d.cycle_depth_wh if highest - min(lowest, float(rest_wh[-1])) <= d.cycle_depth_wh else np.inf
    return KeptLimits(d, dt_h, hot, high, low, keeps_voltage, depth, d.energy_wh, d.temperature_c, highest, lowest)

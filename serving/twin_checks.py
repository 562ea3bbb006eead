"""Is a pack's latest telemetry something to predict from? Each check gives a reason, or None.

Here: age, clock, units, SoC against the voltage at rest. Not here: documents as they come in (core.telemetry), what the optimizer
asks of a state (optimizer.measured).
"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from core.battery.cells import CELLS
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.telemetry import FUTURE, RANGES
from optimizer.measured import check_measured

STALE_S = 900.0
"""Telemetry older than this is not predicted from: a prediction must not look fresher than its input."""
REST_C_RATE_PER_H = 0.02
"""A pack with less current than this is at rest, as far as its voltage tells its SoC."""
REST_SOC_PCT = 10.0
REST_CELL_V = 0.06
"""SoC and voltage at rest may disagree by this much together: polarisation that fades for an hour, OCV of an aged cell."""
_FIELDS = {
    "voltage": "voltage_v", "current": "current_a", "power": "power_w", "temperature": "temperature_c", "soc": "soc_pct",
    "soh": "soh_pct", "internal_resistance": "internal_resistance_ohm",
}  # fmt: skip


def why_unusable(device: DeviceConfig, state: PackState | None, at: datetime) -> str | None:
    """The first thing wrong with a device's newest telemetry not after `at`; None when it can be predicted from."""
    if state is None:
        return "no telemetry"
    age_s = (at - state.measured_at).total_seconds()
    if age_s > STALE_S:
        return f"telemetry is {age_s:.0f} s old (allowed {STALE_S:.0f} s)"
    for name, (low, high, unit) in RANGES.items():
        value = getattr(state, _FIELDS[name])
        if not np.isfinite(value):
            return f"{name} is not a finite number"
        if not low <= value <= high or (name == "soh" and value == low):
            return f"{name} is {value:g}, expected {low:g} to {high:g} {unit}"
    try:
        check_measured(device, state)
    except InputError as error:
        return str(error)
    return _rest_voltage(device, state)


def why_wrong_clock(newest: datetime | None, read_at: datetime) -> str | None:
    """A device that stamps telemetry ahead of the plant's present: what looks fresh may be old."""
    if newest is None or newest - read_at <= FUTURE:
        return None
    ahead_s, allowed_s = (newest - read_at).total_seconds(), FUTURE.total_seconds()
    return f"its clock is {ahead_s:.0f} s ahead (allowed {allowed_s:.0f} s)"


def _rest_voltage(device: DeviceConfig, state: PackState) -> str | None:
    """At rest the voltage must be that of an open circuit near the reported SoC."""
    if abs(state.current_a) > REST_C_RATE_PER_H * device.nominal_capacity_ah:
        return None
    table = CELLS[device.chemistry].ocv_table()
    grid = np.linspace(0.0, 100.0, len(table))
    cell_v = (state.voltage_v + state.current_a * state.internal_resistance_ohm) / device.series_cells
    low_v = float(np.interp(state.soc_pct - REST_SOC_PCT, grid, table)) - REST_CELL_V
    high_v = float(np.interp(state.soc_pct + REST_SOC_PCT, grid, table)) + REST_CELL_V
    if low_v <= cell_v <= high_v:
        return None
    return (
        f"SoC {state.soc_pct:.1f} % does not agree with {cell_v:.3f} V a cell at rest "
        f"({low_v:.3f} to {high_v:.3f} V expected of {device.chemistry.value})"
    )

"""How far a step can take a pack, and what slope and resistance it meets at most on the way; compiled.

A step's bound needs the steepest OCV slope and the largest resistance within its reach, and its reach depends on the bound: the
largest current I is sought that the cell's voltage window and the rated power still allow with slope and resistance of I's own
reach. Limits tighter than the window give a smaller current, whose reach lies inside. Not here: Condition (core.pack), bounds
(core.limits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C, compiled

FloatArray = NDArray[np.float64]
OUTPUTS = ("slope_v_per_pct", "step_ohm", "full_ohm")
"""What `side` finds: OCV slope, resistance of the step, resistance with all of polarisation and lag built up."""
REACH_MARGIN = 1.01
"""A step is taken to move the SoC by this much more than its largest current would."""
_HALVINGS = 12


@compiled
def largest(by_soc: FloatArray, column: int, first: float, second: float) -> float:
    """Largest value of a column between two SoCs (0-1), in any order."""
    low, high = max(min(first, second), 0.0), min(max(first, second), 1.0)
    grid = SOC_POINTS - 1
    found = 0.0
    for soc in (low, high):
        position = min(max(soc, 0.0), 1.0) * grid
        k = min(int(position), grid - 1)
        found = max(found, by_soc[k, column] + (position - k) * (by_soc[k + 1, column] - by_soc[k, column]))
    for k in range(int(np.ceil(low * grid)), int(np.floor(high * grid)) + 1):
        found = max(found, by_soc[k, column])
    return found


@compiled
def steepest(by_soc: FloatArray, soc: float, reach: float) -> float:
    """Steepest chord of the OCV (V per unit of SoC) from a SoC to any point up to soc + reach; reach < 0 goes down."""
    grid = SOC_POINTS - 1
    position = min(max(soc, 0.0), 1.0) * grid
    k = min(int(position), grid - 1)
    here = by_soc[k, 0] + (position - k) * (by_soc[k + 1, 0] - by_soc[k, 0])
    end = min(max(position + reach * grid, 0.0), float(grid))
    found = 0.0
    if abs(end - position) > 1e-9:
        k = min(int(end), grid - 1)
        there = by_soc[k, 0] + (end - k) * (by_soc[k + 1, 0] - by_soc[k, 0])
        found = (there - here) / (end - position) * grid
    for k in range(int(np.ceil(min(position, end))), int(np.floor(max(position, end))) + 1):
        if abs(k - position) > 1e-9:
            found = max(found, (by_soc[k, 0] - here) / (k - position) * grid)
    return found


@compiled
def _met(
    current_a: float,
    parameters: FloatArray,
    by_soc: FloatArray,
    factors: FloatArray,
    soc: float,
    dt_s: float,
    built_1: float,
    built_lag: float,
    measured: float,
    anchors: FloatArray,
    out: FloatArray,
) -> None:
    """OUTPUTS within the reach of a current (discharge positive); built: what of v1 and lag builds up in the step."""
    q_ah, cells = parameters[0], parameters[1]
    moved = -REACH_MARGIN * current_a * dt_s / 3600.0 / q_ah
    r0 = measured * parameters[2] * factors[0] * largest(by_soc, 2, soc, soc + moved)
    r1 = measured * parameters[2] * factors[1] * largest(by_soc, 3, soc, soc + moved)
    lag_per_a = parameters[10] * factors[2] * largest(by_soc, 4, soc, soc + moved) / q_ah
    reach = moved - REACH_MARGIN * current_a * lag_per_a * built_lag
    slope = 0.0
    for anchor in anchors:
        slope = max(slope, cells * steepest(by_soc, anchor, reach))
    out[0] = slope / 100.0
    out[1] = r0 + built_1 * r1 + built_lag * lag_per_a * slope
    out[2] = r0 + r1 + lag_per_a * slope


@compiled
def side(
    rated_w: float,
    behind_v: float,
    spare_v: float,
    window_v: float,
    parameters: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    soc: float,
    coldest_c: float,
    dt_s: float,
    measured: float,
    anchors: FloatArray,
    out: FloatArray,
) -> None:
    """OUTPUTS (3,) of the side that rated_w names (discharge positive).

    behind_v: voltage behind R0; spare_v: what of it may be lost on this side without current; window_v: the pack's voltage limit
    there; measured: factor on the resistances; anchors: SoCs (0-1) from which the OCV's chords are drawn.
    """
    warmth = min(max(coldest_c, COLDEST_C), WARMEST_C) - COLDEST_C
    j = min(int(warmth), by_temperature.shape[0] - 2)
    factors = by_temperature[j] + (warmth - j) * (by_temperature[j + 1] - by_temperature[j])
    built_1, built_lag = 1.0 - np.exp(-dt_s / parameters[4]), 1.0 - np.exp(-dt_s / parameters[5])
    sign = 1.0 if rated_w > 0.0 else -1.0
    room_v = sign * (behind_v - window_v) - spare_v
    least_v = max(0.5 * (behind_v - spare_v), 1.0)
    low, high = 0.0, abs(rated_w) / least_v
    for turn in range(_HALVINGS + 1):
        current = high if turn == 0 else 0.5 * (low + high)
        _met(sign * current, parameters, by_soc, factors, soc, dt_s, built_1, built_lag, measured, anchors, out)
        last = min(1.0, max(0.0, behind_v / max(behind_v + room_v, 1e-9))) if sign < 0.0 else 1.0
        r_moved = out[0] * 100.0 * dt_s / 3600.0 / parameters[0]
        lowest_v = max(behind_v - spare_v - (current * (out[1] + r_moved) if sign > 0.0 else 0.0), least_v)
        if min(room_v / (last * out[1] + r_moved), abs(rated_w) / lowest_v) >= current:
            if turn == 0:
                return
            low = current
        else:
            high = current
    _met(sign * high, parameters, by_soc, factors, soc, dt_s, built_1, built_lag, measured, anchors, out)

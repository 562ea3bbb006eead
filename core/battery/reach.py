"""How far a step can take a pack, and what slope and resistance it meets at most on the way; compiled.

A step's bound needs the steepest OCV slope and the largest resistance within its reach, and its reach depends on the bound: the
largest current I is sought that the cell's voltage window and the rated power still allow with slope and resistance of I's own
reach. Limits tighter than the window give a smaller current, whose reach lies inside. Not here: Condition (core.pack), bounds
(core.limits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C, compiled_lean

FloatArray = NDArray[np.float64]
OUTPUTS = ("slope_v_per_pct", "step_ohm", "full_ohm")
"""What `side` finds: OCV slope, resistance of the step, resistance with all of polarisation and lag built up."""
REACH_MARGIN = 1.01
"""A step is taken to move the SoC by this much more than its largest current would."""
_HALVINGS = 12


@compiled_lean
def _at(by_soc: FloatArray, column: int, position: float) -> float:
    """A column at a place on the grid of SoCs."""
    k = min(int(position), SOC_POINTS - 2)
    value: float = by_soc[k, column] + (position - k) * (by_soc[k + 1, column] - by_soc[k, column])
    return value


@compiled_lean
def _chord(value: float, here: float, away: float) -> float:
    """Slope from here to a place that is `away` grid points off; 0 where that is the same place."""
    return (value - here) / away if abs(away) > 1e-9 else 0.0


@compiled_lean
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
    there; measured: factor on the resistances; anchors (2,): SoCs (0-1) from which the OCV's chords are drawn.

    A bisection over the current. Tables are walked away from the pack's SoC: what the largest current known to be within reach
    has passed is remembered, so that each point is looked at about once.
    """
    warmth = min(max(coldest_c, COLDEST_C), WARMEST_C) - COLDEST_C
    j = min(int(warmth), by_temperature.shape[0] - 2)
    x = warmth - j
    q_ah, cells, grid = parameters[0], parameters[1], SOC_POINTS - 1
    scale = measured * parameters[2]
    per_r0 = scale * (by_temperature[j, 0] + x * (by_temperature[j + 1, 0] - by_temperature[j, 0]))
    per_r1 = scale * (by_temperature[j, 1] + x * (by_temperature[j + 1, 1] - by_temperature[j, 1]))
    per_lag = parameters[10] * (by_temperature[j, 2] + x * (by_temperature[j + 1, 2] - by_temperature[j, 2])) / q_ah
    built_1, built_lag = 1.0 - np.exp(-dt_s / parameters[4]), 1.0 - np.exp(-dt_s / parameters[5])
    sign = 1.0 if rated_w > 0.0 else -1.0
    way = -int(sign)
    room_v = sign * (behind_v - window_v) - spare_v
    least_v = max(0.5 * (behind_v - spare_v), 1.0)
    # Where the walks begin, what is met there, and the next point of each.
    place = min(max(soc, 0.0), 1.0) * grid
    place_a, place_b = min(max(anchors[0], 0.0), 1.0) * grid, min(max(anchors[1], 0.0), 1.0) * grid
    ocv_a, ocv_b = _at(by_soc, 0, place_a), _at(by_soc, 0, place_b)
    kept_0, kept_1, kept_lag = _at(by_soc, 2, place), _at(by_soc, 3, place), _at(by_soc, 4, place)
    kept_a, kept_b = 0.0, 0.0
    if way > 0:
        next_k, next_a, next_b = int(np.ceil(place)), int(np.ceil(place_a)), int(np.ceil(place_b))
    else:
        next_k, next_a, next_b = int(place), int(place_a), int(place_b)
    low, high = 0.0, abs(rated_w) / least_v
    turn, current = 0, high
    while True:
        moved = REACH_MARGIN * current * dt_s / 3600.0 / q_ah
        end = min(max(place + way * moved * grid, 0.0), float(grid))
        k, most_0, most_1, most_lag = next_k, kept_0, kept_1, kept_lag
        while way * (end - k) >= 0.0:
            most_0, most_1, most_lag = max(most_0, by_soc[k, 2]), max(most_1, by_soc[k, 3]), max(most_lag, by_soc[k, 4])
            k += way
        r0 = per_r0 * max(most_0, _at(by_soc, 2, end))
        r1 = per_r1 * max(most_1, _at(by_soc, 3, end))
        lag_per_a = per_lag * max(most_lag, _at(by_soc, 4, end))
        reach = way * (moved + REACH_MARGIN * current * lag_per_a * built_lag) * grid
        end_a, end_b = min(max(place_a + reach, 0.0), float(grid)), min(max(place_b + reach, 0.0), float(grid))
        a, most_a, b, most_b = next_a, kept_a, next_b, kept_b
        while way * (end_a - a) >= 0.0:
            most_a = max(most_a, _chord(by_soc[a, 0], ocv_a, a - place_a))
            a += way
        while way * (end_b - b) >= 0.0:
            most_b = max(most_b, _chord(by_soc[b, 0], ocv_b, b - place_b))
            b += way
        steep_a = max(most_a, _chord(_at(by_soc, 0, end_a), ocv_a, end_a - place_a))
        steep_b = max(most_b, _chord(_at(by_soc, 0, end_b), ocv_b, end_b - place_b))
        slope = cells * grid * max(steep_a, steep_b)
        step_ohm = r0 + built_1 * r1 + built_lag * lag_per_a * slope
        if turn > _HALVINGS:
            break
        last = min(1.0, max(0.0, behind_v / max(behind_v + room_v, 1e-9))) if sign < 0.0 else 1.0
        r_moved = slope * dt_s / 3600.0 / q_ah
        lowest_v = max(behind_v - spare_v - (current * (step_ohm + r_moved) if sign > 0.0 else 0.0), least_v)
        if min(room_v / (last * step_ohm + r_moved), abs(rated_w) / lowest_v) >= current:
            if turn == 0:
                break
            low = current
            next_k, kept_0, kept_1, kept_lag = k, most_0, most_1, most_lag
            next_a, kept_a, next_b, kept_b = a, most_a, b, most_b
        else:
            high = current
        turn += 1
        current = 0.5 * (low + high) if turn <= _HALVINGS else high
    out[0], out[1], out[2] = slope / 100.0, step_ohm, r0 + r1 + lag_per_a * slope

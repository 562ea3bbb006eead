"""How far a step can take a pack, and what slope and resistance it meets at most on the way; compiled.

A step's bound needs the steepest OCV slope and the largest resistance within its reach, and its reach depends on the bound: the
current I is sought up to which the cell's voltage window and the rated power still allow more than I with slope and resistance
of I's own reach. Limits tighter than the window give a smaller current, whose reach lies inside. Not here: Condition (core.pack),
bounds (core.limits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C, compiled_lean
from core.lane_tables import on_stack

FloatArray = NDArray[np.float64]
OUTPUTS = ("slope_v_per_pct", "step_ohm", "full_ohm")
"""What `side` finds: OCV slope, resistance of the step, resistance with all of polarisation and lag built up."""
REACH_MARGIN = 1.01
"""A step is taken to move the SoC by this much more than its largest current would."""
PARTS = 4096
"""The current is found to a part of this many of the largest imaginable one: the next part is surely out of reach."""
ESTIMATES = 6
"""Secants before what is left is halved; some three are needed."""


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
def _first(place: float, way: int) -> int:
    """The point of the grid that is met first on the way from a place; it may be the place itself."""
    return int(np.ceil(place)) if way > 0 else int(place)


@compiled_lean
def _passed(first: int, end: float, way: int) -> int:
    """How many points are met from the first one to an end, both included."""
    number = int(end) - first + 1 if way > 0 else first - int(np.ceil(end)) + 1
    return min(max(number, 0), SOC_POINTS)


@compiled_lean
def _walk(
    by_soc: FloatArray,
    way: int,
    first: int,
    first_a: int,
    first_b: int,
    place_a: float,
    place_b: float,
    ocv_a: float,
    ocv_b: float,
    points: int,
    wanted: int,
    met: FloatArray,
) -> int:
    """Fill rows of met up to `wanted` points: largest r0, r1, lag and steepest chord from each anchor; how many are filled."""
    while points < wanted:
        k, a, b = first + way * points, first_a + way * points, first_b + way * points
        k, a, b = min(max(k, 0), SOC_POINTS - 1), min(max(a, 0), SOC_POINTS - 1), min(max(b, 0), SOC_POINTS - 1)
        points += 1
        for c in range(3):
            met[points, c] = max(met[points - 1, c], by_soc[k, 2 + c])
        met[points, 3] = max(met[points - 1, 3], _chord(by_soc[a, 0], ocv_a, a - place_a))
        met[points, 4] = max(met[points - 1, 4], _chord(by_soc[b, 0], ocv_b, b - place_b))
    return points


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
    built_1: float,
    built_lag: float,
    measured: float,
    anchors: FloatArray,
    out: FloatArray,
) -> None:
    """OUTPUTS (3,) of the side that rated_w names (discharge positive).

    behind_v: voltage behind R0; spare_v: what of it may be lost on this side without current; window_v: the pack's voltage limit
    there; built_1, built_lag: what of polarisation and lag builds up in dt_s; measured: factor on the resistances; anchors (2,):
    SoCs (0-1) from which the OCV's chords are drawn. NaN where one of them is no number.

    The answer is a whole part of the largest imaginable current that is out of reach: what the circuit allows with the
    resistances met on the way to it is less. A step that begins below such a current never gets there, so that any such part is
    safe; this one's neighbour below is within reach. Secants find the two. (Near empty, where the OCV bends, there can be several
    such places; the first guess is below them.) Tables are walked away from the pack's SoC once: what is met is kept.
    """
    if not np.isfinite(rated_w + behind_v + spare_v + window_v + soc + coldest_c + anchors[0] + anchors[1]):
        out[0] = out[1] = out[2] = np.nan
        return
    warmth = min(max(coldest_c, COLDEST_C), WARMEST_C) - COLDEST_C
    j = min(int(warmth), by_temperature.shape[0] - 2)
    x = warmth - j
    q_ah, cells, grid = parameters[0], parameters[1], SOC_POINTS - 1
    scale = measured * parameters[2]
    per_r0 = scale * (by_temperature[j, 0] + x * (by_temperature[j + 1, 0] - by_temperature[j, 0]))
    per_r1 = scale * (by_temperature[j, 1] + x * (by_temperature[j + 1, 1] - by_temperature[j, 1]))
    per_lag = parameters[10] * (by_temperature[j, 2] + x * (by_temperature[j + 1, 2] - by_temperature[j, 2])) / q_ah
    share_per_a = dt_s / 3600.0 / q_ah
    moved_per_a = REACH_MARGIN * share_per_a
    sign = 1.0 if rated_w > 0.0 else -1.0
    way = -int(sign)
    room_v = sign * (behind_v - window_v) - spare_v
    least_v = max(0.5 * (behind_v - spare_v), 1.0)
    last = min(1.0, max(0.0, behind_v / max(behind_v + room_v, 1e-9))) if sign < 0.0 else 1.0
    # Where the ways begin and the first point of each; what is met up to the n-th point of each is kept in row n.
    place = min(max(soc, 0.0), 1.0) * grid
    place_a, place_b = min(max(anchors[0], 0.0), 1.0) * grid, min(max(anchors[1], 0.0), 1.0) * grid
    ocv_a, ocv_b = _at(by_soc, 0, place_a), _at(by_soc, 0, place_b)
    met = on_stack(102, 5)
    met[0, 0], met[0, 1], met[0, 2] = _at(by_soc, 2, place), _at(by_soc, 3, place), _at(by_soc, 4, place)
    met[0, 3] = met[0, 4] = 0.0
    first, first_a, first_b = _first(place, way), _first(place_a, way), _first(place_b, way)
    points = 0
    free_v = behind_v - spare_v
    most_a = abs(rated_w) / least_v
    part_a = most_a / PARTS
    parts_per_a = PARTS / most_a if most_a > 0.0 else 0.0
    # Two neighbouring parts at a time: the lower's answer and the upper's cost little more than one, and give the secant's slope.
    low, high = 0, PARTS
    part = min(max(int(abs(rated_w) / max(free_v, least_v) * parts_per_a), 0), PARTS - 1)
    turn = 0
    while True:
        slope = step_ohm = full_ohm = missed_low = missed_high = 0.0
        for upper in range(2):
            current = (part + 1 - upper) * part_a
            moved = current * moved_per_a
            end = min(max(place + way * moved * grid, 0.0), float(grid))
            n = _passed(first, end, way)
            points = _walk(by_soc, way, first, first_a, first_b, place_a, place_b, ocv_a, ocv_b, points, n, met)
            k = min(int(end), SOC_POINTS - 2)
            part_k = end - k
            r0 = per_r0 * max(met[n, 0], by_soc[k, 2] + part_k * (by_soc[k + 1, 2] - by_soc[k, 2]))
            r1 = per_r1 * max(met[n, 1], by_soc[k, 3] + part_k * (by_soc[k + 1, 3] - by_soc[k, 3]))
            lag_per_a = per_lag * max(met[n, 2], by_soc[k, 4] + part_k * (by_soc[k + 1, 4] - by_soc[k, 4]))
            reach = way * (moved + REACH_MARGIN * current * lag_per_a * built_lag) * grid
            end_a, end_b = min(max(place_a + reach, 0.0), float(grid)), min(max(place_b + reach, 0.0), float(grid))
            n_a, n_b = _passed(first_a, end_a, way), _passed(first_b, end_b, way)
            points = _walk(by_soc, way, first, first_a, first_b, place_a, place_b, ocv_a, ocv_b, points, max(n_a, n_b), met)
            steep_a = max(met[n_a, 3], _chord(_at(by_soc, 0, end_a), ocv_a, end_a - place_a))
            steep_b = max(met[n_b, 4], _chord(_at(by_soc, 0, end_b), ocv_b, end_b - place_b))
            steep = cells * grid * max(steep_a, steep_b)
            ohm = r0 + built_1 * r1 + built_lag * lag_per_a * steep
            r_moved = steep * share_per_a
            lowest_v = max(free_v - (current * (ohm + r_moved) if sign > 0.0 else 0.0), least_v)
            missed = min(room_v / (last * ohm + r_moved), abs(rated_w) / lowest_v) - current
            if upper == 0:
                slope, step_ohm, full_ohm, missed_high = steep, ohm, r0 + r1 + lag_per_a * steep, missed
            else:
                missed_low = missed
        within = part == 0 or missed_low >= 0.0
        if within and (missed_high < 0.0 or part + 1 == PARTS):
            out[0], out[1], out[2] = slope / 100.0, step_ohm, full_ohm
            return
        low, high = (part + 1, high) if within else (low, part)
        if low >= high:  # parameters that are no numbers
            out[0] = out[1] = out[2] = np.nan
            return
        turn += 1
        bend = missed_low - missed_high
        ahead = part + missed_low / bend if bend > 0.0 else -1.0
        part = (low + high) // 2 if turn > ESTIMATES or not low <= ahead < high else int(ahead)

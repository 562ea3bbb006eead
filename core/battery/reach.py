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
_ESTIMATES = 10
"""Secants before what is left is halved; some four are needed."""


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
def _passed(place: float, end: float, way: int) -> int:
    """How many points of the grid are met from a place to an end, both included."""
    if way > 0:
        return int(end) - int(np.ceil(place)) + 1
    return int(place) - int(np.ceil(end)) + 1


@compiled_lean
def _point(place: float, number: int, way: int) -> int:
    """The point that is met after `number` others."""
    return int(np.ceil(place)) + number if way > 0 else int(place) - number


@compiled_lean
def _chords(by_soc: FloatArray, place: float, ocv: float, way: int, points: int, wanted: int, met: FloatArray) -> int:
    """Fill met, the steepest chord from a place to one of the first n points, up to n = wanted; how many are filled then."""
    while points < wanted:
        k = _point(place, points, way)
        points += 1
        met[points, 0] = max(met[points - 1, 0], _chord(by_soc[k, 0], ocv, k - place))
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
    measured: float,
    anchors: FloatArray,
    out: FloatArray,
) -> None:
    """OUTPUTS (3,) of the side that rated_w names (discharge positive).

    behind_v: voltage behind R0; spare_v: what of it may be lost on this side without current; window_v: the pack's voltage limit
    there; measured: factor on the resistances; anchors (2,): SoCs (0-1) from which the OCV's chords are drawn.

    The answer is a whole part of the largest imaginable current that is out of reach: what the circuit allows with the
    resistances met on the way to it is less. A step that begins below such a current never gets there, so that any such part is
    safe; this one's neighbour below is within reach. Secants find the two. (Near empty, where the OCV bends, there can be several
    such places; the first guess is below them.) Tables are walked away from the pack's SoC once: what is met is kept.
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
    met, met_a, met_b = on_stack(102, 3), on_stack(102, 1), on_stack(102, 1)
    met[0, 0], met[0, 1], met[0, 2] = _at(by_soc, 2, place), _at(by_soc, 3, place), _at(by_soc, 4, place)
    met_a[0, 0] = met_b[0, 0] = 0.0
    points, points_a, points_b = 0, 0, 0
    free_v = behind_v - spare_v
    most_a = abs(rated_w) / least_v
    part_a = most_a / PARTS
    parts_per_a = PARTS / most_a if most_a > 0.0 else 0.0
    low, high, proved = 0, PARTS, False
    # First what would flow without resistance.
    part = min(max(int(abs(rated_w) / max(free_v, least_v) / part_a), 1), PARTS - 1) if part_a > 0.0 else PARTS
    before_a, missed_before = 0.0, 0.0
    turn = 0
    while True:
        current = part * part_a
        moved = current * moved_per_a
        end = min(max(place + way * moved * grid, 0.0), float(grid))
        n = _passed(place, end, way)
        while points < n:
            k = _point(place, points, way)
            points += 1
            for c in range(3):
                met[points, c] = max(met[points - 1, c], by_soc[k, 2 + c])
        k = min(int(end), SOC_POINTS - 2)
        part_k = end - k
        r0 = per_r0 * max(met[n, 0], by_soc[k, 2] + part_k * (by_soc[k + 1, 2] - by_soc[k, 2]))
        r1 = per_r1 * max(met[n, 1], by_soc[k, 3] + part_k * (by_soc[k + 1, 3] - by_soc[k, 3]))
        lag_per_a = per_lag * max(met[n, 2], by_soc[k, 4] + part_k * (by_soc[k + 1, 4] - by_soc[k, 4]))
        reach = way * (moved + REACH_MARGIN * current * lag_per_a * built_lag) * grid
        end_a, end_b = min(max(place_a + reach, 0.0), float(grid)), min(max(place_b + reach, 0.0), float(grid))
        n_a, n_b = _passed(place_a, end_a, way), _passed(place_b, end_b, way)
        points_a = _chords(by_soc, place_a, ocv_a, way, points_a, n_a, met_a)
        points_b = _chords(by_soc, place_b, ocv_b, way, points_b, n_b, met_b)
        steep_a = max(met_a[n_a, 0], _chord(_at(by_soc, 0, end_a), ocv_a, end_a - place_a))
        steep_b = max(met_b[n_b, 0], _chord(_at(by_soc, 0, end_b), ocv_b, end_b - place_b))
        slope = cells * grid * max(steep_a, steep_b)
        step_ohm = r0 + built_1 * r1 + built_lag * lag_per_a * slope
        r_moved = slope * share_per_a
        lowest_v = max(free_v - (current * (step_ohm + r_moved) if sign > 0.0 else 0.0), least_v)
        allowed = min(room_v / (last * step_ohm + r_moved), abs(rated_w) / lowest_v)
        if part < PARTS and allowed >= current:
            low = part
        else:
            high, proved = part, True
            out[0], out[1], out[2] = slope / 100.0, step_ohm, r0 + r1 + lag_per_a * slope
        if high - low <= 1:
            if proved:
                return
            part = high
            continue
        # A secant to where what the circuit allows with these resistances is what they were taken for.
        missed = allowed - current
        bend = missed - missed_before
        ahead = current - missed * (current - before_a) / bend if turn > 0 and abs(bend) > 1e-12 * part_a else allowed
        before_a, missed_before = current, missed
        turn += 1
        if turn > _ESTIMATES or not 0.0 <= ahead < most_a:
            part = (low + high) // 2
        else:
            part = min(max(int(ahead * parts_per_a), low + 1), high - 1)

"""The safety projection of eight packs' wishes, compiled: core.limits' bound, without its search where that decides nothing.

The bound of a step (core.battery.condition, core.limits) rests on the largest resistances and slope within the reach of the
largest current, and finding that reach is a search. Larger resistances only make a bound smaller. So one evaluation with
resistances over a reach that is surely too long gives a bound that is surely not too large: a wish within it is within the true
bound; and where what decides it has nothing to do with resistance, it is the true bound (`within_sure_bounds`, eight lanes at
once). Else the search is made, pack by pack and on the wish's side only; on both only where heat decides (`searched`). The answer
is the same to rounding (tests/unit/test_env_projection.py). Not here: any limit of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC
from core.battery.condition import CELL_TEMPERATURE_SPREAD, CELL_VOLTAGE_SPREAD_V, true_condition
from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C, compiled_lean
from core.battery.reach import PARTS, REACH_MARGIN
from core.battery.reach import side as reached
from core.lane_tables import between3, between5, larger4, leading, octave
from core.lanes import both, either, least, less, load, magnitude, most, opposite, store, where, whole
from core.limits import Bound, bound_of_side
from envs import variants as at

FloatArray = NDArray[np.float64]
LEVELS = 7
"""2^6 = 64 points and more: two spans of a level cover any stretch of 101 points."""
DISCHARGE_GUESS = 1.3
"""A discharge's largest current over rated power by the voltage before it; checked, not believed."""
SEARCH_SLACK = 1.0 - 6.0 / PARTS
"""core.battery.reach's search may end this much beyond the current that it looks for: up to two parts, with room to spare."""
TEMPERATURE = int(Bound.TEMPERATURE)


def _spans() -> FloatArray:
    """Largest r0, r1, lag (at points) and OCV slope (of the piece after a point) over 2^level points; shape (4 x 7 x 101, 4)."""
    table = np.zeros((len(BY_SOC), LEVELS, SOC_POINTS, 4))
    table[:, 0, :, :3] = BY_SOC[:, :, 2:5]
    table[:, 0, :-1, 3] = np.maximum(0.0, np.diff(BY_SOC[:, :, 0], axis=1)) * (SOC_POINTS - 1)
    for level in range(1, LEVELS):
        half = 1 << (level - 1)
        table[:, level] = table[:, level - 1]
        table[:, level, :-half] = np.maximum(table[:, level - 1, :-half], table[:, level - 1, half:])
    return table.reshape(-1, 4)


SPANS: FloatArray = _spans()


@compiled_lean
def _largest(spans: FloatArray, cell: float, low: float, high: float) -> tuple[float, float, float, float]:
    """Largest of the spans' columns from SoC low to high (shares, any part outside 0-1 is cut), on the points around them."""
    grid = SOC_POINTS - 1.0
    first = whole(least(most(low, 0.0), 1.0) * grid)
    last = least(whole(least(most(high, 0.0), 1.0) * grid) + 1.0, grid)
    points = last - first + 1.0
    begin = (cell * float(LEVELS) + octave(points)) * float(SOC_POINTS)
    found: tuple[float, float, float, float] = larger4(spans, begin + first, begin + last - leading(points) + 1.0)
    return found


@compiled_lean
def within_sure_bounds(
    wish_w: float,
    state: FloatArray,
    ambient_c: float,
    own: FloatArray,
    limits: FloatArray,
    spans: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    anchors: FloatArray,
    condition: FloatArray,
) -> tuple[float, bool]:
    """Eight wishes (W, discharge positive) within their bounds, and the mask of those for which only the search can say.

    state (4, 8), own (PACK_COLUMNS, 8) of envs.variants and of it limits (15, 8); anchors (2, 8) and condition (17, 8) are
    written, but for the condition's resistances and slope only as bounds: the search begins with them.
    """
    charging = less(wish_w, 0.0)
    size = magnitude(wish_w)
    soc, v1_v, lag, temperature_c = load(state, 0), load(state, 1), load(state, 2), load(state, 3)
    high, low = load(own, at.CELL_HIGH), load(own, at.CELL_LOW)
    q_ah, cells, scale, cell = load(own, 0), load(own, 1), load(own, 2), load(own, 3)
    grid, last = SOC_POINTS - 1.0, SOC_POINTS - 2.0
    soc_row = cell * float(SOC_POINTS)
    # As in core.battery.condition.true_condition.
    lag_kept = load(own, at.LAG_KEPT)
    surface = least(most(soc - lag, 0.0), 1.0)
    settled = least(most(soc - lag * lag_kept, 0.0), 1.0)
    warm = temperature_c - 25.0
    k = least(whole(surface * grid), last)
    ocv, entropy, _0, _1, _2 = between5(by_soc, soc_row + k, surface * grid - k)
    surface_v = cells * (ocv + warm * entropy)
    k = least(whole(settled * grid), last)
    ocv, entropy, _0, _1, _2 = between5(by_soc, soc_row + k, settled * grid - k)
    returning = cells * (ocv + warm * entropy) - surface_v
    fading = v1_v * load(own, at.V1_BUILT)
    spread_v = CELL_VOLTAGE_SPREAD_V * cells
    spare_c = spread_v * high + most(0.0, fading) + most(0.0, returning)
    spare_d = spread_v * low + most(0.0, -fading) + most(0.0, -returning)
    spread_k = CELL_TEMPERATURE_SPREAD * magnitude(temperature_c - ambient_c)
    hottest, coldest = temperature_c + spread_k * high, temperature_c - spread_k * low
    decay = load(own, at.HEAT_KEPT)
    behind_v = surface_v - v1_v
    rated = where(charging, load(own, 26), load(own, 27))
    usual_v = behind_v - where(charging, spare_c, spare_d)
    # Resistances and slope over a reach that is at least that of the largest current.
    current = where(charging, 1.0, DISCHARGE_GUESS) * rated / (most(usual_v, 1.0) * SEARCH_SLACK)
    least_c = least(temperature_c, ambient_c + (temperature_c - ambient_c) * decay)
    warmth = least(most(least_c - COLDEST_C, 0.0), WARMEST_C - COLDEST_C)
    j = least(whole(warmth), WARMEST_C - COLDEST_C - 1.0)
    f0, f1, f2 = between3(by_temperature, cell * (WARMEST_C - COLDEST_C + 1.0) + j, warmth - j)
    per_a = dt_s / 3600.0 / q_ah
    built_1, built_lag = load(own, at.V1_BUILT), 1.0 - lag_kept
    per_r0, per_r1, per_lag = scale * f0, scale * f1 * built_1, load(own, 10) / q_ah * f2 * built_lag
    moved = REACH_MARGIN * current * per_a
    # The reach goes down for a discharge, up for a charge.
    most_0, most_1, most_lag, _slope = _largest(spans, cell, where(charging, soc, soc - moved), where(charging, soc + moved, soc))
    lag_per_a = per_lag * most_lag
    reach = moved + REACH_MARGIN * current * lag_per_a
    nearest, farthest = least(surface, settled), most(surface, settled)
    _0, _1, _2, steepest = _largest(
        spans, cell, where(charging, nearest, nearest - reach), where(charging, farthest + reach, farthest)
    )
    slope = cells * steepest
    ohm = per_r0 * most_0 + per_r1 * most_1 + lag_per_a * slope
    # Whether the guess of a discharge's current was large enough.
    lowest_v = usual_v - current * (ohm + slope * per_a)
    enough = both(less(0.5 * usual_v, lowest_v), opposite(less(SEARCH_SLACK * current * lowest_v, rated)))
    sure = both(less(1.0, usual_v), either(charging, enough))
    store(condition, 0, 100.0 * soc)
    store(condition, 1, hottest)
    store(condition, 2, coldest)
    store(condition, 3, ambient_c + (hottest - ambient_c) * decay)
    store(condition, 4, load(own, at.HEAT_GAIN))
    store(condition, 5, hottest - coldest)
    store(condition, 6, behind_v)
    store(condition, 7, slope / 100.0)
    store(condition, 8, ohm)
    store(condition, 9, q_ah)
    store(condition, 10, load(own, 6))
    store(condition, 11, 100.0 * soc)
    store(condition, 12, 100.0 * soc)
    store(condition, 13, spare_c)
    store(condition, 14, spare_d)
    store(condition, 15, slope / 100.0)
    store(condition, 16, ohm)
    store(anchors, 0, surface)
    store(anchors, 1, settled)
    power, code = bound_of_side(limits, condition, dt_s, charging)
    # A wish for nothing is always granted.
    fits = either(both(sure, opposite(less(power, size))), opposite(less(0.0, size)))
    # What decides has nothing to do with resistance: rated power (0), SoC taper (5), spread (7); of a charge, whose power is
    # current times a voltage that no resistance moves, also current (1), C-rate (2), SoC (4) and cycle depth (8).
    of_power = either(less(code, 0.5), either(_is(code, 5.0), _is(code, 7.0)))
    of_charge = both(charging, either(either(_is(code, 1.0), _is(code, 2.0)), either(_is(code, 4.0), _is(code, 8.0))))
    known = both(sure, either(of_power, of_charge))
    bounded = where(charging, -power, power)
    return where(fits, wish_w, bounded), opposite(either(fits, known))


@compiled_lean
def _is(code: float, number: float) -> bool:
    found: bool = less(magnitude(code - number), 0.5)
    return found


@compiled_lean
def searched(
    wish_w: float,
    state: FloatArray,
    ambient_c: float,
    row: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    anchors: FloatArray,
    found: FloatArray,
    condition: FloatArray,
) -> float:
    """One wish (W) within its bound by the search; anchors (2,) and condition (17,) as `within_sure_bounds` left them.

    state (4,), row (PACK_COLUMNS,) of envs.variants, tables of the pack's cell; found (2, 3) is scratch.
    """
    charging = wish_w < 0.0
    side = 0 if charging else 1
    sign = -1.0 if charging else 1.0
    size = sign * wish_w
    temperature_c = state[3]
    least_c = min(temperature_c, ambient_c + (temperature_c - ambient_c) * row[at.HEAT_KEPT])
    # fmt: off
    reached(sign * row[26 + side], condition[6], condition[13 + side], row[29 - side], row[0:11], by_soc, by_temperature,
            state[0], least_c, dt_s, row[at.V1_BUILT], 1.0 - row[at.LAG_KEPT], 1.0, anchors, found[0])
    condition[7] = condition[15] = found[0, 0]
    condition[8] = condition[16] = found[0, 1]
    power, code = bound_of_side(row[11:26], condition, dt_s, charging)
    if size <= power:
        return wish_w
    if code != TEMPERATURE:
        return float(sign * power)
    true_condition(state, ambient_c, row[at.CELL_HIGH], row[at.CELL_LOW], row[26:30], row[0:11], by_soc, by_temperature, dt_s,
                   anchors, found, condition)
    # fmt: on
    power, code = bound_of_side(row[11:26], condition, dt_s, charging)
    return float(sign * min(size, power))

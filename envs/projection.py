"""The safety projection of eight packs' wishes, compiled: core.limits' bound, without its search where that decides nothing.

The bound of a step (core.battery.condition, core.limits) rests on the largest resistances and slope within the reach of the
largest current, and finding that reach is a search. Larger resistances only make a bound smaller. So one evaluation with
resistances over a reach that is surely too long gives a bound that is surely not too large: a wish within it is within the true
bound; and where what decides it has nothing to do with resistance, it is the true bound (`within_sure_bounds`, eight lanes at
once). Else the search is made, for eight packs and on the wish's side only (`searched`); on both only where heat decides
(`by_both_sides`, pack by pack). The answer is the same to rounding (tests/unit/test_env_projection.py). Not here: any limit of
its own; which packs are searched for together (envs.waiting).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.condition import CELL_TEMPERATURE_SPREAD, CELL_VOLTAGE_SPREAD_V, true_condition
from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C, compiled_lean
from core.battery.reach import PARTS, REACH_MARGIN
from core.battery.reach_lanes import largest, sides
from core.lane_tables import between3, between5
from core.lanes import both, either, least, less, load, magnitude, most, opposite, store, where, whole
from core.limits import Bound, bound_of_side
from envs import variants as at

FloatArray = NDArray[np.float64]
DISCHARGE_GUESS = 1.3
"""A discharge's largest current over rated power by the voltage before it; checked, not believed."""
SEARCH_SLACK = 1.0 - 6.0 / PARTS
"""core.battery.reach's search may end this much beyond the current that it looks for: up to two parts, with room to spare."""
TEMPERATURE = float(Bound.TEMPERATURE)


WISH, COLDEST, SOC, ANCHORS, CONDITION, LIMITS, RATINGS, CONSTANTS, QUERY_ROWS = 0, 1, 2, 3, 5, 22, 37, 41, 47
"""What a search needs of eight packs, by row: wish (W), coldest temperature of the step, SoC (0-1), 2 anchors, 17 of the
condition, 15 limits, 4 ratings, and of the circuit what `_constant` names. Shape (QUERY_ROWS, 8)."""


@compiled_lean
def _constant(k: int) -> int:
    """Column of envs.variants in row CONSTANTS + k: cells, scale, cell, lag scale, what of v1 builds up, what of lag stays."""
    return k + 1 if k < 3 else (10 if k == 3 else at.V1_BUILT + k - 4)


@compiled_lean
def _largest(spans: FloatArray, cell: float, low: float, high: float) -> tuple[float, float, float, float]:
    """Largest of the spans' columns from SoC low to high (shares, any part outside 0-1 is cut), on the points around them."""
    grid = SOC_POINTS - 1.0
    first = whole(least(most(low, 0.0), 1.0) * grid)
    last = least(whole(least(most(high, 0.0), 1.0) * grid) + 1.0, grid)
    found: tuple[float, float, float, float] = largest(spans, cell, first, last - first + 1.0)
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
    query: FloatArray,
) -> tuple[float, bool]:
    """Eight wishes (W, discharge positive) within their bounds, and the mask of those for which only the search can say.

    state (4, 8), own (PACK_COLUMNS, 8) of envs.variants and of it limits (15, 8). Of query (QUERY_ROWS, 8) the rows before LIMITS
    are written, in the condition bounds in place of resistances, slope and gain of heat.
    """
    condition = query[CONDITION:LIMITS]
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
    store(query, WISH, wish_w)
    store(query, COLDEST, least_c)
    store(query, SOC, soc)
    store(query, ANCHORS, surface)
    store(query, ANCHORS + 1, settled)
    power, code = bound_of_side(limits, condition, dt_s, charging)
    # A wish for nothing is always granted.
    fits = either(both(sure, opposite(less(power, size))), opposite(less(0.0, size)))
    # What decides has nothing to do with resistance: rated power (0), SoC taper (5), spread (7); of a charge, whose power is
    # current times a voltage that no resistance moves, also current (1), C-rate (2), SoC (4) and cycle depth (8).
    of_power = either(less(code, 0.5), either(_is(code, 5.0), _is(code, 7.0)))
    of_charge = both(charging, either(either(_is(code, 1.0), _is(code, 2.0)), either(_is(code, 4.0), _is(code, 8.0))))
    # A bound of nothing comes of currents that no resistance lifts above it.
    nothing = both(less(1.0, usual_v), opposite(less(0.0, power)))
    known = either(nothing, both(sure, either(of_power, of_charge)))
    bounded = where(charging, -power, power)
    return where(fits, wish_w, bounded), opposite(either(fits, known))


@compiled_lean
def _is(code: float, number: float) -> bool:
    found: bool = less(magnitude(code - number), 0.5)
    return found


@compiled_lean
def put_off(lane: int, found: FloatArray, own: FloatArray, slot: int, query: FloatArray) -> None:
    """Copy what a search needs of a lane (found as `within_sure_bounds` left it, own as there) into lane `slot` of query."""
    for k in range(LIMITS):
        query[k, slot] = found[k, lane]
    for k in range(CONSTANTS - LIMITS):
        query[LIMITS + k, slot] = own[11 + k, lane]
    for k in range(QUERY_ROWS - CONSTANTS):
        query[CONSTANTS + k, slot] = own[_constant(k), lane]


@compiled_lean
def searched(
    query: FloatArray, spans: FloatArray, ways: FloatArray, ocv_ways: FloatArray, by_temperature: FloatArray, dt_s: float
) -> tuple[float, bool]:
    """Eight wishes (W) within their bounds by the search, and the mask of those that heat decides: for `by_both_sides`.

    query (QUERY_ROWS, 8): the condition's resistances and slope are written. Tables of core.battery.reach_lanes and
    core.battery.cells.LANES_BY_TEMPERATURE.
    """
    condition, limits = query[CONDITION:LIMITS], query[LIMITS:RATINGS]
    wish_w = load(query, WISH)
    charging = less(wish_w, 0.0)
    spare_v = where(charging, load(condition, 13), load(condition, 14))
    rated_w = where(charging, load(query, RATINGS), load(query, RATINGS + 1))
    window_v = where(charging, load(query, RATINGS + 3), load(query, RATINGS + 2))
    # fmt: off
    slope, ohm, _full = sides(
        charging, rated_w, load(condition, 6), spare_v, window_v, load(condition, 9), load(query, CONSTANTS),
        load(query, CONSTANTS + 1), load(query, CONSTANTS + 2), load(query, CONSTANTS + 3), spans, ways, ocv_ways, by_temperature,
        load(query, SOC), load(query, COLDEST), dt_s, load(query, CONSTANTS + 4), 1.0 - load(query, CONSTANTS + 5),
        load(query, ANCHORS), load(query, ANCHORS + 1),
    )
    # fmt: on
    store(condition, 7, slope)
    store(condition, 8, ohm)
    store(condition, 15, slope)
    store(condition, 16, ohm)
    power, code = bound_of_side(limits, condition, dt_s, charging)
    beyond = less(power, magnitude(wish_w))
    return where(beyond, where(charging, -power, power), wish_w), both(beyond, _is(code, TEMPERATURE))


@compiled_lean
def by_both_sides(
    wish_w: float,
    state: FloatArray,
    ambient_c: float,
    row: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    scratch: FloatArray,
) -> float:
    """One wish (W) within its bound, whose gain of heat comes from a search on both sides.

    state (4,), row (PACK_COLUMNS,) of envs.variants, tables of the pack's cell; scratch (25,).
    """
    anchors, found, condition = scratch[0:2], scratch[2:8].reshape(2, 3), scratch[8:25]
    # fmt: off
    true_condition(state, ambient_c, row[at.CELL_HIGH], row[at.CELL_LOW], row[26:30], row[0:11], by_soc, by_temperature, dt_s,
                   anchors, found, condition)
    # fmt: on
    charging = wish_w < 0.0
    power, _code = bound_of_side(row[11:26], condition, dt_s, charging)
    size = min(abs(wish_w), power)
    return float(-size if charging else size)

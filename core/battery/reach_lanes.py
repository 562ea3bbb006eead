"""The search of core.battery.reach for eight packs at once, in the lanes of core.lanes; compiled.

`core.battery.reach.side` is the definition: the same places are tried in the same order, and the answers are the same to rounding
(tests/unit/test_phys_reach_lanes.py). Other than there, what is met up to a point of the grid is not walked to but looked up
(`SPANS`), but for the steepest chord, and a way down is a way up on mirrored tables (`WAYS`, `OCV_WAYS`). Lanes whose search has
ended wait for the others. Not here: what the answer is used for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC
from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C, compiled_lean
from core.battery.reach import ESTIMATES, PARTS, REACH_MARGIN
from core.lane_tables import between3, four, larger4, leading, lined_up, octave, on_stack, own, pair, row8
from core.lanes import anywhere, both, either, least, less, load, magnitude, most, opposite, store, where, whole

FloatArray = NDArray[np.float64]
LEVELS = 7
"""2^6 = 64 points and more: two spans of a level cover any stretch of 101 points."""
AT_ONCE = 4
"""Points that are walked at a time."""
OCV_ROOM = SOC_POINTS + 2 * AT_ONCE
"""Numbers kept of a way's OCV: lanes that are at its end read on."""
SHORTEST = 1e-9
"""Points of the grid: a distance below it has no slope."""
MOST_TURNS = ESTIMATES + 16
"""Halving PARTS parts takes 12."""


def _spans() -> FloatArray:
    """Largest r0, r1, lag (at points) and OCV slope (of the piece after a point) over 2^level points; shape (4 x 7 x 101, 4)."""
    table = np.zeros((len(BY_SOC), LEVELS, SOC_POINTS, 4))
    table[:, 0, :, :3] = BY_SOC[:, :, 2:5]
    table[:, 0, :-1, 3] = np.maximum(0.0, np.diff(BY_SOC[:, :, 0], axis=1)) * (SOC_POINTS - 1)
    for level in range(1, LEVELS):
        half = 1 << (level - 1)
        table[:, level] = table[:, level - 1]
        table[:, level, :-half] = np.maximum(table[:, level - 1, :-half], table[:, level - 1, half:])
    return lined_up(table.reshape(-1, 4))


def _ways() -> FloatArray:
    """r0, r1, lag and OCV along a charge and by how much each changes to the next point; then, in reverse order and with the
    sign of OCV changed, along a discharge."""
    up = BY_SOC[:, :, [2, 3, 4, 0]]
    points = np.concatenate([up, up[:, ::-1] * np.array([1.0, 1.0, 1.0, -1.0])])
    changes = np.diff(points, axis=1, append=points[:, -1:])
    return lined_up(np.concatenate([points, changes], axis=2).reshape(-1, 8))


SPANS: FloatArray = _spans()
WAYS: FloatArray = _ways()
"""Shape (2 x 4 x 101, 8)."""
OCV_WAYS: FloatArray = np.ascontiguousarray(
    np.pad(WAYS[:, 3].reshape(-1, SOC_POINTS), ((0, 0), (0, OCV_ROOM - SOC_POINTS)), mode="edge").ravel()
)
"""OCV of the same, each way filled up to OCV_ROOM numbers."""


@compiled_lean
def largest(spans: FloatArray, cell: float, first: float, points: float) -> tuple[float, float, float, float]:
    """Largest of the spans' columns on `points` (1 or more) points of the grid, the first of them at the lowest SoC."""
    begin = (cell * float(LEVELS) + octave(points)) * float(SOC_POINTS) + first
    found: tuple[float, float, float, float] = larger4(spans, begin, begin + points - leading(points))
    return found


@compiled_lean
def _ocv(ways: FloatArray, row: float, position: float) -> float:
    """OCV at a place on the grid of SoCs; a cell's charge begins at `row`."""
    k = least(whole(position), SOC_POINTS - 2.0)
    low, high = pair(ways, row + k, 3)
    value: float = low + (position - k) * (high - low)
    return value


@compiled_lean
def _steeper(rise: float, away: float, steepest: float) -> float:
    """The larger of a slope and that of a rise over a distance, which counts where it is one."""
    slope: float = most(steepest, where(less(SHORTEST, away), rise / away, 0.0))
    return slope


@compiled_lean
def _apart(one: float, other: float) -> bool:
    """Whether whole numbers differ in any lane."""
    differ: bool = anywhere(less(0.5, magnitude(one - other)))
    return differ


@compiled_lean
def _walk(
    ocv_ways: FloatArray,
    row: float,
    end: float,
    first: float,
    place_a: float,
    place_b: float,
    ocv_a: float,
    ocv_b: float,
    points: int,
    wanted: float,
    met: FloatArray,
) -> int:
    """Fill rows of met up to `wanted` points of each lane or more: row 2 n and the next have the steepest chord from each anchor
    to one of the first n points; how many are filled."""
    steepest_a, steepest_b = load(met, 2 * points), load(met, 2 * points + 1)
    while anywhere(less(float(points), wanted)):
        at = first + float(points)
        for value in four(ocv_ways, row + least(at, end + 1.0)):
            away_a, away_b = at - place_a, at - place_b
            # One division for two slopes; of a distance that is none the other's slope is right and its own is left out.
            ahead_a, ahead_b = less(SHORTEST, away_a), less(SHORTEST, away_b)
            away_a, away_b = where(ahead_a, away_a, 1.0), where(ahead_b, away_b, 1.0)
            over = 1.0 / (away_a * away_b)
            steepest_a = most(steepest_a, where(ahead_a, (value - ocv_a) * (away_b * over), 0.0))
            steepest_b = most(steepest_b, where(ahead_b, (value - ocv_b) * (away_a * over), 0.0))
            points += 1
            at = at + 1.0
            store(met, 2 * points, steepest_a)
            store(met, 2 * points + 1, steepest_b)
    return points


@compiled_lean
def _stretch(
    spans: FloatArray,
    ways: FloatArray,
    cell: float,
    row: float,
    charging: bool,
    first: float,
    end: float,
    to: float,
) -> tuple[float, float, float, float, float, float, float, float, float, float]:
    """Largest r0, r1, lag on the points met on the way to a place (0 where none is), the point before the place, and there the
    three and their change to the next point."""
    k = whole(to)
    points = k - first + 1.0
    r0, r1, lag, _0 = largest(spans, cell, where(charging, first, -k), most(points, 1.0))
    some = less(0.5, points)
    k = least(k, end - 1.0)
    k_0, k_1, k_lag, _1, per_0, per_1, per_lag, _2 = row8(ways, row + k)
    return where(some, r0, 0.0), where(some, r1, 0.0), where(some, lag, 0.0), k, k_0, k_1, k_lag, per_0, per_1, per_lag


@compiled_lean
def _most_met(
    spans: FloatArray,
    ways: FloatArray,
    cell: float,
    row: float,
    charging: bool,
    first: float,
    end: float,
    to_upper: float,
    to_lower: float,
) -> tuple[float, float, float, float, float, float]:
    """Largest r0, r1, lag behind the start of a way on it to one place, then to another a little before that."""
    r0, r1, lag, k, k_0, k_1, k_lag, per_0, per_1, per_lag = _stretch(spans, ways, cell, row, charging, first, end, to_upper)
    part, other = to_upper - k, to_lower - k
    upper_0, upper_1, upper_lag = most(r0, k_0 + part * per_0), most(r1, k_1 + part * per_1), most(lag, k_lag + part * per_lag)
    if _apart(whole(to_upper), whole(to_lower)):
        r0, r1, lag, k, k_0, k_1, k_lag, per_0, per_1, per_lag = _stretch(spans, ways, cell, row, charging, first, end, to_lower)
        other = to_lower - k
    lower_0, lower_1, lower_lag = most(r0, k_0 + other * per_0), most(r1, k_1 + other * per_1), most(lag, k_lag + other * per_lag)
    return upper_0, upper_1, upper_lag, lower_0, lower_1, lower_lag


@compiled_lean
def _steepest(
    ways: FloatArray,
    soc_row: float,
    way: float,
    place: float,
    ocv: float,
    first: float,
    met: FloatArray,
    column: float,
    to_upper: float,
    to_lower: float,
) -> tuple[float, float]:
    """Steepest chord (V per point) from an anchor to what is met up to one place, then to another a little before that."""
    n, now = whole(to_upper) - first + 1.0, whole(to_lower) - first + 1.0
    k = least(whole(way * to_upper), SOC_POINTS - 2.0)
    low, high = pair(ways, soc_row + k, 3)
    before = own(met, 2.0 * n + column)
    upper = _steeper(way * (low + (way * to_upper - k) * (high - low)) - ocv, to_upper - place, before)
    if _apart(n, now):
        k = least(whole(way * to_lower), SOC_POINTS - 2.0)
        low, high = pair(ways, soc_row + k, 3)
        before = own(met, 2.0 * now + column)
    lower = _steeper(way * (low + (way * to_lower - k) * (high - low)) - ocv, to_lower - place, before)
    return upper, lower


@compiled_lean
def sides(
    charging: bool,
    rated_w: float,
    behind_v: float,
    spare_v: float,
    window_v: float,
    q_ah: float,
    cells: float,
    scale: float,
    cell: float,
    lag_scale: float,
    spans: FloatArray,
    ways: FloatArray,
    ocv_ways: FloatArray,
    by_temperature: FloatArray,
    soc: float,
    coldest_c: float,
    dt_s: float,
    built_1: float,
    built_lag: float,
    anchor_a: float,
    anchor_b: float,
) -> tuple[float, float, float]:
    """core.battery.reach.OUTPUTS of eight packs, each on its own side; rated_w without sign, all else as there.

    scale holds the factor of a measured resistance too; by_temperature as core.battery.cells.LANES_BY_TEMPERATURE.
    """
    grid = SOC_POINTS - 1.0
    warmth = least(most(coldest_c, COLDEST_C), WARMEST_C) - COLDEST_C
    j = least(whole(warmth), WARMEST_C - COLDEST_C - 1.0)
    per_r0, per_r1, per_lag = between3(by_temperature, cell * (WARMEST_C - COLDEST_C + 1.0) + j, warmth - j)
    per_r0, per_r1, per_lag = scale * per_r0, scale * per_r1, lag_scale * per_lag / q_ah
    share_per_a = dt_s / 3600.0 / q_ah
    moved_per_a = REACH_MARGIN * share_per_a
    way, zero = where(charging, 1.0, -1.0), where(charging, 0.0, 0.0)
    free_v = behind_v - spare_v
    room_v = way * (window_v - behind_v) - spare_v
    least_v = most(0.5 * free_v, 1.0)
    last = where(charging, least(1.0, most(0.0, behind_v / most(behind_v + room_v, 1e-9))), 1.0)
    # Places are counted along the way: a discharge goes from -100 to 0.
    end = where(charging, grid, 0.0)
    number = cell + where(charging, 0.0, float(len(BY_SOC)))
    row = number * float(SOC_POINTS) + grid - end
    place = way * (least(most(soc, 0.0), 1.0) * grid)
    place_a, place_b = way * (least(most(anchor_a, 0.0), 1.0) * grid), way * (least(most(anchor_b, 0.0), 1.0) * grid)
    first, first_ab = -whole(-place), -whole(-least(place_a, place_b))
    k = least(whole(place), end - 1.0)
    here_0, here_1, here_lag, _0, per_0, per_1, per_k_lag, _1 = row8(ways, row + k)
    here_0, here_1, here_lag = here_0 + (place - k) * per_0, here_1 + (place - k) * per_1, here_lag + (place - k) * per_k_lag
    soc_row = cell * float(SOC_POINTS)
    ocv_a, ocv_b = way * _ocv(ways, soc_row, way * place_a), way * _ocv(ways, soc_row, way * place_b)
    ocv_row = number * float(OCV_ROOM) + grid - end
    met = on_stack(216, 8)
    store(met, 0, zero)
    store(met, 1, zero)
    points = 0
    most_a = rated_w / least_v
    part_a = most_a / float(PARTS)
    parts_per_a = where(less(0.0, most_a), float(PARTS) / most_a, 0.0)
    low, high = zero, zero + float(PARTS)
    part = whole(least(most(rated_w / most(free_v, least_v) * parts_per_a, 0.0), PARTS - 1.0))
    done = opposite(less(magnitude(rated_w + behind_v + spare_v + window_v + soc + coldest_c + anchor_a + anchor_b), np.inf))
    out_slope = out_step = out_full = zero + np.nan
    for turn in range(MOST_TURNS):
        # Two neighbouring parts at a time, as in the definition; both mostly end between the same points.
        lower_a, upper_a = part * part_a, (part + 1.0) * part_a
        to_upper = least(place + upper_a * moved_per_a * grid, end)
        to_lower = least(place + lower_a * moved_per_a * grid, end)
        # fmt: off
        r0, r1, lag, lower_0, lower_1, lower_lag = _most_met(spans, ways, cell, row, charging, first, end, to_upper, to_lower)
        # fmt: on
        lag, lower_lag = per_lag * most(here_lag, lag), per_lag * most(here_lag, lower_lag)
        reach = REACH_MARGIN * upper_a * (share_per_a + lag * built_lag) * grid
        lower_reach = REACH_MARGIN * lower_a * (share_per_a + lower_lag * built_lag) * grid
        to_a, to_b = least(place_a + reach, end), least(place_b + reach, end)
        wanted = whole(most(to_a, to_b)) - first_ab + 1.0
        points = _walk(ocv_ways, ocv_row, end, first_ab, place_a, place_b, ocv_a, ocv_b, points, wanted, met)
        # fmt: off
        steep_a, lower_steep_a = _steepest(ways, soc_row, way, place_a, ocv_a, first_ab, met, 0.0, to_a,
                                           least(place_a + lower_reach, end))
        steep_b, lower_steep_b = _steepest(ways, soc_row, way, place_b, ocv_b, first_ab, met, 1.0, to_b,
                                           least(place_b + lower_reach, end))
        # fmt: on
        steep, lower_steep = cells * grid * most(steep_a, steep_b), cells * grid * most(lower_steep_a, lower_steep_b)
        r0, r1 = per_r0 * most(here_0, r0), per_r1 * most(here_1, r1)
        lower_0, lower_1 = per_r0 * most(here_0, lower_0), per_r1 * most(here_1, lower_1)
        ohm = r0 + built_1 * r1 + built_lag * lag * steep
        lower_ohm = lower_0 + built_1 * lower_1 + built_lag * lower_lag * lower_steep
        moved, lower_moved = ohm + steep * share_per_a, lower_ohm + lower_steep * share_per_a
        lowest_v = most(free_v - where(charging, 0.0, upper_a * moved), least_v)
        lower_v = most(free_v - where(charging, 0.0, lower_a * lower_moved), least_v)
        missed_high = least(room_v / (last * ohm + steep * share_per_a), rated_w / lowest_v) - upper_a
        missed_low = least(room_v / (last * lower_ohm + lower_steep * share_per_a), rated_w / lower_v) - lower_a
        within = either(less(part, 0.5), opposite(less(missed_low, 0.0)))
        found = both(within, either(less(missed_high, 0.0), less(PARTS - 1.5, part)))
        found = both(found, opposite(done))
        out_slope, out_step = where(found, steep / 100.0, out_slope), where(found, ohm, out_step)
        out_full = where(found, r0 + r1 + lag * steep, out_full)
        low, high = where(within, part + 1.0, low), where(within, high, part)
        # Nothing is left where parameters are no numbers.
        done = either(done, either(found, opposite(less(low, high))))
        if not anywhere(opposite(done)):
            break
        bend = missed_low - missed_high
        ahead = where(less(0.0, bend), part + missed_low / bend, -1.0)
        halved = either(less(ahead, low), opposite(less(ahead, high)))
        if turn >= ESTIMATES:
            halved = either(halved, opposite(halved))
        part = where(done, part, whole(where(halved, 0.5 * (low + high), ahead)))
    return out_slope, out_step, out_full

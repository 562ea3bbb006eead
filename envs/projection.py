"""The safety projection of one pack's wish, compiled: exactly core.limits' bound, without its search where that decides nothing.

The bound of a step (core.battery.condition, core.limits) rests on the largest resistances and slope within the reach of the
largest current, and finding that reach is a search. Larger resistances only make a bound smaller. So one evaluation with
resistances over a reach that is surely too long gives a bound that is surely not too large: a wish within it is within the true
bound; and where what decides it has nothing to do with resistance, it is the true bound. Else the search is made, on the wish's
side; on both only where heat decides. The answer is the same to rounding (tests/unit/test_env_projection.py). Not here: any limit
of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC
from core.battery.condition import CELL_TEMPERATURE_SPREAD, CELL_VOLTAGE_SPREAD_V, open_circuit, true_condition
from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C, compiled_lean
from core.battery.reach import REACH_MARGIN
from core.battery.reach import side as reached
from core.limits import Bound, bound_of_side
from envs import variants as at

FloatArray = NDArray[np.float64]
LEVELS = 7
"""2^6 = 64 points and more: two spans of a level cover any stretch of 101 points."""
DISCHARGE_GUESS = 1.3
"""A discharge's largest current over rated power by the voltage before it; checked, not believed."""
SEARCH_SLACK = 0.998
"""core.battery.reach's search may end this much beyond the current that it looks for (2 of 4,096 parts, with room to spare)."""
RATED, C_RATE, SOC, TAPER, SPREAD, DEPTH, CURRENT, TEMPERATURE = (
    int(Bound.RATED_POWER), int(Bound.C_RATE), int(Bound.SOC), int(Bound.SOC_TAPER), int(Bound.TEMPERATURE_SPREAD),
    int(Bound.CYCLE_DEPTH), int(Bound.CURRENT), int(Bound.TEMPERATURE),
)  # fmt: skip


def _spans() -> FloatArray:
    """Largest r0, r1, lag (at points) and OCV slope (of the piece after a point) over 2^level points; shape (4, 7, 101, 4)."""
    table = np.zeros((len(BY_SOC), LEVELS, SOC_POINTS, 4))
    table[:, 0, :, :3] = BY_SOC[:, :, 2:5]
    table[:, 0, :-1, 3] = np.maximum(0.0, np.diff(BY_SOC[:, :, 0], axis=1)) * (SOC_POINTS - 1)
    for level in range(1, LEVELS):
        half = 1 << (level - 1)
        table[:, level] = table[:, level - 1]
        table[:, level, :-half] = np.maximum(table[:, level - 1, :-half], table[:, level - 1, half:])
    return table


SPANS: FloatArray = _spans()
LEVEL_OF = np.array([0, *(int(np.log2(n)) for n in range(1, SOC_POINTS + 1))])
"""Level whose two spans cover n points."""


@compiled_lean
def _most(spans: FloatArray, level_of: NDArray[np.int64], low: float, high: float, column: int) -> float:
    """Largest value of a column from SoC low to high (shares, any part outside 0-1 is cut), on the points around them."""
    grid = SOC_POINTS - 1
    first = int(min(max(low, 0.0), 1.0) * grid)
    last = min(int(min(max(high, 0.0), 1.0) * grid) + 1, grid)
    level = level_of[last - first + 1]
    value: float = max(spans[level, first, column], spans[level, last - (1 << level) + 1, column])
    return value


@compiled_lean
def project(
    wish_w: float,
    state: FloatArray,
    ambient_c: float,
    row: FloatArray,
    spans: FloatArray,
    level_of: NDArray[np.int64],
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    anchors: FloatArray,
    found: FloatArray,
    condition: FloatArray,
) -> float:
    """The nearest power (W, discharge positive) to a wish that the pack's limits allow for the next dt_s; row: envs.variants.

    The last three are scratch: (2,), (2, 3), (17,).
    """
    if wish_w == 0.0:
        return 0.0
    charging = wish_w < 0.0
    side = 0 if charging else 1
    sign = -1.0 if charging else 1.0
    size = sign * wish_w
    soc, v1_v, lag, temperature_c = state[0], state[1], state[2], state[3]
    high, low = row[at.CELL_HIGH], row[at.CELL_LOW]
    q_ah, cells, scale = row[0], row[1], row[2]
    # As in core.battery.condition.true_condition.
    surface = min(max(soc - lag, 0.0), 1.0)
    settled = min(max(soc - lag * row[at.LAG_KEPT], 0.0), 1.0)
    surface_v = open_circuit(row, by_soc, surface, temperature_c)
    fading = v1_v * row[at.V1_BUILT]
    returning = open_circuit(row, by_soc, settled, temperature_c) - surface_v
    spread_v = CELL_VOLTAGE_SPREAD_V * cells
    spare_c = spread_v * high + max(0.0, fading) + max(0.0, returning)
    spare_d = spread_v * low + max(0.0, -fading) + max(0.0, -returning)
    spread_k = CELL_TEMPERATURE_SPREAD * abs(temperature_c - ambient_c)
    hottest, coldest = temperature_c + spread_k * high, temperature_c - spread_k * low
    decay = row[at.HEAT_KEPT]
    behind_v = surface_v - v1_v
    spare = spare_c if charging else spare_d
    rated = row[26 + side]
    usual_v = behind_v - spare
    sure = usual_v > 1.0
    # Resistances and slope over a reach that is at least that of the largest current.
    current = (1.0 if charging else DISCHARGE_GUESS) * rated / max(usual_v, 1.0) / SEARCH_SLACK
    least_c = min(temperature_c, ambient_c + (temperature_c - ambient_c) * decay)
    warmth = min(max(least_c, COLDEST_C), WARMEST_C) - COLDEST_C
    j = min(int(warmth), by_temperature.shape[0] - 2)
    x = warmth - j
    moved = REACH_MARGIN * current * dt_s / 3600.0 / q_ah
    # The reach goes down for a discharge, up for a charge.
    from_soc, to_soc = (soc, soc + moved) if charging else (soc - moved, soc)
    built_1, built_lag = row[at.V1_BUILT], 1.0 - row[at.LAG_KEPT]
    f0 = by_temperature[j, 0] + x * (by_temperature[j + 1, 0] - by_temperature[j, 0])
    f1 = by_temperature[j, 1] + x * (by_temperature[j + 1, 1] - by_temperature[j, 1])
    f2 = by_temperature[j, 2] + x * (by_temperature[j + 1, 2] - by_temperature[j, 2])
    r0 = scale * f0 * _most(spans, level_of, from_soc, to_soc, 0)
    r1 = scale * f1 * _most(spans, level_of, from_soc, to_soc, 1)
    lag_per_a = row[10] / q_ah * f2 * _most(spans, level_of, from_soc, to_soc, 2)
    reach = moved + REACH_MARGIN * current * lag_per_a * built_lag
    least, most = min(surface, settled), max(surface, settled)
    from_soc, to_soc = (least, most + reach) if charging else (least - reach, most)
    slope = cells * _most(spans, level_of, from_soc, to_soc, 3)
    ohm = r0 + built_1 * r1 + built_lag * lag_per_a * slope
    if not charging:
        lowest_v = usual_v - current * (ohm + slope * dt_s / 3600.0 / q_ah)
        sure = sure and lowest_v > 0.5 * usual_v and rated <= SEARCH_SLACK * current * lowest_v
    condition[0], condition[1], condition[2] = 100.0 * soc, hottest, coldest
    condition[3] = ambient_c + (hottest - ambient_c) * decay
    condition[4] = row[at.HEAT_GAIN]
    condition[5] = hottest - coldest
    condition[6], condition[9], condition[10] = behind_v, q_ah, row[6]
    condition[11], condition[12], condition[13], condition[14] = 100.0 * soc, 100.0 * soc, spare_c, spare_d
    if sure:
        condition[7] = condition[15] = slope / 100.0
        condition[8] = condition[16] = ohm
        power, code = bound_of_side(row[11:26], condition, dt_s, charging)
        if size <= power:
            return wish_w
        # A charge's power is current times a voltage that no resistance moves.
        of_charge = charging and (code in (CURRENT, C_RATE, SOC, DEPTH))
        if of_charge or code in (RATED, TAPER, SPREAD):
            return float(sign * power)
    anchors[0], anchors[1] = surface, settled
    # fmt: off
    reached(sign * rated, behind_v, spare, row[29 - side], row[0:11], by_soc, by_temperature, soc, least_c, dt_s, 1.0, anchors,
            found[0])
    condition[7] = condition[15] = found[0, 0]
    condition[8] = condition[16] = found[0, 1]
    power, code = bound_of_side(row[11:26], condition, dt_s, charging)
    if size <= power:
        return wish_w
    if code != TEMPERATURE:
        return float(sign * power)
    true_condition(state, ambient_c, high, low, row[26:30], row[0:11], by_soc, by_temperature, dt_s, anchors, found, condition)
    # fmt: on
    power, code = bound_of_side(row[11:26], condition, dt_s, charging)
    return float(sign * min(size, power))

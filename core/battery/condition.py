"""From a pack's state to the numbers of a Condition, compiled: one row, in the order of core.limits.Condition.

`condition_row` is the one place where voltage behind R0, slopes, resistances and heat of a step come together; `true_condition`
feeds it from a simulated pack's true state. Pack and environment both call them. Not here: a Condition from telemetry
(core.pack), the limits (core.limits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import compiled_lean, interpolate
from core.battery.reach import side

FloatArray = NDArray[np.float64]
CONDITION_COLUMNS = 17
CELL_VOLTAGE_SPREAD_V = 0.004
"""Highest minus lowest cell voltage of a simulated pack."""
CELL_TEMPERATURE_SPREAD = 0.15
"""Hottest minus coldest cell, as a share of the pack's rise over ambient."""


@compiled_lean
def open_circuit(parameters: FloatArray, by_soc: FloatArray, soc: float, temperature_c: float) -> float:
    """Pack voltage at rest; soc 0-1, tables of the pack's cell (core.battery.ecm)."""
    value: float = parameters[1] * (interpolate(by_soc[:, 0], soc) + (temperature_c - 25.0) * interpolate(by_soc[:, 1], soc))
    return value


@compiled_lean
def condition_row(
    soc: float,
    temperature_c: float,
    hottest_c: float,
    coldest_c: float,
    ambient_c: float,
    behind_v: float,
    spare_charge_v: float,
    spare_discharge_v: float,
    anchors: FloatArray,
    measured: float,
    ratings: FloatArray,
    parameters: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    found: FloatArray,
    out: FloatArray,
) -> None:
    """One row of Condition.matrix(), out (17,), for the next dt_s.

    soc 0-1; temperature of the pack, of its hottest and coldest cell; behind_v: voltage behind R0; spare: what of the window
    cannot be used on either side; anchors and measured as in core.battery.reach.side; ratings (4,): charge and discharge power in
    W, lowest and highest voltage of the chemistry's window; found (2, 3) is scratch.
    """
    decay = np.exp(-dt_s * parameters[8] / parameters[7])
    least_c = min(temperature_c, ambient_c + (temperature_c - ambient_c) * decay)
    built_1, built_lag = 1.0 - np.exp(-dt_s / parameters[4]), 1.0 - np.exp(-dt_s / parameters[5])
    # fmt: off
    side(-ratings[0], behind_v, spare_charge_v, ratings[3], parameters, by_soc, by_temperature, soc, least_c, dt_s, built_1,
         built_lag, measured, anchors, found[0])
    side(ratings[1], behind_v, spare_discharge_v, ratings[2], parameters, by_soc, by_temperature, soc, least_c, dt_s, built_1,
         built_lag, measured, anchors, found[1])
    # fmt: on
    # Heat comes from all polarisation, also from what an earlier step built up.
    part = max(found[0, 2] / found[0, 1], found[1, 2] / found[1, 1])
    out[0], out[1], out[2] = 100.0 * soc, hottest_c, coldest_c
    out[3] = ambient_c + (hottest_c - ambient_c) * decay
    out[4] = (1.0 - decay) / parameters[8] * part
    out[5] = hottest_c - coldest_c
    out[6], out[7], out[8] = behind_v, found[1, 0], found[1, 1]
    out[9], out[10] = parameters[0], parameters[6]
    out[11], out[12] = 100.0 * soc, 100.0 * soc
    out[13], out[14], out[15], out[16] = spare_charge_v, spare_discharge_v, found[0, 0], found[0, 1]


@compiled_lean
def true_condition(
    state: FloatArray,
    ambient_c: float,
    cell_high: float,
    cell_low: float,
    ratings: FloatArray,
    parameters: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    anchors: FloatArray,
    found: FloatArray,
    out: FloatArray,
) -> None:
    """The row from a true state (4,) of core.battery.ecm.

    cell_high and cell_low (both >= 0): where the extreme cells lie above and below the mean, as shares of the spreads; anchors
    (2,) and found (2, 3) are scratch.
    """
    soc, v1_v, lag, temperature_c = state[0], state[1], state[2], state[3]
    surface = min(max(soc - lag, 0.0), 1.0)
    settled = min(max(soc - lag * np.exp(-dt_s / parameters[5]), 0.0), 1.0)
    surface_v = open_circuit(parameters, by_soc, surface, temperature_c)
    # What dies away without current: the polarisation, and the lag as the surface comes back towards the mean.
    fading = v1_v * (1.0 - np.exp(-dt_s / parameters[4]))
    returning = open_circuit(parameters, by_soc, settled, temperature_c) - surface_v
    rising_v = max(0.0, fading) + max(0.0, returning)
    falling_v = max(0.0, -fading) + max(0.0, -returning)
    anchors[0], anchors[1] = surface, settled
    spread_v = CELL_VOLTAGE_SPREAD_V * parameters[1]
    spread_k = CELL_TEMPERATURE_SPREAD * abs(temperature_c - ambient_c)
    # fmt: off
    condition_row(soc, temperature_c, temperature_c + spread_k * cell_high, temperature_c - spread_k * cell_low, ambient_c,
                  surface_v - v1_v, spread_v * cell_high + rising_v, spread_v * cell_low + falling_v, anchors, 1.0, ratings,
                  parameters, by_soc, by_temperature, dt_s, found, out)
    # fmt: on

"""How a fleet lies in memory: blocks of eight devices, each block an array of rows, each row one quantity of eight devices.

Here: names of the rows and the packing of FleetData into them. Not here: arithmetic on them (factor, solve, sensitivity).

Every device is scaled by its own power P (kW), so that one barrier parameter serves packs of all sizes: power by P, energy by
P x 1 h, temperature by 10 K, voltage by 10 V, money by 0.2 EUR/kWh x P x 1 h. States are deviations from the trajectory without
power, so that they start at 0. A stage k = 0..N holds what concerns inputs of step k and the state at its START; stage N has
inputs without any effect and holds the limits of the last state. Rows of infinite limits are FAR away.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.fleet import PROFILES, SCALARS, FleetData
from optimizer.problem import STIFFER, SoftCosts
from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.structured.packing import FleetArrays
from optimizer.structured.rooms import never_broken

FloatArray = NDArray[np.float64]
LANES = 8
FAR = 1e3
PRICE_UNIT = 0.2
"""EUR/kWh."""
KELVIN = VOLT = 0.1
"""Scaled units per kelvin and per volt."""
LEAST_POWER = 1e-8
"""Scaled bound of a direction without power: an interior point needs an interior. Plans are cut to the true bound."""

# Stage data, one row each.
(GAIN_C, LOSS_D, HEAT_C, HEAT_D, VOLT_E, VOLT_N, MAX_C, MAX_D, MOVE, SLOPE_C, SLOPE_D, ROOM_C, ROOM_D, ROOM_E_HIGH, ROOM_E_LOW,
 ROOM_T_HIGH, ROOM_T_LOW, ROOM_V_HIGH, ROOM_V_LOW, FREE_E, VALUE_E) = range(21)  # fmt: skip
DATA_ROWS = 21

# Constants of a device.
(DECAY, HIGHEST, LOWEST, DEPTH, DEPTH_COST, WEAR, CURVE, STRESS, E_COST, E_CURVE, T_COST, T_CURVE, V_COST, V_CURVE, TARGETED,
 TARGET, TARGET_COST, RELIEF, WEIGHT) = range(19)  # fmt: skip
CONSTANT_ROWS = 19

# Inequalities of a stage, each with slack t > 0 and multiplier l > 0: t in row 2 r, l in row 2 r + 1 of the stage's state.
(C_LOW, C_HIGH, D_LOW, D_HIGH, C_TAPER, D_TAPER, E_HIGH, E_LOW, E_SLACK, T_HIGH, T_LOW, T_SLACK, V_HIGH, V_LOW, V_SLACK, TOP,
 BOTTOM) = range(17)  # fmt: skip
INEQUALITIES = 17
STATE_ROWS = 2 * INEQUALITIES

# Inequalities of the border: highest and lowest energy, cycle depth, terminal target.
B_HIGHEST, B_LOWEST, B_DEPTH, B_DEPTH_SLACK, B_TARGET_LOW, B_TARGET_HIGH = range(6)
BORDER_INEQUALITIES = 6
BORDER_ROWS = 2 * BORDER_INEQUALITIES


@dataclass(slots=True)
class Blocks:
    """Arrays of nb blocks: data (nb, (N+1) DATA_ROWS, 8), constants (nb, CONSTANT_ROWS, 8), unit (nb, 8) in kW."""

    steps: int
    count: int
    data: FloatArray
    constants: FloatArray

    @property
    def blocks(self) -> int:
        """Number of blocks nb."""
        return len(self.data)

    def weights_kw(self) -> FloatArray:
        """P of each lane, shape (nb, 8); 0 in lanes that only fill the last block."""
        return self.constants[:, WEIGHT, :]


def pack(
    fleet: FleetData, dt_s: float, soft: SoftCosts, old: Blocks | None = None, stiff: NDArray[np.bool_] | None = None
) -> Blocks:
    """Fill blocks from a fleet; `old` of the same shape is filled again instead of new memory.

    `stiff` (B,): devices whose limits cost STIFFER times as much to break, as far as the device need never break them. The
    objective of plans that keep them is the same.
    """
    steps, count = fleet.steps, fleet.count
    nb = (count + LANES - 1) // LANES
    if old is None or (old.steps, old.count) != (steps, count):
        old = Blocks(steps, count, np.zeros((nb, (steps + 1) * DATA_ROWS, LANES)), np.zeros((nb, CONSTANT_ROWS, LANES)))
    units = power_units_kw(fleet)
    columns = {name: np.ascontiguousarray(getattr(fleet, name)) for name in SCALARS + PROFILES}
    costs = np.array([
        soft.energy_eur_per_kwh, soft.energy_quadratic, soft.temperature_eur_per_k, soft.temperature_quadratic,
        soft.voltage_eur_per_v, soft.voltage_quadratic, soft.depth_eur_per_kwh, soft.terminal_eur_per_kwh,
    ])  # fmt: skip
    c = columns
    _pack_constants(
        old.constants, dt_s / 3600.0, steps, units, costs, c["energy_wh"], c["capacity_wh"], c["energy_min_wh"],
        c["energy_max_wh"],
        c["cycle_depth_wh"], c["energy_low_wh"], c["energy_high_wh"], c["leak_wh"], c["temperature_a"], c["wear_eur_per_kwh"],
        c["wear_quadratic"], c["move_weight"], c["soc_stress_eur_per_h"], c["terminal_energy_wh"],
        beyond_taper(fleet),
    )  # fmt: skip
    if stiff is not None and stiff.any():
        arrays = FleetArrays(*[columns[name] for name in SCALARS + PROFILES])
        _stiffen(old.constants, arrays, stiff, STIFFER)
    _pack_stages(
        old.data, dt_s / 3600.0, units, c["energy_wh"], c["capacity_wh"], c["energy_min_wh"], c["energy_max_wh"], c["leak_wh"],
        c["temperature_c"], c["temperature_a"], c["temperature_min_c"], c["voltage_min_v"], c["voltage_max_v"],
        c["soc_stress_eur_per_h"], c["soc_stress_centre"], c["terminal_value_eur_per_kwh"], c["move_weight"], c["charge_max_w"],
        c["discharge_max_w"], c["charge_taper_w"], c["charge_taper_w_per_wh"], c["discharge_taper_w"],
        c["discharge_taper_w_per_wh"], c["eta_charge"], c["eta_discharge"], c["temperature_charge_k_per_w"],
        c["temperature_discharge_k_per_w"], c["temperature_drift_c"], c["temperature_max_c"], c["voltage_v"],
        c["voltage_v_per_wh"], c["voltage_v_per_w"], c["reference_w"],
    )  # fmt: skip
    return old


def power_units_kw(fleet: FleetData) -> FloatArray:
    """The power that each device is scaled by, shape (B,): its largest bound, at least a hundredth of its capacity per hour."""
    largest = np.maximum(fleet.charge_max_w.max(axis=1), fleet.discharge_max_w.max(axis=1))
    units: FloatArray = np.maximum(largest, 0.01 * fleet.capacity_wh) / 1000.0
    return units


def beyond_taper(fleet: FleetData) -> FloatArray:
    """1.0 for devices outside their energy limits or beyond a taper (later tapers give way by the energy slack), else 0.0."""
    energy = fleet.energy_wh
    outside = (energy < fleet.energy_min_wh) | (energy > fleet.energy_max_wh)
    no_charge = (fleet.charge_taper_w < fleet.charge_taper_w_per_wh * energy[:, None]).any(axis=1)
    no_discharge = (fleet.discharge_taper_w + fleet.discharge_taper_w_per_wh * energy[:, None] < 0).any(axis=1)
    return np.where(outside | no_charge | no_discharge, 1.0, 0.0)


@kept_on_disk
def _pack_constants(
    constants, h, steps, units, costs, energy, capacity, energy_min, energy_max, depth, energy_low, energy_high, leak, decay,
    wear,
    wear_quadratic, move_weight, stress, target, relief,
):  # fmt: skip
    count = len(units)
    for j in range(constants.shape[0] * LANES):
        i = min(j, count - 1)
        k, lane, p = constants[j // LANES], j % LANES, units[i]
        money = 1.0 / (PRICE_UNIT * p)
        start, wh = energy[i], 1.0 / (1000.0 * p)
        k[DECAY, lane] = decay[i]
        k[HIGHEST, lane] = (max(energy_high[i], start) - start) * wh
        k[LOWEST, lane] = (min(energy_low[i], start) - start) * wh
        k[DEPTH, lane] = min(depth[i] * wh, FAR)
        k[DEPTH_COST, lane] = costs[6] * p * money
        k[WEAR, lane] = h * wear[i] * p * money
        k[CURVE, lane] = 2.0 * h * (wear_quadratic[i] + move_weight[i]) * p * p * money
        share = 1000.0 * p / capacity[i]
        k[STRESS, lane] = 2.0 * h * stress[i] * share * share * money
        k[E_COST, lane] = costs[0] * p * money
        k[E_CURVE, lane] = costs[1] * p * p * money
        k[T_COST, lane] = costs[2] / KELVIN * money
        k[T_CURVE, lane] = costs[3] / KELVIN**2 * money
        k[V_COST, lane] = costs[4] / VOLT * money
        k[V_CURVE, lane] = costs[5] / VOLT**2 * money
        targeted = not np.isnan(target[i])
        k[TARGETED, lane] = 1.0 if targeted else 0.0
        k[TARGET, lane] = (target[i] - start + steps * leak[i]) * wh if targeted else 0.0
        k[TARGET_COST, lane] = costs[7] * p * money
        k[RELIEF, lane] = relief[i]
        k[WEIGHT, lane] = p if j < count else 0.0


@kept_on_disk
def _stiffen(constants, p, stiff, factor):
    for i in range(len(stiff)):
        if stiff[i]:
            energy, heat, volts, depth = never_broken(p, i)
            k, lane = constants[i // LANES], i % LANES
            for cost, never in ((E_COST, energy), (T_COST, heat), (V_COST, volts), (DEPTH_COST, depth)):
                if never:
                    k[cost, lane] *= factor


@kept_on_disk
def _pack_stages(
    data, h, units, energy, capacity, energy_min, energy_max, leak, temperature, decay, temperature_min, voltage_min, voltage_max,
    stress, centre, value, move_weight, charge_max, discharge_max, charge_taper, charge_slope, discharge_taper, discharge_slope,
    eta_charge, eta_discharge, heat_charge, heat_discharge, drift, temperature_max, volts, volts_per_wh, volts_per_w, reference,
):  # fmt: skip
    count, n = charge_max.shape
    for j in range(data.shape[0] * LANES):
        i = min(j, count - 1)
        lane, p = j % LANES, units[i]
        w, wh, money = 1.0 / (1000.0 * p), 1.0 / (1000.0 * p), 1.0 / (PRICE_UNIT * p)
        e, t = energy[i], temperature[i]
        full = 1.0 / capacity[i]
        for k in range(n):
            s = data[j // LANES, k * DATA_ROWS : (k + 1) * DATA_ROWS]
            s[GAIN_C, lane] = h * eta_charge[i, k]
            s[LOSS_D, lane] = h / eta_discharge[i, k]
            s[HEAT_C, lane] = heat_charge[i, k] * 1000.0 * p * KELVIN
            s[HEAT_D, lane] = heat_discharge[i, k] * 1000.0 * p * KELVIN
            s[VOLT_E, lane] = volts_per_wh[i, k] * 1000.0 * p * VOLT
            s[VOLT_N, lane] = volts_per_w[i, k] * 1000.0 * p * VOLT
            most_c, most_d = charge_max[i, k], discharge_max[i, k]
            room_c = charge_taper[i, k] - charge_slope[i, k] * e
            room_d = discharge_taper[i, k] + discharge_slope[i, k] * e
            slope_c, slope_d = charge_slope[i, k], discharge_slope[i, k]
            if k == 0:  # the state now is known: the taper is a bound, and stops at zero power
                most_c, most_d = min(most_c, max(room_c, 0.0)), min(most_d, max(room_d, 0.0))
                room_c = room_d = np.inf
                slope_c = slope_d = 0.0
            s[MAX_C, lane] = max(most_c * w, LEAST_POWER)
            s[MAX_D, lane] = max(most_d * w, LEAST_POWER)
            s[MOVE, lane] = 2.0 * h * move_weight[i] * reference[i, k] * p * money / 1000.0
            s[SLOPE_C, lane] = slope_c
            s[SLOPE_D, lane] = slope_d
            s[ROOM_C, lane] = min(room_c * w, FAR)
            s[ROOM_D, lane] = min(room_d * w, FAR)
            v = volts[i, k] + volts_per_wh[i, k] * e
            s[ROOM_V_HIGH, lane] = min((voltage_max[i] - v) * VOLT, FAR)
            s[ROOM_V_LOW, lane] = min((v - voltage_min[i]) * VOLT, FAR)
            limit_t = temperature_max[i, max(k - 1, 0)]
            _pack_state(s, lane, e, t, energy[i], energy_min[i], energy_max[i], temperature_min[i], limit_t, wh)
            s[VALUE_E, lane] = 2.0 * h * stress[i] * (e * full - centre[i]) * 1000.0 * p * full * money
            e -= leak[i]
            t = decay[i] * t + drift[i, k]
        s = data[j // LANES, n * DATA_ROWS :]
        s[:, lane] = 0.0
        s[MAX_C, lane] = s[MAX_D, lane] = 1.0
        s[ROOM_C, lane] = s[ROOM_D, lane] = s[ROOM_V_HIGH, lane] = s[ROOM_V_LOW, lane] = FAR
        _pack_state(s, lane, e, t, energy[i], energy_min[i], energy_max[i], temperature_min[i], temperature_max[i, n - 1], wh)
        stress_slope = 2.0 * h * stress[i] * (e * full - centre[i]) * 1000.0 * p * full
        s[VALUE_E, lane] = (stress_slope - value[i] * p) * money


@kept_on_disk
def _pack_state(s, lane, e, t, start, energy_min, energy_max, temperature_min, temperature_max, wh):
    """Limits of the state at the start of a stage, from the trajectory (e, t) without power."""
    s[ROOM_E_HIGH, lane] = (energy_max - e) * wh
    s[ROOM_E_LOW, lane] = (e - energy_min) * wh
    s[ROOM_T_HIGH, lane] = min((temperature_max - t) * KELVIN, FAR)
    s[ROOM_T_LOW, lane] = min((t - temperature_min) * KELVIN, FAR)
    s[FREE_E, lane] = (e - start) * wh

"""From rows to limits: which bounds hold for a device, and how much power they leave for a step.

`tightest` folds device_configurations, every safety_constraints row in force and the chemistry's cell
window into one PackLimits. `power_bounds` turns those limits and a measured or predicted condition into the
power that a step may use; optimizer, dispatcher, device and environment all call it (or its compiled kernel
`power_bounds_kernel`). Not here: the database rows' reading (stores.postgres), physics (core.battery).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import IntEnum
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.compiled import kept_on_disk
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.lanes import least, less, load, most, root, where

FloatArray = NDArray[np.float64]

CELL_WINDOW_V: Mapping[Chemistry, tuple[float, float]] = {
    Chemistry.LFP: (2.0, 3.65),
    Chemistry.NMC: (2.5, 4.2),
    Chemistry.LCO: (2.7, 4.2),
    Chemistry.NCA: (2.5, 4.2),
}
"""Cell voltage window of each chemistry (cell data sheets: A123 ANR26650, LG INR21700-M50, Sony US18650, Panasonic
NCR18650B). The contract's column default of 4.2 V would overcharge an LFP cell, so the window is intersected."""

THERMAL_TAPER_K = 5.0
"""Power falls linearly to zero over the last 5 K before a temperature limit."""
SOC_TAPER_PCT = 3.0
"""Power falls linearly over the last 3 % before an SoC limit ..."""
SOC_TAPER_FLOOR = 0.25
"""... to a quarter, so that the limit itself is reached in finite time."""
SPREAD_TAPER_SHARE = 0.2
"""Power falls linearly over the last fifth before max_temperature_delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintRow:
    """One row of `safety_constraints`; None where the column is NULL."""

    row_id: str
    device_id: str
    max_cell_voltage_v: float | None = 4.2
    min_cell_voltage_v: float | None = 2.5
    max_pack_voltage_v: float | None = None
    min_pack_voltage_v: float | None = None
    max_charge_current_a: float | None = 50.0
    max_discharge_current_a: float | None = 100.0
    max_cell_temperature_c: float | None = 60.0
    min_cell_temperature_c: float | None = -20.0
    max_temperature_delta_k: float | None = 10.0
    max_soc_pct: float | None = 95.0
    min_soc_pct: float | None = 5.0
    max_charge_power_w: float | None = None
    max_discharge_power_w: float | None = None
    max_cycle_depth_pct: float | None = 80.0
    max_c_rate_per_h: float | None = 1.0
    active: bool | None = True
    effective_from: datetime | None = None
    effective_until: datetime | None = None

    def in_force(self, at: datetime) -> bool:
        """Active and `at` in [effective_from, effective_until); NULL bounds are open."""
        return (
            bool(self.active)
            and (self.effective_from is None or self.effective_from <= at)
            and (self.effective_until is None or at < self.effective_until)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackLimits:
    """The tightest bound of everything in force, at pack level. `origins` names who set each."""

    device_id: str
    charge_power_w: float
    discharge_power_w: float
    charge_current_a: float
    discharge_current_a: float
    voltage_min_v: float
    voltage_max_v: float
    cell_voltage_min_v: float
    cell_voltage_max_v: float
    temperature_min_c: float
    temperature_max_c: float
    temperature_delta_k: float
    soc_min_pct: float
    soc_max_pct: float
    cycle_depth_pct: float
    c_rate_per_h: float
    origins: Mapping[str, str] = field(default_factory=dict)

    def vector(self) -> FloatArray:
        """The numbers in the order of the fields, for the compiled kernel; shape (15,)."""
        return np.array(_numbers_of_limits(self), dtype=np.float64)


LIMIT_NAMES = tuple(f.name for f in fields(PackLimits)[1:-1])
_numbers_of_limits = attrgetter(*LIMIT_NAMES)
_UPPER: tuple[tuple[str, str], ...] = (
    ("charge_power_w", "max_charge_power_w"),
    ("discharge_power_w", "max_discharge_power_w"),
    ("charge_current_a", "max_charge_current_a"),
    ("discharge_current_a", "max_discharge_current_a"),
    ("cell_voltage_max_v", "max_cell_voltage_v"),
    ("voltage_max_v", "max_pack_voltage_v"),
    ("temperature_max_c", "max_cell_temperature_c"),
    ("temperature_delta_k", "max_temperature_delta_k"),
    ("soc_max_pct", "max_soc_pct"),
    ("cycle_depth_pct", "max_cycle_depth_pct"),
    ("c_rate_per_h", "max_c_rate_per_h"),
)
_LOWER: tuple[tuple[str, str], ...] = (
    ("cell_voltage_min_v", "min_cell_voltage_v"),
    ("voltage_min_v", "min_pack_voltage_v"),
    ("temperature_min_c", "min_cell_temperature_c"),
    ("soc_min_pct", "min_soc_pct"),
)
_PAIRS: tuple[tuple[str, str], ...] = (
    ("cell_voltage_min_v", "cell_voltage_max_v"),
    ("voltage_min_v", "voltage_max_v"),
    ("temperature_min_c", "temperature_max_c"),
    ("soc_min_pct", "soc_max_pct"),
)
_POSITIVE = ("temperature_delta_k", "cycle_depth_pct")
_NOT_NEGATIVE = ("charge_power_w", "discharge_power_w", "charge_current_a", "discharge_current_a", "c_rate_per_h")


def tightest(config: DeviceConfig, rows: Sequence[ConstraintRow], at: datetime) -> PackLimits:
    """The intersection of every bound that holds for a device at time `at`.

    Raises InputError when no row is in force (a pack without limits is not commanded) or when the rows contradict each
    other; the message names the rows.
    """
    in_force = [row for row in rows if row.device_id == config.device_id and row.in_force(at)]
    source = f"safety_constraints of {config.device_id}"
    if not in_force:
        raise InputError(
            source=source,
            field="rows",
            value=f"{len(rows)} rows, none in force",
            expected=f"one in force at {at:%FT%TZ}",
        )
    for name in ("nominal_capacity_ah", "nominal_voltage_v", "max_charge_power_w", "max_discharge_power_w"):
        number = getattr(config, name)
        # PostgreSQL's DECIMAL knows NaN and holds it for larger than any number, so that a CHECK lets it pass.
        if not math.isfinite(number) or number < 0 or (number == 0 and name.startswith("nominal")):
            raise InputError(
                source=f"device_configurations of {config.device_id}", field=name, value=number, expected="a number > 0"
            )
    low_v, high_v = CELL_WINDOW_V[config.chemistry]
    value: dict[str, float] = {
        "charge_power_w": config.max_charge_power_w,
        "discharge_power_w": config.max_discharge_power_w,
        "cell_voltage_min_v": low_v,
        "cell_voltage_max_v": high_v,
        "soc_min_pct": 0.0,
        "soc_max_pct": 100.0,
    }
    chemistry = f"{config.chemistry.value} cell window"
    origin = {
        "charge_power_w": "device_configurations",
        "discharge_power_w": "device_configurations",
        "cell_voltage_min_v": chemistry,
        "cell_voltage_max_v": chemistry,
    }
    for names, better, worst in ((_UPPER, _less, math.inf), (_LOWER, _more, -math.inf)):
        for name, column in names:
            value.setdefault(name, worst)
            for row in in_force:
                bound = getattr(row, column)
                if bound is None:
                    continue
                if not math.isfinite(bound):
                    raise InputError(source=source, field=column, value=bound, expected=f"a number in row {row.row_id}")
                if better(bound, value[name]):
                    value[name], origin[name] = bound, row.row_id
    for side, cell, better in (
        ("voltage_min_v", "cell_voltage_min_v", _more),
        ("voltage_max_v", "cell_voltage_max_v", _less),
    ):
        from_cells = value[cell] * config.series_cells
        if better(from_cells, value[side]):
            value[side], origin[side] = from_cells, origin.get(cell, chemistry)
    for low, high in _PAIRS:
        if not value[low] < value[high]:
            raise InputError(
                source=source,
                field=f"{low} and {high}",
                value=f"{value[low]:g} ({origin.get(low)}) and {value[high]:g} ({origin.get(high)})",
                expected="a range that is not empty",
            )
    for name in _POSITIVE + _NOT_NEGATIVE:
        if value[name] < 0 or (name in _POSITIVE and value[name] == 0):
            raise InputError(
                source=source, field=name, value=f"{value[name]:g} ({origin.get(name)})", expected="a positive number"
            )
    return PackLimits(device_id=config.device_id, origins=origin, **value)


def _less(a: float, b: float) -> bool:
    return a < b


def _more(a: float, b: float) -> bool:
    return a > b


class Bound(IntEnum):
    """Which limit decides a power bound."""

    RATED_POWER = 0
    CURRENT = 1
    C_RATE = 2
    VOLTAGE = 3
    SOC = 4
    SOC_TAPER = 5
    TEMPERATURE = 6
    TEMPERATURE_SPREAD = 7
    CYCLE_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a step starts from: measured at the gate and in the device, predicted in the optimizer.

    Scalars, or arrays of one shape (N,) for N steps or devices.
    """

    soc_pct: float | FloatArray
    temperature_c: float | FloatArray
    """Hottest cell at the start of the step."""
    temperature_coldest_c: float | FloatArray
    temperature_free_c: float | FloatArray
    """Temperature at the end of the step if no power flowed."""
    heat_gain_k_per_w: float | FloatArray
    """Rise at the end of the step per W of heat held through it."""
    temperature_spread_k: float | FloatArray
    """Hottest minus coldest cell."""
    open_circuit_v: float | FloatArray
    """Pack voltage behind the resistance, polarisation included."""
    ocv_slope_v_per_pct: float | FloatArray
    """Bounds the move of the open-circuit voltage as the SoC moves; of a discharge where a charge has its own."""
    resistance_ohm: float | FloatArray
    """Pack resistance, polarisation that builds up within the step included; of a discharge where a charge has its own."""
    capacity_ah: float | FloatArray
    """Usable capacity, SoH applied."""
    coulomb_efficiency: float | FloatArray
    soc_low_pct: float | FloatArray
    """Lowest and highest SoC of the cycle so far (the present SoC when a new one begins)."""
    soc_high_pct: float | FloatArray
    charge_headroom_v: float | FloatArray = 0.0
    """Pack voltage to keep free below the upper limit: the fullest cell's lead over the mean times the cells in series, and
    polarisation of an earlier discharge that dies away within the step."""
    discharge_headroom_v: float | FloatArray = 0.0
    """The same above the lower limit: the emptiest cell, and polarisation of an earlier charge."""
    charge_ocv_slope_v_per_pct: float | FloatArray | None = None
    """Of a charge, where it is another: the OCV curve bends, and a charge goes the other way along it."""
    charge_resistance_ohm: float | FloatArray | None = None

    def matrix(self) -> FloatArray:
        """Fields as columns; shape (N, 17)."""
        values = dict(zip(CONDITION_NAMES, _fields_of_condition(self), strict=True))
        for name, same in (("charge_ocv_slope_v_per_pct", "ocv_slope_v_per_pct"), ("charge_resistance_ohm", "resistance_ohm")):
            values[name] = values[same] if values[name] is None else values[name]
        if not any(isinstance(value, np.ndarray) for value in values.values()):
            return np.array([tuple(values.values())], dtype=np.float64)
        columns = [np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in values.values()]
        return np.ascontiguousarray(np.stack(np.broadcast_arrays(*columns), axis=1))


CONDITION_NAMES = tuple(f.name for f in fields(Condition))
_fields_of_condition = attrgetter(*CONDITION_NAMES)


@dataclass(frozen=True, slots=True)
class PowerBounds:
    """Power that a step may use, W >= 0 each, shape (N,), and the limit (Bound) that decides it."""

    charge_w: FloatArray
    discharge_w: FloatArray
    charge_bound: NDArray[np.int64]
    discharge_bound: NDArray[np.int64]


def power_bounds(limits: PackLimits, condition: Condition, dt_s: float) -> PowerBounds:
    """Bounds of one step (or of N steps at once) of `dt_s` seconds under constant power.

    Raises InputError when a number of the condition is not finite, or a limit is NaN: a NaN is never a limit.
    """
    vector = limits.vector()
    if np.isnan(vector).any():
        name = LIMIT_NAMES[int(np.argmax(np.isnan(vector)))]
        raise InputError(source=f"limits of {limits.device_id}", field=name, value=math.nan, expected="a number")
    matrix = condition.matrix()
    if not np.isfinite(matrix).all():
        bad = np.argwhere(~np.isfinite(matrix))
        name = CONDITION_NAMES[int(bad[0][1])]
        raise InputError(
            source=f"condition of {limits.device_id}",
            field=name,
            value=matrix[tuple(bad[0])],
            expected="a finite number",
        )
    out = np.empty((len(matrix), 4))
    power_bounds_kernel(vector, matrix, dt_s, out)
    return PowerBounds(out[:, 0].copy(), out[:, 1].copy(), out[:, 2].astype(np.int64), out[:, 3].astype(np.int64))


def clamp(power_w: float, limits: PackLimits, condition: Condition, dt_s: float) -> tuple[float, Bound | None]:
    """The nearest power that the bounds allow (discharge positive), and the bound that moved it, if any."""
    bounds = power_bounds(limits, condition, dt_s)
    if power_w > bounds.discharge_w[0]:
        return float(bounds.discharge_w[0]), Bound(int(bounds.discharge_bound[0]))
    if power_w < -bounds.charge_w[0]:
        return -float(bounds.charge_w[0]), Bound(int(bounds.charge_bound[0]))
    return power_w, None


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = kept_on_disk(error_model="numpy", nogil=True, _nrt=False)(function)
    return compiled


@_compiled
def bound_of_side(limits: FloatArray, condition: FloatArray, dt_s: float, charging: bool) -> tuple[float, float]:
    """Power (W >= 0) that a charge or a discharge may use and the Bound that decides; limits (15,), condition (17,).

    All limits but rated power act on current: with open-circuit voltage V, resistance R and current I the terminal
    power is I times the lowest voltage of the step. The voltage at its END, V -+ I (R + slope dt/Q), is held within limits.
    Eight packs at once in the lanes of core.lanes: limits (15, 8), condition (17, 8), charging a mask.
    """
    dt_h = dt_s / 3600.0
    soc, spread, v_oc, q_ah = load(condition, 0), load(condition, 5), load(condition, 6), load(condition, 9)
    spare_c, spare_d = load(condition, 13), load(condition, 14)
    t_max, t_delta, depth = load(limits, 9), load(limits, 10), load(limits, 13)
    warm = least(1.0, most(0.0, (t_max - load(condition, 1)) / THERMAL_TAPER_K))
    cold = least(1.0, most(0.0, (load(condition, 2) - load(limits, 8)) / THERMAL_TAPER_K))
    # No limit: inf / inf would be no number, and a NaN no power.
    even = least(1.0, most(0.0, (t_delta - spread) / (SPREAD_TAPER_SHARE * t_delta)))
    even = where(less(t_delta, np.inf), even, 1.0)
    rated = where(charging, load(limits, 0), load(limits, 1))
    room = where(charging, load(limits, 12) - soc, soc - load(limits, 11))
    depth_room = where(charging, load(condition, 11) + depth - soc, soc - (load(condition, 12) - depth))
    v_room = where(charging, load(limits, 5) - spare_c - v_oc, v_oc - spare_d - load(limits, 4))
    slope = where(charging, load(condition, 15), load(condition, 7))
    r = most(where(charging, load(condition, 16), load(condition, 8)), 1e-9)
    r_moved = most(slope, 0.0) * 100.0 * dt_h / q_ah
    r_end = r + r_moved
    # Heat I^2 R may lift the pack from its free temperature to the limit, and no further.
    gain = load(condition, 4)
    i_heat = where(less(0.0, gain), root(most(0.0, t_max - load(condition, 3)) / (gain * r)), np.inf)
    ah_per_pct = q_ah / 100.0 / where(charging, load(condition, 10), 1.0)
    current = where(charging, load(limits, 2), load(limits, 3))
    code = where(less(load(limits, 14) * q_ah, current), 2.0, 1.0)
    current = least(load(limits, 14) * q_ah, current)
    # A charge of constant power ends with less current than it began with: what flows at the limit is P over the limit.
    last = least(1.0, most(0.0, (v_oc - spare_d) / most(v_oc + v_room, 1e-9)))
    i_voltage = v_room / (where(charging, last, 1.0) * r + r_moved)
    code, current = where(less(i_voltage, current), 3.0, code), least(i_voltage, current)
    i_soc, i_depth = room * ah_per_pct / dt_h, depth_room * ah_per_pct / dt_h
    code, current = where(less(i_soc, current), 4.0, code), least(i_soc, current)
    code, current = where(less(i_depth, current), 8.0, code), least(i_depth, current)
    code, current = where(less(i_heat, current), 6.0, code), least(i_heat, current)
    # Constant power draws its largest current at the step's lowest voltage: at the beginning of a charge, where
    # no drop has built up yet (or where an earlier charge's has died away), and at the end of a discharge.
    before_v = v_oc - spare_d
    most_a = where(charging, np.inf, 0.5 * before_v / r_end)
    code, current = where(less(most_a, current), 3.0, code), least(most_a, current)
    power = most(0.0, current * (before_v - where(charging, 0.0, current * r_end)))
    code, power = where(less(rated, power), 0.0, code), least(rated, power)
    taper = SOC_TAPER_FLOOR + (1.0 - SOC_TAPER_FLOOR) * least(1.0, most(0.0, room / SOC_TAPER_PCT))
    # The tapers are shares of rated power: an already small bound is not cut twice.
    code, power = where(less(taper * rated, power), 5.0, code), least(taper * rated, power)
    code, power = where(less(warm * rated, power), 6.0, code), least(warm * rated, power)
    code, power = where(less(cold * rated, power), 6.0, code), least(cold * rated, power)
    code, power = where(less(even * rated, power), 7.0, code), least(even * rated, power)
    return most(power, 0.0), code


@_compiled
def power_bounds_kernel(limits: FloatArray, condition: FloatArray, dt_s: float, out: FloatArray) -> None:
    """Compiled form of `power_bounds`; limits (15,), condition (N, 17), out (N, 4): charge, discharge, two Bounds."""
    for k in range(condition.shape[0]):
        out[k, 0], out[k, 2] = bound_of_side(limits, condition[k], dt_s, True)
        out[k, 1], out[k, 3] = bound_of_side(limits, condition[k], dt_s, False)

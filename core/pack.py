"""One pack: its state under the equivalent circuit, what it measures, and the Condition that limits need.

Here: the simulated pack of the reference device, and the reading of a Condition from telemetry. Not here: the
equations (core.battery.ecm), the limits (core.limits).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC, BY_TEMPERATURE, CELLS, ROW, capacity_ah, energy_curve_wh, resistance_growth
from core.battery.condition import (
    CELL_TEMPERATURE_SPREAD,
    CELL_VOLTAGE_SPREAD_V,
    CONDITION_COLUMNS,
    condition_row,
    open_circuit,
    true_condition,
)
from core.battery.ecm import COLDEST_C, WARMEST_C, compiled_lean, interpolate, step
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.limits import CELL_WINDOW_V, CONDITION_NAMES, Condition

FloatArray = NDArray[np.float64]
SOC_SHARES = np.linspace(0.0, 1.0, len(BY_SOC[0]))
"""Where BY_SOC's rows lie."""
REPORTED_CELLS = 8
"""Cells of which voltage and temperature are reported: the extremes are among them."""


def ecm_parameters(config: DeviceConfig, soh_pct: float) -> FloatArray:
    """Pack-level parameters for core.battery.ecm; shape (11,)."""
    cell = CELLS[config.chemistry]
    q_new, q = config.nominal_capacity_ah, capacity_ah(config, soh_pct)
    total_ah = q_new * config.series_cells
    return np.array(
        [
            q,
            config.series_cells,
            resistance_growth(soh_pct) * config.series_cells / q_new,
            ROW[config.chemistry],
            cell.fit.tau1_s,
            cell.fit.tau_lag_s,
            cell.coulomb_efficiency,
            cell.fit.heat_capacity_j_per_k_ah * total_ah,
            cell.fit.cooling_w_per_k_ah * total_ah,
            cell.self_discharge_pct_per_month / 100.0 / (30.0 * 86_400.0),
            1.0,
        ]
    )


@dataclass(frozen=True, slots=True)
class Elements:
    """The circuit's elements at one SoC and temperature, pack level."""

    r0_ohm: float
    r1_ohm: float
    lag_per_a: float
    """Lag of the surface SoC (a share) per ampere in steady state."""


def elements(parameters: FloatArray, soc: float, temperature_c: float) -> Elements:
    """The elements at a SoC (0-1)."""
    cell = int(parameters[3])
    return Elements(*_elements(parameters, BY_SOC[cell], BY_TEMPERATURE[cell], soc, temperature_c))


@compiled_lean
def _elements(
    parameters: FloatArray, by_soc: FloatArray, by_temperature: FloatArray, soc: float, temperature_c: float
) -> tuple[float, float, float]:
    place = (temperature_c - COLDEST_C) / (WARMEST_C - COLDEST_C)
    r0 = interpolate(by_soc[:, 2], soc) * interpolate(by_temperature[:, 0], place)
    r1 = interpolate(by_soc[:, 3], soc) * interpolate(by_temperature[:, 1], place)
    lag = interpolate(by_soc[:, 4], soc) * interpolate(by_temperature[:, 2], place)
    return parameters[2] * r0, parameters[2] * r1, parameters[10] * lag / parameters[0]


def open_circuit_v(parameters: FloatArray, soc: float, temperature_c: float) -> float:
    """Pack voltage at rest."""
    return float(open_circuit(parameters, BY_SOC[int(parameters[3])], soc, temperature_c))


def circuit_resistance_ohm(parameters: FloatArray, soc: float, temperature_c: float, dt_s: float) -> float:
    """R0 plus the share of R1 that builds up within dt_s; what a pulse of that length measures, but for the OCV's move."""
    return _built_up_ohm(elements(parameters, soc, temperature_c), parameters, dt_s)


def _built_up_ohm(at: Elements, parameters: FloatArray, dt_s: float) -> float:
    return float(at.r0_ohm + at.r1_ohm * (1.0 - math.exp(-dt_s / parameters[4])))


def step_resistance_ohm(parameters: FloatArray, soc: float, temperature_c: float, dt_s: float) -> float:
    """What a step of dt_s loses per ampere at its end: R0, the built-up shares of R1 and of the lag on the OCV's mean slope."""
    at = elements(parameters, soc, temperature_c)
    ocv, width = BY_SOC[int(parameters[3])][:, 0], 0.05
    low, high = max(0.0, soc - width), min(1.0, soc + width)
    slope_v = parameters[1] * (interpolate(ocv, high) - interpolate(ocv, low)) / (high - low)
    built_1, built_lag = 1.0 - np.exp(-dt_s / parameters[4]), 1.0 - np.exp(-dt_s / parameters[5])
    return float(at.r0_ohm + built_1 * at.r1_ohm + built_lag * at.lag_per_a * slope_v)


class Pack:
    """A simulated pack. `step` takes power at the terminals, discharge positive."""

    def __init__(self, config: DeviceConfig, *, soc_pct: float, soh_pct: float, temperature_c: float, ambient_c: float) -> None:
        if not 0 <= soc_pct <= 100:
            raise InputError(source=f"device {config.device_id}", field="soc_pct", value=soc_pct, expected="0 to 100 %")
        self.config = config
        self.soh_pct = soh_pct
        self.ambient_c = ambient_c
        self._parameters = ecm_parameters(config, soh_pct)
        self._state = np.array([[soc_pct / 100.0, 0.0, 0.0, temperature_c]])
        self._last = np.array([[0.0, open_circuit_v(self._parameters, soc_pct / 100.0, temperature_c), 0.0, 0.0, 0.0]])
        seed = int.from_bytes(hashlib.sha256(config.device_id.encode()).digest()[:4], "big")
        shape = np.random.default_rng(seed).uniform(-1, 1, REPORTED_CELLS)
        shape -= shape.mean()
        self._cell_shape: FloatArray = shape / (shape.max() - shape.min())

    @property
    def soc_pct(self) -> float:
        """State of charge, percent."""
        return float(self._state[0, 0] * 100.0)

    @property
    def temperature_c(self) -> float:
        """Mean cell temperature."""
        return float(self._state[0, 3])

    @property
    def energy_wh(self) -> float:
        """Energy above 0 % SoC at open circuit."""
        curve = energy_curve_wh(self.config, self.soh_pct)
        return float(np.interp(self.soc_pct, np.linspace(0.0, 100.0, len(curve)), curve))

    def step(self, power_w: float, dt_s: float) -> float:
        """Hold a power for dt_s; returns the mean power that flowed. InputError when it is not a number."""
        if not np.isfinite(power_w) or not dt_s > 0:
            raise InputError(source=f"device {self.config.device_id}", field="power_w", value=power_w, expected="a finite number")
        step(
            self._state,
            np.array([power_w]),
            self._parameters[None, :],
            np.array([self.ambient_c]),
            BY_SOC,
            BY_TEMPERATURE,
            dt_s,
            self._last,
        )
        return float(self._last[0, 0])

    def state(self, measured_at: datetime) -> PackState:
        """What the pack's sensors say. Current and voltage of the last substep's end; cells scatter around the mean."""
        voltage = float(self._last[0, 1])
        mean_cell = voltage / self.config.series_cells
        spread_k = CELL_TEMPERATURE_SPREAD * abs(self.temperature_c - self.ambient_c)
        return PackState(
            device_id=self.config.device_id,
            measured_at=measured_at,
            soc_pct=self.soc_pct,
            soh_pct=self.soh_pct,
            temperature_c=self.temperature_c,
            voltage_v=voltage,
            current_a=float(self._last[0, 2]),
            power_w=float(self._last[0, 0]),
            internal_resistance_ohm=circuit_resistance_ohm(
                self._parameters, self._state[0, 0], self.temperature_c, self._parameters[4]
            ),
            cell_voltages_v=tuple((mean_cell + CELL_VOLTAGE_SPREAD_V * self._cell_shape).tolist()),
            cell_temperatures_c=tuple((self.temperature_c + spread_k * self._cell_shape).tolist()),
        )

    def condition(self, dt_s: float) -> Condition:
        """What core.limits needs for the next dt_s, from the true state."""
        row, cell = np.empty(CONDITION_COLUMNS), int(self._parameters[3])
        true_condition(
            self._state[0],
            self.ambient_c,
            float(self._cell_shape.max()),
            float(-self._cell_shape.min()),
            power_ratings(self.config),
            self._parameters,
            BY_SOC[cell],
            BY_TEMPERATURE[cell],
            dt_s,
            np.empty(2),
            np.empty((2, 3)),
            row,
        )
        return _condition_of(row)


def condition_from_state(config: DeviceConfig, state: PackState, dt_s: float, *, ambient_c: float) -> Condition:
    """The Condition of the next dt_s, from a measurement.

    The voltage behind R0 is V + I R0, R0 as large as the MEASURED resistance says. Its distance from the OCV of the measured SoC
    is what polarisation and lag hold; all of it may yet die away and takes voltage room on the other side, as unbalanced cells do
    on both. A measured SoC that is wrong makes the room smaller, never larger.
    """
    parameters = ecm_parameters(config, state.soh_pct)
    soc = min(max(state.soc_pct / 100.0, 0.0), 1.0)
    at = elements(parameters, soc, state.temperature_c)
    measured = _measured_over_model(at, parameters, state)
    behind_v = state.voltage_v + state.current_a * at.r0_ohm * measured
    held_v = open_circuit_v(parameters, soc, state.temperature_c) - behind_v
    usual_v = state.current_a * at.r1_ohm * measured
    surface = float(np.interp(behind_v / config.series_cells, BY_SOC[int(parameters[3])][:, 0], SOC_SHARES))
    cells = state.cell_temperatures_c or (state.temperature_c,)
    high_v, low_v = imbalance_v(config, state)
    row, cell = np.empty(CONDITION_COLUMNS), int(parameters[3])
    condition_row(
        state.soc_pct / 100.0,
        state.temperature_c,
        max(cells),
        min(cells),
        ambient_c,
        behind_v,
        high_v + max(0.0, held_v, usual_v),
        low_v + max(0.0, -held_v, -usual_v),
        np.array((soc, surface)),
        max(1.0, measured),
        power_ratings(config),
        parameters,
        BY_SOC[cell],
        BY_TEMPERATURE[cell],
        dt_s,
        np.empty((2, 3)),
        row,
    )
    condition = _condition_of(row)
    if state.cycle_low_pct is None or state.cycle_high_pct is None:
        return condition
    return replace(
        condition,
        soc_low_pct=min(state.cycle_low_pct, state.soc_pct),
        soc_high_pct=max(state.cycle_high_pct, state.soc_pct),
    )


def _measured_over_model(at: Elements, parameters: FloatArray, state: PackState) -> float:
    """Measured resistance over the model's, 1 when none was measured."""
    model = _built_up_ohm(at, parameters, parameters[4])
    return state.internal_resistance_ohm / model if state.internal_resistance_ohm > 0 else 1.0


def power_ratings(config: DeviceConfig) -> FloatArray:
    """Charge and discharge power (W), lowest and highest voltage of the chemistry's window (V) at pack level; shape (4,)."""
    low_v, high_v = CELL_WINDOW_V[config.chemistry]
    series = config.series_cells
    return np.array([config.max_charge_power_w, config.max_discharge_power_w, low_v * series, high_v * series])


def _condition_of(row: FloatArray) -> Condition:
    """A Condition from its row."""
    return Condition(**dict(zip(CONDITION_NAMES, row.tolist(), strict=True)))


def imbalance_v(config: DeviceConfig, state: PackState) -> tuple[float, float]:
    """Lead of the highest and lag of the lowest cell voltage over their mean, times the cells in series."""
    if not state.cell_voltages_v:
        return 0.0, 0.0
    mean_v = math.fsum(state.cell_voltages_v) / len(state.cell_voltages_v)
    series = config.series_cells
    return (max(state.cell_voltages_v) - mean_v) * series, (mean_v - min(state.cell_voltages_v)) * series

"""One pack: its state under the equivalent circuit, what it measures, and the Condition that limits need.

Here: the simulated pack of the reference device, and the reading of a Condition from telemetry. Not here: the
equations (core.battery.ecm), the limits (core.limits).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import CELLS, capacity_ah, capacity_wh, energy_curve_wh, resistance_growth
from core.battery.ecm import interpolate, resistance_factor, step
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.limits import Condition

FloatArray = NDArray[np.float64]
REPORTED_CELLS = 8
"""Cells of which voltage and temperature are reported: the extremes are among them."""
CELL_VOLTAGE_SPREAD_V = 0.004
CHORDS = 16
"""Points at which the OCV is compared within a step's reach."""
CELL_TEMPERATURE_SPREAD = 0.15
"""Hottest minus coldest cell, as a share of the pack's rise over ambient."""


def ecm_parameters(config: DeviceConfig, soh_pct: float) -> FloatArray:
    """Pack-level parameters for core.battery.ecm; shape (10,)."""
    cell = CELLS[config.chemistry]
    q_new, q = config.nominal_capacity_ah, capacity_ah(config, soh_pct)
    growth = resistance_growth(soh_pct)
    series = config.series_cells
    total_ah = q_new * series
    return np.array(
        [
            q,
            series,
            growth * cell.r0_ohm_ah * series / q_new,
            growth * cell.r1_ohm_ah * series / q_new,
            cell.tau1_s,
            cell.activation_k,
            cell.coulomb_efficiency,
            cell.heat_capacity_j_per_k_ah * total_ah,
            cell.cooling_w_per_k_ah * total_ah,
            cell.self_discharge_pct_per_month / 100.0 / (30.0 * 86_400.0),
        ]
    )


def step_resistance_ohm(parameters: FloatArray, soc: float, temperature_c: float, dt_s: float) -> float:
    """R0 plus the share of R1 that builds up within dt_s."""
    factor = float(resistance_factor(soc, temperature_c, parameters[5]))
    return float(factor * (parameters[2] + parameters[3] * (1.0 - np.exp(-dt_s / parameters[4]))))


def ocv_slope_v_per_pct(ocv: FloatArray, series: float, soc: float, reach: float) -> float:
    """Slope that bounds the pack's OCV from both sides as far as the SoC may move (`reach`, a share of 1).

    The steepest chord from the SoC to any point within reach: OCV(soc +- x) lies within slope * x of OCV(soc).
    """
    x = reach * np.arange(1, CHORDS + 1) / CHORDS
    grid = np.linspace(0.0, 1.0, len(ocv))
    here = np.interp(soc, grid, ocv)
    away = np.concatenate([np.interp(soc + x, grid, ocv) - here, here - np.interp(soc - x, grid, ocv)])
    return float(series * np.max(away / np.concatenate([x, x])) / 100.0)


class Pack:
    """A simulated pack. `step` takes power at the terminals, discharge positive."""

    def __init__(self, config: DeviceConfig, *, soc_pct: float, soh_pct: float, temperature_c: float, ambient_c: float) -> None:
        if not 0 <= soc_pct <= 100:
            raise InputError(source=f"device {config.device_id}", field="soc_pct", value=soc_pct, expected="0 to 100 %")
        self.config = config
        self.soh_pct = soh_pct
        self.ambient_c = ambient_c
        self._parameters = ecm_parameters(config, soh_pct)
        self._ocv = CELLS[config.chemistry].ocv_table()
        self._state = np.array([[soc_pct / 100.0, 0.0, temperature_c]])
        self._last = np.array([[0.0, config.series_cells * interpolate(self._ocv, soc_pct / 100.0), 0.0, 0.0, 0.0]])
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
        return float(self._state[0, 2])

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
            self._ocv[None, :],
            self._parameters[None, :],
            np.array([self.ambient_c]),
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
            internal_resistance_ohm=step_resistance_ohm(
                self._parameters, self._state[0, 0], self.temperature_c, self._parameters[4]
            ),
            cell_voltages_v=tuple((mean_cell + CELL_VOLTAGE_SPREAD_V * self._cell_shape).tolist()),
            cell_temperatures_c=tuple((self.temperature_c + spread_k * self._cell_shape).tolist()),
        )

    def condition(self, dt_s: float) -> Condition:
        """What core.limits needs for the next dt_s, from the true state."""
        state = self.state(datetime.fromtimestamp(0, tz=UTC))
        base = condition_from_state(self.config, state, dt_s, ambient_c=self.ambient_c)
        high_v, low_v = imbalance_v(self.config, state)
        v1_v = float(self._state[0, 1])
        fading_v = v1_v * (1.0 - float(np.exp(-dt_s / self._parameters[4])))
        return replace(
            base,
            open_circuit_v=self.config.series_cells * interpolate(self._ocv, self._state[0, 0]) - v1_v,
            charge_headroom_v=high_v + max(0.0, fading_v),
            discharge_headroom_v=low_v + max(0.0, -fading_v),
        )


def condition_from_state(config: DeviceConfig, state: PackState, dt_s: float, *, ambient_c: float) -> Condition:
    """The Condition of the next dt_s, from a measurement.

    The open-circuit voltage comes from V + I R with the MEASURED resistance, which holds 1 - 1/e of the polarisation; the rest
    may yet die away and takes voltage room on the other side, as unbalanced cells do on both.
    """
    parameters = ecm_parameters(config, state.soh_pct)
    soc = state.soc_pct / 100.0
    cells = state.cell_temperatures_c or (state.temperature_c,)
    ocv = CELLS[config.chemistry].ocv_table()
    high_v, low_v = imbalance_v(config, state)
    polarisation_ohm = float(resistance_factor(soc, state.temperature_c, parameters[5])) * parameters[3]
    fading_v = state.current_a * polarisation_ohm * float(np.exp(-1.0))
    reach = max(config.max_charge_power_w, config.max_discharge_power_w) * dt_s / 3600.0 / capacity_wh(config, state.soh_pct)
    decay = float(np.exp(-dt_s * parameters[8] / parameters[7]))
    resistance = max(state.internal_resistance_ohm, step_resistance_ohm(parameters, soc, state.temperature_c, dt_s))
    return Condition(
        soc_pct=state.soc_pct,
        temperature_c=max(cells),
        temperature_coldest_c=min(cells),
        temperature_free_c=ambient_c + (max(cells) - ambient_c) * decay,
        heat_gain_k_per_w=(1.0 - decay) / parameters[8],
        temperature_spread_k=state.temperature_spread_k,
        open_circuit_v=state.voltage_v + state.current_a * state.internal_resistance_ohm,
        ocv_slope_v_per_pct=ocv_slope_v_per_pct(ocv, config.series_cells, soc, min(1.0, 1.2 * reach)),
        resistance_ohm=resistance,
        capacity_ah=float(parameters[0]),
        coulomb_efficiency=float(parameters[6]),
        soc_low_pct=state.soc_pct,
        soc_high_pct=state.soc_pct,
        charge_headroom_v=high_v + max(0.0, fading_v),
        discharge_headroom_v=low_v + max(0.0, -fading_v),
    )


def imbalance_v(config: DeviceConfig, state: PackState) -> tuple[float, float]:
    """Lead of the highest and lag of the lowest cell voltage over their mean, times the cells in series."""
    if not state.cell_voltages_v:
        return 0.0, 0.0
    mean_v = float(np.mean(state.cell_voltages_v))
    series = config.series_cells
    return (max(state.cell_voltages_v) - mean_v) * series, (mean_v - min(state.cell_voltages_v)) * series

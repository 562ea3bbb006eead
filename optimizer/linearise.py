"""From limits, measured state and prediction to a device's linear problem data.

Here: resampling a prediction onto the horizon, linear voltage and temperature models around it, bounds per step, economics. Not
here: limits themselves (core.limits), the QP (optimizer.assembly).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import CELLS, energy_curve_wh
from core.calibration import Factors
from core.devices import Chemistry, DeviceConfig, PackState
from core.errors import InputError
from core.limits import SOC_TAPER_FLOOR, SOC_TAPER_PCT, Condition, PackLimits, power_bounds
from core.pack import condition_from_state, ecm_parameters, imbalance_v, step_resistance_ohm
from core.predictions import Prediction
from optimizer.measured import check_measured
from optimizer.problem import DeviceData
from optimizer.segments import wear_segments

FloatArray = NDArray[np.float64]
MAX_HELD_S = 2 * 3600.0
"""A prediction may end this long before the horizon: its last values are held. A shorter one is refused."""
SPREAD_PER_RISE = 0.3
"""Cell temperature spread per kelvin of the pack's rise over ambient, when telemetry shows too small a rise to tell."""
CYCLES_TO_END: Mapping[Chemistry, float] = {
    Chemistry.LFP: 6000.0,
    Chemistry.NMC: 3000.0,
    Chemistry.LCO: 1500.0,
    Chemistry.NCA: 2000.0,
}
"""Equivalent full cycles that a pack's replacement value buys at partial depth: our choice of round numbers, not a measurement.

For scale: to 80 % capacity Preger et al., J. Electrochem. Soc. 167 (2020) 120532, count 2,500-9,000 for LFP, 200-2,500 for NMC,
and 250-1,500 for NCA, over depths up to the full one; shallow cycles last longer. What a pack really loses: core.ageing.
"""
RESTING_SHARE = 0.05
"""A predicted power below this share of the rated power says nothing of how much heat a planned one makes."""
SHORT_OF_LIMIT = 1e-3
"""Steps aim this share of the limit short of it, so that rounding never decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Economics:
    """What wearing and holding energy costs and is worth for one device."""

    wear_eur_per_kwh: float
    wear_edges: tuple[float, ...] = ()
    """Depths (shares of the capacity, rising, below 1) at which wear by depth steps up; empty: all throughput costs the same."""
    wear_quadratic: float = 0.0
    soc_stress_eur_per_h: float = 0.0
    soc_stress_centre: float = 0.5
    terminal_value_eur_per_kwh: float = 0.0
    terminal_energy_wh: float | None = None
    move_weight: float = 0.0


def wear_cost(chemistry: Chemistry, soh_pct: float, replacement_eur_per_kwh: float) -> float:
    """EUR per kWh of terminal throughput (each direction): replacement value over lifetime throughput.

    Throughput cost after Xu et al., IEEE Trans. Power Syst. 33 (2018) 2248. A tired pack has less capacity to spread its
    remaining cycles on, so its cost rises with 1 / SoH.
    """
    return replacement_eur_per_kwh / (2.0 * CYCLES_TO_END[chemistry]) * 100.0 / soh_pct


def device_data(
    config: DeviceConfig,
    limits: PackLimits,
    state: PackState,
    prediction: Prediction,
    *,
    start: datetime,
    steps: int,
    dt_s: float,
    ambient_c: FloatArray,
    economics: Economics,
    reference_w: FloatArray | None = None,
) -> DeviceData:
    """DeviceData over `steps` steps from `start`; ambient_c has shape (steps,).

    Raises InputError naming the prediction when it does not cover the horizon or its grid does not line up, and naming device,
    field and value when configuration, state or a series cannot be (optimizer.measured).
    """
    check_measured(config, state)
    for name, series_given in (("ambient_c", ambient_c), ("reference_w", reference_w)):
        if series_given is not None and np.shape(series_given) != (steps,):
            raise InputError(
                source=f"device {config.device_id}",
                field=name,
                value=f"{np.size(series_given)} values",
                expected=f"{steps} values",
            )
    index = _index(prediction, start, steps, dt_s)
    # The twin's calibration came with the prediction: capacity, resistance and cooling are the measured pack's.
    factors = Factors.from_parameters(prediction.parameters)
    curve = factors.capacity * energy_curve_wh(config, state.soh_pct)
    energy_full_wh = float(curve[-1])
    parameters, ocv = factors.apply(ecm_parameters(config, state.soh_pct)), CELLS[config.chemistry].ocv_table()
    series = config.series_cells
    soc = np.clip(np.concatenate([[state.soc_pct], prediction.soc_profile_pct[index][:-1]]) / 100.0, 0.0, 1.0)
    temperature = np.concatenate([[state.temperature_c], prediction.temperature_profile_c[index][:-1]])
    grid = np.linspace(0.0, 1.0, len(ocv))
    u = series * np.interp(soc, grid, ocv)
    resistance = np.array([step_resistance_ohm(parameters, s, t, dt_s) for s, t in zip(soc, temperature, strict=True)])

    def energy_at(soc_pct: float | FloatArray) -> FloatArray:
        return np.asarray(np.interp(soc_pct, 100.0 * grid, curve), dtype=np.float64)

    # Voltage at the END of a step: OCV at the energy then, less I R with I = P / U. The slope is the chord over the allowed
    # range: a local one, steep near an empty cell, would be far off for a plan that leaves the prediction.
    lowest, highest = energy_at(max(limits.soc_min_pct, 0.0)), energy_at(min(limits.soc_max_pct, 100.0))
    chord_v = np.interp([lowest, highest], curve, ocv)
    slope_v_per_wh = np.full(steps, series * float(chord_v[1] - chord_v[0]) / float(highest - lowest))
    v_per_w = resistance / u + slope_v_per_wh * dt_s / 3600.0
    voltage_v = u - slope_v_per_wh * energy_at(100.0 * soc)
    high_v, low_v = imbalance_v(config, state)
    decay = float(np.exp(-dt_s * parameters[8] / parameters[7]))
    gain = (1.0 - decay) / parameters[8]
    predicted_w, coulomb = prediction.power_profile_w[index], float(parameters[6])
    eta = np.clip(prediction.efficiency_profile[index] / np.where(predicted_w < 0, coulomb, 1.0), 0.5, 1.0)
    # Heat is quadratic in power: the secant at the predicted power, or at a third of the rated power where that rests.
    rated_w = max(limits.charge_power_w, limits.discharge_power_w)
    typical_w = np.where(np.abs(predicted_w) > RESTING_SHARE * rated_w, np.abs(predicted_w), rated_w / 3.0)
    heat_per_w = np.clip(typical_w * resistance / np.square(u), 0.0, 0.5)
    condition = Condition(
        soc_pct=soc * 100.0,
        temperature_c=temperature,
        temperature_coldest_c=temperature,
        temperature_free_c=ambient_c + (temperature - ambient_c) * decay,
        heat_gain_k_per_w=gain,
        temperature_spread_k=state.temperature_spread_k,
        open_circuit_v=u,
        ocv_slope_v_per_pct=0.0,
        resistance_ohm=resistance,
        capacity_ah=float(parameters[0]),
        coulomb_efficiency=coulomb,
        soc_low_pct=soc * 100.0,
        soc_high_pct=soc * 100.0,
    )
    # What depends on the SoC itself is left to rows of the QP: the plan will leave the predicted trajectory.
    free = replace(limits, soc_min_pct=-1e4, soc_max_pct=1e4, cycle_depth_pct=1e4, voltage_min_v=-1e6, voltage_max_v=1e6)
    bounds = power_bounds(free, condition, dt_s)
    now = power_bounds(limits, condition_from_state(config, state, dt_s, ambient_c=float(ambient_c[0])), dt_s)
    charge_max, discharge_max = bounds.charge_w.copy(), bounds.discharge_w.copy()
    charge_max[0] = min(charge_max[0], now.charge_w[0] * (1 - SHORT_OF_LIMIT))
    discharge_max[0] = min(discharge_max[0], now.discharge_w[0] * (1 - SHORT_OF_LIMIT))
    energy_min, energy_max = energy_at(limits.soc_min_pct), energy_at(limits.soc_max_pct)
    # From full power at 3 % before the limit to a quarter at it, as in core.limits.
    slope_c = limits.charge_power_w * (1.0 - SOC_TAPER_FLOOR) / (energy_max - energy_at(limits.soc_max_pct - SOC_TAPER_PCT))
    slope_d = limits.discharge_power_w * (1.0 - SOC_TAPER_FLOOR) / (energy_at(limits.soc_min_pct + SOC_TAPER_PCT) - energy_min)
    taper_c = SOC_TAPER_FLOOR * limits.charge_power_w + slope_c * energy_max
    taper_d = SOC_TAPER_FLOOR * limits.discharge_power_w - slope_d * energy_min
    low = state.soc_pct if state.cycle_low_pct is None else min(state.cycle_low_pct, state.soc_pct)
    high = state.soc_pct if state.cycle_high_pct is None else max(state.cycle_high_pct, state.soc_pct)
    rise = float(np.max(state.cell_temperatures_c)) - float(ambient_c[0]) if state.cell_temperatures_c else 0.0
    layers, wear = None, economics.wear_eur_per_kwh
    if economics.wear_edges:
        layers, wear = wear_segments(energy_full_wh, float(energy_at(state.soc_pct) - energy_min), wear, economics.wear_edges)
    ratio = max(0.05, state.temperature_spread_k / rise) if rise > 2.0 else SPREAD_PER_RISE
    return DeviceData(
        device_id=config.device_id,
        energy_wh=float(energy_at(state.soc_pct)),
        capacity_wh=energy_full_wh,
        energy_curve_wh=tuple(curve.tolist()),
        energy_min_wh=float(energy_min),
        energy_max_wh=float(energy_max),
        # The least energy that the depth can be: a pack's lower percents hold less of it.
        cycle_depth_wh=float(energy_at(limits.soc_min_pct + min(limits.cycle_depth_pct, 100.0)) - energy_min),
        energy_low_wh=float(energy_at(low)),
        energy_high_wh=float(energy_at(high)),
        charge_max_w=charge_max,
        discharge_max_w=discharge_max,
        charge_taper_w=np.full(steps, taper_c),
        charge_taper_w_per_wh=np.full(steps, slope_c),
        discharge_taper_w=np.full(steps, taper_d),
        discharge_taper_w_per_wh=np.full(steps, slope_d),
        eta_charge=eta * coulomb,
        eta_discharge=eta,
        leak_wh=float(parameters[9] * dt_s * energy_full_wh),
        temperature_c=state.temperature_c,
        temperature_a=decay,
        temperature_charge_k_per_w=gain * (heat_per_w + 1.0 - coulomb),
        temperature_discharge_k_per_w=gain * heat_per_w,
        temperature_drift_c=(1.0 - decay) * ambient_c,
        temperature_min_c=limits.temperature_min_c,
        temperature_max_c=np.minimum(limits.temperature_max_c, ambient_c + limits.temperature_delta_k / ratio),
        voltage_v=voltage_v,
        voltage_v_per_wh=slope_v_per_wh,
        voltage_v_per_w=v_per_w,
        voltage_min_v=limits.voltage_min_v + low_v,
        voltage_max_v=limits.voltage_max_v - high_v,
        wear_eur_per_kwh=wear,
        wear_segments=layers,
        wear_quadratic=economics.wear_quadratic,
        soc_stress_eur_per_h=economics.soc_stress_eur_per_h,
        soc_stress_centre=economics.soc_stress_centre,
        terminal_value_eur_per_kwh=economics.terminal_value_eur_per_kwh,
        terminal_energy_wh=economics.terminal_energy_wh,
        reference_w=reference_w,
        move_weight=economics.move_weight,
    )


def _index(prediction: Prediction, start: datetime, steps: int, dt_s: float) -> NDArray[np.int64]:
    """For each step of the horizon the prediction's step that covers it; shape (steps,)."""
    source = f"prediction of {prediction.device_id}"
    offset_s = (start - prediction.prediction_timestamp).total_seconds()
    if offset_s < -prediction.dt_s:
        raise InputError(
            source=source,
            field="prediction_timestamp",
            value=prediction.prediction_timestamp.isoformat(),
            expected=f"not after {start.isoformat()}",
        )
    short_s = offset_s + steps * dt_s - prediction.steps * prediction.dt_s
    if short_s > MAX_HELD_S:
        raise InputError(
            source=source,
            field="horizon_hours",
            value=prediction.horizon_hours,
            expected=f"values until {MAX_HELD_S / 3600:g} h before the horizon's end ({short_s / 3600:.1f} h are missing)",
        )
    index = np.floor((offset_s + dt_s * np.arange(steps)) / prediction.dt_s + 1e-9).astype(np.int64)
    clipped: NDArray[np.int64] = np.clip(index, 0, prediction.steps - 1)
    return clipped

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

from core.battery.cells import CELLS, capacity_wh
from core.devices import Chemistry, DeviceConfig, PackState
from core.errors import InputError
from core.limits import SOC_TAPER_FLOOR, SOC_TAPER_PCT, Condition, PackLimits, power_bounds
from core.pack import condition_from_state, ecm_parameters, ocv_slope_v_per_pct, step_resistance_ohm
from core.predictions import Prediction
from optimizer.problem import DeviceData

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
"""Equivalent full cycles that a pack's replacement value buys at partial depth (rounded from cell data sheets)."""
SHORT_OF_LIMIT = 1e-3
"""Steps aim this share of the limit short of it, so that rounding never decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Economics:
    """What wearing and holding energy costs and is worth for one device."""

    wear_eur_per_kwh: float
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
    soc_low_pct: float | None = None,
    soc_high_pct: float | None = None,
    reference_w: FloatArray | None = None,
) -> DeviceData:
    """DeviceData over `steps` steps from `start`; ambient_c has shape (steps,).

    Raises InputError naming the prediction when it does not cover the horizon or its grid does not line up.
    """
    index = _index(prediction, start, steps, dt_s)
    energy_full_wh = capacity_wh(config, state.soh_pct)
    parameters, ocv = ecm_parameters(config, state.soh_pct), CELLS[config.chemistry].ocv_table()
    series = config.series_cells
    soc = np.clip(np.concatenate([[state.soc_pct], prediction.soc_profile_pct[index][:-1]]) / 100.0, 0.0, 1.0)
    temperature = np.concatenate([[state.temperature_c], prediction.temperature_profile_c[index][:-1]])
    mean_ocv_v = energy_full_wh / parameters[0]
    grid = np.linspace(0.0, 1.0, len(ocv))
    u = series * np.interp(soc, grid, ocv)
    resistance = np.array([step_resistance_ohm(parameters, s, t, dt_s) for s, t in zip(soc, temperature, strict=True)])
    resistance = np.maximum(resistance, 0.0)
    # Voltage at the END of a step: OCV at the energy then, less I R with I = P / U.
    slope_v_per_wh = np.array([ocv_slope_v_per_pct(ocv, series, s) for s in soc]) * 100.0 / energy_full_wh
    v_per_w = resistance / u + slope_v_per_wh * dt_s / 3600.0
    voltage_v = u - slope_v_per_wh * soc * energy_full_wh
    decay = float(np.exp(-dt_s * parameters[8] / parameters[7]))
    gain = (1.0 - decay) / parameters[8]
    eta = np.clip(prediction.efficiency_profile[index], 0.5, 1.0)
    # Heat is quadratic in power; the secant at a third of the rated power errs by little either way.
    typical_w = np.maximum(np.abs(prediction.power_profile_w[index]), limits.discharge_power_w / 3.0)
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
        coulomb_efficiency=float(parameters[6]),
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
    taper_c, slope_c = _taper(limits.charge_power_w, energy_full_wh, limits.soc_max_pct, rising=True)
    taper_d, slope_d = _taper(limits.discharge_power_w, energy_full_wh, limits.soc_min_pct, rising=False)
    energy_wh = state.soc_pct / 100.0 * energy_full_wh
    low = state.soc_pct if soc_low_pct is None else soc_low_pct
    high = state.soc_pct if soc_high_pct is None else soc_high_pct
    rise = float(np.max(state.cell_temperatures_c)) - float(ambient_c[0]) if state.cell_temperatures_c else 0.0
    ratio = max(0.05, state.temperature_spread_k / rise) if rise > 2.0 else SPREAD_PER_RISE
    ohmic = mean_ocv_v / u
    return DeviceData(
        device_id=config.device_id,
        energy_wh=energy_wh,
        capacity_wh=energy_full_wh,
        energy_min_wh=limits.soc_min_pct / 100.0 * energy_full_wh,
        energy_max_wh=limits.soc_max_pct / 100.0 * energy_full_wh,
        cycle_depth_wh=limits.cycle_depth_pct / 100.0 * energy_full_wh,
        energy_low_wh=low / 100.0 * energy_full_wh,
        energy_high_wh=high / 100.0 * energy_full_wh,
        charge_max_w=charge_max,
        discharge_max_w=discharge_max,
        charge_taper_w=np.full(steps, taper_c),
        charge_taper_w_per_wh=np.full(steps, slope_c),
        discharge_taper_w=np.full(steps, taper_d),
        discharge_taper_w_per_wh=np.full(steps, slope_d),
        # SoC counts charge: energy that enters at a voltage above the mean counts for less of it.
        eta_charge=np.clip(eta * parameters[6] * ohmic, 0.05, 1.0),
        eta_discharge=np.clip(eta / ohmic, 0.05, 1.0),
        leak_wh=float(parameters[9] * dt_s * energy_full_wh),
        temperature_c=state.temperature_c,
        temperature_a=decay,
        temperature_charge_k_per_w=gain * heat_per_w,
        temperature_discharge_k_per_w=gain * heat_per_w,
        temperature_drift_c=(1.0 - decay) * ambient_c,
        temperature_min_c=limits.temperature_min_c,
        temperature_max_c=np.minimum(limits.temperature_max_c, ambient_c + limits.temperature_delta_k / ratio),
        voltage_v=voltage_v,
        voltage_v_per_wh=slope_v_per_wh,
        voltage_v_per_w=v_per_w,
        voltage_min_v=limits.voltage_min_v,
        voltage_max_v=limits.voltage_max_v,
        wear_eur_per_kwh=economics.wear_eur_per_kwh,
        wear_quadratic=economics.wear_quadratic,
        soc_stress_eur_per_h=economics.soc_stress_eur_per_h,
        soc_stress_centre=economics.soc_stress_centre,
        terminal_value_eur_per_kwh=economics.terminal_value_eur_per_kwh,
        terminal_energy_wh=economics.terminal_energy_wh,
        reference_w=reference_w,
        move_weight=economics.move_weight,
    )


def _taper(rated_w: float, full_wh: float, limit_pct: float, *, rising: bool) -> tuple[float, float]:
    """(intercept, slope) of the same taper as core.limits: from full at 3 % before the limit to a quarter at it."""
    slope = rated_w * (1.0 - SOC_TAPER_FLOOR) / (SOC_TAPER_PCT / 100.0 * full_wh)
    limit_wh = limit_pct / 100.0 * full_wh
    at_limit = SOC_TAPER_FLOOR * rated_w
    return (at_limit + slope * limit_wh, slope) if rising else (at_limit - slope * limit_wh, slope)


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

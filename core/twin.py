"""The fleet twin: what a pack will do under a planned power, by the equivalent circuit.

Here: Prediction from state and profile. Not here: when it is made and where it is kept (serving.twin_service).
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.ageing import degradation
from core.battery.cells import CELLS, capacity_wh
from core.battery.ecm import simulate
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.pack import ecm_parameters
from core.predictions import Prediction

FloatArray = NDArray[np.float64]
MODEL_TYPE = "ECM-1RC"
REST_C_RATE_PER_H = 0.2
"""At rest the efficiency written is that of this small current, since a ratio of zero to zero is none."""

__all__ = ["MODEL_TYPE", "capacity_wh", "predict"]


def predict(
    config: DeviceConfig,
    state: PackState,
    power_profile_w: FloatArray,
    *,
    dt_s: float,
    start: datetime,
    ambient_c: float | FloatArray,
) -> Prediction:
    """Simulate power_profile_w (N,), mean power of each step, from a measured state.

    Raises InputError when the profile is empty or holds a number that is not finite, or when its length is no whole
    number of hours.
    """
    power = np.asarray(power_profile_w, dtype=np.float64)
    if not len(power) or not np.isfinite(power).all():
        raise InputError(
            source=f"twin of {config.device_id}",
            field="power_profile",
            value=power,
            expected="finite numbers, one a step",
        )
    hours = len(power) * dt_s / 3600.0
    if abs(hours - round(hours)) > 1e-9:
        raise InputError(
            source=f"twin of {config.device_id}", field="horizon_hours", value=hours, expected="a whole number of hours"
        )
    parameters, ocv = ecm_parameters(config, state.soh_pct), CELLS[config.chemistry].ocv_table()
    n = len(power)
    history = np.empty((1, n, 8))
    simulate(
        np.array([[state.soc_pct / 100.0, 0.0, state.temperature_c]]),
        power[None, :],
        ocv[None, :],
        parameters[None, :],
        np.broadcast_to(np.asarray(ambient_c, dtype=np.float64), (1, n)).copy(),
        dt_s,
        history,
    )
    soc_pct, temperature_c = history[0, :, 5] * 100.0, history[0, :, 7]
    return Prediction(
        device_id=config.device_id,
        prediction_timestamp=start,
        horizon_hours=round(hours),
        soc_pct=state.soc_pct,
        soh_pct=state.soh_pct,
        temperature_c=state.temperature_c,
        internal_resistance_ohm=state.internal_resistance_ohm,
        power_profile_w=power,
        voltage_profile_v=history[0, :, 1].copy(),
        temperature_profile_c=temperature_c.copy(),
        soc_profile_pct=soc_pct,
        efficiency_profile=_efficiency(history[0], parameters),
        degradation=degradation(config.chemistry, np.concatenate([[state.soc_pct], soc_pct]),
                                np.concatenate([[state.temperature_c], temperature_c]), dt_s),
        model_type=MODEL_TYPE,
        parameters={
            "r0_ohm": float(parameters[2]),
            "r1_ohm": float(parameters[3]),
            "tau1_s": float(parameters[4]),
            "coulomb_efficiency": float(parameters[6]),
            "heat_capacity_j_per_k": float(parameters[7]),
            "cooling_w_per_k": float(parameters[8]),
        },
    )  # fmt: skip


def _efficiency(history: FloatArray, parameters: FloatArray) -> FloatArray:
    """One-way energy efficiency of each step, (N,): terminal over stored when discharging, stored over terminal else."""
    power, heat, ocv = np.abs(history[:, 0]), history[:, 3], history[:, 4]
    small_i = REST_C_RATE_PER_H * parameters[0]
    loss_share = small_i * (parameters[2] + parameters[3]) / ocv
    idle = 1.0 / (1.0 + loss_share)
    discharging = history[:, 0] > 0
    moving = power > 0.02 * small_i * ocv
    with np.errstate(divide="ignore", invalid="ignore"):
        eta = np.where(discharging, power / (power + heat), (power - heat) / power)
    result: FloatArray = np.clip(np.where(moving, eta, idle), 0.5, 1.0)
    return result

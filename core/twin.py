"""The fleet twin: what a pack will do under a planned power, by the equivalent circuit.

Here: Prediction from state and profile. Not here: when it is made and where it is kept (serving.twin_service).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.ageing import forecast
from core.battery.cells import BY_SOC, BY_TEMPERATURE, ROW, capacity_wh
from core.battery.ecm import OUTPUTS, PARAMETERS, STATE, simulate
from core.calibration import NOMINAL, Calibration
from core.devices import Chemistry, DeviceConfig, PackState
from core.errors import InputError
from core.pack import circuit_resistance_ohm, ecm_parameters, elements
from core.predictions import MODEL_TYPE, Prediction

FloatArray = NDArray[np.float64]
REST_C_RATE_PER_H = 0.2
"""At rest the efficiency written is that of this small current, since a ratio of zero to zero is none."""

__all__ = ["MODEL_TYPE", "capacity_wh", "predict", "predict_many"]


def predict(
    config: DeviceConfig,
    state: PackState,
    power_profile_w: FloatArray,
    *,
    dt_s: float,
    start: datetime,
    ambient_c: float | FloatArray,
    calibration: Calibration | None = None,
) -> Prediction:
    """Simulate power_profile_w (N,), mean power of each step, from a measured state; ambient_c is a number or (N,).

    Raises InputError when the profile is empty or holds a number that is not finite, or when its length is no whole
    number of hours.
    """
    profiles = np.asarray(power_profile_w)[None, :]
    return predict_many([config], [state], profiles, dt_s=dt_s, start=start, ambient_c=ambient_c, calibrations=[calibration])[0]


def predict_many(
    configs: Sequence[DeviceConfig],
    states: Sequence[PackState],
    power_profiles_w: FloatArray,
    *,
    dt_s: float,
    start: datetime,
    ambient_c: float | FloatArray,
    calibrations: Sequence[Calibration | None] | None = None,
) -> list[Prediction]:
    """Predictions of M devices at once: power_profiles_w (M, N), ambient_c a number, (N,) or (M, N).

    `calibrations`, one or None a device, act on the parameters and are named in the metadata.

    Raises InputError naming the device whose profile or state is not usable.
    """
    power = np.ascontiguousarray(power_profiles_w, dtype=np.float64)
    _check(configs, states, power, dt_s)
    m, n = power.shape
    known = [None] * m if calibrations is None else calibrations
    parameters = np.stack([circuit_parameters(c, s, k) for c, s, k in zip(configs, states, known, strict=True)])
    ambient = np.broadcast_to(np.asarray(ambient_c, dtype=np.float64), (m, n))
    soc, temperature_c = (np.array([getattr(s, name) for s in states]) for name in ("soc_pct", "temperature_c"))
    chemistries = [c.chemistry for c in configs]
    history = run_circuit(chemistries, parameters, soc / 100.0, temperature_c, power, ambient, dt_s)
    wear = _wear(configs, states, history, dt_s)
    return [
        _prediction(c, s, power[i], history[i], parameters[i], dt_s, start, k, wear[i])
        for i, (c, s, k) in enumerate(zip(configs, states, known, strict=True))
    ]


def _wear(
    configs: Sequence[DeviceConfig], states: Sequence[PackState], history: FloatArray, dt_s: float
) -> list[dict[str, float]]:
    """Degradation forecasts of all devices, chemistry by chemistry."""
    begin = np.array([[s.soc_pct, s.temperature_c, s.soh_pct] for s in states])
    soc_pct = np.concatenate([begin[:, :1], 100.0 * history[:, :, 5]], axis=1)
    temperature_c = np.concatenate([begin[:, 1:2], history[:, :, 8]], axis=1)
    found: list[dict[str, float]] = [{} for _ in configs]
    for chemistry in {c.chemistry for c in configs}:
        at = [i for i, c in enumerate(configs) if c.chemistry == chemistry]
        for i, document in zip(at, forecast(chemistry, begin[at, 2], soc_pct[at], temperature_c[at], dt_s), strict=True):
            found[i] = document
    return found


def run_circuit(
    chemistries: Sequence[Chemistry],
    parameters: FloatArray,
    soc: FloatArray,
    temperature_c: FloatArray,
    power_w: FloatArray,
    ambient_c: FloatArray,
    dt_s: float,
) -> FloatArray:
    """M circuits through N steps from SoC (M,) (0-1), temperature (M,) and no polarisation; parameters (M, row), power and
    ambient (M, N). Returns (M, N, 9): OUTPUTS, then STATE, of core.battery.ecm, at the end of each step.
    """
    m, n = power_w.shape
    rows = np.array(parameters, dtype=np.float64)
    rows[:, PARAMETERS.index("cell")] = [ROW[chemistry] for chemistry in chemistries]
    start = np.stack([np.clip(soc, 0.0, 1.0), np.zeros(m), np.zeros(m), temperature_c], axis=1)
    history = np.empty((m, n, len(OUTPUTS) + len(STATE)))
    simulate(
        start,
        np.ascontiguousarray(power_w, dtype=np.float64),
        rows,
        np.ascontiguousarray(ambient_c, dtype=np.float64),
        BY_SOC,
        BY_TEMPERATURE,
        dt_s,
        history,
    )
    return history


def circuit_parameters(config: DeviceConfig, state: PackState, calibration: Calibration | None) -> FloatArray:
    """The device's parameter row with its calibration in it, if there is one."""
    factors = NOMINAL if calibration is None else calibration.factors
    return factors.apply(ecm_parameters(config, state.soh_pct))


def _check(configs: Sequence[DeviceConfig], states: Sequence[PackState], power: FloatArray, dt_s: float) -> None:
    if not len(configs) == len(states) == len(power):
        raise InputError(
            source="twin",
            field="power_profile",
            value=f"{len(configs)} devices, {len(states)} states, {len(power)} profiles",
            expected="one state and one profile a device",
        )
    hours = power.shape[1] * dt_s / 3600.0
    for config, state, profile in zip(configs, states, power, strict=True):
        source = f"twin of {config.device_id}"
        if not len(profile) or not np.isfinite(profile).all():
            raise InputError(source=source, field="power_profile", value=profile, expected="finite numbers, one a step")
        if abs(hours - round(hours)) > 1e-9:
            raise InputError(source=source, field="horizon_hours", value=hours, expected="a whole number of hours")
        for name in ("soc_pct", "temperature_c"):
            if not np.isfinite(getattr(state, name)):
                raise InputError(source=source, field=name, value=getattr(state, name), expected="a finite number")


def _prediction(
    config: DeviceConfig,
    state: PackState,
    power_w: FloatArray,
    history: FloatArray,
    parameters: FloatArray,
    dt_s: float,
    start: datetime,
    calibration: Calibration | None,
    wear: dict[str, float],
) -> Prediction:
    typical = elements(parameters, 0.5, 25.0)
    soc_pct, temperature_c = history[:, 5] * 100.0, history[:, 8].copy()
    return Prediction(
        device_id=config.device_id,
        prediction_timestamp=start,
        horizon_hours=round(len(power_w) * dt_s / 3600.0),
        soc_pct=state.soc_pct,
        soh_pct=state.soh_pct,
        temperature_c=state.temperature_c,
        internal_resistance_ohm=state.internal_resistance_ohm,
        power_profile_w=power_w,
        voltage_profile_v=history[:, 1].copy(),
        temperature_profile_c=temperature_c,
        soc_profile_pct=soc_pct,
        efficiency_profile=_efficiency(history, parameters),
        degradation=wear,
        model_type=MODEL_TYPE,
        calibration_date=None if calibration is None else calibration.calibrated_at,
        calibration_score=None if calibration is None else calibration.score,
        parameters={
            "r0_ohm": typical.r0_ohm,
            "r1_ohm": typical.r1_ohm,
            "tau1_s": float(parameters[4]),
            "lag_soc_per_a": typical.lag_per_a,
            "tau_lag_s": float(parameters[5]),
            "coulomb_efficiency": float(parameters[6]),
            "heat_capacity_j_per_k": float(parameters[7]),
            "cooling_w_per_k": float(parameters[8]),
            **(NOMINAL if calibration is None else calibration.factors).as_parameters(),
        },
    )


def _efficiency(history: FloatArray, parameters: FloatArray) -> FloatArray:
    """One-way energy efficiency of each step, (N,): terminal over stored when discharging, stored over terminal else."""
    power, loss, ocv = np.abs(history[:, 0]), history[:, 3], history[:, 4]
    small_i = REST_C_RATE_PER_H * parameters[0]
    loss_share = small_i * circuit_resistance_ohm(parameters, 0.5, 25.0, 3600.0) / ocv
    idle = 1.0 / (1.0 + loss_share)
    discharging = history[:, 0] > 0
    moving = power > 0.02 * small_i * ocv
    with np.errstate(divide="ignore", invalid="ignore"):
        eta = np.where(discharging, power / (power + loss), (power - loss) / power)
    result: FloatArray = np.clip(np.where(moving, eta, idle), 0.5, 1.0)
    return result

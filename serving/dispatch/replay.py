"""Replays set points on the twin for the interval, from measured state: within every limit at every substep, or cut.

Independent of the bounds that made them (core.limits): the circuit itself is run in steps of 60 s at constant power, with the
device's calibration where its prediction carries one and with the measured resistance where that is higher. A pack that is
outside a limit already must not get further out than it would at rest; so rest always passes, and what cannot be cut to
something that passes becomes rest. Not here: the circuit (core.battery.ecm), the rest of the gate (serving.dispatch.gate).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import OUTPUTS, PARAMETERS, STATE
from core.calibration import Factors
from core.devices import Chemistry, DeviceConfig, PackState
from core.errors import InputError
from core.limits import PackLimits
from core.pack import circuit_resistance_ohm, ecm_parameters, imbalance_v, open_circuit_v, step_resistance_ohm
from core.predictions import Prediction
from core.twin import run_circuit

FloatArray = NDArray[np.float64]
SUBSTEP_S = 60.0
SHARES = np.arange(0.95, 0.0, -0.05)
"""Tried where the whole set point fails; the largest that passes is kept."""
SOC_TOLERANCE_PCT = 0.05
VOLTAGE_TOLERANCE = 0.001
CURRENT_TOLERANCE = 0.005
TEMPERATURE_TOLERANCE_K = 0.1
DELIVERED_SHARE = 0.99
SETTLED_S = 3600.0
"""After this long at one current nothing builds up any more."""
_COLUMNS = (*OUTPUTS, *STATE)
_POWER, _VOLTAGE, _CURRENT, _SOC, _TEMPERATURE = (
    _COLUMNS.index(name) for name in ("power_w", "voltage_v", "current_a", "soc", "temperature_c")
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is left of a set point (W, discharge positive), and the first limit that the whole of it broke; empty when none."""

    power_w: float
    broken: str


@dataclass(frozen=True, slots=True)
class _Packs:
    """The devices of one replay as arrays, one row each."""

    chemistries: list[Chemistry]
    parameters: FloatArray
    soc: FloatArray
    temperature_c: FloatArray
    limits: dict[str, FloatArray]

    def rows(self, index: NDArray[np.int64]) -> _Packs:
        """Some of them, in any order, also repeated."""
        return _Packs(
            [self.chemistries[k] for k in index],
            self.parameters[index],
            self.soc[index],
            self.temperature_c[index],
            {name: values[index] for name, values in self.limits.items()},
        )


def replay(
    devices: Sequence[DeviceConfig],
    states: Mapping[str, PackState],
    limits: Mapping[str, PackLimits],
    predictions: Mapping[str, Prediction],
    power_w: Mapping[str, float],
    *,
    interval_s: float,
    ambient_c: float,
) -> dict[str, Replayed]:
    """Each device's set point as far as the twin can carry it through the interval."""
    if not devices:
        return {}
    ids = [device.device_id for device in devices]
    packs = _packs(devices, states, limits, predictions)
    steps = max(1, int(np.ceil(interval_s / SUBSTEP_S - 1e-9)))
    dt_s = interval_s / steps
    wanted = np.array([power_w[key] for key in ids], dtype=np.float64)
    rest = _run(packs, np.zeros(len(ids)), steps, dt_s, ambient_c)
    broken = _broken(packs, rest, _run(packs, wanted, steps, dt_s, ambient_c), wanted)
    kept = wanted.copy()
    failed = np.flatnonzero([bool(name) for name in broken])
    if len(failed):
        tried = np.repeat(failed, len(SHARES))
        power = wanted[tried] * np.tile(SHARES, len(failed))
        again = packs.rows(tried)
        passed = [not name for name in _broken(again, rest[tried], _run(again, power, steps, dt_s, ambient_c), power)]
        for k, row in enumerate(np.array(passed).reshape(len(failed), -1)):
            kept[failed[k]] = wanted[failed[k]] * SHARES[int(np.argmax(row))] if row.any() else 0.0
    return {key: Replayed(float(kept[k]), broken[k]) for k, key in enumerate(ids)}


def _packs(
    devices: Sequence[DeviceConfig],
    states: Mapping[str, PackState],
    limits: Mapping[str, PackLimits],
    predictions: Mapping[str, Prediction],
) -> _Packs:
    parameters, bounds = [], []
    for device in devices:
        state, limit = states[device.device_id], limits[device.device_id]
        row = _parameters(device, state, predictions.get(device.device_id))
        parameters.append(row)
        cells = state.cell_temperatures_c or (state.temperature_c,)
        high_v, low_v = imbalance_v(device, state)
        bounds.append(
            {
                "soc_max": limit.soc_max_pct,
                "soc_min": limit.soc_min_pct,
                "voltage_max": limit.voltage_max_v - high_v,
                "voltage_min": limit.voltage_min_v + low_v,
                "temperature_max": limit.temperature_max_c - (max(cells) - state.temperature_c),
                "charge_current": min(limit.charge_current_a, limit.c_rate_per_h * row[0]),
                "discharge_current": min(limit.discharge_current_a, limit.c_rate_per_h * row[0]),
                "offset_v": _offset_v(row, state),
            }
        )
    return _Packs(
        [device.chemistry for device in devices],
        np.stack(parameters),
        np.array([states[device.device_id].soc_pct / 100.0 for device in devices]),
        np.array([states[device.device_id].temperature_c for device in devices]),
        {name: np.array([bound[name] for bound in bounds]) for name in bounds[0]},
    )


def _parameters(device: DeviceConfig, state: PackState, prediction: Prediction | None) -> FloatArray:
    """Calibrated where the prediction says how, and with no less resistance than was measured."""
    row = ecm_parameters(device, state.soh_pct)
    if prediction is not None:
        with suppress(InputError):  # an unusable calibration is the twin's to report; nominal parameters are still a check
            row = Factors.from_parameters(prediction.parameters).apply(row)
    modelled = circuit_resistance_ohm(row, state.soc_pct / 100.0, state.temperature_c, row[PARAMETERS.index("tau1_s")])
    return Factors(resistance=max(1.0, state.internal_resistance_ohm / modelled)).apply(row)


def _offset_v(parameters: FloatArray, state: PackState) -> float:
    """Measured voltage, less what its current explains, minus the model's at rest: sensors, a SoC that is off, polarisation left
    over from an earlier current."""
    soc = state.soc_pct / 100.0
    drop_v = state.current_a * step_resistance_ohm(parameters, soc, state.temperature_c, SETTLED_S)
    return state.voltage_v + drop_v - open_circuit_v(parameters, soc, state.temperature_c)


def _run(packs: _Packs, power_w: FloatArray, steps: int, dt_s: float, ambient_c: float) -> FloatArray:
    power = np.repeat(power_w[:, None], steps, axis=1)
    ambient = np.full_like(power, ambient_c)
    return run_circuit(packs.chemistries, packs.parameters, packs.soc, packs.temperature_c, power, ambient, dt_s)


def _broken(packs: _Packs, rest: FloatArray, history: FloatArray, power_w: FloatArray) -> list[str]:
    """The first limit that each row breaks at any substep; empty where it breaks none."""
    bound = {name: values[:, None] for name, values in packs.limits.items()}
    soc, voltage, current = history[:, :, _SOC] * 100.0, history[:, :, _VOLTAGE], history[:, :, _CURRENT]
    rest_soc, rest_v = rest[:, :, _SOC] * 100.0, rest[:, :, _VOLTAGE]
    # What is left over may stay or die away: each limit is judged at the worse of the two.
    up_v, down_v = np.maximum(bound["offset_v"], 0.0), np.minimum(bound["offset_v"], 0.0)
    slack_v = VOLTAGE_TOLERANCE * np.abs(bound["voltage_max"])
    wanted = np.abs(power_w)[:, None]
    moves = wanted > 0
    checks: dict[str, NDArray[np.bool_]] = {
        "soc_max": soc > np.maximum(bound["soc_max"], rest_soc) + SOC_TOLERANCE_PCT,
        "soc_min": soc < np.minimum(bound["soc_min"], rest_soc) - SOC_TOLERANCE_PCT,
        "voltage_max": voltage + up_v > np.maximum(bound["voltage_max"], rest_v + up_v) + slack_v,
        "voltage_min": voltage + down_v < np.minimum(bound["voltage_min"], rest_v + down_v) - slack_v,
        "temperature_max": history[:, :, _TEMPERATURE]
        > np.maximum(bound["temperature_max"], rest[:, :, _TEMPERATURE]) + TEMPERATURE_TOLERANCE_K,
        "charge_current": -current > bound["charge_current"] * (1 + CURRENT_TOLERANCE),
        "discharge_current": current > bound["discharge_current"] * (1 + CURRENT_TOLERANCE),
        "deliverable_power": moves & (np.abs(history[:, :, _POWER]) < DELIVERED_SHARE * wanted),
        "finite": np.asarray(~np.isfinite(history).all(axis=2)),
    }
    names = [""] * len(history)
    for name, failed in checks.items():
        for k in np.flatnonzero(failed.any(axis=1)):
            names[k] = names[k] or name
    return names

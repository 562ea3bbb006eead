"""The equivalent circuit, stepped under constant power; compiled, batched over packs.

Per substep of at most 60 s, at pack level with discharge current positive:

    E = OCV(z) - v1,  I = (E - sqrt(E^2 - 4 R0 P)) / (2 R0)            power P = (E - I R0) I at the terminals
    z+  = z - I eta dt / Q                                             eta = coulomb efficiency when charging, else 1
    v1+ = a v1 + (1 - a) R1 I,   a = exp(-dt / tau1)
    T+  = T + dt / C (I (OCV - V) - hA (T - T_ambient))

Source: Plett, Battery Management Systems I (2015), ch. 2; the heat is the overpotential's, after Bernardi et al. (1985)
without its entropic term. Not here: parameters (core.battery.cells), limits (core.limits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SUBSTEP_S = 60.0
STATE = ("soc", "v1_v", "temperature_c")
"""Columns of a state array (n, 3); soc is a share 0-1."""
PARAMETERS = (
    "capacity_ah", "series_cells", "r0_ohm", "r1_ohm", "tau1_s", "activation_k", "coulomb_efficiency",
    "heat_capacity_j_per_k", "cooling_w_per_k", "self_discharge_per_s",
)  # fmt: skip
"""Columns of a parameter array (n, 10), pack level."""
OUTPUTS = ("power_w", "voltage_v", "current_a", "heat_w", "ocv_v")
"""Columns of an output array (n, 5): means over the step for power, current and heat, end values for voltages."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = njit(cache=True, error_model="numpy")(function)
    return compiled


@_compiled
def interpolate(table: FloatArray, share: float) -> float:
    """Linear interpolation of a table over [0, 1], held at its ends."""
    position = min(max(share, 0.0), 1.0) * (table.shape[0] - 1)
    k = min(int(position), table.shape[0] - 2)
    value: float = table[k] + (position - k) * (table[k + 1] - table[k])
    return value


@_compiled
def resistance_factor(soc: float, temperature_c: float, activation_k: float) -> float:
    """Arrhenius, and a rise towards an empty or full cell (up to 1.6 at 0 %, 1.15 at 100 %)."""
    arrhenius = np.exp(activation_k * (1.0 / (temperature_c + 273.15) - 1.0 / 298.15))
    low = max(0.0, 0.2 - soc) / 0.2
    high = max(0.0, soc - 0.9) / 0.1
    factor: float = arrhenius * (1.0 + 0.6 * low * low + 0.15 * high * high)
    return factor


@_compiled
def step(
    state: FloatArray,
    power_w: FloatArray,
    ocv: FloatArray,
    parameters: FloatArray,
    ambient_c: FloatArray,
    dt_s: float,
    output: FloatArray,
) -> None:
    """Advance n packs by dt_s in substeps; state (n, 3) in place, power (n,), ocv (n, 21), output (n, 5).

    A power beyond what the circuit can deliver becomes the largest that it can.
    """
    substeps = max(1, int(np.ceil(dt_s / SUBSTEP_S - 1e-9)))
    h = dt_s / substeps
    for i in range(state.shape[0]):
        q_as = parameters[i, 0] * 3600.0
        cells, activation = parameters[i, 1], parameters[i, 5]
        decay = np.exp(-h / parameters[i, 4])
        z, v1, t = state[i, 0], state[i, 1], state[i, 2]
        total_p = total_i = total_q = 0.0
        voltage = u = 0.0
        for _ in range(substeps):
            factor = resistance_factor(z, t, activation)
            r0, r1 = parameters[i, 2] * factor, parameters[i, 3] * factor
            u = cells * interpolate(ocv[i], z)
            e = u - v1
            p = min(power_w[i], 0.999 * e * e / (4.0 * r0))
            current = (e - np.sqrt(e * e - 4.0 * r0 * p)) / (2.0 * r0)
            eta = parameters[i, 6] if current < 0.0 else 1.0
            # An empty or full cell carries no more charge: the substep ends there.
            room = z * q_as if current > 0.0 else (1.0 - z) * q_as / parameters[i, 6]
            if abs(current) * h > room:
                current = room / h if current > 0.0 else -room / h
                p = (e - current * r0) * current
            voltage = e - current * r0
            heat = current * (u - voltage)
            if current < 0.0:
                heat += (1.0 - eta) * -current * u  # charge that is not stored is heat
            z = min(1.0, max(0.0, z - current * eta * h / q_as - parameters[i, 9] * h))
            v1 = decay * v1 + (1.0 - decay) * r1 * current
            t += h / parameters[i, 7] * (heat - parameters[i, 8] * (t - ambient_c[i]))
            total_p += p
            total_i += current
            total_q += heat
        state[i, 0], state[i, 1], state[i, 2] = z, v1, t
        output[i, 0], output[i, 1], output[i, 2] = total_p / substeps, voltage, total_i / substeps
        output[i, 3], output[i, 4] = total_q / substeps, cells * interpolate(ocv[i], z)


@_compiled
def simulate(
    state: FloatArray,
    power_w: FloatArray,
    ocv: FloatArray,
    parameters: FloatArray,
    ambient_c: FloatArray,
    dt_s: float,
    history: FloatArray,
) -> None:
    """N steps of n packs: power and ambient (n, N), history (n, N, 8) = outputs then state at the END of each step."""
    for i in range(state.shape[0]):
        out = np.empty((1, 5))
        for k in range(power_w.shape[1]):
            step(state[i : i + 1], power_w[i, k : k + 1], ocv[i : i + 1], parameters[i : i + 1],
                 ambient_c[i, k : k + 1], dt_s, out)  # fmt: skip
            history[i, k, :5] = out[0]
            history[i, k, 5:] = state[i]

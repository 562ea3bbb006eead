"""The equivalent circuit with an RC pair and a diffusion lag, stepped under constant power; compiled, batched over packs.

Besides its polarisation v1 a pack has a lag s: the state of charge at the particles' surfaces trails the mean z by s, and the
voltage is that of the surface. It is the second RC pair of an ordinary circuit, but acting on SoC instead of on voltage, so that
it bends where the OCV curve bends (an LFP cell near empty). Per substep h of at most 60 s, at pack level, discharge positive:

    U(z, T) = Ns (OCV(z) + (T - 25 C) dOCV/dT(z)),   Rk(z, T) = scale Rk(z) fk(T),   ak = exp(-h / tau_k)
    E = U(z - a2 s) - a1 v1,   R = R0 + (1 - a1) R1 + (h / Q + (1 - a2) L / Q) dU/dz, the chord's over the substep
    I = 2 P / (E + sqrt(E^2 - 4 R P)),   V = E - R I                    power P = V I at the terminals
    z+  = z - I eta h / Q - leak h                                      eta = coulomb efficiency when charging, else 1
    v1+ = a1 v1 + (1 - a1) R1 I,   s+ = a2 s + (1 - a2) L I / Q         L(z, T) in hours
    T+  = T + h / C (I (U_mean - V) - I T dU/dT - hA (T - T_ambient))   with the charge lost to eta as heat

Current and voltage are those of the substep's END, where polarisation, lag and OCV have moved. Sources: Plett, Battery Management
Systems I (2015), ch. 2 (circuit); Subramanian et al., J. Electrochem. Soc. 152 (2005) A2002 (surface and mean concentration);
Bernardi et al., ibid. 132 (1985) 5 (heat). Not here: parameters (core.battery.cells), limits (core.limits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.compiled import kept_on_disk
from core.lane_tables import between3, between5, pair
from core.lanes import anywhere, both, least, less, load, magnitude, most, opposite, root, store, where, whole

FloatArray = NDArray[np.float64]
SUBSTEP_S = 60.0
SOC_POINTS = 101
MOST_CHORDS, CHORD_MISS_V = 8, 3e-4
"""Tries at the OCV's chord over a substep, and the voltage of a cell by which it may miss the curve."""
COLDEST_C, WARMEST_C = -40.0, 80.0
STATE = ("soc", "v1_v", "lag", "temperature_c")
"""Columns of a state array (n, 4); soc and lag are shares 0-1."""
PARAMETERS = (
    "capacity_ah", "series_cells", "resistance_per_ah", "cell", "tau1_s", "tau_lag_s", "coulomb_efficiency",
    "heat_capacity_j_per_k", "cooling_w_per_k", "self_discharge_per_s", "lag_scale",
)  # fmt: skip
"""Columns of a parameter array (n, 11), pack level; `cell` is the row of the tables, `resistance_per_ah` turns a cell's Ohm Ah
into the pack's Ohm: growth Ns / Q."""
OUTPUTS = ("power_w", "voltage_v", "current_a", "loss_w", "ocv_v")
"""Columns of an output array (n, 5): power, current and irreversible loss are means over the step, voltages those of its end."""
SOC_COLUMNS = ("ocv_v", "docv_dt_v_per_k", "r0_ohm_ah", "r1_ohm_ah", "lag_h")
"""Columns of the tables over SoC, shape (cells, 101, 5): 0, 1, ..., 100 %."""
FACTOR_COLUMNS = ("r0", "r1", "lag")
"""Columns of the tables over temperature, shape (cells, 121, 3): factor on each at -40, -39, ..., 80 °C."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's njit as used in this package: kept on disk, without the GIL, with fused multiply-add but IEEE infinities."""
    made: Callable[..., Any] = kept_on_disk(error_model="numpy", nogil=True, fastmath={"contract", "arcp", "nsz"})(function)
    return made


def compiled_lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same without numba's reference counts, which cost more than the arithmetic where slices are taken in inner loops.

    For functions that allocate nothing: what they are given outlives the call.
    """
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "fastmath": {"contract", "arcp", "nsz"}, "_nrt": False}
    made: Callable[..., Any] = kept_on_disk(**options)(function)
    return made


@compiled_lean
def interpolate(table: FloatArray, share: float) -> float:
    """Linear interpolation of a table over [0, 1], held at its ends."""
    position = min(max(share, 0.0), 1.0) * (table.shape[0] - 1)
    k = min(int(position), table.shape[0] - 2)
    value: float = table[k] + (position - k) * (table[k + 1] - table[k])
    return value


@compiled_lean
def advance(
    state: FloatArray,
    power_w: float,
    ambient_c: float,
    parameters: FloatArray,
    rates: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    soc_row: float,
    temperature_row: float,
    substeps: int,
    output: FloatArray,
) -> None:
    """One pack over `substeps` substeps, or eight in the lanes of core.lanes: the arrays' shapes decide.

    state (4,) in place, parameters (11,), rates (5,) of `substep_rates`, output (5,); of eight packs (4, 8) and so on, power and
    ambient then vectors. soc_row, temperature_row: where the cell's tables begin within by_soc (rows, 5) and by_temperature
    (rows, 3); for eight packs these have 8 and 4 columns (core.battery.cells.LANES_BY_SOC).
    """
    cells, scale, efficiency, cooling = load(parameters, 1), load(parameters, 2), load(parameters, 6), load(parameters, 8)
    a1, a2, share, warming, leak = load(rates, 0), load(rates, 1), load(rates, 2), load(rates, 3), load(rates, 4)
    grow1, grow2 = (1.0 - a1) * scale, (1.0 - a2) * load(parameters, 10) / load(parameters, 0)
    grid, last = SOC_POINTS - 1.0, SOC_POINTS - 2.0
    warmest = WARMEST_C - COLDEST_C
    z, v1, lag, t = load(state, 0), load(state, 1), load(state, 2), load(state, 3)
    total_p = total_i = total_loss = voltage = 0.0 * z
    position = z * grid
    k = least(whole(position), last)
    ocv, entropy, shape0, shape1, shape2 = between5(by_soc, soc_row + k, position - k)
    for _ in range(substeps):
        warmth = least(most(t - COLDEST_C, 0.0), warmest)
        j = least(whole(warmth), warmest - 1.0)
        f0, f1, f2 = between3(by_temperature, temperature_row + j, warmth - j)
        r0 = scale * f0 * shape0
        build1 = grow1 * f1 * shape1
        build2 = grow2 * f2 * shape2
        per_a = share + build2
        warm = t - 25.0
        u = ocv + warm * entropy
        drag = cells * entropy * (t + 273.15)
        surface = least(most(z - a2 * lag, 0.0), 1.0)
        position = surface * grid
        k = least(whole(position), last)
        here, following = pair(by_soc, soc_row + k, 0)
        slope = grid * (following - here)
        surface_v = here + (position - k) * (following - here)
        e = cells * (surface_v + warm * entropy) - a1 * v1
        ee = e * e
        r = r0 + build1 + cells * slope * per_a
        current = _current(power_w, e, ee, r)
        # The slope is the curve's at first; where the step goes round a bend, the chord's to where it ends.
        bending = less(0.0 * e, -1.0)
        bending = opposite(bending)
        for turn in range(MOST_CHORDS):
            away = current * per_a
            position = least(most(surface - away, 0.0), 1.0) * grid
            k = least(whole(position), last)
            here, following = pair(by_soc, soc_row + k, 0)
            fallen = surface_v - here - (position - k) * (following - here)
            bending = both(bending, opposite(less(magnitude(fallen - slope * away), CHORD_MISS_V)))
            if turn == MOST_CHORDS - 1 or not anywhere(bending):
                break
            slope = where(bending, fallen / away, slope)
            r = where(bending, r0 + build1 + cells * slope * per_a, r)
            current = where(bending, _current(power_w, e, ee, r), current)
        eta = where(less(current, 0.0), efficiency, 1.0)
        moved = current * eta * share
        # An empty or full cell carries no more charge: the substep ends there.
        emptied, filled = less(z, moved), less(moved, z - 1.0)
        if anywhere(emptied):
            current, moved = where(emptied, z / share, current), where(emptied, z, moved)
        if anywhere(filled):
            current, moved = where(filled, (z - 1.0) / (eta * share), current), where(filled, z - 1.0, moved)
        voltage = e - current * r
        z = most(z - moved - leak, 0.0)
        position = z * grid
        k = least(whole(position), last)
        ocv, entropy, shape0, shape1, shape2 = between5(by_soc, soc_row + k, position - k)
        u_mean = 0.5 * cells * (u + ocv + warm * entropy)
        # Charge that is not stored (eta below 1) is heat.
        loss = current * (u_mean - voltage) - (1.0 - eta) * current * u_mean
        v1 = a1 * v1 + build1 * current
        lag = a2 * lag + build2 * current
        t = t + warming * (loss - current * drag - cooling * (t - ambient_c))
        total_p = total_p + current * voltage
        total_i = total_i + current
        total_loss = total_loss + loss
    store(state, 0, z)
    store(state, 1, v1)
    store(state, 2, lag)
    store(state, 3, t)
    per_step = 1.0 / substeps
    store(output, 0, total_p * per_step)
    store(output, 1, voltage)
    store(output, 2, total_i * per_step)
    store(output, 3, total_loss * per_step)
    store(output, 4, cells * (ocv + (t - 25.0) * entropy))


@compiled_lean
def _current(power_w: float, e: float, ee: float, r: float) -> float:
    """Current of a power behind e and r; of one that is more than the circuit can deliver, nearly that of its maximum."""
    inner = ee - 4.0 * r * power_w
    least_inner = 1e-3 * ee
    beyond = less(inner, least_inner)
    if anywhere(beyond):
        power_w = where(beyond, 0.999 * ee / (4.0 * r), power_w)
        inner = where(beyond, least_inner, inner)
    current: float = 2.0 * power_w / (e + root(inner))
    return current


@compiled_lean
def substep_rates(parameters: FloatArray, h: float, out: FloatArray) -> None:
    """What a substep of h seconds does: decays of v1 and lag, SoC per ampere, kelvin per watt, leak; out (5,)."""
    out[0], out[1] = np.exp(-h / parameters[4]), np.exp(-h / parameters[5])
    out[2], out[3], out[4] = h / (3600.0 * parameters[0]), h / parameters[7], h * parameters[9]


@compiled
def step(
    state: FloatArray,
    power_w: FloatArray,
    parameters: FloatArray,
    ambient_c: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    output: FloatArray,
) -> None:
    """Advance n packs by dt_s in substeps; state (n, 4) in place, power and ambient (n,), output (n, 5).

    A power beyond what the circuit can deliver becomes the largest that it can.
    """
    substeps = max(1, int(np.ceil(dt_s / SUBSTEP_S - 1e-9)))
    rates = np.empty(5)
    for i in range(state.shape[0]):
        cell = int(parameters[i, 3])
        substep_rates(parameters[i], dt_s / substeps, rates)
        advance(state[i], float(power_w[i]), float(ambient_c[i]), parameters[i], rates, by_soc[cell], by_temperature[cell],
                0.0, 0.0, substeps, output[i])  # fmt: skip


@compiled
def simulate(
    state: FloatArray,
    power_w: FloatArray,
    parameters: FloatArray,
    ambient_c: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    dt_s: float,
    history: FloatArray,
) -> None:
    """N steps of n packs: power and ambient (n, N), history (n, N, 9) = outputs then state at the END of each step."""
    substeps = max(1, int(np.ceil(dt_s / SUBSTEP_S - 1e-9)))
    rates = np.empty(5)
    for i in range(state.shape[0]):
        cell = int(parameters[i, 3])
        substep_rates(parameters[i], dt_s / substeps, rates)
        for k in range(power_w.shape[1]):
            advance(state[i], float(power_w[i, k]), float(ambient_c[i, k]), parameters[i], rates, by_soc[cell],
                    by_temperature[cell], 0.0, 0.0, substeps, history[i, k, :5])  # fmt: skip
            history[i, k, 5:] = state[i]

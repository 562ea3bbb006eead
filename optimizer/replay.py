"""The independent replay: what a net plan really does and costs, and which hard limits it breaks.

Shares no code with the assembly: plain recursion over steps from the problem data alone. A plan is a plan only after this.
Not here: repairing beyond projection onto hard limits (`project`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.kept_limits import kept_limits
from optimizer.problem import DeviceData, SiteProblem

FloatArray = NDArray[np.float64]
TOLERANCE_W = 0.5
TOLERANCE_SHARE = 1e-5
TOLERANCE_K = 1e-3
TOLERANCE_V = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Trajectories: device arrays have shape (devices, N), values at the END of each step; meter arrays (N,)."""

    objective_eur: float
    energy_cost_eur: float
    wear_eur: float
    energy_wh: FloatArray
    temperature_c: FloatArray
    voltage_v: FloatArray
    import_w: FloatArray
    export_w: FloatArray
    curtail_w: FloatArray
    peak_w: float
    hard_violations: tuple[str, ...]
    """Limits that no plan may break: power bounds, tapers, the meter, energy no further outside than it was; temperature, voltage
    and cycle depth where the state keeps them at the start and would keep them without power."""
    soft_violations: tuple[str, ...]
    """Limits that the state or the load has already broken, each by the most it is exceeded."""


def project(
    problem: SiteProblem, power_w: FloatArray, curtail_w: FloatArray, *, strict: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Net powers (devices, N) and curtailment (N,), moved as little as needed, step by step.

    Powers within every limit that can be kept (optimizer.kept_limits; `strict` looks ahead); then, where the meter's limit is
    exceeded, less charging (import), more curtailment or less discharging (export). Powers only ever shrink, so that nothing new
    is asked of a device.
    """
    result = np.array(power_w, dtype=np.float64)
    grid = problem.grid
    curtail = np.clip(curtail_w, 0.0, grid.pv_w if grid.curtailable else 0.0)
    devices = [kept_limits(d, problem.dt_h, strict=strict) for d in problem.devices]
    for k in range(problem.steps):
        for i, limits in enumerate(devices):
            charge, discharge = limits.room_w(k)
            result[i, k] = min(max(float(result[i, k]), -charge), discharge)
        net = grid.load_w[k] - grid.pv_w[k] + curtail[k] - result[:, k].sum()
        if net > grid.import_limit_w[k]:
            result[:, k] = _less(result[:, k], -1.0, net - grid.import_limit_w[k])
        elif -net > grid.export_limit_w[k]:
            excess = -net - grid.export_limit_w[k]
            more = min(excess, grid.pv_w[k] - curtail[k]) if grid.curtailable else 0.0
            curtail[k] += more
            result[:, k] = _less(result[:, k], 1.0, excess - more)
        for i, limits in enumerate(devices):
            limits.advance(k, float(result[i, k]))
    return result, curtail


def executable(problem: SiteProblem, power_w: FloatArray, curtail_w: FloatArray) -> tuple[FloatArray, FloatArray, Replay]:
    """The plan projected and replayed; projected strictly where that is what it takes to pass."""
    power, curtail = project(problem, power_w, curtail_w)
    run = replay(problem, power, curtail)
    if run.hard_violations:
        power, curtail = project(problem, power_w, curtail_w, strict=True)
        run = replay(problem, power, curtail)
    return power, curtail, run


def _less(power_w: FloatArray, sign: float, excess_w: float) -> FloatArray:
    """Powers of that sign shrunk in proportion until `excess_w` is gone, or they are."""
    flowing = np.maximum(sign * power_w, 0.0)
    total = float(flowing.sum())
    if total <= 0.0 or excess_w <= 0.0:
        return power_w
    shrunk: FloatArray = power_w - sign * flowing * min(1.0, excess_w / total)
    return shrunk


def replay(problem: SiteProblem, power_w: FloatArray, curtail_w: FloatArray) -> Replay:
    """Run net powers (devices, N) and curtailment (N,) through the model and price them."""
    h, n, grid, soft = problem.dt_h, problem.steps, problem.grid, problem.soft
    count = len(problem.devices)
    energy, temperature, voltage = np.empty((count, n)), np.empty((count, n)), np.empty((count, n))
    hard: list[str] = []
    worst_soft: dict[str, float] = {}
    objective = wear = 0.0
    for i, d in enumerate(problem.devices):
        cost, worn = _run_device(d, problem, power_w[i], energy[i], temperature[i], voltage[i], hard, worst_soft)
        objective += cost
        wear += worn
    net = grid.load_w - grid.pv_w + curtail_w - power_w.sum(axis=0)
    bought, sold = np.maximum(net, 0.0), np.maximum(-net, 0.0)
    peak = max(grid.peak_incurred_w, float(bought.max(initial=0.0)))
    energy_cost = float(h * (grid.buy_eur_per_kwh * bought - grid.sell_eur_per_kwh * sold).sum() / 1000)
    objective += energy_cost + grid.peak_price_eur_per_kw * peak / 1000
    objective += float(h * grid.curtailment_cost_eur_per_kwh * curtail_w.sum() / 1000)
    alone = grid.load_w - grid.pv_w + curtail_w
    for name, flow, limit, unhelped in (
        ("import", bought, grid.import_limit_w, alone),
        ("export", sold, grid.export_limit_w, -alone),
    ):
        excess = np.maximum(flow - limit, 0.0)
        objective += float(soft.grid_eur_per_kw * excess.sum() / 1000)
        if excess.max(initial=0.0) > TOLERANCE_W:
            worst_soft[f"grid {name} (W)"] = float(excess.max())
        worse = flow - np.maximum(limit, unhelped)
        if worse.max(initial=0.0) > TOLERANCE_W * max(1, count):
            hard.append(f"grid {name}: devices add {worse.max():.1f} W beyond the limit at step {int(worse.argmax())}")
    if grid.target_w is not None:
        followed = grid.tracking_weights() > 0
        objective += float(h * grid.tracking_weight * ((net - grid.target_w)[followed] ** 2).sum() / 1e6)
    ceiling = grid.pv_w if grid.curtailable else np.zeros(n)
    if ((curtail_w < -TOLERANCE_W) | (curtail_w > ceiling + TOLERANCE_W)).any():
        hard.append("curtailment beyond the PV there is")
    if not np.isfinite(objective):
        hard.append("the objective is not finite")
    return Replay(
        objective_eur=objective,
        energy_cost_eur=energy_cost,
        wear_eur=wear,
        energy_wh=energy,
        temperature_c=temperature,
        voltage_v=voltage,
        import_w=bought,
        export_w=sold,
        curtail_w=curtail_w,
        peak_w=peak,
        hard_violations=tuple(hard),
        soft_violations=tuple(f"{name} by {value:.3g}" for name, value in worst_soft.items()),
    )


def _run_device(
    d: DeviceData,
    problem: SiteProblem,
    power_w: FloatArray,
    energy: FloatArray,
    temperature: FloatArray,
    voltage: FloatArray,
    hard: list[str],
    worst: dict[str, float],
) -> tuple[float, float]:
    h, soft = problem.dt_h, problem.soft
    e, t = d.energy_wh, d.temperature_c
    high, low = max(e, d.energy_high_wh), min(e, d.energy_low_wh)
    kept_t, kept_v, kept_depth = _kept_at_rest(d)
    taken = d.leak_wh * problem.steps  # by self-discharge, whatever the plan does
    cost = worn = 0.0
    layers = [part.stored_wh for part in d.wear_segments or ()]

    def note(what: str, amount: float, tolerance: float) -> None:
        if amount > tolerance:
            key = f"{d.device_id} {what}"
            worst[key] = max(worst.get(key, 0.0), amount)

    for k in range(problem.steps):
        p = float(power_w[k])
        charge, discharge = max(-p, 0.0), max(p, 0.0)
        if not charge <= d.charge_max_w[k] + TOLERANCE_W or not discharge <= d.discharge_max_w[k] + TOLERANCE_W:
            hard.append(f"{d.device_id} power {p:.1f} W at step {k}")
        taper_c = max(0.0, d.charge_taper_w[k] - d.charge_taper_w_per_wh[k] * e)
        taper_d = max(0.0, d.discharge_taper_w[k] + d.discharge_taper_w_per_wh[k] * e)
        if charge > taper_c + TOLERANCE_W or discharge > taper_d + TOLERANCE_W:
            hard.append(f"{d.device_id} power {p:.1f} W beyond the taper at step {k}")
        v = d.voltage_v[k] + d.voltage_v_per_wh[k] * e + d.voltage_v_per_w[k] * (charge - discharge)
        over_v = max(0.0, v - d.voltage_max_v, d.voltage_min_v - v)
        out_before = max(0.0, e - d.energy_max_wh, d.energy_min_wh - e)
        e += h * (d.eta_charge[k] * charge - discharge / d.eta_discharge[k]) - d.leak_wh
        t = (
            d.temperature_a * t
            + d.temperature_charge_k_per_w[k] * charge
            + d.temperature_discharge_k_per_w[k] * discharge
            + d.temperature_drift_c[k]
        )
        over_e = max(0.0, e - d.energy_max_wh, d.energy_min_wh - e)
        slack = TOLERANCE_SHARE * d.capacity_wh + d.leak_wh
        if over_e > out_before + slack:  # a state outside may stay there by no fault of the plan's, and go no further
            hard.append(f"{d.device_id} energy {e:.1f} Wh at step {k}")
        over_t = max(0.0, t - d.temperature_max_c[k], d.temperature_min_c - t)
        if kept_t[k] and over_t > TOLERANCE_K:
            hard.append(f"{d.device_id} temperature {t:.2f} C at step {k}")
        if kept_v[k] and over_v > TOLERANCE_V + abs(d.voltage_v_per_wh[k]) * taken:
            hard.append(f"{d.device_id} voltage {v:.2f} V at step {k}")
        note("energy (Wh)", over_e, slack)
        note("temperature (K)", over_t, TOLERANCE_K)
        note("voltage (V)", over_v, TOLERANCE_V)
        high, low = max(high, e), min(low, e)
        worn += h * d.wear_eur_per_kwh * (charge + discharge) / 1000
        worn -= _layers(d, layers, h * d.eta_charge[k] * charge, h * discharge / d.eta_discharge[k]) / 1000
        cost += h * d.wear_quadratic * (charge**2 + discharge**2) / 1e6
        cost += h * d.soc_stress_eur_per_h * (e / d.capacity_wh - d.soc_stress_centre) ** 2
        if d.reference_w is not None:
            cost += h * d.move_weight * (p - d.reference_w[k]) ** 2 / 1e6
        for amount, linear, quadratic in (
            (over_e / 1000, soft.energy_eur_per_kwh, soft.energy_quadratic),
            (over_t, soft.temperature_eur_per_k, soft.temperature_quadratic),
            (over_v, soft.voltage_eur_per_v, soft.voltage_quadratic),
        ):
            cost += linear * amount + 0.5 * quadratic * amount**2
        energy[k], temperature[k], voltage[k] = e, t, v
    depth = max(0.0, high - low - d.cycle_depth_wh)
    if kept_depth and depth > TOLERANCE_SHARE * d.capacity_wh + taken:
        hard.append(f"{d.device_id} cycle depth {depth:.0f} Wh beyond its limit")
    note("cycle depth (Wh)", depth, TOLERANCE_SHARE * d.capacity_wh)
    cost += soft.depth_eur_per_kwh * depth / 1000 - d.terminal_value_eur_per_kwh * e / 1000
    if d.terminal_energy_wh is not None:
        missed = abs(e - d.terminal_energy_wh)
        note("terminal energy (Wh)", missed, 1e-3 * d.capacity_wh)
        cost += soft.terminal_eur_per_kwh * missed / 1000
    return cost + worn, worn


def _kept_at_rest(d: DeviceData) -> tuple[list[bool], list[bool], bool]:
    """Whether temperature and voltage, per step, and the cycle depth are within limits at the start and stay so without power."""
    e, t = d.energy_wh, d.temperature_c
    mild, in_range, kept_t, kept_v = d.temperature_min_c <= t <= d.temperature_max_c[0], True, [], []
    for k in range(len(d.charge_max_w)):
        v = d.voltage_v[k] + d.voltage_v_per_wh[k] * e
        inside = bool(d.voltage_min_v <= v <= d.voltage_max_v)
        in_range = in_range and (inside or k > 0)
        kept_v.append(in_range and inside)
        e -= d.leak_wh
        t = d.temperature_a * t + d.temperature_drift_c[k]
        kept_t.append(bool(mild and d.temperature_min_c <= t <= d.temperature_max_c[k]))
    depth = max(d.energy_wh, d.energy_high_wh) - min(d.energy_wh, d.energy_low_wh, e)
    return kept_t, kept_v, depth <= d.cycle_depth_wh


def _layers(d: DeviceData, layers: list[float], stored: float, given: float) -> float:
    """EUR per 1000 that wear_segments take off; the energy of each layer (Wh) is moved. Cheap layers first, in both directions.

    That is the least cost of any sequence: energy in a cheap layer instead of a dear one is never worse later.
    """
    less = 0.0
    for j, part in enumerate(d.wear_segments or ()):
        up, down = min(stored, part.width_wh - layers[j]), min(given, layers[j])
        layers[j] += up - down
        stored, given = stored - up, given - down
        less += d.layer_scale * (d.wear_eur_per_kwh - part.wear_eur_per_kwh) * (up + down)
    return less

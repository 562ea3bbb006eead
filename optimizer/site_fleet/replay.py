"""The independent replay of a site's plan: every device and the meter, step by step from the problem's data alone.

Shares no code with the kernel, its scaling or its packing. What optimizer.replay does for a few devices, for ten thousand: limits
that no plan may break are counted and the worst is named, limits that the state or the load has already broken are reported by
the most they are exceeded. Not here: mending a plan (repair).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.fleet import PROFILES, SCALARS, FleetData
from optimizer.problem import GridData, SoftCosts
from optimizer.site_fleet.compiled import kept_on_disk

FloatArray = NDArray[np.float64]
TOLERANCE_W = 0.5
TOLERANCE_SHARE = 1e-5
TOLERANCE_K = 1e-3
TOLERANCE_V = 1e-2
KINDS = ("power", "taper", "energy", "energy beyond", "temperature", "voltage", "cycle depth", "terminal energy")
HARD = ("power", "taper", "energy")
UNITS = {"power": "W", "taper": "W", "temperature": "K", "voltage": "V"}
COST, WEAR = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReplay:
    """Trajectories (B, N), states at the END of each step; meter (N,)."""

    objective_eur: float
    device_eur: FloatArray
    """Each device's part of the objective, (B,)."""
    energy_cost_eur: float
    wear_eur: float
    energy_wh: FloatArray
    temperature_c: FloatArray
    voltage_v: FloatArray
    import_w: FloatArray
    export_w: FloatArray
    peak_w: float
    hard_violations: tuple[str, ...]
    soft_violations: tuple[str, ...]


@kept_on_disk
def _devices(
    first, last, h, power, costs, energy, temperature, voltage, money, excess,
    energy_wh, capacity_wh, energy_min_wh, energy_max_wh, cycle_depth_wh, energy_low_wh, energy_high_wh, leak_wh, temperature_c,
    temperature_a, temperature_min_c, voltage_min_v, voltage_max_v, wear_eur_per_kwh, wear_quadratic, soc_stress_eur_per_h,
    soc_stress_centre, terminal_value_eur_per_kwh, terminal_energy_wh, move_weight, charge_max_w, discharge_max_w, charge_taper_w,
    charge_taper_w_per_wh, discharge_taper_w, discharge_taper_w_per_wh, eta_charge, eta_discharge, temperature_charge_k_per_w,
    temperature_discharge_k_per_w, temperature_drift_c, temperature_max_c, voltage_v, voltage_v_per_wh, voltage_v_per_w,
    reference_w,
):  # fmt: skip
    """Run devices first .. last; excess (B, 8) is the most that each kind of limit is exceeded by."""
    for i in range(first, last):
        e, t = energy_wh[i], temperature_c[i]
        high, low = max(e, energy_high_wh[i]), min(e, energy_low_wh[i])
        slack = TOLERANCE_SHARE * capacity_wh[i] + leak_wh[i]
        cost = worn = 0.0
        for k in range(power.shape[1]):
            p = power[i, k]
            charge, discharge = max(-p, 0.0), max(p, 0.0)
            over = max(charge - charge_max_w[i, k], discharge - discharge_max_w[i, k])
            excess[i, 0] = max(excess[i, 0], over)
            room_c = max(0.0, charge_taper_w[i, k] - charge_taper_w_per_wh[i, k] * e)
            room_d = max(0.0, discharge_taper_w[i, k] + discharge_taper_w_per_wh[i, k] * e)
            excess[i, 1] = max(excess[i, 1], charge - room_c, discharge - room_d)
            v = voltage_v[i, k] + voltage_v_per_wh[i, k] * e + voltage_v_per_w[i, k] * (charge - discharge)
            inside = energy_min_wh[i] <= e <= energy_max_wh[i]
            e += h * (eta_charge[i, k] * charge - discharge / eta_discharge[i, k]) - leak_wh[i]
            t = (
                temperature_a[i] * t
                + temperature_charge_k_per_w[i, k] * charge
                + temperature_discharge_k_per_w[i, k] * discharge
                + temperature_drift_c[i, k]
            )
            over_e = max(0.0, e - energy_max_wh[i], energy_min_wh[i] - e)
            over_t = max(0.0, t - temperature_max_c[i, k], temperature_min_c[i] - t)
            over_v = max(0.0, v - voltage_max_v[i], voltage_min_v[i] - v)
            if inside:
                excess[i, 2] = max(excess[i, 2], over_e - slack)
            excess[i, 3] = max(excess[i, 3], over_e - slack)
            excess[i, 4] = max(excess[i, 4], over_t)
            excess[i, 5] = max(excess[i, 5], over_v)
            high, low = max(high, e), min(low, e)
            worn += h * wear_eur_per_kwh[i] * (charge + discharge) / 1000.0
            cost += h * (wear_quadratic[i] * (charge**2 + discharge**2) + move_weight[i] * (p - reference_w[i, k]) ** 2) / 1e6
            cost += h * soc_stress_eur_per_h[i] * (e / capacity_wh[i] - soc_stress_centre[i]) ** 2
            kwh = over_e / 1000.0
            cost += costs[0] * kwh + 0.5 * costs[1] * kwh**2
            cost += costs[2] * over_t + 0.5 * costs[3] * over_t**2
            cost += costs[4] * over_v + 0.5 * costs[5] * over_v**2
            energy[i, k], temperature[i, k], voltage[i, k] = e, t, v
        depth = max(0.0, high - low - cycle_depth_wh[i])
        excess[i, 6] = depth
        cost += costs[6] * depth / 1000.0 - terminal_value_eur_per_kwh[i] * e / 1000.0
        if not np.isnan(terminal_energy_wh[i]):
            missed = abs(e - terminal_energy_wh[i])
            excess[i, 7] = missed
            cost += costs[7] * missed / 1000.0
        money[i, COST], money[i, WEAR] = cost + worn, worn


def replay(
    grid: GridData, fleet: FleetData, dt_s: float, soft: SoftCosts, power_w: FloatArray, curtail_w: FloatArray,
    pool: ThreadPoolExecutor, threads: int,
) -> FleetReplay:  # fmt: skip
    """Run net powers (B, N), discharge positive, and curtailment (N,) through the model and price them."""
    count, n = power_w.shape
    h = dt_s / 3600.0
    energy, temperature, voltage = (np.empty((count, n)) for _ in range(3))
    money, excess = np.zeros((count, 2)), np.zeros((count, len(KINDS)))
    costs = np.array([
        soft.energy_eur_per_kwh, soft.energy_quadratic, soft.temperature_eur_per_k, soft.temperature_quadratic,
        soft.voltage_eur_per_v, soft.voltage_quadratic, soft.depth_eur_per_kwh, soft.terminal_eur_per_kwh,
    ])  # fmt: skip
    power = np.ascontiguousarray(power_w)
    columns = [np.ascontiguousarray(getattr(fleet, name)) for name in SCALARS + PROFILES]
    cuts = [count * j // threads for j in range(threads + 1)]

    def run(j: int) -> None:
        _devices(cuts[j], cuts[j + 1], h, power, costs, energy, temperature, voltage, money, excess, *columns)

    list(pool.map(run, range(threads)))
    hard, soft_names = _name(fleet, excess)
    net = grid.load_w - grid.pv_w + curtail_w - power.sum(axis=0)
    bought, sold = np.maximum(net, 0.0), np.maximum(-net, 0.0)
    peak = max(grid.peak_incurred_w, float(bought.max(initial=0.0)))
    energy_cost = float(h * (grid.buy_eur_per_kwh * bought - grid.sell_eur_per_kwh * sold).sum() / 1000.0)
    objective = energy_cost + float(money[:, COST].sum()) + grid.peak_price_eur_per_kw * peak / 1000.0
    objective += float(h * grid.curtailment_cost_eur_per_kwh * curtail_w.sum() / 1000.0)
    alone = grid.load_w - grid.pv_w + curtail_w
    for name, flow, limit, unhelped in (
        ("import", bought, grid.import_limit_w, alone),
        ("export", sold, grid.export_limit_w, -alone),
    ):
        over = np.maximum(flow - limit, 0.0)
        objective += float(soft.grid_eur_per_kw * over.sum() / 1000.0)
        if over.max(initial=0.0) > TOLERANCE_W:
            soft_names.append(f"grid {name} by {over.max():.3g} W in {int((over > TOLERANCE_W).sum())} steps")
        worse = flow - np.maximum(limit, unhelped)
        if worse.max(initial=0.0) > TOLERANCE_W:
            hard.append(f"grid {name}: devices add {worse.max():.1f} W beyond the limit at step {int(worse.argmax())}")
    weights = grid.tracking_weights()
    if grid.target_w is not None and weights.any():
        tracked = weights > 0
        objective += float(h * (weights[tracked] * (net[tracked] - grid.target_w[tracked]) ** 2).sum() / 1e6)
    ceiling = grid.pv_w if grid.curtailable else np.zeros(n)
    if ((curtail_w < -TOLERANCE_W) | (curtail_w > ceiling + TOLERANCE_W)).any():
        hard.append("curtailment beyond the PV there is")
    if not np.isfinite(objective):
        hard.append("the objective is not finite")
    return FleetReplay(
        objective_eur=objective, device_eur=money[:, COST], energy_cost_eur=energy_cost, wear_eur=float(money[:, WEAR].sum()),
        energy_wh=energy, temperature_c=temperature, voltage_v=voltage, import_w=bought, export_w=sold, peak_w=peak,
        hard_violations=tuple(hard), soft_violations=tuple(soft_names),
    )  # fmt: skip


def _name(fleet: FleetData, excess: FloatArray) -> tuple[list[str], list[str]]:
    """Limits broken: hard ones, soft ones, each with the number of devices and the worst."""
    share = TOLERANCE_SHARE * fleet.capacity_wh
    tolerance: dict[str, FloatArray | float] = {
        "power": TOLERANCE_W, "taper": TOLERANCE_W, "energy": 0.0, "energy beyond": 0.0, "temperature": TOLERANCE_K,
        "voltage": TOLERANCE_V, "cycle depth": share, "terminal energy": 1e-3 * fleet.capacity_wh,
    }  # fmt: skip
    hard: list[str] = []
    soft: list[str] = []
    for column, kind in enumerate(KINDS):
        broken = ~(excess[:, column] <= tolerance[kind])
        if broken.any():
            worst = int(np.argmax(np.where(broken, excess[:, column], -np.inf)))
            amount = f"{excess[worst, column]:.3g} {UNITS.get(kind, 'Wh')}"
            text = f"{kind} of {int(broken.sum())} devices, most {fleet.device_ids[worst]} by {amount}"
            (hard if kind in HARD else soft).append(text)
    return hard, soft

"""The structured solver on random fleets over a receding horizon, beside PIQP on the same instances in the same run.

    python benchmarks/structured_fleet.py [--counts 1,8,100,1000,10000] [--steps 96,288] [--threads 2] [--stress 20000]

Every device has its own meter, prices, load, PV and linearisation; all of it and the dynamics change at each step. Times are CPU
seconds of the process (other work on the machine does not count) and wall seconds. --stress solves that many instances with
states outside limits, blocked directions, flat and negative prices and sizes over three decades, and compares with PIQP.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.assembly import SiteQP
from optimizer.fleet import PROFILES, FleetData
from optimizer.problem import SiteProblem, SoftCosts
from optimizer.replay import executable, replay
from optimizer.solvers import solve_piqp
from optimizer.structured.driver import SOURCES, BatchSolver, FleetSolution, judge
from optimizer.structured.judge import HARD
from optimizer.structured.layout import STEP
from optimizer.structured.meters import PROFILES as METER_PROFILES
from optimizer.structured.meters import MeterData

DT_S = 900.0
H = DT_S / 3600.0
Array = NDArray[np.float64]


@dataclass
class Scenario:
    """Data over more steps than a horizon has, so that a window can slide over it."""

    fleet: dict[str, Any]
    meters: dict[str, Any]
    steps: int

    def window(self, k: int) -> tuple[FleetData, MeterData]:
        """Problem data of the horizon that starts at step k."""
        span = slice(k, k + self.steps)
        fleet = {n: np.ascontiguousarray(v[:, span]) if n in PROFILES else v for n, v in self.fleet.items()}
        meters = {n: np.ascontiguousarray(v[:, span]) if n in METER_PROFILES else v for n, v in self.meters.items()}
        return FleetData(**fleet), MeterData(**meters)

    def apply(self, k: int, plan: FleetSolution, seed: int = 0) -> None:
        """Carry out the first step of the plans, with a small disturbance."""
        g = np.random.default_rng((seed, k))
        f, m = self.fleet, self.meters
        c, d = plan.charge_w[:, 0], plan.discharge_w[:, 0]
        full = f["capacity_wh"]
        energy = f["energy_wh"] + H * (f["eta_charge"][:, k] * c - d / f["eta_discharge"][:, k]) - f["leak_wh"]
        f["energy_wh"] = np.clip(energy + full * g.normal(0, 1e-3, len(c)), 0.02 * full, 0.98 * full)
        f["energy_low_wh"] = f["energy_high_wh"] = f["energy_wh"]
        warmer = f["temperature_charge_k_per_w"][:, k] * c + f["temperature_discharge_k_per_w"][:, k] * d
        drift = f["temperature_drift_c"][:, k] + g.normal(0, 0.1, len(c))
        f["temperature_c"] = f["temperature_a"] * f["temperature_c"] + warmer + drift
        bought = np.maximum(0.0, m["load_w"][:, k] - m["pv_w"][:, k] + c - d)
        m["peak_incurred_w"] = np.maximum(m["peak_incurred_w"], bought)


def random_scenario(count: int, steps: int, seed: int = 0, extra: int = 8) -> Scenario:
    """Devices of 50 to 250 kWh with limits of energy, temperature, voltage, cycle depth, meter and peak; no optional rows."""
    g = np.random.default_rng(seed)
    total = steps + extra
    hours = np.arange(total) * H
    ones = np.ones((count, total))

    def of(low: float, high: float) -> Array:
        return g.uniform(low, high, count)

    def daily(phase: Array, period: float = 24.0) -> Array:
        return np.cos(2 * np.pi * (hours - phase[:, None]) / period)

    full = of(50e3, 250e3)
    rated = full * of(0.4, 0.9)
    buy = 0.22 + 0.10 * daily(of(17, 20)) + 0.05 * daily(of(7, 9), 12.0)
    buy = np.maximum(0.02, buy + np.repeat(g.normal(0, 0.02, (count, total // 4 + 1)), 4, axis=1)[:, :total])
    load = rated[:, None] * of(0.05, 1.0)[:, None] * (0.5 + 0.25 * daily(of(16, 20)) + 0.08 * g.normal(size=(count, total)))
    load = np.maximum(load, 20.0)
    pv = rated[:, None] * of(0, 1)[:, None] * np.maximum(0, daily(np.full(count, 13.0))) ** 1.5
    net = load - pv
    soc = 0.5 + 0.25 * daily(of(0, 24))
    keep = np.exp(-H / of(1, 3))
    heat = ((1 - keep) * of(12, 26) / rated)[:, None] * (1 + 0.1 * np.abs(soc - 0.5) + g.normal(0, 0.02, (count, total)))
    ambient = of(18, 32)[:, None] + 5 * daily(of(14, 16))
    volts = 690 + 10 * (soc - 0.5) + g.normal(0, 1, (count, total))
    slope = (150 / full)[:, None] * (1 + 0.1 * (soc - 0.5))
    power = np.minimum(rated[:, None], (rated / 760)[:, None] * (volts + slope * soc * full[:, None]))
    energy = full * of(0.15, 0.85)
    zeros = np.zeros(count)
    fleet = {
        "device_ids": tuple(f"pack-{i}" for i in range(count)),
        "energy_wh": energy,
        "capacity_wh": full,
        "energy_min_wh": 0.1 * full,
        "energy_max_wh": 0.9 * full,
        "cycle_depth_wh": full * of(0.55, 0.9),
        "energy_low_wh": energy,
        "energy_high_wh": energy,
        "leak_wh": 1e-5 * full,
        "temperature_c": ambient[:, 0] + of(0, 6),
        "temperature_a": keep,
        "temperature_min_c": np.full(count, -np.inf),
        "voltage_min_v": np.full(count, 690.0),
        "voltage_max_v": np.full(count, 832.0),
        "wear_eur_per_kwh": np.full(count, 0.01),
        "wear_quadratic": np.full(count, 5e-5),
        "soc_stress_eur_per_h": zeros,
        "soc_stress_centre": np.full(count, 0.5),
        "terminal_value_eur_per_kwh": buy.mean(axis=1) * 0.92,
        "terminal_energy_wh": np.full(count, np.nan),
        "move_weight": zeros,
        "charge_max_w": np.minimum(power, 0.8 * full[:, None]),
        "discharge_max_w": np.minimum(power, 0.9 * full[:, None]),
        "charge_taper_w": np.inf * ones,
        "charge_taper_w_per_wh": 0 * ones,
        "discharge_taper_w": np.inf * ones,
        "discharge_taper_w_per_wh": 0 * ones,
        "eta_charge": np.clip(0.955 - 0.02 * (soc - 0.5) + g.normal(0, 0.004, (count, total)), 0.85, 0.99),
        "eta_discharge": np.clip(0.95 + 0.02 * (soc - 0.5) + g.normal(0, 0.004, (count, total)), 0.85, 0.99),
        "temperature_charge_k_per_w": heat,
        "temperature_discharge_k_per_w": 1.05 * heat,
        "temperature_drift_c": (1 - keep)[:, None] * ambient,
        "temperature_max_c": 38.0 * ones,
        "voltage_v": volts,
        "voltage_v_per_wh": slope,
        "voltage_v_per_w": (of(25, 45) / rated)[:, None] * (1 + 0.2 * np.abs(soc - 0.5)),
        "reference_w": 0 * ones,
    }
    meters = {
        "buy_eur_per_kwh": buy,
        "sell_eur_per_kwh": buy * of(0.5, 0.95)[:, None],
        "load_w": load,
        "pv_w": pv,
        "import_limit_w": (np.maximum(net.max(axis=1), 0) * 1.15 + 0.3 * rated)[:, None] * ones,
        "export_limit_w": (np.maximum(-net.min(axis=1), 0) * 1.1 + 0.6 * rated)[:, None] * ones,
        "target_w": 0 * ones,
        "tracking_weight": 0 * ones,
        "peak_price_eur_per_kw": np.full(count, 0.25),
        "peak_incurred_w": np.maximum(0.05 * rated, 0.55 * net.max(axis=1)),
        "curtailable": zeros,
        "curtailment_cost_eur_per_kwh": zeros,
    }
    return Scenario(fleet, meters, steps)


def stressed(scenario: Scenario, seed: int = 0) -> Scenario:
    """States outside limits, blocked directions, flat and negative prices, voltages already violated, sizes over three decades,
    and every optional row on shares of the devices."""
    g = np.random.default_rng(seed)
    f, m = dict(scenario.fleet), dict(scenario.meters)
    count, total = f["charge_max_w"].shape

    def some(share: float) -> NDArray[np.bool_]:
        return g.random(count) < share

    full, rated = f["capacity_wh"], f["charge_max_w"].max(axis=1)
    for low, high in ((0.0, 0.1), (0.9, 1.0)):
        f["energy_wh"] = np.where(some(0.15), full * g.uniform(low, high, count), f["energy_wh"])
    f["energy_low_wh"] = np.minimum(f["energy_low_wh"], f["energy_wh"])
    f["energy_high_wh"] = np.maximum(f["energy_high_wh"], f["energy_wh"])
    f["temperature_c"] = np.where(some(0.2), g.uniform(36, 55, count), f["temperature_c"])
    f["voltage_max_v"] = np.where(some(0.1), 800.0, f["voltage_max_v"])
    for name in ("charge_max_w", "discharge_max_w"):
        f[name] = np.where(some(0.05)[:, None], 0.0, f[name])
    dark = some(0.05)[:, None] & (g.random((count, total)) < 0.3)
    for name in ("charge_max_w", "discharge_max_w"):
        f[name] = np.where(dark, 0.0, f[name])
    dip = 0.35 * np.exp(-(((np.arange(total) - total * g.uniform(0.2, 0.8, (count, 1))) / (0.1 * total)) ** 2))
    m["buy_eur_per_kwh"] = np.where(some(0.15)[:, None], m["buy_eur_per_kwh"] - dip, m["buy_eur_per_kwh"])
    m["sell_eur_per_kwh"] = np.minimum(m["sell_eur_per_kwh"], m["buy_eur_per_kwh"])
    m["sell_eur_per_kwh"] = np.where(some(0.1)[:, None], m["buy_eur_per_kwh"], m["sell_eur_per_kwh"])
    m["peak_price_eur_per_kw"] = np.where(some(0.3), 0.0, m["peak_price_eur_per_kw"])
    m["import_limit_w"] = np.where(some(0.1)[:, None], 0.6 * m["import_limit_w"], m["import_limit_w"])
    m["export_limit_w"] = np.where(some(0.1)[:, None], np.inf, m["export_limit_w"])
    f["cycle_depth_wh"] = np.where(some(0.3), np.inf, f["cycle_depth_wh"])
    # optional rows, on whole eighths so that some blocks have none
    group = (np.arange(count) // 8) % 4
    f["temperature_min_c"] = np.where((group == 1) & some(0.5), g.uniform(-10, 25, count), f["temperature_min_c"])
    m["curtailable"] = np.where((group == 2) & some(0.5), 1.0, 0.0)
    m["curtailment_cost_eur_per_kwh"] = np.full(count, 0.005)
    m["tracking_weight"] = np.where((group == 2) & some(0.3), 1e-3, 0.0)[:, None] * np.ones(total)
    m["target_w"] = (m["load_w"] - m["pv_w"]) * g.uniform(0.5, 1.2, (count, 1))
    inside = (f["energy_wh"] > f["energy_min_wh"]) & (f["energy_wh"] < f["energy_max_wh"])
    tapered = ((group == 3) & some(0.7) & inside)[:, None] & np.ones(total, dtype=bool)
    slope = (0.75 * rated / (0.03 * full))[:, None] * np.ones(total)
    f["charge_taper_w"] = np.where(tapered, 0.25 * rated[:, None] + slope * 0.9 * full[:, None], np.inf)
    f["discharge_taper_w"] = np.where(tapered, 0.25 * rated[:, None] - slope * 0.1 * full[:, None], np.inf)
    f["charge_taper_w_per_wh"] = f["discharge_taper_w_per_wh"] = np.where(tapered, slope, 0.0)
    f["terminal_energy_wh"] = np.where(some(0.2), full * g.uniform(0.2, 0.8, count), np.nan)
    f["soc_stress_eur_per_h"] = np.where(some(0.3), g.uniform(0, 0.05, count), 0.0)
    f["move_weight"] = np.where(some(0.3), g.uniform(0, 3e-4, count), 0.0)
    f["reference_w"] = rated[:, None] * g.uniform(-0.5, 0.5, (count, total))
    scale = np.where(some(0.1), 10.0 ** g.uniform(-1, 2, count), 1.0)
    for name in (
        "energy_wh", "capacity_wh", "energy_min_wh", "energy_max_wh", "cycle_depth_wh", "energy_low_wh", "energy_high_wh",
        "leak_wh", "terminal_energy_wh",
    ):  # fmt: skip
        f[name] = f[name] * scale
    m["peak_incurred_w"] = m["peak_incurred_w"] * scale
    wide = scale[:, None]
    for data, names in (
        (f, ("charge_max_w", "discharge_max_w", "charge_taper_w", "discharge_taper_w", "reference_w")),
        (m, ("load_w", "pv_w", "import_limit_w", "export_limit_w", "target_w")),
    ):
        for name in names:
            data[name] = data[name] * wide
    for name in ("temperature_charge_k_per_w", "temperature_discharge_k_per_w", "voltage_v_per_wh", "voltage_v_per_w"):
        f[name] = f[name] / wide
    return replace(scenario, fleet=f, meters=m)


@dataclass(frozen=True)
class Timing:
    """Medians over warm steps, per device; cold is the first."""

    count: int
    steps: int
    threads: int
    cpu_us: float
    wall_us: float
    cold_cpu_us: float
    iterations: float
    bytes_per_device: float
    sources: dict[str, int]


def receding(count: int, steps: int, threads: int, warm_steps: int = 5, seed: int = 5) -> Timing:
    """Solve, carry out the first step, slide, solve again."""
    scenario = random_scenario(count, steps, seed, extra=warm_steps + 1)
    solver = BatchSolver(threads=threads)
    solver.solve(*scenario.window(0), DT_S)  # compiled code is loaded
    solver.forget()
    rows, iterations = [], []
    for k in range(warm_steps + 1):
        fleet, meters = scenario.window(k)
        repeat = max(1, 200 // count) if k else 1
        wall, cpu = 0.0, 0.0
        for _ in range(repeat):
            kept = None if solver._kept is None else (solver._kept[0].copy(), solver._kept[1].copy())
            wall, cpu = wall - time.perf_counter(), cpu - time.process_time()
            plan = solver.solve(fleet, meters, DT_S)
            wall, cpu = wall + time.perf_counter(), cpu + time.process_time()
            if kept is not None and _ < repeat - 1:
                solver._kept = kept  # the same step again
        rows.append((cpu / repeat, wall / repeat))
        iterations.append(plan.iterations.mean())
        scenario.apply(k, plan)
    times = 1e6 * np.array(rows) / count
    window = sum(a.nbytes for data in scenario.window(0) for a in _arrays(data))
    block = 8 * 8 * STEP * steps * threads
    size = (window + solver.kept_bytes + 5 * 8 * count * steps + block) / count
    cpu_us, wall_us = np.median(times[1:], axis=0)
    return Timing(
        count, steps, threads, float(cpu_us), float(wall_us), float(times[0, 0]), float(np.mean(iterations[1:])), size,
        dict(solver.counts),
    )  # fmt: skip


def _arrays(data: FleetData | MeterData) -> list[Array]:
    return [getattr(data, n) for n in type(data).__slots__ if isinstance(getattr(data, n), np.ndarray)]


def piqp_us(steps: int, instances: int = 20, seed: int = 5) -> float:
    """CPU us of PIQP for one device: the matrices refilled, its solver updated, as optimizer.mpc does it."""
    scenario = random_scenario(instances, steps, seed, extra=2)
    spent, qps = 0.0, []
    for k in range(2):
        fleet, meters = scenario.window(k)
        for i in range(instances):
            problem = SiteProblem(dt_s=DT_S, grid=meters.meter(i), devices=(fleet.device(i),))
            start = time.process_time()
            if k == 0:
                qps.append(SiteQP(problem))
            else:
                qps[i].update(problem)
            solve_piqp(qps[i])
            spent += (time.process_time() - start) * k
    return 1e6 * spent / instances


@dataclass(frozen=True)
class Stress:
    """What came of stressed instances; errors are relative to max(1 EUR, |objective of PIQP|)."""

    count: int
    sources: dict[str, int]
    iterations: tuple[float, float, int]
    finite: bool
    checked: int
    worst: float
    beyond: int
    """Checked instances with an error above 1e-4."""
    worst_share: float
    """Largest power beyond its bound, W."""
    refused: int
    """Plans that the replay of fleets, or where nothing overlaps the replay of sites, does not pass."""
    apart: float
    """Largest relative difference of the objectives of plan and replays."""
    cut: int
    """Plans that had to be cut and were solved again (`FleetSolution.cut`)."""


def stress(count: int, steps: int = 96, compare: int = 400, seed: int = 77, threads: int = 2) -> Stress:
    """Solve `count` stressed instances and replay each; compare a random `compare` of them, the slowest and the least proven with
    PIQP, and replay as many once more with the replay of sites."""
    fleet, meters = stressed(random_scenario(count, steps, seed, extra=0), seed + 1).window(0)
    solver = BatchSolver(threads=threads)
    plan = solver.solve(fleet, meters, DT_S)
    own = plan.source == SOURCES.index("structured")
    g = np.random.default_rng(seed)
    gap = np.where(own, plan.gap_eur / np.maximum(1.0, np.abs(plan.objective_eur)), 0.0)
    picked = [g.choice(count, min(compare, count), replace=False)]
    picked += [np.argsort(-plan.iterations * own)[: compare // 8], np.argsort(-gap)[: compare // 8]]
    errors, against = [], plan.objective_eur.copy()
    for i in np.unique(np.concatenate(picked)):
        if own[i]:
            soft = SoftCosts().stiff() if plan.cut[i] else SoftCosts()
            problem = SiteProblem(dt_s=DT_S, grid=meters.meter(int(i)), devices=(fleet.device(int(i)),), soft=soft)
            qp = SiteQP(problem)
            x = solve_piqp(qp).x
            best = qp.objective(x)
            if plan.cut[
                i
            ]:  # stiff penalties are no limits: what counts is PIQP's plan cut to them, which ours may be better than
                net = 1000.0 * (x[qp.device(0, "d")] - x[qp.device(0, "c")])
                best = executable(replace(problem, soft=SoftCosts()), net[None], 1000.0 * x[qp.grid("u")])[2].objective_eur
            error = (plan.objective_eur[i] - best) / max(1.0, abs(best))
            errors.append(max(error, 0.0) if plan.cut[i] else abs(error))
    objective, excess = judge(fleet, meters, DT_S, plan)
    apart = float(np.max(np.abs(objective - against) / np.maximum(1.0, np.abs(against))))
    refused: NDArray[np.bool_] = np.asarray((excess[:, :HARD] > 0).any(axis=1))
    for i in np.flatnonzero(~plan.overlap)[:: max(1, count // compare)].tolist():
        problem = SiteProblem(dt_s=DT_S, grid=meters.meter(i), devices=(fleet.device(i),))
        run = replay(problem, (plan.discharge_w - plan.charge_w)[i : i + 1], plan.curtail_w[i])
        refused[i] |= bool(run.hard_violations)
        apart = max(apart, abs(run.objective_eur - against[i]) / max(1.0, abs(against[i])))
    power = max(float((plan.charge_w - fleet.charge_max_w).max()), float((plan.discharge_w - fleet.discharge_max_w).max()))
    numbers = (plan.charge_w, plan.discharge_w, plan.curtail_w, plan.energy_value_eur_per_kwh, plan.meter_price_eur_per_kwh)
    return Stress(
        count,
        dict(solver.counts),
        (float(plan.iterations[own].mean()), float(np.quantile(plan.iterations[own], 0.99)), int(plan.iterations[own].max())),
        all(bool(np.isfinite(a).all()) for a in (*numbers, plan.objective_eur)),
        len(errors),
        float(max(errors)),
        int((np.array(errors) > 1e-4).sum()),
        power,
        int(refused.sum()),
        apart,
        int(plan.cut.sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1,8,100,1000,10000")
    parser.add_argument("--steps", default="96,288")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stress", type=int, default=0)
    given = parser.parse_args()
    if given.stress:
        print(stress(given.stress, threads=given.threads))
        return
    for steps in [int(s) for s in given.steps.split(",")]:
        general = piqp_us(steps)
        print(f"{steps} steps: PIQP {general:.0f} us CPU a device")
        for count in [int(c) for c in given.counts.split(",")]:
            t = receding(count, steps, min(given.threads, max(1, count // 8)))
            print(
                f"{count:6d} devices, {t.threads} threads: warm {t.cpu_us:7.1f} us CPU, {t.wall_us:7.1f} us wall a device"
                f" = {1e6 / t.wall_us:8.0f}/s wall, {t.threads * 1e6 / t.cpu_us:8.0f}/s by CPU; cold {t.cold_cpu_us:7.1f} us;"
                f" {t.iterations:.1f} iterations; {t.bytes_per_device / 1e3:.1f} kB a device; {general / t.cpu_us:.0f} x PIQP;"
                f" {t.sources}",
                flush=True,
            )
    print(f"largest resident set {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()

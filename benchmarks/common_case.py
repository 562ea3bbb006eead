"""The common case A, B, C of all peers: one battery, one day. Ours, an exact MILP, and EMHASS and PyPSA from their packages.

Each peer runs in an interpreter of its own (benchmarks/peers.sh makes them) and hands back net powers; the scorer here, which
knows nothing of any of them, executes them: net power decides a step's direction, energy follows, limits count. B has negative
prices at midday: a plan that charges and discharges at once is scored for what its net set points do. C adds a peak charge.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks.common import BASELINE, ROOT, Clock, Table
from optimizer.mpc import MpcSolver
from optimizer.problem import DeviceData, GridData, SiteProblem

FloatArray = NDArray[np.float64]
Case = dict[str, Any]
CASES = ROOT / "tests" / "unit" / "data"
DRIVERS = Path(__file__).parent / "peers"
PEER_TIME_S = 300
TOLERANCE_KWH = 0.1


@dataclass(frozen=True, slots=True)
class Score:
    """What net set points lead to."""

    cost_eur: float
    soc_overshoot_kwh: float
    power_overshoot_kw: float
    grid_overshoot_kw: float
    final_error_kwh: float

    @property
    def executable(self) -> bool:
        """Whether a battery can do it: within 0.1 kWh and 0.1 kW, and back at the final energy."""
        worst = max(self.soc_overshoot_kwh, self.power_overshoot_kw, self.grid_overshoot_kw, abs(self.final_error_kwh))
        return worst < TOLERANCE_KWH


def score(case: Case, power_kw: FloatArray) -> Score:
    """Execute net powers (N,), discharge positive."""
    battery, h = case["battery"], case["dt_h"]
    stored = np.where(power_kw < 0, -power_kw * battery["eta_c"], -power_kw / battery["eta_d"])
    full = battery["capacity_kwh"]
    energy = full * battery["soc_init"] + np.cumsum(h * stored)
    net = np.array(case["load"]) - np.array(case["pv"]) - power_kw
    bought, sold = np.maximum(net, 0.0), np.maximum(-net, 0.0)
    cost = h * float(np.array(case["buy"]) @ bought - np.array(case["sell"]) @ sold) + case["demand_charge"] * float(bought.max())

    def beyond(value: FloatArray, low: float, high: float) -> float:
        return float(max(0.0, (value - high).max(), (low - value).max()))

    return Score(
        cost,
        beyond(energy, full * battery["soc_min"], full * battery["soc_max"]),
        beyond(power_kw, -battery["p_charge_kw"], battery["p_discharge_kw"]),
        beyond(net, -case["grid"]["export_kw"], case["grid"]["import_kw"]),
        float(energy[-1]) - full * battery["soc_final"],
    )


def read(variant: str) -> Case:
    """Case A, B or C, as peers get it too."""
    case: Case = json.loads((CASES / f"case_{variant}.json").read_text())
    return case


def site(case: Case) -> SiteProblem:
    """The case as this project states it."""
    n, battery = case["n"], case["battery"]
    ones, full = np.ones(n), 1000.0 * battery["capacity_kwh"]
    start = battery["soc_init"] * full
    device = DeviceData(
        device_id="battery",
        energy_wh=start,
        capacity_wh=full,
        energy_min_wh=battery["soc_min"] * full,
        energy_max_wh=battery["soc_max"] * full,
        cycle_depth_wh=np.inf,
        energy_low_wh=start,
        energy_high_wh=start,
        charge_max_w=1000.0 * battery["p_charge_kw"] * ones,
        discharge_max_w=1000.0 * battery["p_discharge_kw"] * ones,
        charge_taper_w=np.inf * ones,
        charge_taper_w_per_wh=0.0 * ones,
        discharge_taper_w=np.inf * ones,
        discharge_taper_w_per_wh=0.0 * ones,
        eta_charge=battery["eta_c"] * ones,
        eta_discharge=battery["eta_d"] * ones,
        leak_wh=0.0,
        temperature_c=25.0,
        temperature_a=0.9,
        temperature_charge_k_per_w=0.0 * ones,
        temperature_discharge_k_per_w=0.0 * ones,
        temperature_drift_c=2.5 * ones,
        temperature_min_c=-np.inf,
        temperature_max_c=np.inf * ones,
        voltage_v=400.0 * ones,
        voltage_v_per_wh=0.0 * ones,
        voltage_v_per_w=0.0 * ones,
        voltage_min_v=-np.inf,
        voltage_max_v=np.inf,
        wear_eur_per_kwh=0.0,
        terminal_energy_wh=battery["soc_final"] * full,
    )
    grid = GridData(
        buy_eur_per_kwh=np.array(case["buy"]),
        sell_eur_per_kwh=np.array(case["sell"]),
        load_w=1000.0 * np.array(case["load"]),
        pv_w=1000.0 * np.array(case["pv"]),
        import_limit_w=1000.0 * case["grid"]["import_kw"] * ones,
        export_limit_w=1000.0 * case["grid"]["export_kw"] * ones,
        peak_price_eur_per_kw=case["demand_charge"],
    )
    return SiteProblem(dt_s=3600.0 * case["dt_h"], grid=grid, devices=(device,))


def rebuilt(case: Case) -> tuple[FloatArray, str]:
    """The baseline: the plain convex problem in cvxpy, stated anew at each solve, OSQP 1e-4."""
    n, h, battery = case["n"], case["dt_h"], case["battery"]
    full = battery["capacity_kwh"]
    c, d, b, s = (cp.Variable(n, nonneg=True) for _ in range(4))
    e, peak = cp.Variable(n + 1), cp.Variable(nonneg=True)
    constraints = [
        e[0] == battery["soc_init"] * full,
        e[1:] == e[:-1] + h * (battery["eta_c"] * c - d / battery["eta_d"]),
        e[n] == battery["soc_final"] * full,
        e >= battery["soc_min"] * full,
        e <= battery["soc_max"] * full,
        c <= battery["p_charge_kw"],
        d <= battery["p_discharge_kw"],
        b - s == np.array(case["load"]) - np.array(case["pv"]) + c - d,
        b <= case["grid"]["import_kw"],
        s <= case["grid"]["export_kw"],
        b <= peak,
    ]
    cost = h * (np.array(case["buy"]) @ b - np.array(case["sell"]) @ s) + case["demand_charge"] * peak
    problem = cp.Problem(cp.Minimize(cost), constraints)
    problem.solve(solver=cp.OSQP, eps_abs=1e-4, eps_rel=1e-4, max_iter=20_000)
    if c.value is None:
        return np.full(n, np.nan), problem.status
    return d.value - c.value, problem.status


def exact(case: Case) -> tuple[FloatArray, str]:
    """Binaries on every step for battery and meter, HiGHS, gap 1e-9."""
    n, h, battery = case["n"], case["dt_h"], case["battery"]
    full, charge, discharge = battery["capacity_kwh"], battery["p_charge_kw"], battery["p_discharge_kw"]
    buys, sells = case["grid"]["import_kw"], case["grid"]["export_kw"]
    eye, none = sp.identity(n), sp.csc_matrix((n, n))
    before = sp.identity(n) - sp.eye(n, k=-1)
    no_peak = sp.csc_matrix((n, 1))
    # columns: charge discharge import export energy charging? importing? peak
    rows = sp.vstack(
        [
            sp.hstack([-h * battery["eta_c"] * eye, h / battery["eta_d"] * eye, none, none, before, none, none, no_peak]),
            sp.hstack([-eye, eye, eye, -eye, none, none, none, no_peak]),
            sp.hstack([eye, none, none, none, none, -charge * eye, none, no_peak]),
            sp.hstack([none, eye, none, none, none, discharge * eye, none, no_peak]),
            sp.hstack([none, none, eye, none, none, none, -buys * eye, no_peak]),
            sp.hstack([none, none, none, eye, none, none, sells * eye, no_peak]),
            sp.hstack([none, none, eye, none, none, none, none, -np.ones((n, 1))]),
        ],
        format="csc",
    )
    start = np.zeros(n)
    start[0] = battery["soc_init"] * full
    net = np.array(case["load"]) - np.array(case["pv"])
    free, zero = np.full(n, -np.inf), np.zeros(n)
    low = np.concatenate([start, net, free, free, free, free, free])
    high = np.concatenate([start, net, zero, np.full(n, discharge), zero, np.full(n, sells), zero])
    energy_low, energy_high = np.full(n, battery["soc_min"] * full), np.full(n, battery["soc_max"] * full)
    energy_low[-1] = energy_high[-1] = battery["soc_final"] * full
    most = np.repeat([charge, discharge, buys, sells], n)
    bounds = Bounds(
        np.concatenate([np.zeros(4 * n), energy_low, np.zeros(2 * n + 1)]),
        np.concatenate([most, energy_high, np.ones(2 * n), [np.inf]]),
    )
    cost = np.concatenate(
        [np.zeros(2 * n), h * np.array(case["buy"]), -h * np.array(case["sell"]), np.zeros(3 * n), [case["demand_charge"]]]
    )
    integral = np.concatenate([np.zeros(5 * n), np.ones(2 * n), [0.0]])
    options = {"mip_rel_gap": 1e-9}
    found = milp(cost, constraints=LinearConstraint(rows, low, high), bounds=bounds, integrality=integral, options=options)
    if found.x is None:
        return np.full(n, np.nan), found.message
    return found.x[n : 2 * n] - found.x[:n], "optimal" if found.status == 0 else found.message


def peer(interpreter: Path, driver: str, variant: str, repeats: int) -> dict[str, Any]:
    """Run a driver in its own interpreter; what it prints last, as JSON. Raises RuntimeError with its last words."""
    command = [str(interpreter), str(DRIVERS / driver), str(CASES / f"case_{variant}.json"), str(repeats)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PEER_TIME_S, check=False)
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        raise RuntimeError(f"{driver} {variant}: exit {ran.returncode}: {ran.stderr.strip()[-500:]}")
    answers: dict[str, Any] = json.loads(lines[-1])
    return answers


def run(peers: Path | None, repeats: int) -> Table:
    """All of them on A, B, C. `peers` is the directory that peers.sh filled; without it only what needs no package."""
    table = Table(
        "Common case: 24 h at 15 min, 100 kWh, 50 kW; executed as net set points",
        ("case", "planner", "cost EUR", "SoC overshoot kWh", "end error kWh", "executable", "CPU ms", "wall ms",
         "x baseline (CPU)", "status"),
        [
            f"Baseline: {BASELINE}, the plain convex problem, without anything against simultaneous flows.",
            "Times: median of the later of several solves of the same case in one process, each from its inputs to its plan."
            " Ours includes replay and reasons. Costs of plans that no battery can execute mean nothing.",
        ],
    )  # fmt: skip
    if peers is None:
        table.notes.append("EMHASS and PyPSA were not asked: give --peers the directory that benchmarks/peers.sh filled.")
    for variant in "ABC":
        case = read(variant)
        solver, problem = MpcSolver(), site(case)

        def ours(solver: MpcSolver = solver, problem: SiteProblem = problem) -> tuple[FloatArray, str]:
            plan = solver.plan(problem)
            return plan.devices[0].power_w / 1000.0, plan.status

        rows: list[tuple[str, FloatArray, str, float, float]] = []
        calls = ((BASELINE, partial(rebuilt, case)), ("ours (MPC, PIQP)", ours), ("exact MILP, HiGHS", partial(exact, case)))
        for name, call in calls:
            times = []
            for _ in range(repeats):
                clock = Clock()
                with clock:
                    power, status = call()
                times.append((clock.cpu_s, clock.wall_s))
            cpu, wall = np.median(np.array(times)[1:] if repeats > 1 else np.array(times), axis=0)
            rows.append((name, power, status, 1e3 * cpu, 1e3 * wall))
        if peers is not None:
            for folder, driver in (("emhass", "emhass_case.py"), ("pypsa", "pypsa_case.py")):
                for answer in peer(peers / folder / "bin" / "python", driver, variant, repeats)["answers"]:
                    power = np.array(answer["power_kw"], dtype=np.float64)
                    rows.append((answer["name"], power, answer["status"], answer["cpu_ms"], answer["wall_ms"]))
        base = rows[0][3]
        for name, power, status, cpu_ms, wall_ms in rows:
            if np.isnan(power).any():
                table.add(variant, name, None, None, None, "no plan", cpu_ms, wall_ms, base / cpu_ms, status)
                continue
            s = score(case, power)
            table.add(
                variant, name, f"{s.cost_eur:.2f}", f"{s.soc_overshoot_kwh:.3f}", f"{s.final_error_kwh:.3f}",
                "yes" if s.executable else "no", cpu_ms, wall_ms, base / cpu_ms, status,
            )  # fmt: skip
    return table

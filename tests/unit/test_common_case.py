"""The common case of all peers: 38.02 (A), 45.39 (B), 63.13 (C), executed as net set points.

Scored here by a scorer of its own, which knows nothing of the optimizer.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from optimizer.mpc import MpcSolver
from optimizer.problem import DeviceData, GridData, SiteProblem

DATA = Path(__file__).parent / "data"
EXPECTED = {"A": 38.02, "B": 45.39, "C": 63.13}


def load(variant):
    case = json.loads((DATA / f"case_{variant}.json").read_text())
    n, battery = case["n"], case["battery"]
    ones = np.ones(n)
    capacity = battery["capacity_kwh"] * 1000
    device = DeviceData(
        device_id="common",
        energy_wh=battery["soc_init"] * capacity,
        capacity_wh=capacity,
        energy_min_wh=battery["soc_min"] * capacity,
        energy_max_wh=battery["soc_max"] * capacity,
        cycle_depth_wh=np.inf,
        energy_low_wh=battery["soc_init"] * capacity,
        energy_high_wh=battery["soc_init"] * capacity,
        charge_max_w=battery["p_charge_kw"] * 1000 * ones,
        discharge_max_w=battery["p_discharge_kw"] * 1000 * ones,
        charge_taper_w=np.inf * ones,
        charge_taper_w_per_wh=0 * ones,
        discharge_taper_w=np.inf * ones,
        discharge_taper_w_per_wh=0 * ones,
        eta_charge=battery["eta_c"] * ones,
        eta_discharge=battery["eta_d"] * ones,
        leak_wh=0.0,
        temperature_c=25.0,
        temperature_a=0.9,
        temperature_charge_k_per_w=0 * ones,
        temperature_discharge_k_per_w=0 * ones,
        temperature_drift_c=2.5 * ones,
        temperature_min_c=-np.inf,
        temperature_max_c=np.inf * ones,
        voltage_v=400 * ones,
        voltage_v_per_wh=0 * ones,
        voltage_v_per_w=0 * ones,
        voltage_min_v=-np.inf,
        voltage_max_v=np.inf,
        wear_eur_per_kwh=0.0,
        terminal_energy_wh=battery["soc_final"] * capacity,
    )
    grid = GridData(
        buy_eur_per_kwh=np.array(case["buy"]),
        sell_eur_per_kwh=np.array(case["sell"]),
        load_w=1000 * np.array(case["load"]),
        pv_w=1000 * np.array(case["pv"]),
        import_limit_w=case["grid"]["import_kw"] * 1000 * ones,
        export_limit_w=case["grid"]["export_kw"] * 1000 * ones,
        peak_price_eur_per_kw=case["demand_charge"],
    )
    return case, SiteProblem(dt_s=case["dt_h"] * 3600, grid=grid, devices=(device,))


def score(case, power_w):
    battery, dt = case["battery"], case["dt_h"]
    energy, cost, peak = battery["capacity_kwh"] * battery["soc_init"], 0.0, 0.0
    for k, p in enumerate(power_w / 1000):
        assert -battery["p_charge_kw"] - 1e-3 <= p <= battery["p_discharge_kw"] + 1e-3
        energy += dt * (-p * battery["eta_c"] if p < 0 else -p / battery["eta_d"])
        share = energy / battery["capacity_kwh"]
        assert battery["soc_min"] - 1e-4 <= share <= battery["soc_max"] + 1e-4
        net = case["load"][k] - case["pv"][k] - p
        assert -case["grid"]["export_kw"] - 1e-3 <= net <= case["grid"]["import_kw"] + 1e-3
        cost += dt * (case["buy"][k] * max(net, 0) - case["sell"][k] * max(-net, 0))
        peak = max(peak, net)
    assert energy == pytest.approx(battery["capacity_kwh"] * battery["soc_final"], abs=0.01)
    return cost + case["demand_charge"] * peak


@pytest.mark.parametrize("solver", ["piqp", "osqp", "cvxpy"])
@pytest.mark.parametrize("variant", ["A", "B", "C"])
def test_common_case(variant, solver):
    case, problem = load(variant)
    mpc = MpcSolver(solver=solver)
    plan = mpc.plan(problem)
    assert plan.solver == solver, plan.status
    assert score(case, plan.devices[0].power_w) == pytest.approx(EXPECTED[variant], abs=0.01)
    assert plan.objective_eur == pytest.approx(EXPECTED[variant], abs=0.02)
    assert (mpc.fallback_counts["exclusivity"] > 0) == (variant == "B")
